"""Results on disk: one NetCDF file a run, written atomically, checked when read, found by what was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import uuid
import warnings
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

import grokutils.summary  # noqa: F401  registers the .grok accessor

LAYOUT = 1  # of the files; raise it when an older library could misread a newer file
STALE = 24 * 3600  # seconds after which a temporary file is a killed writer's: a live one needs it for less than a minute
_SEAL = b"\nsha256 of the bytes above: "


def default_root() -> Path:
    """``$GROKUTILS_RESULTS``, else the nearest ``results`` folder upwards from here, else the one beside the package."""
    if "GROKUTILS_RESULTS" in os.environ:
        return Path(os.environ["GROKUTILS_RESULTS"])
    here = Path.cwd()
    found = (p / "results" for p in (here, *here.parents) if (p / "results").is_dir())
    return next(found, Path(__file__).resolve().parents[1] / "results")


def digest(ds: xr.Dataset) -> str:
    """SHA-256 of all names, dims, values and attributes of a dataset (its own checksum left out)."""
    total = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        array = np.ascontiguousarray(ds[name].values)
        total.update(f"{name}|{ds[name].dims}|{array.dtype.str}|{array.shape}".encode())
        total.update(array.tobytes())
    attrs = {k: v.item() if isinstance(v, np.generic) else v for k, v in ds.attrs.items() if k != "checksum"}
    total.update(json.dumps(attrs, sort_keys=True, default=str).encode())
    return total.hexdigest()


def _netcdf(ds: xr.Dataset) -> bytes:
    """A NetCDF file made in memory: HDF5 meets no full disk and needs no file locks, which some cluster file systems lack.

    ``to_netcdf`` would, inside a Dask task, ask the cluster's scheduler for a lock.
    """
    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        store = H5NetCDFStore(file, lock=threading.Lock())
        ds.dump_to_store(store, encoding={name: {"zlib": True, "complevel": 9} for name in ds.data_vars})
    return buffer.getvalue()


def sealed(data: bytes) -> bytes:
    """The bytes of a file and, after them, their checksum."""
    return data + _SEAL + hashlib.sha256(data).hexdigest().encode()


def unsealed(data: bytes) -> tuple[bytes, bool]:
    """What was sealed, and whether there is a seal at all; ValueError where the bytes do not fit it."""
    body, seal, checksum = data.rpartition(_SEAL)
    if seal and hashlib.sha256(body).hexdigest().encode() != checksum:
        raise ValueError("its bytes are not those that were written")
    return (body, True) if seal else (data, False)


def publish(temporary: Path, path: Path) -> None:
    """Give a finished file its name; even after a power cut there is the old file or the whole new one.

    Without the flush the rename may reach the disk before the data, and network file systems report a full disk only then.
    """
    _flush(temporary)
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # some systems refuse it for a folder; what is at stake is this run, not its content
        _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_stale(folder: Path, pattern: str, now: float, age: float = STALE) -> None:
    """Remove what killed writers left: files of a pattern, unchanged for ``age`` seconds before ``now`` (the file system's clock)."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # another process cleans up too
            if now - path.stat().st_mtime > age:
                path.unlink()


class Store:
    """A folder of results. ``key in store`` says whether a good file is there.

    Args:
        root: the folder; None: ``default_root()``. It is made on the first write.
    """

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(default_root() if root is None else root).expanduser().absolute()  # a worker may stand in another folder

    @staticmethod
    def key(problem, settings: dict) -> str:
        """Name of a run: a hash of the problem and the settings that decide its numbers, algorithm version included."""
        text = json.dumps([problem.hash, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, key: str) -> Path:
        return self.root / f"{key}.nc"

    def __contains__(self, key: str) -> bool:
        try:
            return self._read(self.path(key), key) is not None
        except Exception:  # as in load
            return False

    def save(self, key: str, ds: xr.Dataset) -> Path:
        """Write a dataset (floats as float32) to a temporary file beside its place, read it back, then rename it.

        Raises:
            OSError: the file could not be written (a full disk, say): it is named, and nothing is left behind.
        """
        small = ds.map(lambda v: v.astype(np.float32) if v.dtype == np.float64 else v, keep_attrs=True)
        if "histogram" in small:
            small["histogram"] = small.histogram.astype(np.int32)
        small = small.assign_attrs(ds.attrs | {"layout": LAYOUT, "key": key})
        small.attrs["checksum"] = digest(small)
        data = _netcdf(small)
        path = self.path(key)
        temporary = path.with_name(f".{key}-{uuid.uuid4().hex}.tmp")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(sealed(data))
            self._read(temporary, key)
            publish(temporary, path)
            remove_stale(self.root, ".*.tmp", path.stat().st_mtime)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: this run could not be stored", str(path)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return path

    def load(self, key: str) -> xr.Dataset | None:
        """The stored dataset; None if there is none. A damaged file counts as none, and a warning says so."""
        try:
            return self._read(self.path(key), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # an altered file fails in many ways; all mean the same
            warnings.warn(f"{self.path(key)} is damaged and will not be used: {error}", stacklevel=2)
            return None

    @staticmethod
    def _read(path: Path, key: str) -> xr.Dataset:
        # before HDF5 sees it: one flipped bit can keep its reader busy for ever
        body, has_seal = unsealed(path.read_bytes())
        with xr.open_dataset(io.BytesIO(body), engine="h5netcdf") as opened:
            ds = opened.load()
        if ds.attrs.get("layout", LAYOUT) > LAYOUT:
            raise ValueError(f"its layout is {ds.attrs['layout']}, made by a newer grokutils; this one reads up to {LAYOUT}")
        if ds.attrs.get("checksum") != digest(ds) or ("layout" in ds.attrs and not has_seal):  # files before layouts have no seal
            raise ValueError("its content does not fit its checksum")
        if ds.attrs.get("key", key) != key:
            raise ValueError(f"it holds the run {ds.attrs['key']}")
        return ds
