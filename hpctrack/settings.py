"""Configuration: the only reader of ``HPCTRACK_*`` and ``hpctrack.conf``.

Strongest first: the command line, the environment (``HPCTRACK_<NAME>``, ``HPCTRACK_DSN_<PARAM>``),
``./hpctrack.conf``, ``~/.config/hpctrack/hpctrack.conf``, ``/etc/hpctrack/hpctrack.conf``. A file holds
``key = value`` lines as in libpq service files: libpq's keywords describe the PostgreSQL server, all others
are the fields of `Settings`. A file is believed only if nobody but this user and root can have written it: it
says where data and password go. Standard library only, and little of it: processes on compute nodes load it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from hpctrack import errors, files
from hpctrack.stream.wire.names import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Connection keywords of libpq that a site may want (PostgreSQL manual, "Parameter Key Words").
DSN_PARAMS = frozenset(
    "host hostaddr port dbname user password passfile connect_timeout options service sslmode sslrootcert "
    "sslcert sslkey sslpassword sslcrl sslnegotiation ssl_min_protocol_version channel_binding gssencmode "
    "krbsrvname gsslib require_auth target_session_attrs load_balance_hosts keepalives keepalives_idle "
    "keepalives_interval keepalives_count tcp_user_timeout application_name".split()
)
_DSN_ALIASES = {"database": "dbname"}
#: What tells one database from another, and libpq's variables for it.
_PLACE = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "service": "PGSERVICE",
}
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
#: More than anybody means: beyond it, the system's clocks and sizes end.
_MOST_SECONDS = 10_000 * 86400.0
_MOST_BYTES = float(1 << 60)
#: Of a configuration file.
_MAX_FILE = 1 << 20


class Settings(NamedTuple):
    """Everything that can be configured; the defaults are those of the personal mode."""

    #: libpq parameters of the configured server; None means the embedded PostgreSQL.
    dsn: dict[str, str] | None = None
    schema: str = "hpctrack"
    #: The user's data folder on the shared home: database, spool, owner file.
    data_dir: str = "~/.local/share/hpctrack"
    #: Where relays find the collector ; empty means the address file in the spool.
    collector: tuple[Address, ...] = ()
    #: Address and UDP port that ``hpctrack collector`` binds; port 0 takes any free one.
    collector_bind: str = "0.0.0.0"  # noqa: S104 (compute nodes must reach it; every datagram carries a MAC)
    collector_port: int = 0
    #: Address and TCP port for Prometheus; port 0: none.
    metrics_bind: str = "127.0.0.1"
    metrics_port: int = 0
    #: Where the user's other login nodes reach the embedded PostgreSQL once they have asked: addresses or
    #: ``*``; ``none``; empty: the address that leads to who asks.
    embedded_listen: str = ""
    #: ``auto`` (datagrams, and the spool where nobody answers) or ``spool``.
    transport: str = "auto"
    #: ``record`` (in the spool) or ``script`` (in the submitted script, for clusters without a shared home).
    key_in: str = "record"
    #: Parent folder of the run folders on compute nodes; empty: the first of /var/tmp and /tmp on a disk.
    node_dir: str = ""
    #: Bytes one journal may hold unacknowledged on a node.
    journal_cap: int = 1 << 30
    #: Seconds that the end of a job may wait for the last acknowledgements.
    flush: float = 5.0
    #: Seconds between two usage samples.
    usage_interval: float = 10.0
    #: Append a folder that holds just this package to the job's PYTHONPATH.
    python_path: bool = True
    #: Which ranks of a parallel program log: ``0`` or ``all``.
    ranks: str = "0"
    #: What a submission gets where neither the command line nor the script says otherwise.
    experiment: str = "default"
    tags: tuple[str, ...] = ()
    note: str = ""
    #: Let the collector add a ``double precision`` column for each new numeric metric; None: only in the
    #: personal mode.
    auto_columns: bool | None = None
    slurm_backend: str = "auto"
    #: Who tells which account somebody belongs to, on a server: ``sacctmgr``, or ``groups`` (Unix groups of
    #: the accounts' names).
    members: str = "sacctmgr"
    #: Seconds between two passes of the reconciler; None: 30, and 60 in the personal mode.
    reconcile_interval: float | None = None
    #: Seconds after the last live run, command or session at which a collector and an embedded PostgreSQL end
    #: that a command started.
    idle_exit: float = 600.0

    @property
    def personal(self) -> bool:
        """No server is configured: the embedded PostgreSQL serves this user alone."""
        return self.dsn is None

    @property
    def adds_columns(self) -> bool:
        """Whether new metrics get columns of their own."""
        return self.personal if self.auto_columns is None else self.auto_columns

    @property
    def reconciles_every(self) -> float:
        """Seconds between two passes of the reconciler."""
        if self.reconcile_interval is None:
            return 60.0 if self.personal else 30.0
        return self.reconcile_interval

    @property
    def place(self) -> str:
        """Where its runs belong: server, database and schema, as they are configured, without secrets.

        libpq takes from its own variables what is not configured.
        """
        if self.dsn is None:
            return "personal"
        values = {name: self.dsn.get(name) or os.environ.get(other, "") for name, other in _PLACE.items()}
        server = values["host"] or values["hostaddr"] or "this host"
        if values["service"]:
            server = f"service {values['service']}, {server}"
        hosts = ",".join(sorted(server.lower().split(",")))
        named = values["dbname"] or values["user"] or "the user's"
        return f"{hosts}:{values['port'] or '5432'}/{named}, schema {self.schema}"

    @property
    def spool(self) -> str:
        """The spool folder: submission records and journals that could not be shipped yet."""
        return os.path.join(self.data_dir, "spool")

    @property
    def cache(self) -> str:
        """The folder of answers that are asked for once: what there is to know of the site's Slurm."""
        return os.path.join(self.data_dir, "cache")


def _choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text

    return parse


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("1", "yes", "true", "on"):
        return True
    if lowered in ("0", "no", "false", "off"):
        return False
    raise ValueError("must be yes or no")


def _scaled(units: Mapping[str, float], most: float) -> Callable[[str], float]:
    """Accept a number with one of the units, as PostgreSQL's own configuration does."""

    def parse(text: str) -> float:
        number = text.strip().lower()
        scale = 1.0
        for unit in sorted(units, key=len, reverse=True):
            if number.endswith(unit):
                number, scale = number[: -len(unit)], units[unit]
                break
        try:
            value = float(number) * scale
        except ValueError:
            raise ValueError("must be a number, or a number with a unit: " + " ".join(units)) from None
        if not 0 <= value <= most:
            raise ValueError(f"must be between 0 and {most:.0f}, without a unit")
        return value

    return parse


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError("must be a port number, 0 to 65535")
    return int(text)


def _addresses(text: str) -> tuple[Address, ...]:
    return tuple(map(Address.parse, text.replace(",", " ").split()))


def _folder(text: str) -> str:
    """Accept a folder; ``~`` and ``~name`` are homes."""
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise ValueError(f"names the home of nobody here: {text}")
    return path


_seconds = _scaled(_SECONDS, _MOST_SECONDS)
_bytes = _scaled(_BYTES, _MOST_BYTES)

_PARSERS: dict[str, Callable[[str], Any]] = {
    "schema": str,
    "data_dir": _folder,
    "collector": _addresses,
    "collector_bind": str,
    "collector_port": _port,
    "metrics_bind": str,
    "metrics_port": _port,
    "embedded_listen": str,
    "transport": _choice("auto", "spool"),
    "key_in": _choice("record", "script"),
    "node_dir": str,
    "journal_cap": lambda text: int(_bytes(text)),
    "flush": _seconds,
    "usage_interval": _seconds,
    "python_path": _boolean,
    "ranks": _choice("0", "all"),
    "experiment": str,
    "tags": lambda text: tuple(text.replace(",", " ").split()),
    "note": str,
    "auto_columns": _boolean,
    "slurm_backend": _choice("auto", "cli", "pyslurm"),
    "members": _choice("sacctmgr", "groups"),
    "reconcile_interval": _seconds,
    "idle_exit": _seconds,
}

#: How variables begin that are settings, and those that are libpq's.
_VARIABLE, _DSN_VARIABLE = "HPCTRACK_", "HPCTRACK_DSN_"
#: What variables say that hpctrack itself sets for jobs, or reads besides.
_INTERNAL = frozenset("attempt debug given job_id journal ranks_outside run run_dir script spool_dir".split())
#: How alike to a setting's name a variable is that was meant to be it.
_ALIKE = 0.8
#: Paths are bytes to the system; in what is told of a run, bytes that are not UTF-8 are written out.
_ANY_BYTES = frozenset(("data_dir", "node_dir", "experiment", "tags", "note"))


def load(
    overrides: Mapping[str, Any] | None = None,
    *,
    config_path: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the configuration.

    ``overrides`` are values of the command line: fields of `Settings`, or DSN parameters as
    ``dsn_<param>``; None values are left out. ``config_path`` replaces the three usual files.

    Raises `errors.SettingsError`, naming file and line or the variable, for anything that does not parse.
    """
    environ = os.environ if environ is None else environ
    given = _Given()
    for path in reversed([config_path] if config_path else list(_usual_paths(environ))):
        given.take_file(path, required=config_path is not None)
    given.take_environ(environ)
    given.take_overrides(overrides or {})
    given.values["data_dir"] = _data_dir(given.values.get("data_dir"), environ)
    return Settings(dsn=given.dsn or None, **given.values)


class _Given:
    """What was given, weaker sources first: what is taken later replaces what was taken before."""

    def __init__(self) -> None:
        #: By names of fields of `Settings`, and by libpq's keywords.
        self.values: dict[str, Any] = {}
        self.dsn: dict[str, str] = {}

    def take_file(self, path: str, *, required: bool) -> None:
        """Take the lines of a configuration file."""
        for where, key, text in _read_file(path, required=required):
            self._take(key, text, where)

    def take_environ(self, environ: Mapping[str, str]) -> None:
        """Take the variables that are settings."""
        for name, text in environ.items():
            if name.startswith(_DSN_VARIABLE):
                self._take(name[len(_DSN_VARIABLE) :].lower(), text, name, dsn_only=True)
            elif name.startswith(_VARIABLE) and name[len(_VARIABLE) :].lower() in _PARSERS:
                self._take(name[len(_VARIABLE) :].lower(), text, name)

    def take_overrides(self, overrides: Mapping[str, Any]) -> None:
        """Take values of the command line, which are parsed already."""
        for name, value in overrides.items():
            if value is not None and name.startswith("dsn_"):
                self.dsn[name[len("dsn_") :]] = value
            elif value is not None:
                self.values[name] = value

    def _take(self, key: str, text: str, where: str, *, dsn_only: bool = False) -> None:
        if "\0" in text or (key not in _ANY_BYTES and not _is_unicode(text)):
            raise errors.SettingsError(f"{where}: {key} is not UTF-8 text")
        param = _DSN_ALIASES.get(key, key)
        if param in DSN_PARAMS:
            self.dsn[param] = text
            return
        if key == "schema":  # SQLTrack's files and variables list it among the DSN parameters
            dsn_only = False
        parse = None if dsn_only else _PARSERS.get(key)
        if parse is None:
            raise errors.SettingsError(f"{where}: unknown key {key!r}{_hint(key, dsn_only=dsn_only)}")
        try:
            self.values[key] = parse(text)
        except ValueError as error:
            raise errors.SettingsError(f"{where}: {key} {error}") from None


def _data_dir(given: str | None, environ: Mapping[str, str]) -> str:
    """Return the data folder as an absolute path. Raises `errors.SettingsError` where it has none."""
    folder = given or os.path.join(
        environ.get("XDG_DATA_HOME") or os.path.join(_home(environ), ".local", "share"), "hpctrack"
    )
    try:
        return os.path.abspath(os.path.expanduser(folder))
    except FileNotFoundError:
        raise errors.SettingsError(f"data_dir {folder} is relative, and the current folder is gone") from None


def _home(environ: Mapping[str, str]) -> str:
    """Return the user's home. Raises `errors.SettingsError` where there is none: no folder is named ``~``."""
    import pwd

    home = environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise errors.SettingsError(
                f"HOME is not set, and user id {os.getuid()} has no account: set HOME, or data_dir "
                "(HPCTRACK_DATA_DIR) to a folder of your own"
            ) from None
    if home.startswith("~"):
        raise errors.SettingsError(f"HOME is {home!r}, which is no folder: set it, or data_dir")
    return home


def debugging(environ: Mapping[str, str] | None = None) -> bool:
    """Whether ``HPCTRACK_DEBUG`` asks for tracebacks and a log on stderr."""
    return (os.environ if environ is None else environ).get("HPCTRACK_DEBUG", "0") not in ("", "0")


def misspelt(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield variables that nothing reads and that are nearly a setting's, with the name of that."""
    for name in environ:
        near = _nearest_setting(name)
        if near is not None:
            yield name, _VARIABLE + near.upper()


def _nearest_setting(variable: str) -> str | None:
    """Return the setting that a variable nearly names; None for a variable that is read, or is not ours."""
    from hpctrack.text import nearest

    key = variable[len(_VARIABLE) :].lower()
    if not variable.startswith(_VARIABLE) or key.startswith("dsn_") or key in _PARSERS or key in _INTERNAL:
        return None
    return nearest.to(key, _PARSERS, _ALIKE)


def existing_files(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the usual configuration files that exist, the strongest first."""
    return [path for path in _usual_paths(os.environ if environ is None else environ) if os.path.exists(path)]


def _usual_paths(environ: Mapping[str, str]) -> Iterator[str]:
    yield "hpctrack.conf"
    home = environ.get("HOME")
    config_home = environ.get("XDG_CONFIG_HOME") or (os.path.join(home, ".config") if home else "")
    if config_home:
        yield os.path.join(config_home, "hpctrack", "hpctrack.conf")
    yield "/etc/hpctrack/hpctrack.conf"


def _read_file(path: str, *, required: bool) -> Iterator[tuple[str, str, str]]:
    """Yield (where, key, text) of each line; ``where`` is ``file:line`` for messages."""
    for number, raw in enumerate(_lines(path, required=required), 1):
        line = raw.strip()
        if _sets_nothing(line):
            continue
        key, equals, text = line.partition("=")
        if not equals:
            raise errors.SettingsError(f"{path}:{number}: expected key = value")
        yield f"{path}:{number}", key.strip().lower(), text.strip()


def _sets_nothing(line: str) -> bool:
    """Whether a line is empty, a comment, or the head of a section."""
    return not line or line[0] in "#;" or (line[0] == "[" and line[-1] == "]")


def _lines(path: str, *, required: bool) -> list[str]:
    """Return the lines of a file; none where there is no file. Raises `errors.SettingsError`."""
    if path == os.devnull:
        return []
    try:
        return files.read(path, _MAX_FILE, links=True).decode("utf-8").splitlines()
    except errors.Untrusted as error:
        raise errors.SettingsError(f"{path} {error.strerror}: not reading it") from None
    except UnicodeDecodeError:
        raise errors.SettingsError(f"{path} is not UTF-8") from None
    except OSError as error:
        if required and isinstance(error, FileNotFoundError):
            raise errors.SettingsError(f"{path}: no such configuration file") from None
        # A link that leads nowhere is there; what stands where one may not look, or below a file, is not.
        if required or os.path.lexists(path):
            raise errors.SettingsError(f"{path}: can't be read: {error.strerror}") from None
    return []


def _is_unicode(text: str) -> bool:
    """Whether a variable of the environment holds no bytes but those of UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _hint(key: str, *, dsn_only: bool) -> str:
    from hpctrack.text import nearest

    keys = [*DSN_PARAMS, *_DSN_ALIASES, "schema", *(() if dsn_only else _PARSERS)]
    near = nearest.to(key, keys)
    return "" if near is None else f": did you mean {near!r}?"
