"""Roles of a site: what collectors, users and readers may do in SQL.

Rights say which tables; row-level security (sql/migrations) says which rows of them: users change only their
own. Which roles have rights already is read from PostgreSQL's catalog.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import sql

from hpctrack import errors
from hpctrack.run.audience import SCOPES
from hpctrack.store import database, rows
from hpctrack.store.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hpctrack.settings import Settings
    from hpctrack.store.database import Connection


class RoleKind(enum.Enum):
    """What a role is for; each may do what those before it may."""

    READER = "reader"
    USER = "user"
    COLLECTOR = "collector"


#: Everybody who can connect to the database (PostgreSQL's own word).
PUBLIC = "public"
#: Tables that readers see nothing of. All others, and views, also of the site's own, they may SELECT from.
_PRIVATE = frozenset(("events", "run_keys"))
_ALL = "INSERT, UPDATE, DELETE"
#: Not the statistics: what lists read of everybody's runs is the collector's to write.
_LATEST = "run_id, next_step, last_step, last_time, last, rows, lost, waiting"
#: Beside SELECT, by table. Users: their own rows.
_USER = {
    "attempts": "INSERT, UPDATE",
    "experiment_links": _ALL,
    "experiment_relationships": _ALL,
    "experiments": _ALL,
    "experiment_scopes": _ALL,
    "metrics": _ALL,
    "run_latest": f"INSERT ({_LATEST}), UPDATE ({_LATEST}), DELETE",
    "run_links": _ALL,
    "run_relationships": _ALL,
    "runs": _ALL,
    "shares": "INSERT, DELETE",
    "submissions": "DELETE",
    # Not id: a role that chose numbers to come would keep others' rows from being written.
    "transitions": "INSERT (run_id, attempt, status, time, source, reason, raw)",
}
#: Everybody's rows, to store, reconcile, and prune; `_USER` beside it.
_COLLECTOR = {
    "clusters": "INSERT, UPDATE",
    "collectors": _ALL,
    "events": "SELECT, UPDATE, DELETE",  # UPDATE: to lock what is taken
    "members": _ALL,
    "rejected": "INSERT",
    "metric_names": "INSERT",
    "run_latest": _ALL,
    "run_keys": "SELECT",
    "run_metrics": _ALL,
    "run_series": "INSERT, UPDATE",
    "series_rows": "INSERT, UPDATE",
    "streams": "INSERT, UPDATE",
    "usage": "INSERT",
}
_FUNCTIONS = {
    RoleKind.READER: (
        "accounts_shown",
        "acts_for_all",
        "as_double",
        "coordinated_accounts",
        "count_number",
        "is_any_narrowed",
        "is_own_submission",
        "is_shown_any",
        "known_runs",
        "metric_number",
        "my_accounts",
        "nth_newest_run",
        "sees_all",
        "sees_every_run",
        "site_choice",
        "statistics_of",
    ),
    RoleKind.USER: ("register_submission",),
    RoleKind.COLLECTOR: ("add_metric_columns",),
}


class Choices(NamedTuple):
    """Whom the site shows runs to, in words of `SCOPES`; None leaves it as it is."""

    runs_visible: str | None = None
    details_visible: str | None = None
    """Their environments, arguments, scripts and standard error."""


class Grant(NamedTuple):
    """A role that `apply` gave rights to."""

    kind: RoleKind
    role: str
    known: bool
    """Whether it had them before."""
    notes: tuple[str, ...]
    """What could not be given and is not needed, each in one line that says what to do."""


class _Role(NamedTuple):
    can_log_in: bool
    above_rows: bool
    """Whether row-level security does not hold for it."""
    owns: bool
    may_skip_checks: bool
    may_connect: bool
    may_make_temporary: bool


def apply(
    settings: Settings, wanted: Iterable[tuple[RoleKind, str]], choices: Choices | None = None
) -> list[Grant]:
    """Give roles their rights, and those that had theirs before the ones on new tables; note choices.

    All in one transaction; again, it changes nothing. Raises `errors.BadInput` for a role that does not
    exist and for details that more would see than runs, `errors.StoreDenied` where only another role can
    give what is needed, and what `database.connect` raises.
    """
    wanted = list(dict.fromkeys(wanted))
    with database.connect(settings, autocommit=True) as connection, database.translated():
        [(owner, owned)] = rows.tuples(connection, "fetch_owner")
        if not owned:
            if wanted or choices not in (None, Choices()):
                raise errors.StoreDenied(
                    f"{migrate.where(connection, settings)} belongs to {owner}: only that role or a "
                    "superuser can give rights (hpctrack setup --user)"
                )
            return []
        with connection.transaction():
            migrate.lock(connection, settings)
            _choose(connection, choices or Choices())
            known = _known(connection)
            _refresh(connection, settings, known)
            return [_grant(connection, settings, kind, role, known) for kind, role in wanted]


def _choose(connection: Connection, choices: Choices) -> None:
    for name, value in choices._asdict().items():
        if value is not None:
            rows.execute(connection, "set_site_choice", name=name, value=value)
    chosen = chosen_scopes(connection)
    if SCOPES.index(chosen.details_visible) > SCOPES.index(chosen.runs_visible):
        raise errors.BadInput(
            f"details can't be seen by more than runs: --runs-visible {chosen.runs_visible} and "
            f"--details-visible {chosen.details_visible}"
        )


def may_choose(connection: Connection) -> bool:
    """Whether the caller may act as the role that owns the tables."""
    [(_, owned)] = rows.tuples(connection, "fetch_owner")
    return bool(owned)


class Scopes(NamedTuple):
    """Whom the site shows runs to, and their details, in words of `SCOPES`."""

    runs_visible: str
    details_visible: str


def chosen_scopes(connection: Connection) -> Scopes:
    """Return what the site has chosen, or the defaults."""
    [scopes] = rows.records(connection, "fetch_site_choices", Scopes)
    return scopes


def _known(connection: Connection) -> dict[str, RoleKind]:
    """Return the roles that have rights, and what for."""
    return {
        role: RoleKind.COLLECTOR if collects else RoleKind.USER if submits else RoleKind.READER
        for role, collects, submits in rows.tuples(connection, "fetch_grantees")
    }


def _refresh(connection: Connection, settings: Settings, known: Mapping[str, RoleKind]) -> None:
    """Give rights on tables that nobody has any on yet; what an administrator took away stays so."""
    fresh = [name for name, is_untouched in rows.tuples(connection, "fetch_relations") if is_untouched]
    for role, kind in known.items():
        _execute(connection, _commands(kind, role, settings.schema, fresh))


def _grant(
    connection: Connection, settings: Settings, kind: RoleKind, role: str, known: Mapping[str, RoleKind]
) -> Grant:
    notes: list[str] = []
    if role.lower() == PUBLIC:
        role = PUBLIC
        if kind is RoleKind.COLLECTOR:
            raise errors.BadInput(
                "a collector is a role of its own, not everybody: createuser hpctrack_collector"
            )
    else:
        notes = _prepare(connection, kind, role, _look_up(connection, role))
    relations = rows.column(connection, "fetch_relations")
    _execute(connection, _commands(kind, role, settings.schema, relations))
    return Grant(kind, role, _at_least(known.get(role), kind), tuple(notes))


def _at_least(had: RoleKind | None, kind: RoleKind) -> bool:
    kinds = list(RoleKind)
    return had is not None and kinds.index(had) >= kinds.index(kind)


def _look_up(connection: Connection, role: str) -> _Role:
    known = rows.one(connection, "fetch_role", _Role, role=role)
    if known is None:
        raise errors.BadInput(
            f"there is no role {role!r} on this PostgreSQL server: check the spelling, or make it first "
            f"(createuser {role})"
        )
    return known


class _Need(NamedTuple):
    """What a role needs beside rights on the schema, which somebody else may have to give."""

    met: bool
    command: sql.Composed
    """Gives it."""
    lack: str
    """What is said where the caller may not give it; the command follows."""
    is_vital: bool = False


def _prepare(connection: Connection, kind: RoleKind, role: str, known: _Role) -> list[str]:
    """Give what the schema itself does not need; return what could not be given and is not vital."""
    needs = [_connecting(connection, role, known)]
    if kind is RoleKind.COLLECTOR:
        needs += _collecting(connection, role, known)
    notes = []
    for need in needs:
        if need.met or _tried(connection, need.command):
            continue
        text = f"{need.lack}: {need.command.as_string()}"
        if need.is_vital:
            raise errors.StoreDenied(f"{text}; then run this again")
        notes.append(text)
    return notes


def _connecting(connection: Connection, role: str, known: _Role) -> _Need:
    connect = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
    return _Need(
        known.may_connect,
        connect.format(sql.Identifier(connection.info.dbname), sql.Identifier(role)),
        "can't connect until the database's owner says",
    )


def _collecting(connection: Connection, role: str, known: _Role) -> Iterator[_Need]:
    to, database_ = sql.Identifier(role), sql.Identifier(connection.info.dbname)
    if not known.can_log_in:
        raise errors.BadInput(
            f"a collector logs in as its role, and {role} can't: ALTER ROLE {to.as_string()} LOGIN"
        )
    yield _Need(
        # COPY is not for roles that row-level security holds for.
        known.above_rows or known.owns,
        sql.SQL("ALTER ROLE {} BYPASSRLS").format(to),
        "a collector stores everybody's rows, which only a superuser can allow",
        is_vital=True,
    )
    yield _Need(
        known.may_make_temporary,
        sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(database_, to),
        "a collector needs temporary tables, which only the database's owner can allow",
        is_vital=True,
    )
    yield _Need(
        known.may_skip_checks,
        sql.SQL("GRANT SET ON PARAMETER session_replication_role TO {}").format(to),
        "stores rows at about half the speed until a superuser says",
    )


def _tried(connection: Connection, command: sql.Composed) -> bool:
    """Run a command; False where the caller may not."""
    try:
        with connection.transaction():
            connection.execute(command)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


def _execute(connection: Connection, commands: Iterable[sql.Composed]) -> None:
    for command in commands:
        connection.execute(command)


def _commands(kind: RoleKind, role: str, schema: str, relations: Sequence[str]) -> Iterator[sql.Composed]:
    """Yield what gives a role its rights on these tables and views of the schema."""
    to = sql.Identifier(role)
    yield sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), to)
    grant = sql.SQL("GRANT {} ON TABLE {} TO {}")
    for relation in relations:
        for privileges in _privileges(kind, relation):
            yield grant.format(sql.SQL(privileges), sql.Identifier(schema, relation), to)
    for each in list(RoleKind)[: list(RoleKind).index(kind) + 1]:
        for function in _FUNCTIONS[each]:
            yield sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.Identifier(schema, function), to)


def _privileges(kind: RoleKind, relation: str) -> Iterator[str]:
    if relation not in _PRIVATE:
        yield "SELECT"
    if kind is not RoleKind.READER and relation in _USER:
        yield _USER[relation]
    if kind is RoleKind.COLLECTOR and relation in _COLLECTOR:
        yield _COLLECTOR[relation]
