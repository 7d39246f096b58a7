"""Masking holds for any text and any value, and no text takes long."""

# ruff: noqa: E501 - tables are read row by row

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpctrack import redact
from hpctrack.redact import MASK, Redactor

# Texts made of what the patterns look for, so that they meet in every order.
FRAGMENTS = st.sampled_from(
    [*" \t\n\r=:;,@'\"\\/?&$-_.*{}[]()`<>|", "token", "--token", "password", "PGPASSWORD", "api_key", "://", "u:p@h", MASK,
     "Bearer ", "Authorization", "curl -u ", "mysql -p", "login a password ", "export ", "$X", "${X:-", "$(", '"""', "=",
     "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "ghp_" + "a1" * 12, "sk-" + "a1" * 12, "eyJ", "abcd",
     "wxyz9", "12", "/etc", "setenv ", "x-oauth-basic", "\udc80", "\u2028", "é", "a1b2c3d4e5f6g7h8"]
)  # fmt: skip
TEXTS = st.one_of(st.lists(FRAGMENTS, max_size=25).map("".join), st.text(st.characters()))
VALUES = st.one_of(
    st.text(st.characters(), min_size=4, max_size=12),
    st.lists(FRAGMENTS, min_size=2, max_size=4).map("".join),
)
many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(TEXTS, st.lists(VALUES, max_size=3))
@example("*abc99xyzw9abc99", ["*abc99", "xyzw9"])
def test_redacting_twice_is_redacting_once(text: str, values: list[str]) -> None:
    for redactor in (Redactor(), Redactor(values)):
        once = redactor.text(text)
        assert redactor.text(once) == once
        assert len(once.splitlines()) == len(text.splitlines())
        assert redactor.environ(redactor.environ({"A": text, "TOKEN": text})) == redactor.environ(
            {"A": text, "TOKEN": text}
        )


@many
@given(VALUES, TEXTS, TEXTS)
def test_a_known_value_shows_nowhere(secret: str, before: str, after: str) -> None:
    redactor = Redactor.collect({"TOKEN": secret})
    text = before + secret + after
    shown = [
        redactor.text(text),
        *redactor.argv([text, before, secret]),
        *redactor.environ({"A": text, "B": secret}).values(),
    ]
    shown += redactor.value({"a": text, "b": [secret, 1]})["b"][:1]
    for value in redactor.known:
        assert not any(value in copy for copy in shown)


@many
@given(st.text(st.characters(exclude_characters=":=@'\"-_/\\$?&"), max_size=200))
def test_text_without_any_mark_of_a_secret_stays(text: str) -> None:
    words = text.lower()
    if not any(
        word in words for word in ("login", "machine", "account", "setenv", "bearer", "akia", "asia", "sg.")
    ):
        assert Redactor().text(text) == text


@many
@given(st.from_regex(r"[ -~]{5,20}", fullmatch=True), TEXTS)
def test_what_surrounds_a_known_value_stays(secret: str, text: str) -> None:
    redactor = Redactor([secret])
    if redactor.known and Redactor().text(text) == text and secret.strip() not in text:
        assert (
            redactor.text(f"{text}\n") == f"{text}\n" or redactor.text(text) != text
        )  # other forms may occur
        assert redactor.text("caf\xe9 " + secret + " \udc80").startswith("caf\xe9 ")


# ---- cost

ADVERSARIAL = [
    "a", "=", ":", "@", "://", "://a:", "://a:b@", "-", "--", "--a ", "'", '"', "\\", '\\"', "token", "token=", "token: ",
    'token="', "token=$", "token:$", "token:$(", "token=${", "token:${token}", "token=1,", "token='$x ", "$", "_", ".", "a.",
    "a-", " ", "\n", "\t", "-----BEGIN PRIVATE KEY-----", "-----END ", "eyJ", "eyJaaaaaaaa.", "sk-", "sk-ant-", "SG.", "ghp_",
    "Bearer ", "curl ", "curl -u ", "mysql ", "mysql -p ", "login a ", "login ", "docker login ", "a:a@", "a:", "1", "1,",
    "a/", "/a", "password=a&", "a[", "a])", "set -x ", "?sig=", "token: a", "--token\",", "aB", "pass_", "token=\"\\",
    "token=[", "token=a(", "token=a[", "token='$(", "token= ", "x@", "://@", "token=$a_", "token:${a}$",
]  # fmt: skip


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_time_does_not_explode(unit: str) -> None:
    """Whatever is repeated, it ends: what is quadratic takes many times as long."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hpctrack.redact as r; u = sys.argv[2] * 80_000;"
        "known = r.Redactor(['a1b2-c3d4', 'a' * 5000, 'ab' * 2000]);"
        "[known.text(p + u[:80_000] + s) for p, s in (('', ''), ('token=', '!'))]"
    )
    root = str(Path(redact.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code, root, unit], check=True, timeout=20)


@pytest.mark.parametrize("unit", ["a", "://", "=", "@", "token=a ", "a:b@c "])
def test_a_megabyte_is_done(unit: str) -> None:
    text = (unit * 1_000_000)[:1_000_000]
    assert Redactor(["q7Xv-9zKw2mB"]).text(f"{text}q7Xv-9zKw2mB").endswith(MASK)
