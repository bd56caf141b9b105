"""An episode at the terminal: what was done, line by line, and the question whether a call may be carried out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from tenfold.core.errors import printable
from tenfold.tools.tool import Tool
from tenfold.tools.trace import Call, Candidates, Decision, Error, ToolResult, Trace

SHOWN = 400  # characters of a call, a result or an error on its line; answers are shown whole


def ask(call: Call, tool: Tool) -> bool:
    """Whether the user says yes to a call, which is shown whole; nobody at a terminal is no."""
    if not sys.stdin.isatty():
        return False
    question = f"{printable(tool.name)} {printable(str(call.arguments))}: run it? [y/N] "
    return input(question).strip().lower() in ("y", "yes")


APPROVE: dict[str, Any] = {"ask": ask, "never": None, "always": lambda call, tool: True}


def print_episode(trace: Trace) -> None:
    """A line an event."""
    for event in trace.events:
        if isinstance(event, Decision):
            print(f"decision  {printable(event.choice)}  (of {', '.join(map(printable, event.choices))})")
        elif isinstance(event, Candidates):
            print(f"found     {', '.join(map(printable, event.names)) or 'nothing'}")
        elif isinstance(event, Call):
            print(f"call      {printable(event.name)} {_line(str(event.arguments))}")
        elif isinstance(event, ToolResult):
            print(f"{'failed' if event.is_error else 'result':<9} {_line(event.content)}")
        elif isinstance(event, Error):
            print(f"error     {event.type}: {_line(event.message)}")
        else:
            print(f"answer    {printable(event.text)}")


def counts(found: Mapping[str, int]) -> str:
    """Counts as `name count, name count`, by name."""
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def _line(text: str) -> str:
    if len(text) <= SHOWN:
        return printable(text)
    return f"{printable(text[:SHOWN])} … ({len(text)} characters; all of it: --trace, --html)"
