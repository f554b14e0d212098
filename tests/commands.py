"""The installed command, run in this process."""

import contextlib
import io
import sys
from unittest.mock import patch

from coterie.cli import main


def coterie(*args: str) -> tuple[int, str, str]:
    """What the installed command does, in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["coterie", *args]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return code, out.getvalue(), err.getvalue()
