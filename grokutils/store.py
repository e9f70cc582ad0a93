"""Results on disk: one NetCDF file a run, written atomically, checked when read, found by what was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import grokutils.summary  # noqa: F401  registers the .grok accessor


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


class Store:
    """A folder of results.

    Args:
        root: the folder; None: ``default_root()``. It is made on the first write.
    """

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = default_root() if root is None else Path(root)

    @staticmethod
    def key(problem, settings: dict) -> str:
        """Name of a run: a hash of the problem and the settings that decide its numbers, algorithm version included."""
        text = json.dumps([problem.hash, settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, key: str) -> Path:
        return self.root / f"{key}.nc"

    def save(self, key: str, ds: xr.Dataset) -> Path:
        """Write a dataset (floats as float32) to a temporary file beside its place, read it back, then rename it."""
        self.root.mkdir(parents=True, exist_ok=True)
        small = ds.map(lambda v: v.astype(np.float32) if v.dtype == np.float64 else v, keep_attrs=True)
        if "histogram" in small:
            small["histogram"] = small.histogram.astype(np.int32)
        small = small.assign_attrs(ds.attrs)
        small.attrs["checksum"] = digest(small)
        handle, temporary = tempfile.mkstemp(dir=self.root, prefix=f".{key}-", suffix=".tmp")
        os.close(handle)
        try:
            small.to_netcdf(temporary, engine="h5netcdf", encoding={n: {"zlib": True, "complevel": 9} for n in small.data_vars})
            if self._read(Path(temporary)) is None:
                raise OSError(f"{temporary} does not read back as it was written")
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path(key))
        finally:
            Path(temporary).unlink(missing_ok=True)
        return self.path(key)

    def load(self, key: str) -> xr.Dataset | None:
        """The stored dataset; None if there is none. A damaged file counts as none, and a warning says so."""
        if not self.path(key).exists():
            return None
        ds = self._read(self.path(key))
        if ds is None:
            warnings.warn(f"{self.path(key)} is damaged and will not be used", stacklevel=2)
        return ds

    @staticmethod
    def _read(path: Path) -> xr.Dataset | None:
        try:
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                ds = opened.load()
        except Exception:  # a truncated or altered file fails in many ways; all mean the same
            return None
        return ds if ds.attrs.get("checksum") == digest(ds) else None
