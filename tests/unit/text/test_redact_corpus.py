"""How many secrets of a corpus are masked, and how many innocent lines are left as they are."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from hpctrack.text.redact import MASK, Redactor
from tests.support import secret_corpus

POSITIVES = secret_corpus.positives()
#: Of each hundred secrets so many are masked by patterns alone, and of as many innocent lines so many stay.
RECALL, PRECISION = 99.0, 99.0


def shown(redactor: Redactor, case: secret_corpus.Case) -> bool:
    return case.secret in redactor.text(case.text)


def test_secrets_are_masked_wherever_they_stand():
    missed = [case for case in POSITIVES if shown(Redactor(), case)]
    assert 100 * (1 - len(missed) / len(POSITIVES)) >= RECALL, missed
    assert len(POSITIVES) > 500


@pytest.mark.parametrize("kind", sorted({case.kind for case in POSITIVES}))
def test_no_kind_is_left_out(kind):
    cases = [case for case in POSITIVES if case.kind == kind]
    missed = [case for case in cases if shown(Redactor(), case)]
    assert len(missed) <= len(cases) // 20, missed


def test_innocent_lines_stay_as_they_are():
    lines = secret_corpus.NEGATIVES
    changed = [copy for line in lines if (copy := Redactor().text(line)) != line]
    assert 100 * (1 - len(changed) / len(lines)) >= PRECISION, changed
    assert len(lines) > 150


def test_innocent_lines_together_teach_nothing():
    """A script of them has no values that would be masked elsewhere."""
    script = "\n".join(secret_corpus.NEGATIVES)
    assert Redactor.collect({}, texts=[script]).known == frozenset()


def test_what_was_masked_once_is_masked_already():
    redactor = Redactor()
    for case in POSITIVES:
        copy = redactor.text(case.text)
        assert redactor.text(copy) == copy and MASK in copy
        assert copy.count("\n") == case.text.count("\n")


@pytest.mark.parametrize(
    "around", ["{}", "echo a\n{}\necho b", "  {}  ", "bash -c '{}'", "{} # as ever", "$ {}\n"]
)
def test_a_secret_is_masked_whatever_is_around(around):
    cases = [case for case in POSITIVES if "'" not in case.text or "'" not in around]
    texts = [case._replace(text=around.format(case.text)) for case in cases]
    missed = Counter(case.kind for case in texts if shown(Redactor(), case))
    assert sum(missed.values()) <= len(texts) // 50, missed


def test_secrets_of_the_shell_are_known_everywhere_else():
    """What a script assigns is masked in a note, in JSON and in what a program says of it."""
    for case in (case for case in POSITIVES if case.kind == "shell" and not case.secret.isdecimal()):
        redactor = Redactor.collect({}, texts=[case.text])
        said = f"401: {case.secret} is not valid"
        assert case.secret not in redactor.text(said), case
        assert case.secret not in json.dumps(redactor.value({"note": said, "more": [said, 1]})), case


#: A random value: some shapes are secrets by it alone.
RANDOM = secret_corpus.draw(48)
LATE = [
    f"TOKEN=$(cat <<EOF\n{RANDOM}\nEOF\n)",
    f"TOKEN=$(cat <<-'E'\n\t{RANDOM}\nE\n)", f"printf -v TOKEN {RANDOM}", f"printf -v API_KEY '%s' {RANDOM}",
    f"PASSWORD='it'\\''s{RANDOM}'", f"PASSWORD='it'\"'\"'s{RANDOM}'",
    f"./serve -p {RANDOM}", f"./serve -p{RANDOM}", f"./serve -k '{RANDOM}'",
    f"plink -pw {RANDOM} h", f"./serve --pw {RANDOM}",
    f"https://open.feishu.cn/open-apis/bot/v2/hook/{RANDOM}",
    f"https://x.webhook.office.com/webhook/a/IncomingWebhook/{RANDOM}",
    f"https://chat.example.org/hooks/{RANDOM}", f"https://hc-ping.com/{RANDOM}",
    *(f"x {begin}{RANDOM} y" for begin in (
        "sk" + "_", "sbp" + "_", "figd" + "_", "nfp" + "_", "csk" + "-", "rpa" + "_", "e2b" + "_",
        "cfut" + "_", "tgp" + "_v1_", "zpka" + "_", "apify" + "_api_", "ATB" + "B", "whsec" + "_",
        "rnd" + "_",
    )),
]  # fmt: skip


@pytest.mark.parametrize("text", LATE)
def test_what_was_added_later_is_masked(text):
    assert RANDOM not in Redactor().text(text)


def test_a_secret_with_a_shells_quotes_is_known_without_them():
    redactor = Redactor.collect({}, texts=["PASSWORD='it'\\''s so'"])
    assert redactor.text("FATAL: it's so is wrong") == "FATAL: *** is wrong"


@pytest.mark.parametrize("secret", ["hunter2", "s3cr3t", "train2024"])
def test_a_short_password_that_somebody_tells_is_masked(secret):
    assert Redactor().text(f"the password is {secret}.") == "the password is ***."
