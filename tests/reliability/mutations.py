"""Valid bytes made invalid in the ways that disks, editors and adversaries do it."""

import json
import random
from collections.abc import Sequence
from typing import Any

NASTY = (
    *(b"\x00", b"\r", b"\n\n", b"\r\n", b'"', b'""', b'"\n', b",", b",,,,", b";", b"\t", b" "),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xc0\x00\x02", b"\xff" * 40),
    *(b"\xed\xa0\x80", b"\xc0\x80", "é\u2028\u202e".encode(), b"\xd9\xa3", b"\xef\xbc\x91"),
    *(b"nan", b"inf", b"-inf", b"1e999", b"-0", b"1e-400", b"9" * 400, b"-1", b"0x10", b"1_000"),
    *(b"True", b"NA", b"None", b"../../etc/passwd", b"/etc/passwd", b"=1+1", b"@SUM(A1)"),
    *(b"img", b"c0", b"subject", b"fold", b"\\", b"#", b"'"),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"1" * 5000),
)
ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "utf-16-le", "cp500")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**400, 1e308, float("nan"), float("inf"), "", "x", "../x", "\x00", "\ud800"),
    *([], {}, [[]], [None], {"": None}, [1] * 50),
)


def mutated(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """One to four random changes of valid content; `seeds` lend parts to splice in."""
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        content = draw.choice(_CHANGES)(content, seeds, draw)
    return content[: 1 << 20]


def mutated_json(content: bytes, draw: random.Random) -> bytes:
    """A JSON document some of whose values are others, or whose keys are gone."""
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        value = _changed(value, draw)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {other: inner for other, inner in value.items() if other != key}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def _flip(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    if not content:
        return content
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _overwrite(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.randrange(1, 9)) + content[place + draw.randrange(9) :]


def _truncate(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _insert(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.choice(NASTY) + content[place + draw.choice((0, 0, 1, 5)) :]


def _splice(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    other = draw.choice(seeds)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


def _repeat(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    end = min(len(content), start + draw.randrange(1, 200))
    return content[:end] + content[start:end] * draw.choice((1, 2, 50)) + content[end:]


def _recode(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    return content.decode("latin-1").encode(draw.choice(ENCODINGS), "replace")


def _newlines(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    return content.replace(b"\n", draw.choice((b"\r", b"\r\n", b"\n\n", b"\x0b", b"\x85", b",\n", b" \n", b"")))


def _field(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    """Another value, one more or one less in a field of CSV, the header included."""
    lines = content.split(b"\n")
    place = draw.randrange(len(lines))
    fields = lines[place].split(b",")
    at = draw.randrange(len(fields))
    fields[at : at + draw.choice((0, 1, 1, 1))] = draw.choice(([draw.choice(NASTY)], [], [draw.choice(fields)] * 2))
    lines[place] = b",".join(fields)
    return b"\n".join(lines)


def _lines(content: bytes, seeds: Sequence[bytes], draw: random.Random) -> bytes:
    lines = content.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines[: draw.randrange(1, len(lines) + 1)])


_CHANGES = (
    *(_flip, _overwrite, _truncate, _insert, _splice, _repeat, _recode, _newlines, _field, _lines),
    *(_flip, _insert, _field),  # the likeliest
)
