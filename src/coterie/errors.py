"""Every error Coterie raises on purpose.

::

    CoterieError                 shown to a user without a traceback
    ├── InputError               a file, line or field that is not what it should be
    │   ├── ConfigError          the same in a pool or settings file
    │   └── ArtifactError        a saved router, encoder or journal that cannot be used
    ├── NotFittedError           predict before fit
    ├── NotRecordedError         a replay asked for a completion the records do not hold
    ├── ExpertError              an expert could not be loaded, hung, crashed or refused
    ├── ResumeError              a run cannot go on from this journal
    └── PluginError              a name or "module:Attr" leads nowhere
"""

from __future__ import annotations

from pathlib import Path


class CoterieError(Exception):
    """Something the user can understand and act upon; the command line exits with 1."""


class InputError(CoterieError):
    """A file, line or field is not what it should be; the message names all three."""

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.path, self.line, self.field = path, line, field
        where = "" if path is None else str(path)
        where += "" if line is None else f", line {line}"
        where += "" if field is None else f", field {field!r}"
        super().__init__(f"{where.removeprefix(', ')}: {message}" if where else message)


class ConfigError(InputError):
    """A pool or settings file is wrong; the message names file and key."""


class ArtifactError(InputError):
    """A saved router, encoder or journal is damaged, foreign or newer than this version."""


class NotFittedError(CoterieError):
    """``predict`` was called before ``fit``."""

    def __init__(self, name: str) -> None:
        super().__init__(f"this {name} is not fitted yet; call fit first")


class NotRecordedError(CoterieError):
    """A replay needs a completion that the records do not hold."""


class ExpertError(CoterieError):
    """An expert could not be loaded, hung, crashed or refused a call."""


class ResumeError(CoterieError):
    """The journal belongs to another run; the message names the difference."""


class PluginError(CoterieError):
    """A plug-in's name or ``module:Attr`` leads nowhere."""
