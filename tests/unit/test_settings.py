"""The configuration: what is read, what is stronger, what is refused."""

import os
import pwd

import pytest

from hpctrack import errors, settings
from hpctrack.stream.wire.names import Address


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home and a current folder without any configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".config" / "hpctrack").mkdir(parents=True)
    return tmp_path


def load(home, overrides=None, config_path=None, **environ):
    return settings.load(overrides, config_path=config_path, environ={"HOME": str(home), **environ})


def test_without_any_configuration_it_is_the_personal_mode(home):
    loaded = load(home)
    assert loaded.personal
    assert loaded.schema == "hpctrack"
    assert loaded.data_dir == str(home / ".local/share/hpctrack")
    assert loaded.spool == str(home / ".local/share/hpctrack/spool")


def test_the_stronger_source_wins(home):
    user = home / ".config/hpctrack/hpctrack.conf"
    here = home / "hpctrack.conf"
    user.write_text("schema = of_user\nflush = 1\nranks = all\nhost = h1\nuser = u1\n")
    assert load(home).schema == "of_user"
    here.write_text("schema = of_folder\nflush = 2\nhost = h2\n")
    assert load(home).schema == "of_folder"
    assert load(home, HPCTRACK_SCHEMA="of_environment").schema == "of_environment"
    loaded = load(
        home, {"schema": "of_option", "dsn_host": "h4"}, HPCTRACK_SCHEMA="e", HPCTRACK_DSN_HOST="h3"
    )
    assert (loaded.schema, loaded.flush, loaded.ranks) == ("of_option", 2.0, "all")
    assert loaded.dsn == {"host": "h4", "user": "u1"}


def test_none_on_the_command_line_overrides_nothing(home):
    assert load(home, {"schema": None, "dsn_host": None}) == load(home)


def test_config_path_replaces_the_usual_files(home):
    (home / "hpctrack.conf").write_text("schema = usual\nflush = 3\n")
    (home / "other.conf").write_text("schema = other\n")
    loaded = load(home, config_path=str(home / "other.conf"))
    assert (loaded.schema, loaded.flush) == ("other", 5.0)


def test_a_dsn_makes_it_a_site(home):
    loaded = load(home, HPCTRACK_DSN_HOST="db", HPCTRACK_DSN_DATABASE="tracking")
    assert not loaded.personal
    assert loaded.dsn == {"host": "db", "dbname": "tracking"}


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("flush", "250ms", 0.25),
        ("flush", "2min", 120.0),
        ("usage_interval", "0", 0.0),
        ("journal_cap", "2 MB", 2 << 20),
        ("collector", "h1:5000, [::1]:6000", (Address("h1", 5000), Address("::1", 6000))),
        ("tags", "a, b c", ("a", "b", "c")),
        ("python_path", "off", False),
        ("auto_columns", "YES", True),
        ("transport", "spool", "spool"),
        ("collector_port", "65535", 65535),
    ],
)
def test_values(home, key, text, expected):
    assert getattr(load(home, **{f"HPCTRACK_{key.upper()}": text}), key) == expected


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("flush", "soon"),
        ("flush", "-1"),
        ("flush", "inf"),
        ("flush", "nan"),
        ("journal_cap", "5 parsecs"),
        ("collector", "nowhere"),
        ("collector", "h:0"),
        ("collector", "h:65536"),
        ("collector_port", "65536"),
        ("python_path", "maybe"),
        ("transport", "pigeon"),
        ("ranks", "1"),
    ],
)
def test_a_bad_value_is_told_with_file_line_and_key(home, key, text):
    with pytest.raises(errors.SettingsError, match=rf"^HPCTRACK_{key.upper()}: {key} "):
        load(home, **{f"HPCTRACK_{key.upper()}": text})
    (home / "hpctrack.conf").write_text(f"# comment\n\n{key} = {text}\n")
    with pytest.raises(errors.SettingsError, match=rf"hpctrack\.conf:3: {key} "):
        load(home)


@pytest.mark.parametrize("line", ["flsh = 3", "flush", "= 3"])
def test_a_line_that_is_not_understood_is_refused(home, line):
    (home / "hpctrack.conf").write_text(f"{line}\n")
    with pytest.raises(errors.SettingsError, match=r"hpctrack\.conf:1: "):
        load(home)


def test_an_unknown_dsn_parameter_is_refused(home):
    with pytest.raises(errors.SettingsError, match="HPCTRACK_DSN_HOTS: unknown key 'hots'"):
        load(home, HPCTRACK_DSN_HOTS="db")


def test_what_is_left_open_depends_on_the_mode_and_what_is_said_counts(home):
    server = {"HPCTRACK_DSN_HOST": "db"}
    said = {"HPCTRACK_RECONCILE_INTERVAL": "30", "HPCTRACK_AUTO_COLUMNS": "no"}
    for environ, expected in (({}, (60.0, True)), (server, (30.0, False)), (said, (30.0, False))):
        loaded = load(home, **environ)
        assert (loaded.reconciles_every, loaded.adds_columns) == expected


def test_variables_that_are_no_settings_are_left_alone(home):
    assert load(home, HPCTRACK_JOURNAL="/dev/null", HPCTRACK_RUN_DIR="/x", HPCTRACK_DEBUG="1") == load(home)


def test_sections_and_comments_of_libpq_service_files_are_skipped(home):
    (home / "hpctrack.conf").write_text("[tracking]\n; a comment\n  host = db \npassword = a=b#c \n")
    assert load(home).dsn == {"host": "db", "password": "a=b#c"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_configuration_of_somebody_else_is_refused(home):
    (home / "hpctrack.conf").write_text("host = evil.example\n")
    os.chown(home / "hpctrack.conf", 12345, 12345)
    with pytest.raises(errors.SettingsError, match="belongs to another user"):
        load(home)


def test_a_configuration_that_was_asked_for_must_be_there(home):
    with pytest.raises(errors.SettingsError, match=r"missing\.conf: no such configuration file"):
        load(home, config_path=str(home / "missing.conf"))


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("yes", True), ("", False), ("0", False), (None, False)]
)
def test_debugging(value, expected):
    assert settings.debugging({} if value is None else {"HPCTRACK_DEBUG": value}) is expected


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "~"}])
def test_without_a_home_no_folder_named_tilde_appears(monkeypatch, tmp_path, environ):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 1234567)
    with pytest.raises(errors.SettingsError, match="HOME"):
        settings.load(environ=environ)
    named = settings.load(environ={**environ, "HPCTRACK_DATA_DIR": str(tmp_path / "mine")})
    assert named.data_dir == str(tmp_path / "mine")
    assert settings.load(environ={**environ, "XDG_DATA_HOME": "/x"}).data_dir == "/x/hpctrack"
    assert not list(tmp_path.iterdir())


def test_an_account_has_a_home_though_the_environment_has_none():
    own = pwd.getpwuid(os.getuid()).pw_dir
    assert settings.load(environ={}).data_dir.startswith(own)
