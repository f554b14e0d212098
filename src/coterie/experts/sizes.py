"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from coterie.errors import InputError

UNITS = {"": 1, "B": 1}
UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}


def parse_bytes(size: object, field: str = "memory") -> int:
    """Bytes of a whole number above 0 or of a text such as ``"14 GB"`` or ``"1.5 GiB"``.

    Raises InputError naming ``field``.

    >>> parse_bytes("14 GB"), parse_bytes("1.5 GiB"), parse_bytes(4096)
    (14000000000, 1610612736, 4096)
    """
    if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**63:
        return size
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Z]*)", str(size).strip().upper())
    if isinstance(size, str) and found and found[2] in UNITS:
        count = round(float(found[1]) * UNITS[found[2]])
        if 0 < count < 2**63:
            return count
    message = f'expected bytes above 0 or a text such as "14 GB" or "1.5 GiB", got {size!r}'
    raise InputError(message, field=field)
