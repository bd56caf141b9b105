"""The journal of a run: what happened, in an order that follows from the run alone, so that a run that goes on can be held against it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from tenfold.core.atomic import append_line, write_atomic
from tenfold.core.config import to_json
from tenfold.core.report import read_metrics

FILE = "events.jsonl"


class Journal:
    """Events in order. A run that goes on meets its own events again: they are compared, not written twice.

    Args:
        folder: of the run; None keeps them in memory.
    Raises:
        ValueError: a broken line before the last; a torn last line, which a crash leaves, is dropped.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / FILE
        self._written: list[dict[str, Any]] = [] if self.path is None else read_metrics(self.path)
        self.events: list[dict[str, Any]] = []

    def record(self, kind: str, **data: Any) -> None:
        """Add an event.

        Where the journal holds another one in its place (a model that answers differently than it did, after replies were
        lost in a power cut), the journal is cut there and the run goes on from what happens now.
        """
        event: dict[str, Any] = json.loads(json.dumps({"kind": kind, **to_json(data)}))
        at = len(self.events)
        self.events.append(event)
        if self.path is None:
            return
        if at < len(self._written):
            if self._written[at] == event:
                return
            warnings.warn(f"{self.path}: event {at + 1} came out differently; going on from there", stacklevel=2)
            self._written = self._written[:at]
            write_atomic(self.path, "".join(json.dumps(old, ensure_ascii=False) + "\n" for old in self._written))
        append_line(self.path, json.dumps(event, ensure_ascii=False))
        self._written.append(event)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind."""
        return [event for event in self.events if event["kind"] == kind]


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The events of a run folder, finished or not."""
    return read_metrics(folder / FILE)
