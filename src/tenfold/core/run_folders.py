"""Where runs lie: below a runs folder by recipe, and below its tours."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from tenfold.core.config import read_object
from tenfold.core.errors import UserError


def runs_root(given: Path | str | None = None) -> Path:
    """The runs folder: what is given, else TENFOLD_RUNS, else ./runs."""
    return Path(given or os.environ.get("TENFOLD_RUNS") or "runs")


def newest_run(
    root: Path, recipe: str, *, finished: bool = False, presets: Collection[str] | None = None
) -> Path | None:
    """The newest run of a recipe, trained alone or by a tour; None where there is none.

    Args:
        root: the runs folder.
        recipe: its name.
        finished: only runs that have ended.
        presets: only runs of these; the recipe's other verbs leave runs too.
    """
    files = [*root.glob(f"{recipe}/*/run.json"), *root.glob(f"tour/*/{recipe}/*/run.json")]
    for run in sorted(
        (file.parent for file in files), key=lambda run: run.name, reverse=True
    ):  # names begin with times
        if finished and not (run / "result.json").is_file():
            continue
        if presets is None or _preset(run) in presets:
            return run
    return None


def _preset(run: Path) -> str | None:
    try:
        preset: str = read_object(run / "run.json", preset=str)["preset"]
    except UserError:  # a damaged run is no run to show
        return None
    return preset
