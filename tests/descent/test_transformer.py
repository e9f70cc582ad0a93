"""Transformers by the batch: equal to torch's layers, members independent, dropout a function of seed and step."""

import numpy as np
import pytest
import torch
from torch import nn

from grokutils.descent import AdamW
from grokutils.descent.transformer import (
    LinearisedTransformerTask,
    TransformerAddition,
    TransformerTask,
    initial_parameters,
    parameters_of,
    right,
    train,
)
from grokutils.embeddings import effective_frequencies

SMALL = TransformerAddition(5, 0.6, dimension=8, hidden=12, layers=2, heads=2)
EQUATION = TransformerAddition(5, 0.6, dimension=8, hidden=12, heads=4, norm=False, equation=True)


def shaken(problem, seeds):
    """Initial parameters with noise on all, so that no bias is zero and no gain one."""
    rng = np.random.default_rng(3)
    return {name: p + 0.1 * torch.as_tensor(rng.standard_normal(p.shape)) for name, p in initial_parameters(problem, seeds, torch.float64).items()}


def masks(problem, seeds):
    return np.stack([problem.mask(s) for s in seeds])


class Reference(nn.Module):
    """One member with torch's own layers; ``equation`` networks have no norm, so that their layers are put together here."""

    def __init__(self, problem, parameters, member):
        super().__init__()
        self.problem, d, p = problem, problem.dimension, {name: x[member].detach() for name, x in parameters.items()}
        self.symbols = nn.Parameter(p["embedding.symbols"].clone())
        self.layers = nn.ModuleList()
        for layer in range(problem.layers):
            one = nn.TransformerEncoderLayer(d, problem.heads, problem.hidden, 0.0, batch_first=True, norm_first=True, bias=True).double()
            pairs = [("query", one.self_attn.in_proj_weight, one.self_attn.in_proj_bias), ("mix", *one.self_attn.out_proj.parameters())]
            pairs += [("inner", *one.linear1.parameters()), ("outer", *one.linear2.parameters())]
            if problem.norm:
                pairs += [("attention_norm", *one.norm1.parameters()), ("forward_norm", *one.norm2.parameters())]
            else:
                one.norm1, one.norm2 = nn.Identity(), nn.Identity()
            for name, weight, bias in pairs:
                theirs = p[f"decoder.{name}_weight{layer}"]
                weight.data = theirs[0].clone() if "norm" in name else theirs.T.clone()
                given = p.get(f"decoder.{name}_bias{layer}")
                bias.data = torch.zeros_like(bias) if given is None else given[0].clone()
            self.layers.append(one)
        self.read = nn.Linear(*p["decoder.readout_weight"].shape).double()
        self.read.weight.data = p["decoder.readout_weight"].T.clone()
        self.read.bias.data = p["decoder.readout_bias"][0].clone() if "decoder.readout_bias" in p else torch.zeros(problem.modulus).double()
        self.places = nn.Parameter(p["embedding.places"].clone()) if problem.equation else None

    def forward(self, pairs):
        tokens = torch.as_tensor(pairs)
        if self.problem.equation:
            tokens = torch.cat([tokens, torch.full((len(tokens), 1), self.problem.modulus)], dim=1)
        x = self.symbols[tokens]
        if self.problem.equation:
            x = x + self.places
        for layer in self.layers:
            x = layer(x)
        return self.read(x[:, -1] if self.problem.equation else x.flatten(1))


def table(p):
    return np.stack(np.meshgrid(np.arange(p), np.arange(p), indexing="ij"), -1).reshape(-1, 2)


@pytest.mark.parametrize(
    "problem", [SMALL, SMALL.replace(layers=1, heads=1), SMALL.replace(norm=False), EQUATION, EQUATION.replace(layers=2, norm=True, heads=1)],
    ids=["two heads", "one layer", "no norm", "equation", "equation with norm"],
)
def test_outputs_and_gradients_are_those_of_torch(problem):
    seeds, scale = [0, 4], np.array([1.0, 0.3])
    parameters, chosen = shaken(problem, seeds), masks(problem, seeds)
    task = TransformerTask(problem, chosen, seeds, laziness=scale, dtype=torch.float64)
    into = {name: torch.empty_like(p) for name, p in parameters.items()}
    task.gradients(parameters, into, 0)
    for b in range(2):
        reference = Reference(problem, parameters, b)
        f = scale[b] * reference(table(problem.modulus))
        torch.testing.assert_close(task.outputs(parameters)[b], f.detach(), rtol=1e-10, atol=1e-10)
        inside = chosen[b].ravel()
        pairs = table(problem.modulus)[inside]
        nn.functional.cross_entropy(f[torch.as_tensor(inside)], torch.as_tensor(pairs.sum(1) % problem.modulus)).backward()
        torch.testing.assert_close(into["embedding.symbols"][b], reference.symbols.grad, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(into["decoder.readout_weight"][b], reference.read.weight.grad.T, rtol=1e-9, atol=1e-11)
        for layer, theirs in enumerate(reference.layers):
            torch.testing.assert_close(into[f"decoder.query_weight{layer}"][b], theirs.self_attn.in_proj_weight.grad.T, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(into[f"decoder.outer_bias{layer}"][b, 0], theirs.linear2.bias.grad, rtol=1e-9, atol=1e-11)
            if problem.norm:
                torch.testing.assert_close(into[f"decoder.forward_norm_weight{layer}"][b, 0], theirs.norm2.weight.grad, rtol=1e-9, atol=1e-11)


def test_single_precision_is_close_and_a_swapped_sequence_is_not():
    parameters = shaken(SMALL, [0])
    whole = np.ones((1, 5, 5), bool)
    exact = TransformerTask(SMALL, whole, [0], dtype=torch.float64).outputs(parameters)
    single = TransformerTask(SMALL, whole, [0]).outputs({name: p.float() for name, p in parameters.items()})
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
    swapped = exact.view(1, 5, 5, 5).transpose(1, 2).reshape(1, 25, 5)  # control: n + m and m + n are not the same pair to this network
    assert (swapped - exact).abs().max() > 0.1


def test_training_is_that_of_torch():
    seeds, steps = [0, 1], 25
    ds = train(
        SMALL, seeds, steps, embedding=AdamW(0.01), decoder=AdamW([0.01, 0.003], [1.0, 0.2]), record=[steps], dtype="float64", progress=False
    )
    start = initial_parameters(SMALL, seeds, torch.float64)
    for b, (rate, decay) in enumerate([(0.01, 1.0), (0.003, 0.2)]):
        net, inside = Reference(SMALL, start, b), ds.mask.values[b].ravel()
        pairs = table(5)[inside]
        decoder = [p for name, p in net.named_parameters() if name != "symbols"]
        optimiser = torch.optim.AdamW([dict(params=[net.symbols], lr=0.01, weight_decay=0.0), dict(params=decoder, lr=rate, weight_decay=decay)])
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(pairs), torch.as_tensor(pairs.sum(1) % 5)).backward()
            optimiser.step()
        np.testing.assert_allclose(ds.embedding.values[b, 0], net.symbols.detach().numpy(), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(ds.mask.values[b], SMALL.mask(b))


def test_dropout_acts_where_torch_has_it():
    """The units of the residual branches and inside the feed-forward part, with torch's modules replaced by the same factors."""
    problem = SMALL.replace(training_fraction=1.0)
    parameters, whole = shaken(problem, [7]), np.ones((1, 5, 5), bool)
    task = TransformerTask(problem, whole, [7], 0.3, dtype=torch.float64)
    kept = task.kept(11)
    for layer in range(2):
        kept[f"attention{layer}"] = torch.ones_like(kept[f"attention{layer}"])

    class Factor(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.factor = kept[name][0].transpose(0, 1)  # torch has pairs first

        def forward(self, x):
            return x * self.factor

    reference = Reference(problem, parameters, 0)
    plain = reference(table(5))
    for number, layer in enumerate(reference.layers):
        layer.dropout1, layer.dropout, layer.dropout2 = (Factor(f"{name}{number}") for name in ("mix", "inner", "outer"))
    found = task.outputs(parameters, task.training.pickers, kept)[0]
    torch.testing.assert_close(found, reference(table(5)).detach(), rtol=1e-10, atol=1e-10)
    assert (found - plain.detach()).abs().max() > 0.1


def test_dropped_attention_shares_are_not_made_up_for():
    """One layer, one head, by hand: shares are set to zero after the softmax and the others scaled."""
    problem = SMALL.replace(layers=1, heads=1, training_fraction=1.0, norm=False)
    parameters, whole = shaken(problem, [2]), np.ones((1, 5, 5), bool)
    task = TransformerTask(problem, whole, [2], 0.4, dtype=torch.float64)
    kept = task.kept(0)
    p = {name.split(".")[1]: x[0] for name, x in parameters.items()}
    expected = []
    for pair, (n, m) in enumerate(table(5)):
        x = p["symbols"][[n, m]]
        query, key, value = (x @ p["query_weight0"] + p["query_bias0"]).chunk(3, dim=1)
        shares = torch.softmax(query @ key.T / 8**0.5, dim=1) * kept["attention0"][0, :, :, pair, 0]
        x = x + (shares @ value @ p["mix_weight0"] + p["mix_bias0"]) * kept["mix0"][0, :, pair]
        h = torch.relu(x @ p["inner_weight0"] + p["inner_bias0"]) * kept["inner0"][0, :, pair]
        x = x + (h @ p["outer_weight0"] + p["outer_bias0"]) * kept["outer0"][0, :, pair]
        expected.append(x.reshape(-1) @ p["readout_weight"] + p["readout_bias"][0])
    found = task.outputs(parameters, task.training.pickers, kept)[0]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_dropout_depends_on_seed_and_step_alone():
    both = masks(SMALL, [3, 5])
    both[1, 0] = True  # another number of training pairs
    task = TransformerTask(SMALL, both, [3, 5], [0.25, 0.5])
    first, again, later = task.kept(9), task.kept(9), task.kept(10)
    alone = [task.select(torch.tensor([b])).kept(9) for b in range(2)]
    for name, x in first.items():
        torch.testing.assert_close(x, again[name], rtol=0, atol=0)
        assert not torch.equal(x, later[name])
        assert not torch.equal(x[0] > 0, x[1] > 0)
        pairs = 3 if name.startswith("attention") else 2
        for b, one in enumerate(alone):
            count = int(both[b].sum())
            torch.testing.assert_close(x[b].narrow(pairs - 1, 0, count), one[name][0].narrow(pairs - 1, 0, count), rtol=0, atol=0)
    wide = TransformerTask(SMALL.replace(dimension=64), both, [3, 5], [0.25, 0.5]).kept(0)["mix0"]
    for b, rate in enumerate((0.25, 0.5)):
        units = wide[b][:, : int(both[b].sum())]
        share = float((units == 0).double().mean())
        assert abs(share - rate) < 6 * (rate * (1 - rate) / units.numel()) ** 0.5
        np.testing.assert_allclose(units[units > 0], 1 / (1 - rate), rtol=1e-6)
    other = TransformerTask(SMALL, both[[0, 0]], [3, 5], 0.25).kept(9)  # the same pairs and rate, another seed
    assert all(torch.equal(other[name][0], alone[0][name][0]) and not torch.equal(x[0], x[1]) for name, x in other.items())
    assert TransformerTask(SMALL, both, [3, 5]).kept(0) is None


def test_members_are_independent():
    both = masks(SMALL, [0, 1])
    both[1, 2] = True
    rates, decays, drop, lazy = np.array([0.01, 0.002]), np.array([0.0, 1.0]), np.array([0.0, 0.2]), np.array([1.0, 0.5])
    options = dict(steps=20, every=10, dtype="float64", progress=False)
    together = train(SMALL, [0, 1], embedding=AdamW(rates), decoder=AdamW(rates[::-1], decays), dropout=drop, laziness=lazy, masks=both, **options)
    for b in range(2):
        how = dict(dropout=drop[b], laziness=lazy[b], masks=both[b : b + 1])
        alone = train(SMALL, [b], embedding=AdamW(rates[b]), decoder=AdamW(rates[1 - b], decays[b]), **how, **options)
        np.testing.assert_allclose(together.parameters[b], alone.parameters[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(together.test_loss[b], alone.test_loss[0], rtol=1e-9)
    without = train(SMALL, [0, 1], embedding=AdamW(rates), decoder=AdamW(rates[::-1], decays), laziness=lazy, masks=both, **options)
    assert abs(without.parameters[1] - together.parameters[1]).max() > 1e-4  # control: dropout does something to the member that has it
    np.testing.assert_allclose(without.parameters[0], together.parameters[0], rtol=1e-7, atol=1e-9)
    how = dict(dropout=drop, laziness=lazy, masks=both, chunk=1)
    chunks = train(SMALL, [0, 1], embedding=AdamW(rates), decoder=AdamW(rates[::-1], decays), **how, **options)
    np.testing.assert_allclose(chunks.parameters, together.parameters, rtol=1e-7, atol=1e-9)


def test_a_seed_decides_alone():
    three, one = (initial_parameters(SMALL, seeds) for seeds in ([0, 8, 2], [8]))
    for name, values in one.items():
        torch.testing.assert_close(three[name][1], values[0], rtol=0, atol=0)


@pytest.mark.parametrize("problem", [SMALL, EQUATION])
def test_a_centred_network_starts_at_zero_and_moves_alike(problem):
    options = dict(embedding=AdamW(0.01), decoder=AdamW(0.01), laziness=0.5, dtype="float64", progress=False, record=[0, 3])
    ds = train(problem, 2, 3, centred=True, **options)
    np.testing.assert_allclose(ds.train_loss[:, 0], np.log(5), rtol=1e-12)
    plain = train(problem, 2, 3, **options)
    assert abs(plain.train_loss[:, 0] - np.log(5)).min() > 1e-4


def test_what_is_returned_fits_together():
    ds = train(SMALL, 2, 8, record=[0, 8], progress=False)
    parameters = parameters_of(SMALL, ds)
    hits = right(SMALL, parameters)
    for b in range(2):
        assert float(ds.train_accuracy[b, -1]) == pytest.approx(hits[b][ds.mask.values[b]].mean(), abs=1e-6)
        assert float(ds.test_accuracy[b, -1]) == pytest.approx(hits[b][~ds.mask.values[b]].mean(), abs=1e-6)
    np.testing.assert_array_equal(parameters["embedding.symbols"], ds.embedding[:, -1])
    np.testing.assert_array_equal(right(SMALL, parameters, ds.embedding.values[:, -1]), hits)
    assert (right(SMALL, parameters, np.zeros((2, 5, 8))).sum((1, 2)) == 5).all()  # every symbol the same: one answer for all
    assert "embedding" not in train(SMALL, 2, 1, keep_embeddings=False, progress=False)
    with pytest.raises(ValueError, match="trained must be"):
        parameters_of(SMALL.replace(layers=1), ds)


@pytest.mark.slow
def test_a_transformer_groks():
    ds = train(TransformerAddition(23, 0.8, dimension=32), [0], 1100, decoder=AdamW(3e-3, 3.0), every=100, progress=False)
    learnt, understood = (int(ds.step[(ds[f"{part}_accuracy"][0] > 0.9).values.argmax()]) for part in ("train", "test"))
    assert 0 < 3 * learnt < understood
    assert effective_frequencies(ds.embedding.values[0, -1]) < 0.8 * effective_frequencies(ds.embedding.values[0, 0])
    assert ds.effective_dimension[0, -1] < 0.9 * ds.effective_dimension[0, 0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: TransformerAddition(1), "modulus must be"),
        (lambda: TransformerAddition(5, 0.0), "training_fraction must be"),
        (lambda: TransformerAddition(5, 1.5), "training_fraction must be a share"),
        (lambda: TransformerAddition(5, dimension=8, heads=3), "dimension must be a multiple of heads"),
        (lambda: TransformerAddition(5, layers=0), "layers must be"),
        (lambda: TransformerAddition(5, hidden=1.5), "hidden must be"),
        (lambda: TransformerAddition(5, norm="pre"), "norm must be True or False"),
        (lambda: train("addition"), "problem must be a TransformerAddition"),
        (lambda: train(SMALL, []), "seeds must be"),
        (lambda: train(SMALL, [-1]), "seeds must be"),
        (lambda: train(SMALL, 1, dtype="float16"), "dtype must be"),
        (lambda: train(SMALL, 1, 5, every=0), "every must be"),
        (lambda: train(SMALL, 2, dropout=[0.1] * 3), "dropout must be one number or one for each of 2"),
        (lambda: train(SMALL, 2, dropout=1.0), "dropout must be at least 0 and less than 1"),
        (lambda: train(SMALL, 2, laziness=0.0), "laziness must be positive"),
        (lambda: train(SMALL, 2, masks=np.ones((1, 5, 5), bool)), "masks must be"),
        (lambda: train(SMALL, 1, masks=np.zeros((1, 5, 5), bool)), "at least one training pair"),
        (lambda: train(SMALL, 1, masks=np.ones((1, 5, 5))), "masks must be"),
        (lambda: train(SMALL, 2, decoder=AdamW([0.1, 0.1, 0.1])), "learning_rate must be one number or one for each of 2"),
    ],
)
def test_bad_values_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, on its first forward derivative
def test_the_linearised_network_is_the_expansion_at_the_start():
    """Equal at the start; off by the square of the movement; its gradient by finite differences; the same members alone."""
    problem = TransformerAddition(5, 0.6, dimension=8, hidden=12, heads=2, norm=False, equation=True)
    start = initial_parameters(problem, [0, 1], dtype=torch.float64)
    task = TransformerTask(problem, np.stack([problem.mask(s) for s in (0, 1)]), [0, 1], 0.0, 2.0, torch.float64).centred(start)
    lazy = LinearisedTransformerTask.of(task, start)
    generator = torch.Generator().manual_seed(0)
    way = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in start.items()}
    off = []
    for size in (0.0, 1e-6, 1e-5):
        at = {name: start[name] + size * way[name] for name in start}
        off.append(float((lazy.outputs(at) - task.outputs(at)).abs().max()))
    assert off[0] == 0 and 50 < off[2] / off[1] < 200
    into = {name: torch.empty_like(p) for name, p in at.items()}
    lazy.gradients(at, into, 0)
    slope = sum((into[name] * way[name]).flatten(1).sum(1) for name in way)
    step = [lazy.loss({name: p + h * way[name] for name, p in at.items()}, 0) for h in (1e-5, -1e-5)]
    torch.testing.assert_close(slope, (step[0] - step[1]) / 2e-5, rtol=1e-6, atol=1e-9)
    one = lazy.select(torch.tensor([1]))
    torch.testing.assert_close(one.outputs({name: p[1:] for name, p in at.items()}), lazy.outputs(at)[1:])
