"""What an agent did, event by event: typed, written as JSON, read back, replayed; without secrets."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, quote_plus

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


def written_forms(secret: str) -> set[str]:
    """A secret as it stands, and as JSON, Python, addresses and web pages write it, also one within the other.

    Other forms (base64, a hash, one letter a line) are not found.
    """
    found = {secret}
    for _ in range(2):  # a tool's own JSON is text of the JSON that the model is shown
        found |= {form for text in found for form in _escaped(text)}
    return found - {""}  # a secret of blanks has one


def _escaped(text: str) -> Iterator[str]:
    yield " ".join(text.split())  # messages of errors are one line
    for ascii_only in (True, False):
        inner = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (inner, inner.replace("/", "\\/"))
    yield from (repr(text)[1:-1], ascii(text)[1:-1])
    for url in (*(quote(text, safe, errors="replace") for safe in ("", "/", "!~*'()")), quote_plus(text, errors="replace")):  # fmt: skip
        yield from (url, re.sub("%..", lambda code: code[0].lower(), url))
    page = html.escape(text)
    yield from (page, html.escape(text, quote=False), page.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))


def without_secrets(value: Any, secrets: Iterable[str]) -> Any:
    """A copy of JSON data in which no text holds one of the secrets, as it is or as `written_forms` has it."""
    hidden = sorted({form for each in secrets if each for form in written_forms(each)}, key=len, reverse=True)

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
