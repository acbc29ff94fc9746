"""Mutations of valid files: of their bytes, of the tokens of a text, and of the tree of a JSON document."""

from __future__ import annotations

import gzip
import json
import random
import re
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

MOST_BYTES = 1 << 20
NUMBERS = (
    *("0", "-0", "-1", "1", "0.5", "255", "65536", "2147483648", "4294967295", "9223372036854775808"),
    *("1e308", "1e999", "-1e999", "5e-324", "NaN", "Infinity", "-Infinity", "inf", "1e", "0x10", "1_000"),
    *("1.5.2", "1,5", "1 000", "\u0661\u0662", "9" * 400, "9" * 5000, "true", "null", ""),
)
TEXTS = (
    *("", " ", "\0", "../../../etc/passwd", "/etc/passwd", "C:\\x\\y.svs", "a" * 300, "=1+1", "'=1+1"),
    *(
        "\ud800",
        "\U0001f9ec",
        "\u202e",
        "\u2028",
        "\r\n",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "\x1b[31m",
        "NaN",
        "{",
        "[",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "1", "NaN", "\ud800", "a" * 300, "../../x", [], {}, [[]], [None], {"name": None}, [1, 2]),
    *([[0, 0], [1, 1]], {"type": "Point", "coordinates": [1, 2]}, {"type": "FeatureCollection"}),
)
NAMES = ("name", "type", "class", "score", "x", "geometry", "\ud800")
BYTES = (0x00, 0x01, 0x0A, 0x22, 0x2C, 0x7F, 0x80, 0xFF)
INTEGERS = (0, 1, -1, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
NUMBER = re.compile(rb"-?\d+(\.\d+)?")
WORD = re.compile(rb"[A-Za-z_]{2,}")

Change = Callable[[bytes, Sequence[bytes], random.Random], bytes]


def mutated(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a file that differs from a valid one in one to four places.

    Args:
        data: The valid file; if it is compressed with gzip, mostly its content is changed.
        others: Further valid files, parts of which may be taken.
        rng: Decides what is changed.
    """
    if data.startswith(b"\x1f\x8b") and rng.random() < 0.8:
        try:
            inside = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            inside = data
        return gzip.compress(mutated(inside, others, rng), 1, mtime=0)
    if data[:1] in b"{[" and rng.random() < 0.6:
        data = _of_tree(data, rng)
        if rng.random() < 0.7:
            return data
    is_text = b"\0" not in data[:512]
    changes = (*_OF_BYTES, *_OF_TEXT) if is_text else _OF_BYTES
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(changes)(data, others, rng)[:MOST_BYTES]
    return data


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    length = min(len(data) - start, rng.choice((1, 2, 4, 8, 16, 64, 256, 4096)))
    return start, start + length


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return b"\0"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _set(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + bytes([rng.choice(BYTES)]) * (end - start) + data[end:]


def _overwrite(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _integer(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTEGERS) % (1 << 8 * size)
    at = rng.randrange(max(1, len(data) - size + 1))
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _delete(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 2, 100)) + data[end:]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 64))) + data[at:]


def _truncate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others) if others else data
    start, end = _span(other, rng)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[start:end] + data[at if rng.random() < 0.5 else at + end - start :]


def _replace(pattern: re.Pattern[bytes], values: Sequence[str]) -> Change:
    def change(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
        found = list(pattern.finditer(data))
        if not found:
            return data
        at = rng.choice(found)
        value = rng.choice(values).encode("utf-8", "surrogatepass")
        return data[: at.start()] + value + data[at.end() :]

    return change


def _swap_lines(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _drop_line(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _encode(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data.decode("latin-1").encode(
        rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-32"))
    )


def _line_ends(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x85", b"")))


def _separators(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    marks = (b",", b";", b"\t", b'"', b"'", b".", b" ", b"=")
    return data.replace(rng.choice(marks), rng.choice(marks), rng.choice((1, -1)))


def _nest(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    depth, (start, end) = rng.choice((50, 900, 20_000, 200_000)), rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    at = rng.randrange(len(data) + 1)
    return data[:at] + start * depth + rng.choice((b"", b"1" + end * depth)) + data[at:]


def _of_tree(data: bytes, rng: random.Random) -> bytes:
    """A JSON document in which members were replaced, removed or repeated."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_member(document, rng)
    return json.dumps(document).encode()


def _change_member(node: Any, rng: random.Random) -> None:
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        break
    match rng.randrange(4):
        case 0:
            del node[key]
        case 1 if isinstance(node, list):
            node.append(deepcopy(node[key]))
        case 1:
            node[rng.choice(("name", "type", "class", "score", "x", "geometry", "\ud800"))] = deepcopy(
                node[key]
            )
        case 2:
            node[key] = [node[key]] if rng.random() < 0.5 else {"name": node[key]}
        case _:
            node[key] = deepcopy(rng.choice(VALUES))


_OF_BYTES: tuple[Change, ...] = (
    *(_flip, _flip, _set, _overwrite, _integer, _integer, _delete, _repeat, _insert, _truncate, _splice),
)
_OF_TEXT: tuple[Change, ...] = (
    *(_replace(NUMBER, NUMBERS),) * 4,
    *(_replace(WORD, (*TEXTS, *NUMBERS)),) * 2,
    *(_swap_lines, _drop_line, _encode, _line_ends, _separators, _separators, _nest),
)
