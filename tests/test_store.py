"""Results on disk: nothing lost, nothing wrong silently used."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from grokutils import experiments
from grokutils.hermite import Activation
from grokutils.problems import TeacherStudent
from grokutils.store import Store
from grokutils.sweep import settings_of, sweep

P = TeacherStudent(samples=10, dimension=3, width=4, noise_variance=0.3, readout_variance=2.0, weight_variance=0.8, teacher={1: 1.0, 3: -0.3})
QUICK = dict(datasets=2, draws=5, warmup=4, thin=1)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def only_file(store):
    (path,) = store.root.glob("*.nc")
    return path


def test_what_is_stored_is_not_computed_again(store, monkeypatch):
    (first,) = sweep([P], store, progress=False, **QUICK)
    monkeypatch.setattr("grokutils.sweep.run_one", lambda *_: pytest.fail("computed again"))
    (second,) = sweep([P], store, progress=False, **QUICK)
    assert first.identical(second) and list(store.root.iterdir()) == [only_file(store)]


def test_the_key_tells_runs_apart_and_ignores_progress():
    key = Store.key(P, settings_of(P, **QUICK))
    assert key == Store.key(P, settings_of(P, progress=False, **QUICK)) == Store.key(P, settings_of(P, start="prior", **QUICK))
    others = [settings_of(P, **(QUICK | change)) for change in (dict(seed=1), dict(start="teacher"), dict(method="hmc"), dict(draws=6))]
    assert key not in [Store.key(P, s) for s in others] + [Store.key(P.replace(noise_variance=0.31), settings_of(P, **QUICK))]


def test_a_truncated_file_is_noticed_and_made_again(store):
    (first,) = sweep([P], store, progress=False, **QUICK)
    path = only_file(store)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.warns(UserWarning, match="damaged"):
        (again,) = sweep([P], store, progress=False, **QUICK)
    assert again.identical(first)


def test_a_flipped_byte_is_noticed_or_harmless(store):
    (first,) = sweep([P], store, progress=False, **QUICK)
    path, noticed = only_file(store), 0
    good = path.read_bytes()
    for place in range(40, len(good), len(good) // 60):
        bad = bytearray(good)
        bad[place] ^= 0x41
        path.write_bytes(bad)
        ds = Store._read(path)
        noticed += ds is None
        assert ds is None or ds.identical(first)
    assert noticed > 5


def test_a_failed_run_does_not_take_the_others_with_it(store):
    broken = P.replace(activation=Activation("numpy only", abs))
    with pytest.raises(ExceptionGroup, match="1 of 3 runs failed") as caught:
        sweep([P, broken, P.replace(noise_variance=0.4)], store, progress=False, **QUICK)
    assert "numpy only" in caught.value.exceptions[0].__notes__[0]
    assert len(list(store.root.glob("*.nc"))) == 2


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_gives_the_same_numbers(store, pool):
    problems = [P, (P, {"seed": 1})]
    with pool(2) as executor:
        parallel = sweep(problems, store, executor, progress=False, **QUICK)
    serial = sweep(problems, progress=False, **QUICK)
    for a, b in zip(parallel, serial, strict=True):
        assert a.energy.values == pytest.approx(b.energy.values, rel=1e-6)


def test_two_writers_of_one_run_leave_one_good_file(store):
    with ProcessPoolExecutor(2) as executor:
        sweep([P, P, P, P], store, executor, progress=False, **QUICK)
    assert Store._read(only_file(store)) is not None and len(list(store.root.iterdir())) == 1


def test_an_unknown_setting_is_named(store):
    with pytest.raises(ValueError, match="steps"):
        sweep([P], store, steps=3)


def test_an_experiment_is_made_listed_and_resumed(tmp_path, monkeypatch, capsys):
    run = experiments.Run(1.0, 0.3, "prior", "underdamped", P, QUICK)
    monkeypatch.setitem(experiments.EXPERIMENTS, "figure2", lambda: [run])
    monkeypatch.setenv("GROKUTILS_RESULTS", str(tmp_path))
    assert run.load() is None
    experiments.main(["run", "figure2", "--jobs", "1"])
    assert "about" in capsys.readouterr().out and run.load() is not None
    experiments.main(["run", "figure2"])
    assert "1 stored" in capsys.readouterr().out
    experiments.main(["list", "figure2"])
    assert run.key in capsys.readouterr().out


def test_figure_2_has_the_ensembles_it_should():
    runs = experiments.figure2()
    assert len({run.key for run in runs}) == len(runs)
    for beta, sets in ((1 / 8, 20), (1 / 2, 20), (1.0, 20), (2.0, 4)):
        mine = [run for run in runs if run.beta == beta and run.start == "prior" and run.method == "underdamped"]
        assert {0.1, 0.15, 0.2, 0.25, 0.3} <= {run.noise_variance for run in mine}
        assert all(run.settings["datasets"] >= sets and run.settings["chains"] == 2 for run in mine)
