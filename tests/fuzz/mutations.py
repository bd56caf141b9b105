"""Small damage to bytes, as disks, editors and ill will do it; every kind is chosen by numbers, so it can be drawn again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

DEEP = 100_000
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, 10**400, -(2**63), 1e308, float("nan"), float("inf"), "", " ", "x", "\x00",
    "\x1b[2J\r", "a\nb", "\u202e", "\ud800", "../../etc/passwd", "/etc/passwd", "%s{x}", "x" * 5000, [], {}, [[]], [None], [1, "a"],
    {"": {}}, {"type": []}, {"x": None}, [{}] * 50,
)  # fmt: skip
# Text in place of a value: what a parser of JSON stumbles over, and cells and words of other formats.
TOKENS = (
    b"", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-1", b"0", b"1.5", b"2147483648", b"18446744073709551616", b"\x00",
    b"\xff\xfe", b"\xed\xa0\x80", b"\xc3", b"\x1b[31m", b"'", b'"', b"\\", b"\\ud800", b"[" * DEEP, b'{"a":' * DEEP,
    b"(" * DEEP, b"null", b"true", b"[]", b"{}", b"../../x", b"a\tb", b"a,b", b"\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf",
    b"lambda: 0", b"__import__('os')", b"0x10", b"1_000", b"9999-99-99", b"-" * 300, b"<tool_call>", b"</answer>",
)  # fmt: skip


def mutate(content: bytes, edits: list[tuple[int, int, int]]) -> bytes:
    """The content with a few edits.

    Args:
        edits: of each its kind, where, and what, any numbers.
    """
    for kind, where, what in edits:
        content = KINDS[kind % len(KINDS)](content, where, what)
    return content[: 1 << 22]


def flip(content: bytes, where: int, what: int) -> bytes:
    if not content:
        return b"\x00"
    at = where % len(content)
    return content[:at] + bytes([content[at] ^ (1 << what % 8 if what % 3 else 0xFF)]) + content[at + 1 :]


def insert(content: bytes, where: int, what: int) -> bytes:
    at = where % (len(content) + 1)
    return content[:at] + TOKENS[what % len(TOKENS)] + content[at:]


def delete(content: bytes, where: int, what: int) -> bytes:
    at = where % (len(content) + 1)
    return content[:at] + content[at + 1 + what % 40 :]


def cut(content: bytes, where: int, what: int) -> bytes:
    at = where % (len(content) + 1)
    return content[at:] if what % 4 == 0 else content[:at]


def repeat(content: bytes, where: int, what: int) -> bytes:
    at = where % (len(content) + 1)
    part = content[at : at + 1 + what % 400]
    return content[:at] + part * (2 + what % 50) + content[at:]


def replace_token(content: bytes, where: int, what: int) -> bytes:
    """A word or number becomes another."""
    tokens = list(re.finditer(rb"[\w.+-]+", content[: 1 << 16]))
    if not tokens:
        return insert(content, where, what)
    token = tokens[where % len(tokens)]
    return content[: token.start()] + TOKENS[what % len(TOKENS)] + content[token.end() :]


def big_number(content: bytes, where: int, what: int) -> bytes:
    """Eight bytes become a length or an offset of another size."""
    at = where % (len(content) + 1)
    number = (0, 1, 2**31 - 1, 2**32, 2**40, 2**62, 2**63, 2**64 - 1)[what % 8]
    return content[:at] + number.to_bytes(8, "little") + content[at + 8 :]


def line_ends(content: bytes, where: int, what: int) -> bytes:
    if what % 3 == 0:
        return b"\xef\xbb\xbf" + content
    return content.replace(b"\n", (b"\r\n", b"\r")[what % 2])


def swap_json(content: bytes, where: int, what: int) -> bytes:
    """A value of some JSON becomes one of another type, its key is dropped or named otherwise."""
    lines = [content, *content.split(b"\n")] if content.count(b"\n") < 200 else [content]
    candidates = [line for line in lines if line.lstrip()[:1] in (b"{", b"[")]
    for line in candidates[where % len(candidates) :] + candidates if candidates else []:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        places = list(_places([data], []))
        if places:
            changed = _changed([data], places[where % len(places)], what)
            return content.replace(line, json.dumps(changed[0]).encode() if changed else b"", 1)
    return replace_token(content, where, what)


def swap_header(content: bytes, where: int, what: int) -> bytes:
    """As `swap_json` within a safetensors file, whose header keeps its true length."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= len(content) - 8 or content[8:9] != b"{":
        return swap_json(content, where, what)
    header = swap_json(content[8 : 8 + size], where, what)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


KINDS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    swap_json, swap_header, swap_json, replace_token, flip, insert, delete, cut, repeat, big_number, line_ends, replace_token,
)  # fmt: skip


def _places(value: Any, way: list[Any]) -> Any:
    """The way to every value within."""
    if len(way) > 12:
        return
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield [*way, key]
        yield from _places(value[key], [*way, key])


def _changed(root: Any, way: list[Any], what: int) -> Any:
    *before, last = way
    holder = root
    for key in before:
        holder = holder[key]
    old = holder[last]
    choice = what % (len(VALUES) + 6)
    if choice < len(VALUES):
        holder[last] = VALUES[choice]
    elif choice < len(VALUES) + 2:
        del holder[last]
    elif choice == len(VALUES) + 2:
        holder[last] = [old] * 3
    elif choice == len(VALUES) + 3:
        holder[last] = {"x": old}
    elif choice == len(VALUES) + 4 and isinstance(holder, dict):
        holder["unknown\n"] = holder.pop(last)
    else:
        holder[last] = str(old)
    return root
