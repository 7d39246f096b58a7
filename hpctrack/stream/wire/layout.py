"""The numbers of docs/wire.md: sizes, codes, and how fields stand one after the other.

`datagrams` and `bodies` write by them, `hpctrack.stream.collector.arrays` reads by them. All numbers are
little-endian, without padding between fields.
"""

from __future__ import annotations

import struct

from hpctrack.stream.wire import ciphers

MAX_DATAGRAM = 1400
MAGIC = b"HT"
VERSION = 2
#: What is understood; an answer is of its question's version.
VERSIONS = (1, VERSION)

# Kinds of datagrams. The odd ones go from relay to collector, the even ones back.
DATA = 1
ACK = 2
PING = 3
PONG = 4
HELD = 6

HEADER = struct.Struct("<2sBB16siHHH8sQQI")
HEADER_SIZE = HEADER.size
MAC_SIZE = ciphers.MAC_SIZE
NONCE_SIZE = 16
#: Bytes of a body, or of a part of one, that fit whether or not they are encrypted.
MAX_BODY = MAX_DATAGRAM - HEADER_SIZE - 1 - NONCE_SIZE - MAC_SIZE
#: A row or message may travel in this many parts; what needs more is counted as torn by the relay.
MAX_PARTS = 1024
#: Rows, messages and other blocks in one body: to cut it into lines again and again costs little.
MAX_LINES = 1024

# How the content of DATA holds its body: the first byte.
CLEAR = b"\0"  # the body
SHAKE_128 = b"\1"  # nonce, encrypted body

# Kinds of blocks in a body.
ROWS = 1
MESSAGE = 2
TORN = 3
GAP = 4
SERIES = 5  # length of the series' name, the name, then as a block of rows
#: Blocks that hold metrics alone.
METRICS = (ROWS, TORN, SERIES)
#: Head of a block: kind, and bytes of the rest.
BLOCK = struct.Struct("<BI")
#: Whole blocks: kind, bytes of the rest, and a number of lines.
TORN_BLOCK = struct.Struct("<BII")
GAP_BLOCK = struct.Struct("<BIQ")
#: Head of a block of rows: rows, modes of steps, progress and times, bytes of the column table: how often
#: 65,536, and the rest.
ROWS_HEAD = struct.Struct("<HBBBBH")
#: Head of a block of rows of a series: bytes of its name.
SERIES_HEAD = struct.Struct("<H")
#: Head of an entry of the column table: type, presence, bytes of the name, which follows.
COLUMN_HEAD = struct.Struct("<BBH")

# How a block of rows holds its steps, progress and times.
ABSENT = 0
RAW = 1  # a value for each row
SOME = 2  # presence bitmap, then the values of the rows that have one
AFFINE = 3  # steps only: `STEPS`
DELTAS = 4  # times only: `FIRST_TIME`, then unsigned 32-bit microseconds after it
#: First step and stride.
STEPS = struct.Struct("<qq")
#: Microseconds since the epoch.
FIRST_TIME = struct.Struct("<q")

# Presence of a column's values.
EVERY = 0
BITMAP = 1

# Types of a column's values.
FLOAT64 = 1
INT64 = 2
BOOL = 3
JSON = 4  # strings, and integers beyond 64 bits: lengths (4 bytes each), then the UTF-8 texts
VALUE = 5  # lists and objects of JSON, in the same form
