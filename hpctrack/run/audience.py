"""Whom something is shared with, as people write it: ``bob``, ``account:lab``. Pure."""

from __future__ import annotations

from typing import NamedTuple

from hpctrack import errors

#: Who sees runs, the fewest first: words of the site's choices, of ``runs.visible`` and of ``share --only``.
SCOPES = ("own", "account", "all")
_ACCOUNT = "account:"
_MAX_BYTES = 255


class Audience(NamedTuple):
    """A login of PostgreSQL's, or the members of an account."""

    user: str | None = None
    account: str | None = None

    @classmethod
    def parse(cls, text: str) -> Audience:
        """Read one. Raises `errors.UsageError`."""
        name = text.removeprefix(_ACCOUNT) if text.startswith(_ACCOUNT) else text
        if not name.strip() or "\0" in name or len(name.encode("utf-8", "replace")) > _MAX_BYTES:
            raise errors.UsageError(f"{text!r} is nobody to share with: write a user, or account:NAME")
        return cls(account=name) if text.startswith(_ACCOUNT) else cls(user=name)

    def __str__(self) -> str:
        return self.user if self.user is not None else f"{_ACCOUNT}{self.account}"


def narrowest(*scopes: str | None) -> str:
    """Return the scope with the fewest of those given."""
    return min((scope for scope in scopes if scope is not None), key=SCOPES.index)
