"""The runs that the demo shows: of each recipe the newest finished one, its model opened once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tenfold.core.run_folders import newest_run
from tenfold.demo.worker import Deadline, Worker
from tenfold.recipes import registry
from tenfold.recipes.registry import Recipe

T = TypeVar("T")
SECONDS = 60.0  # that a job may take, waiting included
FIRST = 180.0  # the same where models are opened first


class Room:
    """What a tab works with.

    Args:
        recipe: whose.
        run: its newest finished run; None where there is none.
        runs: the runs folder.
    """

    def __init__(self, recipe: Recipe, run: Path | None, runs: Path) -> None:
        self.recipe, self.runs, self._run = recipe, runs, run
        self._worker: Worker | None = None
        self._opened: dict[Hashable, Any] = {}
        self._lock = threading.Lock()
        self.looks: list[tuple[Callable[[], Any], Any]] = []

    @property
    def ready(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    @property
    def run(self) -> Path:
        """The run's folder."""
        assert self._run is not None, "a tab without a run is not built"
        return self._run

    @property
    def how_to_make(self) -> str:
        """The command that makes the run that is missing."""
        return f"tenfold {self.recipe.name} train tiny"

    def opened(self, open: Callable[[Path], T], *key: Hashable) -> T:
        """What `open` makes of the run, made once; call it within a job.

        Args:
            open: from the run's folder.
            key: tells several things of one `open` apart.
        """
        name = (open.__qualname__, *key)
        if name not in self._opened:
            self._opened[name] = open(self.run)
        kept: T = self._opened[name]
        return kept

    def first_look(self, function: Callable[[], Any], outputs: Any) -> None:
        """Fill in what the tab shows when somebody first opens it: models are not opened before."""
        self.looks.append((function, outputs))

    def job(self, job: Callable[[Deadline], T], seconds: float = SECONDS) -> T:
        """`Worker.run` on this tab's own worker."""
        return self._own_worker().run(job, seconds)

    def stream(self, job: Callable[[Deadline, Callable[[T], None]], None], seconds: float = SECONDS) -> Iterator[T]:
        """`Worker.stream` on this tab's own worker."""
        return self._own_worker().stream(job, seconds)

    def _own_worker(self) -> Worker:
        with self._lock:
            if self._worker is None:
                self._worker = Worker()
            return self._worker


def rooms(runs: Path) -> dict[str, Room]:
    """A room for every recipe, by its name.

    Args:
        runs: the runs folder; tours in it count.
    """
    found = {}
    for recipe in registry.RECIPES:
        presets = registry.load(recipe).PRESETS
        found[recipe.name] = Room(recipe, newest_run(runs, recipe.name, finished=True, presets=presets), runs)
    return found
