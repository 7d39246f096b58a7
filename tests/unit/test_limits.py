"""What is too long is cut between characters, and refused by its bytes."""

from __future__ import annotations

import pytest

from hpctrack import errors, limits

TEXTS = [limit for limit in vars(limits).values() if isinstance(limit, limits.Limit) and limit.most < 1 << 20]
CHARACTERS = ["x", "\u00e9", "\u4e2d", "\U0001f600", "e\u0301"]


@pytest.mark.parametrize("limit", TEXTS, ids=lambda limit: limit.what)
@pytest.mark.parametrize("character", CHARACTERS, ids=ascii)
def test_no_character_is_cut_in_two(limit, character):
    for ahead in range(5):
        whole = "y" * ahead + character * (limit.most // len(character.encode()) + 1)
        shortened = limits.cut(limit, whole)
        kept, _, said = shortened.rpartition("... (")
        assert len(shortened.encode()) <= limit.most < len(whole.encode())
        assert whole.startswith(kept) and said == f"{len(whole.encode()):,} bytes)"
        assert len(shortened.encode()) > limit.most - 4


@pytest.mark.parametrize("limit", TEXTS, ids=lambda limit: limit.what)
@pytest.mark.parametrize("character", CHARACTERS, ids=ascii)
def test_what_fits_to_the_byte_stays_whole_and_one_more_is_refused(limit, character):
    size = len(character.encode())
    whole = "y" * (limit.most % size) + character * (limit.most // size)
    assert len(whole.encode()) == limit.most
    assert limits.cut(limit, whole) == limits.text(limit, whole) == whole
    with pytest.raises(errors.UsageError, match=f"{limit.most:,} bytes"):
        limits.text(limit, whole + "y")
