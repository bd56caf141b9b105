"""Files of samples in the formats of others: ToolDEER's records, ShareGPT, OpenAI's fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.align.chat_samples import read_messages
from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.text.messages import Message
from tenfold.tools.render import parse, render
from tenfold.tools.samples import DecisionSample, read_samples, write_samples

FileFormat = Literal["samples", "tooldeer", "sharegpt", "openai"]
_ROLES = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def export(samples: Iterable[DecisionSample], path: str | Path, format: FileFormat = "samples") -> None:
    """Write samples, whole or not at all.

    Args:
        samples: of any branch.
        path: the file.
        format: "samples" (ours, JSON Lines), "tooldeer" (the official JSON list with markers), "sharegpt" (JSON list of
            conversations), "openai" (JSON Lines of messages and tools).
    """
    if format == "samples":
        write_samples(path, samples)
        return
    if format not in get_args(FileFormat):
        raise ValueError(f"format: got {format!r}, need {', '.join(get_args(FileFormat))}")
    rows = [_row(sample, format) for sample in samples]
    if format == "openai":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    write_atomic(Path(path), text)


def read(path: str | Path, format: FileFormat = "samples") -> list[DecisionSample]:
    """Read samples in one of these formats.

    Raises:
        UserError: absent, or a row that is none (file:row).
    """
    path = Path(path)
    if format == "samples":
        return read_samples(path)
    if not path.is_file():
        raise UserError(f"file not found: {path}")
    samples = []
    for number, row in _rows(path, format):
        try:
            samples.append(_sample(row, format))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: {' '.join(str(error).split())}") from None
    return samples


def _rows(path: Path, format: FileFormat) -> Iterator[tuple[int, Any]]:
    from tenfold.core.config import read_json
    from tenfold.lm.tasks import read_lines

    if format == "openai":
        yield from read_lines(path)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: got {type(rows).__name__}, need a JSON list of conversations")
    yield from enumerate(rows, start=1)


def _row(sample: DecisionSample, format: FileFormat) -> Mapping[str, Any]:
    if format == "tooldeer":
        return render(sample, "deer-markers")
    messages = render(sample)
    if format == "sharegpt":
        return {"conversations": [{"from": _ROLES[each.role], "value": _value(each)} for each in messages]}
    return {"messages": [message_json(each) for each in messages]}


def _sample(row: Any, format: FileFormat) -> DecisionSample:
    if not isinstance(row, Mapping):
        raise TypeError(f"got {type(row).__name__}, need an object with {'messages' if format == 'openai' else 'conversations'}")  # fmt: skip
    if format == "tooldeer":
        return parse(row, "deer-markers")
    if format == "openai":
        return parse(read_messages(row["messages"]))
    names = {theirs: ours for ours, theirs in _ROLES.items()}
    turns = [_message(names[each["from"]], each["value"]) for each in row["conversations"]]
    return parse(read_messages(turns))


def message_json(message: Message) -> dict[str, Any]:
    """A message as OpenAI writes it."""
    row: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        row["tool_calls"] = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in message.tool_calls]  # fmt: skip
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    return row


def _value(message: Message) -> str:
    """ShareGPT has text alone: a call is the JSON of its tool_calls."""
    return json.dumps({"tool_calls": message_json(message)["tool_calls"]}, ensure_ascii=False) if message.tool_calls else message.content  # fmt: skip


def _message(role: str, value: str) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TypeError(f"value: got {type(value).__name__}, need a text")
    if role == "assistant" and value.startswith('{"tool_calls": '):
        return {"role": role, "content": "", "tool_calls": json.loads(value)["tool_calls"]}
    return {"role": role, "content": value, "tool_call_id": "call_1" if role == "tool" else None}
