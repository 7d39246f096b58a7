"""Lines of journals: what is written comes back, what is damaged is never half read."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hpctrack.script import journal_lines
from hpctrack.stream.disk import tail
from hpctrack.stream.wire import journal
from hpctrack.stream.wire.journal import Message, Row, Torn
from hpctrack.text.redact import Redactor

names = st.text(min_size=1, max_size=60).filter(lambda name: name.encode("utf-8", "ignore").decode() == name)
texts = st.text(max_size=80).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
integers = st.integers(-(1 << 63), (1 << 63) - 1)
floats = st.floats(allow_nan=True)
lists = st.lists(st.integers() | texts | st.none(), max_size=4).map(
    lambda value: journal_lines.Json(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
)
values = st.one_of(floats, st.integers(-(10**30), 10**30), st.booleans(), texts, lists)


def only(line: bytes) -> journal.Line | None:
    """Return what the one line is read as."""
    lines = list(journal.parse(line))
    assert len(lines) <= 1
    return lines[0] if lines else None


def row(text: str) -> dict[str, journal_lines.Value]:
    line = only(text.encode() + b"\n")
    assert isinstance(line, Row), line
    return line.values


def same(a: object, b: object) -> bool:
    """Whether two values are of one type and, bit for bit, equal."""
    if type(a) is not type(b):
        return False
    return struct.pack("<d", a) == struct.pack("<d", b) if isinstance(a, float) else a == b


@given(
    st.dictionaries(names, values, max_size=8), st.none() | integers, st.none() | st.floats(allow_nan=False)
)
@example({"step": 1.5, "time": True, "progress": "x"}, None, None)
@example({"a": "nan", "b": "0x10", "c": "true", "d": "1e5", "e": "", "f": "-", "g": "+inf"}, 1, None)
@example({'"': '"', "\\": "\\", "=": "=", "#": "#", "!": "!", "'": "'"}, 1, None)
@example({"\x85": "\x85", "\u2028": "\xa0", "\x1c": "\x1f", "\n": "\n"}, 1, None)
@example({"a": -0.0, "b": 5e-324, "c": 1.7976931348623157e308, "d": float("-inf")}, None, 0.0)
def test_what_is_written_comes_back(given_values, step, progress):
    line = journal_lines.format_row(given_values, step, progress, 1.5)
    parsed = only(line)
    assert isinstance(parsed, Row)
    assert (parsed.end, parsed.step, parsed.time) == (len(line), step, 1.5)
    assert parsed.progress is None if progress is None else same(parsed.progress, progress)
    assert list(parsed.values) == list(given_values)
    for name, value in given_values.items():
        assert same(parsed.values[name], value) or (
            value != value and parsed.values[name] != parsed.values[name]
        )


@given(
    st.dictionaries(
        st.from_regex(r"[a-z/_.@0-9]{1,20}", fullmatch=True), floats | integers | st.booleans(), min_size=1
    ),
    st.none() | integers,
    st.none() | st.floats(allow_nan=False),
    st.integers(0, 1 << 62),
)
def test_what_is_packed_comes_back_bit_for_bit(given_values, step, progress, time_ns):
    codes = "".join({float: "d", int: "q", bool: "?"}[type(value)] for value in given_values.values())
    packer = journal_lines.packer(given_values, codes)
    assert packer is not None
    line = journal_lines.format_packed(packer[0], packer[1](*given_values.values()), step, progress, time_ns)
    parsed = only(line)
    assert isinstance(parsed, Row)
    assert (parsed.end, parsed.step) == (len(line), step)
    assert parsed.time == time_ns / 1e9
    assert parsed.progress is None if progress is None else same(parsed.progress, progress)
    assert list(parsed.values) == list(given_values)
    assert all(same(parsed.values[name], value) for name, value in given_values.items())


def test_the_payload_of_a_nan_survives():
    nan = struct.unpack("<d", bytes.fromhex("efbeadde0000f87f"))[0]
    packer = journal_lines.packer(["a"], "d")
    assert packer is not None
    parsed = only(journal_lines.format_packed(packer[0], packer[1](nan), 1, None, 5))
    assert isinstance(parsed, Row) and struct.pack("<d", parsed.values["a"]).hex() == "efbeadde0000f87f"


@pytest.mark.parametrize("names_", [["a b"], ["a,b"], ["a=b"], ['"'], [""], [], ["\n"], ["a", "b\t"], ["#x"]])
def test_names_that_only_the_text_form_can_hold(names_):
    assert journal_lines.packer(names_, "d" * len(names_)) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("+1", 1),
        ("007", 7),
        ("-0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 2**63),
        ("-9223372036854775809", -(2**63) - 1),
        ("1" * 60, int("1" * 60)),
        ("1" * 500, float("inf")),
        ("1.", 1.0),
        (".5", 0.5),
        ("1.5", 1.5),
        ("-.5e-3", -0.5e-3),
        ("1e5", 1e5),
        ("1E+5", 1e5),
        ("1e400", math.inf),
        ("0x10", 16),
        ("-0X1F", -31),
        ("0x1p-2", 0.25),
        ("0x1.8", 1.5),
        ("0x.8p1", 1.0),
        ("0x1p99999", math.inf),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("INF", math.inf),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("1_000", "1_000"),
        ("١٢", "١٢"),
        ("1e", "1e"),
        ("0x", "0x"),
        (".", "."),
        ("e5", "e5"),
        ("1.5.2", "1.5.2"),
        ("--1", "--1"),
        ("1,5", "1,5"),
        ("nan(", "nan("),
        ("infinit", "infinit"),
        ("none", "none"),
        ("1f", "1f"),
        ("0b1", "0b1"),
        ("²", "²"),
        ("/a/b", "/a/b"),
        ("a:b", "a:b"),
    ],
)
def test_numbers_are_those_of_c(text, value):
    assert same(row(f"x={text}")["x"], value)


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "nan(0x7)", "NAN()"])
def test_not_a_number(text):
    value = row(f"x={text}")["x"]
    assert isinstance(value, float) and math.isnan(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss=0.5", Row.of(0, None, None, None, {"loss": 0.5})),
        ("  loss=0.5 \t step=3\r", Row.of(0, 3, None, None, {"loss": 0.5})),
        ("step=3.0 loss=1", Row.of(0, 3, None, None, {"loss": 1})),
        ("step=3 progress=0.5 time=12.25", Row.of(0, 3, 0.5, 12.25, {})),
        ('"step"=1 "a b"="c d" s=x', Row.of(0, None, None, None, {"step": 1, "a b": "c d", "s": "x"})),
        ('a="quote \\" and \\u00e9"', Row.of(0, None, None, None, {"a": 'quote " and é'})),
        ('a="tab\there"', Row.of(0, None, None, None, {"a": "tab\there"})),
        ("é=1 名=2", Row.of(0, None, None, None, {"é": 1, "名": 2})),
        ("unit=10\xa0kg", Row.of(0, None, None, None, {"unit": "10\xa0kg"})),
        ('!args {"lr":0.1}', Message(0, "args", '{"lr":0.1}')),
        ("# a comment", None),
        ("", None),
        ("   ", None),
        ("  # indented", None),
    ],
)
def test_lines(text, expected):
    line = text.encode() + b"\n"
    assert only(line) == (expected and expected._replace(end=len(line)))


TORN = [
    "loss",
    "loss=",
    "=5",
    "a==1",
    "a=b=c",
    "loss=0.2step=3 x=1",
    "step=1 loss=0.2 step=2 loss=0.3",
    "step=1 time=5 lostep=2 time=6 loss=3",
    'a="open',
    'a="x"b=1',
    'a="\\q"',
    'a=""b',
    "step=1.5",
    "step=x",
    "step=true",
    "step=nan",
    "step=9223372036854775808",
    'step="1"',
    "progress=nan",
    "progress=x",
    "time=true",
    "time=nan a=1",
    "!args",
    "!args {",
    "!args {} x",
    '!args {"a":NaN}',
    '!args {"a":Infinity}',
    "! {}",
    "!Über {}",
    "!a-b {}",
    "!" + "a" * 40 + " {}",
    "![" + "[" * 100_000,
    "a=1\x00",
    "a=1 b\x18",
    "\x18",
    "x" * 1025 + "=1",
    "=",
    "=1",
    "=1 - 5 a d 00",
    "=1 - 5 a d 00000000000000000000",
    "=1 - 5 a x 0000000000000000",
    "=1 - 5 a,b d 0000000000000000",
    "=1 - 5 a,a dd " + "00" * 16,
    "=x - 5 a d " + "00" * 8,
    "=1 - x a d " + "00" * 8,
    "=1 x 5 a d " + "00" * 8,
    "=1 nan 5 a d " + "00" * 8,
    "=9223372036854775808 - 5 a d " + "00" * 8,
    "=1 - 5 a d " + "zz" * 8,
    "=1 - 5 a,  d " + "00" * 8,
    "=1 - " + "9" * 400 + " a d " + "00" * 8,
    "=1 - 5 a d 0000=2 - 6 a d " + "00" * 8,
    "=1 - 5 a d " + "00" * 8 + "=2 - 6 a d " + "00" * 8,
    "=1 - 5 " + "n" * 1025 + " d " + "00" * 8,
    "=1 - 5 , dd " + "00" * 16,
    "=1 - 5 a s 41",
]


@pytest.mark.parametrize("text", TORN, ids=lambda text: text[:40])
def test_damage_is_seen(text):
    line = text.encode() + b"\n"
    assert list(journal.parse(b"a=1\n" + line + b"b=2\n")) == [
        Row.of(4, None, None, None, {"a": 1}),
        Torn(4 + len(line)),
        Row.of(8 + len(line), None, None, None, {"b": 2}),
    ]


def test_bad_utf8_is_damage():
    assert only(b"a=\xff\n") == Torn(4)
    line = b"=1 - 5 \xff d " + b"00" * 8 + b"\n"
    assert only(line) == Torn(len(line))


@given(st.dictionaries(st.sampled_from("abcdefgh"), floats, min_size=1, max_size=5), st.data())
def test_a_cut_packed_line_is_never_half_read(given_values, data):
    packer = journal_lines.packer(given_values, "d" * len(given_values))
    assert packer is not None
    line = journal_lines.format_packed(packer[0], packer[1](*given_values.values()), 7, None, 5)
    cut = data.draw(st.integers(1, len(line) - 2))
    assert only(line[:cut] + b"\n") == Torn(cut + 1)
    assert only(line[:cut] + line) == Torn(cut + len(line))
    assert only(line[:cut] + journal_lines.CANCEL + b"\n") == Torn(cut + 2)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), floats | st.booleans(), min_size=1, max_size=5), st.data()
)
def test_a_voided_text_line_is_never_half_read(given_values, data):
    line = journal_lines.format_row(given_values, 7, None, 5.0)
    cut = data.draw(st.integers(1, len(line) - 1))
    assert only(line[:cut] + journal_lines.CANCEL + b"\n") == Torn(cut + 2)
    # log() writes step and time into each line, so that two of them glued together repeat a key.
    if cut > len("step=7 time=5.000000"):
        assert only(line[:cut] + line) == Torn(cut + len(line))


def test_offsets_and_an_incomplete_line():
    data = b"a=1\n\n# x\nb=2\nc=3"
    assert [line.end for line in journal.parse(data, 1000)] == [1004, 1013]


def test_a_line_of_a_megabyte():
    text = "x" * (journal_lines.MAX_LINE - 2)
    assert row("a=" + text) == {"a": text}
    assert only(b"a=" + b"x" * (journal_lines.MAX_LINE - 1) + b"\n") == Torn(journal_lines.MAX_LINE + 2)


def test_lone_surrogates_are_replaced_not_lost():
    assert row(journal_lines.format_row({"a\udc80": "b\ud800"}).decode().rstrip()) == {"a?": "b?"}


def test_strings_and_messages_are_masked():
    redactor = Redactor(["hunter22"])
    lines = list(
        journal.parse(b'a=hunter22 b="is hunter22" c=1\n!args {"token":"abc","x":"hunter22"}\n', 0, redactor)
    )
    assert isinstance(lines[0], Row) and lines[0].values == {"a": "***", "b": "is ***", "c": 1}
    assert isinstance(lines[1], Message) and json.loads(lines[1].text) == {"token": "***", "x": "***"}


def test_header():
    header = journal_lines.format_header(3, 12, 5)
    assert len(header) == journal_lines.HEADER_SIZE and only(header) is None
    assert journal.parse_header(header + b"a=1\n") == journal.Header(3, 12, 5)
    updated = (
        header[: journal_lines.LOST_OFFSET]
        + journal_lines.format_lost(77)
        + header[journal_lines.LOST_OFFSET + 12 :]
    )
    assert journal.parse_header(updated) == journal.Header(3, 12, 77)
    assert len(journal_lines.format_header(10**9, -5, 10**15)) == journal_lines.HEADER_SIZE
    assert journal.parse_header(b"# something else\n") is None


def test_messages():
    line = journal_lines.format_message("args", {"a": [1, None, "é\n"]})
    assert only(line) == Message(len(line), "args", '{"a":[1,null,"\\u00e9\\n"]}')
    with pytest.raises(ValueError):
        journal_lines.format_message("args", {"a": math.nan})


@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_something(data):
    lines = list(journal.parse(data + b"\n"))
    ends = [line.end for line in lines]
    assert ends == sorted(set(ends)) and all(data[end - 1 : end] in (b"\n", b"") for end in ends)


@given(st.text(alphabet='=" \\ab1.-e#!\x18,d0', max_size=60))
def test_any_text_is_read_as_something(text):
    list(journal.parse(text.encode() + b"\n"))


@pytest.mark.parametrize(
    "line", [b"# hpctrack journal 3 attempt=000000 more=1\n", b"# hpctrack journal 17\n"]
)
def test_a_journal_of_a_newer_version_is_left_as_it_is(tmp_path, line):
    path = tmp_path / f"{'a' * 16}.log.journal"
    path.write_bytes(line + b"step=1 x=1\nstep=2 x=")
    journal_tail = tail.Tail(tail.find(str(tmp_path)))
    journal_tail.look()
    assert journal_tail.read() == []
    journal_tail.close_line()
    assert not journal_tail.is_read
    assert not journal_tail.is_blank
    assert "newer hpctrack" in journal_tail.trouble.strerror
    assert path.read_bytes() == line + b"step=1 x=1\nstep=2 x="


@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_both_versions_are_read(version):
    header = journal_lines.format_header(3, 1, 7).replace(b"journal 2", f"journal {version}".encode())
    assert journal.parse_header(header) == (3, 1, 7)
    assert journal.version(header) == version


# --- lists, objects, series ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1,2.5,null,true]", [1, 2.5, None, True]),
        ('[1, 2, {"a": "b = c"}]', [1, 2, {"a": "b = c"}]),
        ('{"x":[[]], "y" : "\\u00e9 \\" é"}', {"x": [[]], "y": 'é " é'}),
        ("[]", []),
        ("{}", {}),
    ],
)
def test_lists_and_objects_are_json(text, expected):
    for line in (f"x={text}", f"step=3 x={text} y=1", f'"x"={text}\ty="z"'):
        value = row(line)["x"]
        assert type(value) is journal_lines.Json
        assert json.loads(value) == expected
        assert only(journal_lines.format_row({"x": value})).values == {"x": value}


@pytest.mark.parametrize("text", ["[info]", "{", "[", "[1,2", "{a}", "[NaN]", "[1]x", "{}]"])
def test_what_only_looks_like_json_is_a_string(text):
    assert row(f"step=1 x={text} y=2") == {"x": text, "y": 2}


@pytest.mark.parametrize("text", ["[1,2]y=3", "[1, 2", '{"a": 1', '["a]', "[1]=2", '[1]"a"'])
def test_damaged_json_is_torn(text):
    assert isinstance(only(f"x={text}\n".encode()), Torn)


def test_json_that_is_too_long_is_text():
    fits = json.dumps(["a" * (journal_lines.MAX_JSON - 4)])
    assert type(row(f"x={fits}")["x"]) is journal_lines.Json
    assert row(f'x={fits[:-2]}a"]') == {"x": fits[:-2] + 'a"]'}
    assert type(row(f'x={fits[:-2]}a"]')["x"]) is str


def test_secrets_in_lists_are_masked():
    line = b'x=["password=hunter2hunter2", {"api_key": "abcdefgh12345678"}]\n'
    (found,) = journal.parse(line, 0, Redactor({}))
    assert "hunter2" not in found.values["x"] and "abcdefgh" not in found.values["x"]


@pytest.mark.parametrize(
    ("text", "name"), [("eval", "eval"), ('"a b"', "a b"), ("7", "7"), ("é/1", "é/1"), ("nan", "nan")]
)
def test_a_row_may_be_of_a_series(text, name):
    found = only(f"series={text} step=3 loss=0.5\n".encode())
    assert (found.series, found.step, found.values) == (name, 3, {"loss": 0.5})
    again = only(journal_lines.format_row({"series": 1}, 3, series=name))
    assert (again.series, again.values) == (name, {"series": 1})


@pytest.mark.parametrize("text", ['""', "[1]", "x" * 256, "é" * 128])
def test_names_that_no_series_can_have(text):
    assert isinstance(only(f"series={text} loss=1\n".encode()), Torn)


@pytest.mark.parametrize(
    "line", [b"# hpctrack journal 1 \n", b"# hpctrack journals 2\n", b"", b"# journal 2\n"]
)
def test_other_comments_name_no_version(tmp_path, line):
    (tmp_path / f"{'a' * 16}.shell.journal").write_bytes(line + b"step=1 x=1\n")
    journal_tail = tail.Tail(tail.find(str(tmp_path)))
    journal_tail.look()
    assert [row.step for row in journal_tail.read()] == [1]
