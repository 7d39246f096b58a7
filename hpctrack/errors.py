"""The exception tree. A class's docstring is its default message; each class owns its exit code.

Exit codes follow ``sysexits.h`` where it has a fitting one, and otherwise stay clear of Slurm's own.
"""

from __future__ import annotations

import errno


class HpctrackError(Exception):
    """Something went wrong in hpctrack."""

    exit_code = 1
    excerpt = ""
    """Lines that show people where it went wrong; printed below the message."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class UsageError(HpctrackError):
    """The command line can't be understood."""

    exit_code = 2


class FilterError(UsageError):
    """The condition can't be understood."""

    def __init__(self, message: str | None = None, excerpt: str = "") -> None:
        super().__init__(message)
        self.excerpt = excerpt


class RunNotFound(HpctrackError):
    """No such run."""

    exit_code = 3


class AmbiguousRun(HpctrackError):
    """The id names more than one run."""

    exit_code = 3


class ExperimentNotFound(HpctrackError):
    """No such experiment."""

    exit_code = 3


class NoOutput(HpctrackError):
    """There is no such output."""

    exit_code = 66  # EX_NOINPUT


class BadInput(HpctrackError):
    """The input can't be read."""

    exit_code = 65  # EX_DATAERR


class Untrusted(HpctrackError, PermissionError):
    """Somebody else could have made this file or folder."""

    exit_code = 77  # EX_NOPERM

    def __init__(self, message: str | None = None, path: str | None = None) -> None:
        message = message or (type(self).__doc__ or "")
        PermissionError.__init__(self, errno.EPERM, message, path)

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}" if self.filename else str(self.strerror)


class StoreError(HpctrackError):
    """PostgreSQL could not do what was asked."""

    exit_code = 74  # EX_IOERR


class StoreUnavailable(StoreError):
    """PostgreSQL can't be reached."""

    exit_code = 69  # EX_UNAVAILABLE


class StoreDenied(StoreError):
    """PostgreSQL refused: not your right."""

    exit_code = 77  # EX_NOPERM


class StoreBusy(StoreError):
    """A table is locked by somebody else."""

    exit_code = 75  # EX_TEMPFAIL


class ContentRefused(StoreError):
    """PostgreSQL refuses the data."""

    exit_code = 65  # EX_DATAERR

    def __init__(self, message: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class SchemaError(StoreError):
    """The database's schema does not fit this hpctrack."""

    exit_code = 78  # EX_CONFIG


class MigrationChanged(SchemaError):
    """An SQL file changed after it was applied."""


class EmbeddedError(StoreUnavailable):
    """The embedded PostgreSQL can't be started."""


class OwnedElsewhere(EmbeddedError):
    """The embedded PostgreSQL of this folder runs on another host."""


class SettingsError(HpctrackError):
    """The configuration can't be used."""

    exit_code = 78  # EX_CONFIG


class MissingExtra(HpctrackError):
    """A package is missing that an extra of hpctrack brings."""

    exit_code = 69  # EX_UNAVAILABLE


class SlurmError(HpctrackError):
    """A Slurm command failed."""

    exit_code = 70  # EX_SOFTWARE


class SlurmUnavailable(SlurmError):
    """Slurm can't be reached."""

    exit_code = 69  # EX_UNAVAILABLE


class JobUnproven(SlurmError):
    """Whether Slurm's job is the run's can't be proven."""

    exit_code = 77  # EX_NOPERM


class CommandNotFound(SlurmError):
    """A Slurm command is not on PATH."""

    exit_code = 127


class NotExecutable(HpctrackError):
    """What is to be run is a folder, or may not be executed."""

    exit_code = 126


class WireError(HpctrackError):
    """A datagram is not one of ours."""

    exit_code = 65  # EX_DATAERR


class CollectorUnavailable(HpctrackError):
    """No collector answers."""

    exit_code = 69  # EX_UNAVAILABLE


class LeaseLost(HpctrackError):
    """Another collector reconciles with Slurm now."""

    exit_code = 75  # EX_TEMPFAIL
