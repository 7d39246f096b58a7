"""The rows of a run's fields: each can be read, compared and written."""

import dataclasses
import typing

import pytest

from hpctrack.run import conditions, efficiency, fields
from hpctrack.store.read import filters, queries
from hpctrack.view import notation
from tests.support.a_run import NOW, RUN

WHOLE = queries.Run(
    **{field.name: getattr(RUN, field.name) for field in dataclasses.fields(RUN)},
    env=None, submission=None, stdout_path=None, stderr_path=None, time_seen=NOW,
)  # fmt: skip
USED = efficiency.Resources(7, 0, False, 60.0, 3600.0, 2, 90.0, 1 << 30, 1 << 20)


@pytest.mark.parametrize("field", fields.FIELDS, ids=lambda field: field.name)
def test_every_field_is_read_from_a_record_and_written(field):
    run = dataclasses.replace(WHOLE, resources=USED)
    assert notation.text(field.kind, field.read(run, NOW))
    assert field.of_resources == (field.name in "cpus cputime cpueff reqmem maxmem memeff timeeff".split())
    if field.of_resources:
        assert field.read(run, NOW) is not None
        assert field.read(WHOLE, NOW) is None


def test_names_and_keys_are_each_given_once():
    for way in ("name", "json", "frame", "compare"):
        names = [getattr(field, way) for field in fields.FIELDS if getattr(field, way) is not None]
        assert len(set(names)) == len(names), way


def test_every_kind_is_read_compared_and_written():
    kinds = set(typing.get_args(fields.FieldKind))
    assert set(notation._BY_KIND) == kinds
    assert set(conditions._READERS) == kinds - {"object"}
    assert set(filters._TYPES) == kinds - {"object", "json"}


def test_a_field_that_conditions_take_has_a_kind_that_they_know():
    assert all(field.kind in conditions._READERS for field in fields.ASKED.values())


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("args.lr", ("args", "lr")),
        ("Metrics.'val loss'", ("metrics", "val loss")),
        ('tags."a"', ("tags", "a")),
        ("Elapsed", ("run", "elapsed")),
    ],
)
def test_a_field_is_read_as_it_is_written(text, ref):
    assert fields.parse(text) == ref
