"""Whose processes these are."""

from __future__ import annotations

import os
import pwd

from hpctrack import account


def test_the_environment_does_not_say_who_it_is(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert account.user_name() == pwd.getpwuid(os.getuid()).pw_name


def test_an_account_without_a_name_has_its_number(monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    assert account.user_name() == "3999999999"
