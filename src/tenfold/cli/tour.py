"""`tenfold tour`: every working recipe at its preset `tiny`, one after the other, one report over all."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from tenfold import __version__
from tenfold.cli import recipe as recipe_command
from tenfold.cli.entry import INTERRUPTED
from tenfold.cli.options import refuse, take_flag, take_value, wants_help
from tenfold.core.atomic import write_atomic
from tenfold.core.claims import Claim
from tenfold.core.config import from_json, read_json
from tenfold.core.errors import UserError
from tenfold.core.interrupt import at_once
from tenfold.recipes import registry
from tenfold.recipes.registry import Recipe

HELP = """\
usage: tenfold tour [--only A,B] [--runs-dir DIR] [--new]

Trains every working recipe at its preset `tiny` (about a minute each) and writes one report over all: a card for each,
with a picture, what it reached and how to go on. An interrupted tour goes on where it stopped when the same command is
given again.

  --only A,B      only these recipes
  --runs-dir DIR  where the tour's folder goes (default: TENFOLD_RUNS, else ./runs)
  --new           begin anew, also where an unfinished tour could go on
"""
PRESET = "tiny"


@dataclass
class Tour:
    """A tour's folder and its state: which recipes, the run of each (relative path), what failed, how long each took."""

    path: Path
    recipes: list[str]
    runs: dict[str, str] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    tenfold: str = __version__
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self) -> None:
        state = {name: value for name, value in asdict(self).items() if name != "path"}
        write_atomic(self.path / "tour.json", json.dumps(state, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Tour | None:
        """The tour of a folder; None where its state cannot be read, so that it cannot go on."""
        try:
            return from_json(cls, {**read_json(path / "tour.json"), "path": str(path)})
        except (UserError, TypeError, OSError):
            return None


def main(argv: list[str]) -> int:
    """Run or continue a tour; the last line printed is the report's path."""
    if wants_help(argv):
        print(HELP, end="")
        return 0
    only, rest = take_value(argv, "--only", "tenfold tour")
    runs_dir, rest = take_value(rest, "--runs-dir", "tenfold tour")
    new, rest = take_flag(rest, "--new")
    refuse(rest, "tenfold tour", ("--only", "--runs-dir", "--new"))
    recipes = _choose(only)
    folder = Path(runs_dir or os.environ.get("TENFOLD_RUNS") or "runs") / "tour"
    tour = None if new else _unfinished(folder, [recipe.name for recipe in recipes])
    if tour is None:
        tour = _begin(folder, recipes)
    else:
        print(f"going on with the tour in {tour.path} (--new begins anew)")
    print(f"{len(recipes)} recipes, about {_minutes(time_left(tour, recipes))} on two idle cores")
    begun = time.monotonic()
    for index, recipe in enumerate(recipes, start=1):
        head = f"[{index}/{len(recipes)}] {recipe.name}"
        if recipe.name in tour.finished:
            print(f"{head}: done before")
            continue
        print(f"{head}: {recipe.gives}", flush=True)
        started = time.monotonic()
        went_through = _visit(tour, recipe)
        tour.seconds[recipe.name] = tour.seconds.get(recipe.name, 0.0) + time.monotonic() - started
        tour.save()
        if not went_through:
            _report(tour, recipes)
            again = ["tenfold", "tour", *(word for word in argv if word != "--new")]
            print(f"\ninterrupted; go on with: {shlex.join(again)}", file=sys.stderr, flush=True)
            return INTERRUPTED
        left = time_left(tour, recipes[index:])
        ahead = f", about {_minutes(left)} left" if left else ""
        print(
            f"{head}: {_outcome(tour, recipe)} ({_clock(time.monotonic() - begun)} since the start{ahead})", flush=True
        )
    tour.ended = not tour.failed
    tour.save()
    print(_report(tour, recipes))
    return 1 if tour.failed else 0


def time_left(tour: Tour, recipes: list[Recipe]) -> float:
    """Seconds that recipes still take: what idle cores would need, at the pace that this machine has shown.

    Args:
        tour: as far as it has come.
        recipes: those that lie ahead; what is finished among them counts nothing.
    """
    expected = {recipe.name: recipe.tiny_seconds for recipe in registry.RECIPES}
    known = [name for name in tour.finished if name in tour.seconds and name in expected]
    pace = sum(tour.seconds[name] for name in known) / sum(expected[name] for name in known) if known else 1.0
    return pace * sum(recipe.tiny_seconds for recipe in recipes if recipe.name not in tour.finished)


def _visit(tour: Tour, recipe: Recipe) -> bool:
    """Train one recipe, or go on with its run; False where the user interrupted it. An error is noted, not raised."""
    tour.failed.pop(recipe.name, None)
    try:
        with at_once():
            module = registry.load(recipe)
        if recipe.name in tour.runs:
            run, settings = recipe_command.reopen(recipe, module, tour.path / tour.runs[recipe.name])
        else:
            settings = module.PRESETS[PRESET]
            command = shlex.join(["tenfold", recipe.name, "train", PRESET])
            recipe_command.check(module, settings)
            run = recipe_command.create(recipe, PRESET, settings, tour.path, command)
            tour.runs[recipe.name] = run.path.relative_to(tour.path).as_posix()
            tour.save()
        code, _ = recipe_command.work(recipe, module, settings, run)
        if code != 0:
            return False
        tour.finished.append(recipe.name)
    except KeyboardInterrupt:  # before the training began
        return False
    except Exception as error:  # noqa: BLE001 - one recipe's error must not end the tour of the others
        tour.failed[recipe.name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trace = tour.path / f"{recipe.name}.error.txt"
        write_atomic(trace, traceback.format_exc())
        print(f"error: {recipe.name}: {tour.failed[recipe.name]} (traceback: {trace})", file=sys.stderr, flush=True)
    tour.save()
    return True


def _choose(only: str | None) -> list[Recipe]:
    """The working recipes, or those of `--only` in the table's order.

    Raises:
        UserError: an unknown recipe, or one that does not work yet.
    """
    working = [recipe for recipe in registry.RECIPES if recipe.status == "works"]
    if only is None:
        return working
    wanted = [registry.find(name.strip()) for name in only.split(",") if name.strip()]
    if not wanted:
        raise UserError("tenfold tour: --only needs recipe names, as in --only moe-vs-dense")
    for recipe in wanted:
        if recipe not in working:
            raise UserError(f"tenfold tour: {recipe.name} is planned and not in this version yet")
    return [recipe for recipe in working if recipe in wanted]


def _begin(folder: Path, recipes: list[Recipe]) -> Tour:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now():%Y%m%d-%H%M%S}"
    attempt = 1
    while (path := folder / (name if attempt == 1 else f"{name}-{attempt}")).exists():
        attempt += 1
    path.mkdir()
    tour = Tour(path, [recipe.name for recipe in recipes])
    tour.save()
    return tour


def _unfinished(folder: Path, recipes: list[str]) -> Tour | None:
    """The newest tour of the same recipes, where it has not ended and this version began it."""
    paths = sorted((file.parent for file in folder.glob("*/tour.json")), key=lambda path: path.name)
    same = [tour for tour in map(Tour.load, paths) if tour is not None and tour.recipes == recipes]
    return same[-1] if same and not same[-1].ended and same[-1].tenfold == __version__ else None


def _report(tour: Tour, recipes: list[Recipe]) -> Path:
    """Write the tour's page."""
    from tenfold.core import report

    entries = []
    for recipe in recipes:
        run = tour.path / tour.runs[recipe.name] if recipe.name in tour.runs else None
        note = tour.failed.get(recipe.name) or (None if recipe.name in tour.finished else "not run to its end yet")
        entries.append(
            report.Entry(recipe.name, recipe.title, run, note, recipe.purpose, recipe.picture, _next(recipe, run))
        )
    return report.write_collection(tour.path / "tour.html", "A tour of tenfold", entries)


def _next(recipe: Recipe, run: Path | None) -> list[tuple[str, str]]:
    """What to try next, with the run's own folder; without one only what needs none."""
    place = None if run is None else shlex.quote(str(run))
    told = [(command.replace("RUN", place or "RUN"), why) for command, why in recipe.go_on]
    return [(command, why) for command, why in told if place is not None or "RUN" not in command]


def _outcome(tour: Tour, recipe: Recipe) -> str:
    if recipe.name in tour.failed:
        return "failed"
    claims = [Claim.from_json(row) for row in read_json(tour.path / tour.runs[recipe.name] / "result.json")["claims"]]
    return f"done, {sum(claim.ahead for claim in claims)} of {len(claims)} figures ahead"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
