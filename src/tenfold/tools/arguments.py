"""A call's arguments out of what a model wrote: stripped of what surrounds them, parsed strictly, never guessed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import UserError
from tenfold.tools.schemas import DEEPEST, Issue, coerce, depth, normalise
from tenfold.tools.tool import Tool

LONGEST = 64_000  # characters that are looked at
PREVIEW = 300  # characters of broken text that are kept

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```(?:\w+)?\s*\n?(.*?)```", re.DOTALL)


class ToolArgumentError(UserError):
    """Arguments that cannot be used; sent back to the model, never carried out.

    Args:
        tool: that was called.
        reason: in words.
        text: as the model wrote it; at most 300 characters of it are kept.
        issues: with the schema, where it was JSON.
    """

    def __init__(self, tool: str, reason: str, text: str, issues: tuple[Issue, ...] = ()) -> None:
        self.tool, self.reason, self.issues = tool, reason, issues
        self.preview = preview(text)
        super().__init__(f"{tool}: {reason}")


@dataclass(frozen=True)
class Arguments:
    """Arguments that fit their tool.

    Args:
        values: by name.
        repaired: whether the text was mended before it could be read.
    """

    values: dict[str, Any]
    repaired: bool = False


def parse_arguments(text: str, tool: Tool, *, repair: bool = False, coerced: bool = False) -> Arguments:
    """The arguments in a model's text.

    Byte order mark, `<think>` parts, code fences and prose around one JSON object are dropped. Duplicate keys, NaN, half
    surrogate pairs and more than 64 levels are errors.

    Args:
        text: untrusted.
        tool: whose schema they must fit.
        repair: mend broken JSON once (package json-repair); marked in the result.
        coerced: turn "3" into 3 and the like where nothing is lost and the schema asks for it.
    Raises:
        ToolArgumentError: no object, several objects, or what the schema forbids.
    """
    if len(text) > LONGEST:
        raise ToolArgumentError(tool.name, f"arguments: got {len(text)} characters, need at most {LONGEST}", text)
    try:
        value, repaired = _object(text, repair)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ToolArgumentError(tool.name, said[:200], text) from None
    if coerced:
        value = coerce(tool.parameters, value)
    found = tool.issues(value)
    if found:
        said = "; ".join(f"{issue.pointer or 'arguments'}: {issue.message}" for issue in found[:5])
        raise ToolArgumentError(tool.name, said[:500], text, tuple(found))
    return Arguments(normalise(tool.parameters, value), repaired)


def preview(text: str) -> str:
    """Broken text as it may be kept and sent back: printable, valid, short."""
    clean = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text[: PREVIEW + 1])
    return clean if len(clean) <= PREVIEW else f"{clean[: PREVIEW - 1]}…"


def _object(text: str, repair: bool) -> tuple[dict[str, Any], bool]:
    stripped = _THINK.sub("", text.removeprefix("\ufeff")).strip().removeprefix("\ufeff")
    fenced = _FENCE.findall(stripped)
    body = fenced[0].strip() if len(fenced) == 1 else stripped
    try:
        return _checked(_strict(body)), False
    except json.JSONDecodeError as error:
        broken = error
    found = _objects(body)
    if len(found) > 1:
        raise ValueError(f"arguments: got {len(found)} JSON objects, need one")
    if found:
        return _checked(found[0]), False
    if not repair:
        raise ValueError(f"arguments: no JSON ({broken.msg} at character {broken.pos})")
    return _checked(_repaired(body)), True


def _repaired(text: str) -> Any:
    try:
        from json_repair import loads
    except ImportError:
        raise UserError("repair of JSON needs the package json-repair: pip install 'tenfold[tools]'") from None
    start = text.find("{")
    if start < 0:
        raise ValueError("arguments: no JSON object in the text")
    return loads(text[start:], skip_json_loads=True)


def _strict(text: str) -> Any:
    return _DECODER.decode(text)


def _objects(text: str) -> list[Any]:
    """Whole top-level objects within prose."""
    found: list[Any] = []
    at = text.find("{")
    while at >= 0 and len(found) < 2:
        try:
            value, end = _DECODER.raw_decode(text, at)
            found.append(value)
        except json.JSONDecodeError:
            if found:  # a broken one behind a whole one: which is meant nobody knows
                found.append(None)
                break
            return []
        at = text.find("{", end)
    return found


def _checked(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"arguments must be an object, got {_NAMES.get(type(value), type(value).__name__)}")
    if depth(value) > DEEPEST:
        raise ValueError(f"arguments: nested more than {DEEPEST} levels deep")
    json.dumps(value, allow_nan=False)
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("arguments: half of a surrogate pair is no text") from None
    return value


_NAMES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"arguments: key {twice[:60]!r} twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"arguments: {name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
