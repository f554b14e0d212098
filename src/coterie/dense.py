"""Number arrays of a big records folder, built once beside its Parquet files and memory-mapped.

``dense/`` holds one ``.npy`` file an array (queries x experts) and ``key.json`` with size and time
of the files they were built from. It is a copy that may be deleted at any time, is ignored once a
file has changed, and is never missed where it cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from coterie.types import FloatArray

FOLDER = "dense"
FILES = ("queries.parquet", "records.parquet", "experts.toml")  # what the arrays are built from
SCHEMA = 1

Key: TypeAlias = dict[str, list[int]]


def key_of(folder: Path) -> Key:
    """Size and time of last change (ns) of the files; take it before they are read."""
    stats = {name: (folder / name).stat() for name in FILES}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def load(folder: Path, key: Key, shape: tuple[int, int]) -> dict[str, FloatArray] | None:
    """The arrays, memory-mapped and read-only; None where there are none for this key."""
    try:
        found = json.loads((folder / FOLDER / "key.json").read_text(encoding="utf-8"))
        if (found["schema"], found["files"]) != (SCHEMA, key):
            return None
        arrays = {name: _mapped(folder / FOLDER / f"{name}.npy") for name in found["arrays"]}
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    sound = all(a.shape == shape and a.dtype.kind == "f" for a in arrays.values())
    return arrays if sound and "quality" in arrays else None


def _mapped(path: Path) -> FloatArray:
    array: FloatArray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def save(folder: Path, key: Key, arrays: Mapping[str, FloatArray]) -> bool:
    """Write the arrays in one step; False, and nothing left behind, where that cannot be done."""
    scratch = None
    try:
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix=f".{FOLDER}."))
        for name, array in arrays.items():
            np.save(scratch / f"{name}.npy", array, allow_pickle=False)
        facts = {"schema": SCHEMA, "files": key, "arrays": sorted(arrays)}
        (scratch / "key.json").write_text(json.dumps(facts), encoding="utf-8")
        scratch.chmod(0o755)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        os.rename(scratch, folder / FOLDER)
    except OSError:
        return False
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(scratch, ignore_errors=True)
    return True


def is_part(name: str) -> bool:
    """Whether a file of this name in a records folder is ours: ``dense``, or a killed build's."""
    return name == FOLDER or name.startswith(f".{FOLDER}.")
