"""All that ``hpctrack doctor`` looks at, in order: each check says what it found, and what to do about it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hpctrack import errors, settings
from hpctrack.cli.doctor import clients, collector, folders, postgresql, slurm, spool
from hpctrack.cli.doctor.check import Check, Failed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpctrack.settings import Settings


def examine(config_path: str | None) -> Iterator[Check]:
    """Yield one check after the other, as they are done."""
    try:
        configuration = settings.load(config_path=config_path)
    except errors.SettingsError as error:
        yield Check("configuration", "broken", str(error), "mend it: docs/configuration.md lists them all")
        return
    yield _configuration(configuration, config_path)
    yield folders.data_folder(configuration)
    yield folders.node_folder(configuration)
    try:
        with contextlib.closing(postgresql.connect(configuration)) as connection:
            yield postgresql.server(configuration, connection)
            yield postgresql.schema(configuration, connection)
            yield postgresql.clock(connection)
            yield from collector.look(configuration, connection)
            yield from slurm.look(configuration, connection)
            yield from spool.look(configuration, connection)
            yield from clients.look(connection)
    except Failed as failed:
        yield failed.check
        yield from slurm.look(configuration, None)
        yield from spool.look(configuration, None)


def _configuration(configuration: Settings, config_path: str | None) -> Check:
    existing = [config_path] if config_path else settings.existing_files()
    where = ", ".join(existing) or "no file, only defaults and the environment"
    mode = "personal mode" if configuration.personal else "site mode"
    return Check("configuration", "ok", f"{mode}; {where}")
