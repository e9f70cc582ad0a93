"""The state of a long run on disk: written whole or not at all, read only by the run it belongs to."""

from __future__ import annotations

import contextlib
import io
import json
import uuid
from pathlib import Path

import torch

from grokutils.store import publish, sealed, unsealed


def write(path: Path, settings: dict, contents: dict) -> None:
    """A sealed file beside its place, read back, then renamed: a kill leaves the old state or the new one, never a torn one."""
    buffer = io.BytesIO()
    torch.save(contents | {"settings": json.dumps(settings, sort_keys=True)}, buffer)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(sealed(buffer.getvalue()))
        read(temporary, settings)
        publish(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read(path: Path, settings: dict) -> dict:
    """The contents; ValueError if the file is damaged, or belongs to a run of other settings, which are named."""
    try:
        body, has_seal = unsealed(path.read_bytes())
    except ValueError:
        has_seal = False
    if not has_seal:
        raise ValueError(f"checkpoint {path} is damaged: its bytes are not those that were written; remove it to begin again")
    contents = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    theirs, ours = json.loads(contents.pop("settings")), json.loads(json.dumps(settings))
    if theirs != ours:
        differ = {k: (theirs.get(k), ours.get(k)) for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)}
        listed = ", ".join(f"{name}: {old!r} there, {new!r} here" for name, (old, new) in differ.items())
        raise ValueError(f"checkpoint {path} belongs to a run of other settings ({listed}); give another file or remove it")
    return contents
