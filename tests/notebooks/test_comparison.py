"""The comparison of stored with new outputs must pass another drawing of the same figure, and fail on anything else."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

SANITISE = Path(__file__).with_name("sanitise.cfg")
FIGURE = '<figure class="grok-figure"><svg\nviewBox="0 0 {size} 9">\n<path d="M{size}"/></svg><figcaption>{caption}</figcaption></figure>'
SOURCE = f"""
from IPython.display import HTML, display
display(HTML({FIGURE.format(size=1, caption="Three wells.")!r}))
print("learned", 0.12)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "caption", "printed", "same"),
    [(2, "Three wells.", "0.12", True), (1, "Two wells.", "0.12", False), (1, "Three wells.", "0.13", False)],
    ids=["another drawing", "another caption", "another number"],
)
def test_what_counts_as_the_same_output(size, caption, printed, same, tmp_path):
    data = {"text/html": FIGURE.format(size=size, caption=caption), "text/plain": "<IPython.core.display.HTML object>"}
    outputs = [nbformat.v4.new_output("display_data", data), nbformat.v4.new_output("stream", name="stdout", text=f"learned {printed}\n")]
    cell = nbformat.v4.new_code_cell(SOURCE, outputs=outputs, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "figure.ipynb")
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(SANITISE), "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", *options, str(tmp_path / "figure.ipynb")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in result.stdout if same else "1 failed" in result.stdout, result.stdout
