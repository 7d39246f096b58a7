"""Masking holds for any text and any value, and no text takes long."""

# ruff: noqa: E501 - tables are read row by row

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpctrack.text import secret_patterns
from hpctrack.text.redact import MASK, Redactor

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
        if not secret_patterns.is_word(value):
            assert not any(value in copy for copy in shown)
    for value in redactor.known:
        assert value not in redactor.text(f"<{value}>") and value not in redactor.argv(["x", value])[1]


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
    "name: a\n", "name: token\n value: ", "key=", "password: |\n ", "password:\n ", "TOKEN='a\n", "TOKEN=\"\n", "X='", "<a>", "<token>",
    "$(echo ", "token=$(echo ", "`printf ", "echo a | ", "echo a", "login ", "login a1b2c3d4e5f6g7h8 ", "git config ", "git config token ", "npm set ",
    "read token <<<", "openssl ", "openssl -pass pass:", "7z -p", "docker login -p ", "sudo -S", "machine a password ", "a1", "A1b2", "aB",
    ":AA", "11111111:AA", "Q~", ".atlasv1.", "hooks.slack.com/", "sig=", "&sig=", "Bearer a1", "Basic abcdefgh", "Basic ", "a:5432:b:c:", "*:*:*:*:",
    "-----END PRIVATE KEY-----\n", "ABCDEFGHIJKLMNOP\n", "ABCDEFGHIJKLMNOP\n-----END PRIVATE KEY-----\n", "xoxb-", "eyJ.", "AKIA", "a.", "export ",
    "ENV a ", "setenv ", "password=\\\n", "--token \\\n", "token=[\n", "token!=", "@\"", "curl -u a", "curl \\\n", "mc alias set ", "-w ",
    " -p", " -pa1b2", " -k ", "'\\''", "A_TOKEN='a'\\''", "$(cat <<E\n", "printf -v a ", "/hooks/", "/hooks/a", "whsec_", "sk_",
    "a", "=", ":", "@", "://", "://a:", "://a:b@", "-", "--", "--a ", "'", '"', "\\", '\\"', "token", "token=", "token: ",
    'token="', "token=$", "token:$", "token:$(", "token=${", "token:${token}", "token=1,", "token='$x ", "$", "_", ".", "a.",
    "a-", " ", "\n", "\t", "-----BEGIN PRIVATE KEY-----", "-----END ", "eyJ", "eyJaaaaaaaa.", "sk-", "sk-ant-", "SG.", "ghp_",
    "Bearer ", "curl ", "curl -u ", "mysql ", "mysql -p ", "login a ", "login ", "docker login ", "a:a@", "a:", "1", "1,",
    "a/", "/a", "password=a&", "a[", "a])", "set -x ", "?sig=", "token: a", "--token\",", "aB", "pass_", "token=\"\\",
    "token=[", "token=a(", "token=a[", "token='$(", "token= ", "x@", "://@", "token=$a_", "token:${a}$",
]  # fmt: skip


@pytest.mark.parametrize("unit", ADVERSARIAL)
def test_time_grows_with_the_text(unit: str) -> None:
    """Four times as much of anything takes about four times as long, and not sixteen times."""
    known = Redactor(["a1b2-c3d4", "a" * 5000, "ab" * 2000])

    def spent(size: int) -> float:
        text = (unit * size)[:size]
        texts = [text, f"token={text}!", f"key={text}"]
        began = time.process_time()
        for sample in texts:
            known.text(sample)
        return time.process_time() - began

    for _ in range(5):  # a busy machine may be in the way once
        if (much := spent(32_000)) < max(0.2, 9 * spent(8_000)):
            return
    pytest.fail(f"{unit!r}: {much:.1f} s")


@pytest.mark.parametrize("unit", ["a", "://", "=", "@", "token=a ", "a:b@c "])
def test_a_megabyte_is_done(unit: str) -> None:
    text = (unit * 1_000_000)[:1_000_000]
    assert Redactor(["q7Xv-9zKw2mB"]).text(f"{text}q7Xv-9zKw2mB").endswith(MASK)
