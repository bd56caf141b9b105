"""What an agent did, event by event: typed, written as JSON, read back, replayed; without secrets."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError

Failure = Literal["exception", "timeout", "truncated", "died", "refused"]


@dataclass(frozen=True)
class Decision:
    """A choice of the model.

    Args:
        stage: "search" (search or answer) or "call" (one of the candidates, or none).
        choice: what it chose.
        choices: what it could choose.
        logprobs: ln p of the choices that are known.
    """

    stage: Literal["search", "call"]
    choice: str
    choices: tuple[str, ...]
    logprobs: dict[str, float] | None = None


@dataclass(frozen=True)
class Candidates:
    """What the retriever found, best first."""

    names: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Call:
    """A valid call that is carried out next. `repaired`: its JSON had to be mended."""

    id: str
    name: str
    arguments: dict[str, Any]
    repaired: bool = False


@dataclass(frozen=True)
class ToolResult:
    """What came of a call.

    Args:
        id: of the call.
        name: of the tool.
        content: its result as text; of a failure what went wrong.
        is_error: whether it failed.
        kind: how it failed.
        seconds: that it took.
    """

    id: str
    name: str
    content: str
    is_error: bool = False
    kind: Failure | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Answer:
    """The end: what the user is told."""

    text: str


@dataclass(frozen=True)
class Error:
    """Something went wrong; `final` where the episode ends with it."""

    type: str
    message: str
    final: bool = False


Event = Decision | Candidates | Call | ToolResult | Answer | Error
_EVENTS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Decision, Candidates, Call, ToolResult, Answer, Error)
}


@dataclass(frozen=True)
class Said:
    """A reply of the model, as it came: for replays."""

    text: str
    tool_calls: tuple[tuple[str, str, str], ...] = ()  # id, name, arguments
    logprob: float | None = None


@dataclass(frozen=True)
class Trace:
    """An episode.

    Args:
        query: of the user.
        model: who decided.
        events: in order.
        said: every reply of the model, in order.
        prompt, completion: tokens.
        seconds: in all.
    """

    query: str
    model: str
    events: tuple[Event, ...]
    said: tuple[Said, ...] = ()
    prompt: int = 0
    completion: int = 0
    seconds: float = 0.0

    @property
    def answer(self) -> str | None:
        """What the user was told; None where the episode ended with an error."""
        return next((event.text for event in reversed(self.events) if isinstance(event, Answer)), None)

    @property
    def steps(self) -> int:
        """Replies of the model."""
        return len(self.said)

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        row = to_json(dataclasses.replace(self, events=()))
        row["events"] = [{"event": type(event).__name__, **to_json(event)} for event in self.events]
        return dict(row)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trace:
        """Read back what `to_json` wrote.

        Raises:
            UserError: another shape, one line.
        """
        if not isinstance(row, Mapping) or not isinstance(row.get("events"), list):
            raise UserError("trace: need an object with a list of events")
        rest = from_json(cls, {**row, "events": []}, where="trace")
        events = []
        for index, event in enumerate(row["events"]):
            kind = _EVENTS.get(str(event.get("event"))) if isinstance(event, Mapping) else None
            if kind is None:
                raise UserError(f"trace: events[{index}]: need an event, one of {', '.join(_EVENTS)}")
            fields = {name: value for name, value in event.items() if name != "event"}
            events.append(from_json(kind, fields, where=f"trace: events[{index}]"))
        return dataclasses.replace(rest, events=tuple(events))

    def save(self, path: str | Path) -> Path:
        """Write it as a JSON file."""
        write_atomic(Path(path), json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a JSON file of `save`."""
        from tenfold.core.config import read_json

        return cls.from_json(read_json(Path(path)))


_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
HIDDEN = "[secret]"


def secrets_of(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values of the variables whose names say that they are secret."""
    environment = os.environ if environment is None else environment
    return tuple(value for name, value in environment.items() if _SECRET.search(name) and len(value) >= 6)


def without_secrets(value: Any, secrets: Iterable[str]) -> Any:
    """A copy of JSON data in which no text holds one of the secrets."""
    hidden = sorted({each for each in secrets if each}, key=len, reverse=True)

    def cleaned(part: Any) -> Any:
        if isinstance(part, str):
            for secret in hidden:
                part = part.replace(secret, HIDDEN)
            return part
        if isinstance(part, dict):
            return {cleaned(key): cleaned(item) for key, item in part.items()}
        if isinstance(part, list | tuple):
            return type(part)(cleaned(item) for item in part) if type(part) in (list, tuple) else part
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            fields = {field.name: cleaned(getattr(part, field.name)) for field in dataclasses.fields(part)}
            return type(part)(**fields)
        return part

    return cleaned(value) if hidden else value
