"""How everything learnt is stored: a folder with JSON and arrays, written atomically, no pickle.

``artifact.json`` says what the folder holds and is replaced last, in one step; it names the arrays
(``arrays-<hash>.npz``) by their content. So whatever interrupts a write, the folder holds either
the old artifact or the new one, and equal contents give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coterie import __version__
from coterie.errors import ArtifactError
from coterie.files import replace_bytes

FORMAT = "coterie"
VERSION = 1
HEADER = "artifact.json"
ARRAYS = f"arrays-{'[0-9a-f]' * 12}.npz"


def write_artifact(
    folder: str | Path, kind: str, params: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Store parameters and arrays in ``folder``, replacing what it held, or leave it untouched.

    ``params`` must survive JSON (tuples come back as lists); arrays of objects raise ValueError.
    Raises ArtifactError where the folder cannot be written, for example because the disk is full.
    """
    folder, data = Path(folder), pack(arrays)
    header = {
        "format": FORMAT,
        "kind": kind,
        "version": VERSION,
        "coterie": __version__,
        "params": dict(params),
        "arrays": {"sha256": _sha256(data), "contents": _contents(arrays)},
    }
    text = json.dumps(header, indent=2, allow_nan=False) + "\n"
    wanted, before = folder / _arrays_name(header), set(folder.glob(ARRAYS))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_bytes(wanted, [data])
        replace_bytes(folder / HEADER, [text.encode()])
    except OSError as error:
        _remove({wanted} - before)
        reason = error.strerror or str(error)
        message = f"cannot write this {kind}: {reason}; what was there before is unchanged"
        raise ArtifactError(message, path=folder) from error
    _remove(before - {wanted})


def read_artifact(
    folder: str | Path, kind: str, *, remedy: str = "fit it again with `coterie fit`"
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The parameters and arrays of an artifact of this kind.

    Raises ArtifactError, which names the file and the ``remedy``, if the artifact is missing,
    damaged, of another kind, not ours, or written in a newer format.
    """
    header = _read_header(Path(folder) / HEADER, kind, remedy)
    return header["params"], _read_arrays(Path(folder) / _arrays_name(header), header, remedy)


def pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of an ``.npz`` file; zipfile's own dates are constant, unlike the clock's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, NDArray[Any]]:
    """The inverse of ``pack``; ValueError where it holds anything but plain arrays."""
    arrays = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("not an .npz file")
    with arrays:
        return {name: arrays[name] for name in arrays.files}


def _contents(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Name to type and shape, as the header lists them."""
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    return {name: {"dtype": a.dtype.str, "shape": list(a.shape)} for name, a in plain.items()}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _arrays_name(header: Mapping[str, Any]) -> str:
    return f"arrays-{header['arrays']['sha256'][:12]}.npz"


def _remove(paths: set[Path]) -> None:
    """Delete files nobody refers to; one that cannot be deleted does no harm."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _read_header(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    """The checked contents of ``artifact.json``."""
    try:
        header = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"there is no {kind} here; {remedy}", path=path) from None
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError):
        raise ArtifactError(f"damaged, not valid JSON; {remedy}", path=path) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtifactError(f"not written by coterie; {remedy}", path=path)
    _check_version(header, path, remedy)
    if header.get("kind") != kind:
        message = f"this is a {header.get('kind')!r}, expected a {kind!r}; give the other folder"
        raise ArtifactError(message, path=path)
    if not _complete(header):
        raise ArtifactError(f"damaged, fields are missing; {remedy}", path=path)
    return header


def _check_version(header: Mapping[str, Any], path: Path, remedy: str) -> None:
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise ArtifactError(f"damaged, its version is {version!r}; {remedy}", path=path)
    if version > VERSION:
        message = (
            f"written by coterie {header.get('coterie')} in format {version}, this is coterie "
            f"{__version__} and reads up to {VERSION}; upgrade: pip install --upgrade coterie"
        )
        raise ArtifactError(message, path=path)


def _complete(header: Mapping[str, Any]) -> bool:
    """True where parameters and a well-formed description of the arrays are there."""
    arrays = header.get("arrays")
    if not isinstance(header.get("params"), dict) or not isinstance(arrays, dict):
        return False
    digest = arrays.get("sha256")
    return isinstance(digest, str) and len(digest) == 64 and digest.isalnum()


def _read_arrays(path: Path, header: Mapping[str, Any], remedy: str) -> dict[str, NDArray[Any]]:
    """The arrays, if they are those the header describes."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"the arrays are missing; {remedy}", path=path) from None
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    if _sha256(data) != header["arrays"]["sha256"]:
        raise ArtifactError(f"damaged or cut short, its sha256 differs; {remedy}", path=path)
    try:
        arrays = unpack(data)
    except Exception:  # numpy and zipfile raise a dozen kinds on foreign bytes
        raise ArtifactError(f"not a file of plain arrays, refused; {remedy}", path=path) from None
    if _contents(arrays) != header["arrays"].get("contents"):
        raise ArtifactError(f"the arrays are not those {HEADER} lists; {remedy}", path=path)
    return arrays
