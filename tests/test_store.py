"""Results on disk: nothing lost, nothing wrong silently used."""

import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import xarray as xr

from grokutils import experiments
from grokutils.hermite import Activation
from grokutils.problems import TeacherStudent
from grokutils.sampling import sample
from grokutils.store import LAYOUT, STALE, Store, digest
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


def test_the_key_tells_runs_apart_and_ignores_progress_and_cores():
    key = Store.key(P, settings_of(P, **QUICK))
    assert key == Store.key(P, settings_of(P, progress=False, jobs=2, **QUICK)) == Store.key(P, settings_of(P, start="prior", **QUICK))
    others = [settings_of(P, **(QUICK | change)) for change in (dict(seed=1), dict(start="teacher"), dict(method="hmc"), dict(draws=6))]
    assert key not in [Store.key(P, s) for s in others] + [Store.key(P.replace(noise_variance=0.31), settings_of(P, **QUICK))]


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -2000, -64, -1])
def test_a_truncated_file_is_noticed_and_made_again(store, kept):
    (first,) = sweep([P], store, progress=False, **QUICK)
    path = only_file(store)
    good = path.read_bytes()
    path.write_bytes(good[: int(kept * len(good)) if isinstance(kept, float) else kept])
    with pytest.warns(UserWarning, match="damaged"):
        (again,) = sweep([P], store, progress=False, **QUICK)
    assert again.identical(first)


def test_every_flipped_byte_is_noticed(store):
    sweep([P], store, progress=False, **QUICK)
    path = only_file(store)
    good, key = path.read_bytes(), path.stem
    for place in [*range(0, len(good), 23), *range(len(good) - 120, len(good))]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        assert key not in store, place
    path.write_bytes(good)
    assert key in store


def test_a_file_without_a_seal_is_checked_by_its_content(store):
    """As the files were before they had a layout: the checksum is over the values."""
    (first,) = sweep([P], store, progress=False, **QUICK)
    old = first.drop_attrs().assign_attrs({k: v for k, v in first.attrs.items() if k not in ("layout", "key")})
    for checksum, good in ((digest(old), True), (digest(old + 1), False)):
        old.assign_attrs(checksum=checksum).to_netcdf(store.path("old"), engine="h5netcdf")
        assert ("old" in store) == good


def test_another_runs_file_under_this_name_is_not_used(store):
    sweep([P], store, progress=False, **QUICK)
    store.path("other").write_bytes(only_file(store).read_bytes())
    with pytest.warns(UserWarning, match="damaged and will not be used: it holds the run"):
        assert store.load("other") is None


def test_a_newer_layout_is_not_used_and_named(store, monkeypatch):
    sweep([P], store, progress=False, **QUICK)
    monkeypatch.setattr("grokutils.store.LAYOUT", LAYOUT - 1)
    with pytest.warns(UserWarning, match=f"its layout is {LAYOUT}, made by a newer grokutils"):
        assert store.load(only_file(store).stem) is None


def test_temporary_files_are_removed_when_they_are_old(store):
    store.root.mkdir()
    dead, alive = store.root / ".a-1.tmp", store.root / ".b-2.tmp"
    for path, age in ((dead, STALE + 60), (alive, STALE - 60)):
        path.write_bytes(b"half a file")
        os.utime(path, (time.time() - age,) * 2)
    sweep([P], store, progress=False, **QUICK)
    assert alive.exists() and not dead.exists()


def test_a_stored_file_may_be_read_by_those_whom_the_umask_allows(store):
    before = os.umask(0o027)
    try:
        sweep([P], store, progress=False, **QUICK)
    finally:
        os.umask(before)
    assert only_file(store).stat().st_mode & 0o777 == 0o640


def test_the_folder_is_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("results")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "results"


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
        assert (a.energy.values == b.energy.values.astype("float32")).all()


def test_equal_problems_are_computed_once(store, monkeypatch):
    calls = []
    monkeypatch.setattr("grokutils.sampling.sample", lambda p, **k: calls.append(p) or sample(p, **k))
    first, second = sweep([P, (P, {"progress": False})], store, progress=False, **QUICK)
    assert first.identical(second) and calls == [P]


@pytest.mark.parametrize(("given", "used"), [({}, 1), ({"jobs": 2}, 2)])
def test_a_worker_takes_one_core_unless_told(monkeypatch, given, used):
    seen = []
    monkeypatch.setattr("grokutils.sampling.sample", lambda p, **k: seen.append(k["jobs"]) or sample(p, **k))
    with ThreadPoolExecutor(1) as executor:
        sweep([P], executor=executor, progress=False, **QUICK, **given)
    assert seen == [used]


def test_two_writers_of_one_run_leave_one_good_file_at_every_moment(store):
    (ds,) = sweep([P], store, progress=False, **QUICK)
    path, seen = only_file(store), set()
    with ProcessPoolExecutor(2) as executor:
        writes = [executor.submit(store.save, path.stem, ds) for _ in range(40)]
        while not all(write.done() for write in writes):
            seen.add(path.read_bytes())
    assert [write.result() for write in writes] == [path] * 40
    assert list(store.root.iterdir()) == [path]
    for data in seen:
        path.write_bytes(data)
        assert store.load(path.stem).identical(ds)


def noise_of(problem, factor, offset=0.0, progress=True):
    """A function of a module that makes a dataset, as a user would write one."""
    return xr.Dataset({"answer": factor * problem.noise_variance + offset})


def test_a_sweep_takes_any_function_and_keys_by_its_name_version_and_arguments(store, monkeypatch):
    problems = [P, P.replace(noise_variance=0.5)]
    with ThreadPoolExecutor(2) as pool:
        made = sweep(problems, store, pool, progress=False, function=noise_of, factor=2.0)
    assert [float(ds.answer) for ds in made] == pytest.approx([0.6, 1.0])
    keys = {path.stem for path in store.root.glob("*.nc")}
    assert keys == {Store.key(p, settings_of(p, noise_of, factor=2.0, offset=0.0)) for p in problems}  # a default changes nothing
    assert Store.key(P, settings_of(P, noise_of, factor=3.0)) not in keys
    monkeypatch.setattr(noise_of, "version", 2, raising=False)
    assert Store.key(P, settings_of(P, noise_of, factor=2.0)) not in keys
    with pytest.raises(ValueError, match="noise_of has no argument"):
        sweep(problems, store, function=noise_of, factors=2.0)


def test_a_worker_that_stores_elsewhere_is_an_error(store, tmp_path, monkeypatch):
    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, problem, kwargs, root, compute):
            return super().submit(function, problem, kwargs, tmp_path / "another machine", compute)

    monkeypatch.setattr("grokutils.sweep.PATIENCE", 0.0)
    with Elsewhere(1) as executor, pytest.raises(ExceptionGroup) as caught:
        sweep([P], store, executor, progress=False, **QUICK)
    assert "do all machines share this folder" in str(caught.value.exceptions[0])


@pytest.mark.parametrize("root", ["a file", "/proc"])  # where no folder can be made; where no file can, not even by root
def test_a_store_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path, monkeypatch, root):
    monkeypatch.setattr("grokutils.sweep.run_one", lambda *_: pytest.fail("computed in vain"))
    (tmp_path / "a file").write_text("not a folder")
    with pytest.raises(OSError, match=root):
        sweep([P], Store(tmp_path / root), progress=False, **QUICK)


def test_an_interrupt_cancels_what_has_not_begun_and_keeps_what_is_stored(store, monkeypatch):
    class Interrupted:
        """Does the first task; the user interrupts during the second."""

        def __init__(self):
            self.futures = []

        def submit(self, function, *task):
            self.futures.append(Future())
            if len(self.futures) == 1:
                self.futures[0].set_result(function(*task))
            return self.futures[-1]

    def wait(futures, **_):
        done = {future for future in futures if future.done()}
        if not done:
            raise KeyboardInterrupt
        return done, futures - done

    monkeypatch.setattr("grokutils.sweep.wait", wait)
    executor = Interrupted()
    with pytest.raises(KeyboardInterrupt) as caught:
        sweep([(P, {"seed": seed}) for seed in range(4)], store, executor, progress=False, **QUICK)
    assert f"stored in {store.root}; a second call resumes" in caught.value.__notes__[0]
    assert [future.cancelled() for future in executor.futures] == [False, True, True, True]
    assert only_file(store).stem in store


def test_a_worker_that_exits_is_a_failed_run(store, monkeypatch):
    monkeypatch.setattr("grokutils.sampling.sample", lambda *_, **__: sys.exit("no licence"))
    with ThreadPoolExecutor(1) as executor, pytest.raises(BaseExceptionGroup, match="1 of 1 runs failed"):
        sweep([P], store, executor, progress=False, **QUICK)


def test_an_unknown_setting_is_named(store):
    with pytest.raises(ValueError, match="steps"):
        sweep([P], store, steps=3)


def test_an_experiment_is_made_listed_and_resumed(tmp_path, monkeypatch, capsys):
    run = experiments.Run(P, QUICK)
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
    for beta, sets in ((1 / 8, 20), (1 / 2, 20), (1.0, 20), (2.0, 10)):
        mine = [run for run in runs if run.beta == beta and run.start == "prior" and run.method == "underdamped"]
        assert {0.1, 0.15, 0.2, 0.25, 0.3} <= {run.noise_variance for run in mine}
        assert all(run.settings["datasets"] >= sets and run.settings["chains"] == 2 for run in mine)
