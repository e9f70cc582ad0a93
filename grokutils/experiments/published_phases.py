"""The phase diagrams that Liu et al. published with their code: one run a cell, 10^4 steps.

Steps to a training / validation accuracy of .9, "-" if not reached, from the result files of their repository ejmichaud/grokking-squared
(copyright 2022 Ziming Liu, Niklas Nolte, Ouail Kitouni, Eric Michaud; MIT licence). All cells of a diagram share one training set and one
initial network: seed 58 in their numbering for "rates" and "regression", seed 1 for "classification". Columns are ten learning rates of the
decoder from 1e-5 to 1e-2; rows are ten learning rates of the embeddings, the same numbers, or weight decays 0, 1, ..., 10 of the decoder.
"""

import numpy as np
import xarray as xr

_RATES = [float(f"{10 ** (-5 + k / 3):.3g}") for k in range(10)]
_STEPS = {
    "rates": [
        "-/- -/- -/- 6265/- 3883/- 2312/- 1193/- 948/- 610/- 556/-",
        "-/- -/- -/- 6283/- 3402/- 1822/- 1145/- 837/- 607/- 553/-",
        "-/- -/- 7211/- 5661/- 3148/- 1816/- 1146/- 722/- 611/- 479/-",
        "-/- -/- 6392/- 3671/- 2983/- 1299/- 1042/- 679/- 668/- 556/-",
        "7901/- 4886/6553 7804/- 4424/- 1772/- 1586/- 675/- 834/- 474/- 419/-",
        "8656/- 3964/6325 2326/3077 3971/- 2553/- 1443/- 551/- 448/- 403/- 407/-",
        "8837/- 4486/6413 1995/3319 1130/1529 2248/- 963/- 708/- 350/- 372/- 245/-",
        "9575/- 4418/6798 2144/3250 1042/1541 634/794 394/461 678/- 475/- 330/- 192/-",
        "-/- 5067/7527 2211/3475 1042/1625 518/794 333/468 214/266 373/- 284/- 277/-",
        "-/- 5354/8180 2511/3971 1073/1732 534/836 284/399 190/264 128/177 222/- 224/-",
    ],
    "regression": [
        "8837/- 4486/6413 1995/3319 1130/1529 2248/- 963/- 708/- 350/- 372/- 245/-",
        "9235/- 4621/6819 2098/3620 1237/1624 1650/- 904/- 1073/- 404/- 561/- 570/-",
        "9550/- 4823/7435 2179/3727 1335/1792 901/994 1087/- 1506/- 539/- 470/- 874/-",
        "-/- 5028/7994 2274/4153 1403/2096 888/1100 1174/- 2583/- 862/- 774/- -/-",
        "-/- 5249/8652 2363/4605 1489/2288 969/1206 1554/- 1363/- 1606/- 1895/- -/-",
        "-/- 5507/9444 2416/5513 1584/2594 1044/1425 -/- 1926/- 1964/- -/- 766/1429",
        "-/- 5715/- 2658/7509 1669/3385 1152/1689 -/- -/- -/- -/- 1019/1880",
        "-/- 5748/- 2891/- 1801/- 1345/3429 -/- -/- -/- -/- 1210/-",
        "-/- 6589/- 3376/- 2122/- 1804/8080 1150/9518 -/- -/- -/- -/-",
        "-/- 7432/- 4408/- 3234/- 2216/- 1369/- -/- -/- 1646/- -/-",
        "-/- 8803/- -/- 4478/- 2995/- 2380/- 1459/- -/- -/- -/-",
    ],
    "classification": [
        "8505/8405 4231/4229 1997/2139 1267/- 777/- 614/- 274/- 204/- 119/- 112/-",
        "8770/8705 3587/4928 1984/2133 1395/- 848/- 676/- 296/- 281/- 147/- 161/-",
        "8288/7913 5146/5327 2108/2267 1645/- 855/- 634/- 361/- 537/- 230/- 384/-",
        "8734/8418 4820/5879 2324/2542 1838/- 1006/- 706/- 489/- 488/- 310/- 561/-",
        "9403/9094 4888/6263 2558/2782 2060/- 1164/- 1136/- 682/- 630/- 1827/- 983/-",
        "-/- 5710/5971 2781/3073 2649/- 1355/- 1632/- 1126/- 1186/- 1161/- -/-",
        "-/- 5359/6479 3126/3559 4024/- 1477/- 3963/- 3652/- 1825/- 1885/- -/-",
        "-/- 7406/8197 3383/4048 7209/- 3351/- 8448/- 5493/- 4106/- -/- -/-",
        "-/- 8349/9131 3720/4805 9726/- 7837/- 7836/- 9827/- -/- -/- -/-",
        "-/- 9959/9059 5033/- -/- 8997/- 7723/- -/- -/- -/- -/-",
        "-/- -/9021 9955/- -/- -/- -/- -/- -/- -/- -/-",
    ],
}


def published(diagram: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Times of training and of validation in a diagram ("rates", "regression", "classification"): NaN if not reached within 10^4 steps."""
    if diagram not in _STEPS:
        raise ValueError(f"diagram must be one of {sorted(_STEPS)}, got {diagram!r}")
    cells = [[[float(t.replace("-", "nan")) for t in cell.split("/")] for cell in row.split()] for row in _STEPS[diagram]]
    rows = {"embedding_rate": _RATES} if diagram == "rates" else {"decoder_decay": np.arange(11.0)}
    both = xr.DataArray(cells, dims=(*rows, "decoder_rate", "which"), coords=rows | {"decoder_rate": _RATES})
    return both[..., 0], both[..., 1]
