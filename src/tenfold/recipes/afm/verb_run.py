"""The run folder of a verb: made for what was asked, or opened to go on with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from filelock import FileLock, Timeout

from tenfold.core.config import from_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.core.run import Run
from tenfold.recipes.afm.model_card import write_card
from tenfold.recipes.afm.opening import MODEL

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

PAPER = "Apple Intelligence Foundation Language Models, arXiv 2407.21075"
Flat = tyro.conf.arg(name="")  # fields of a settings object become options without a prefix


@dataclasses.dataclass(frozen=True)
class Going:
    """Where a run goes.

    Args:
        runs_dir: folder for the run's folder; none takes TENFOLD_RUNS, else ./runs.
        resume: an interrupted run of this verb to go on with; takes no other option.
    """

    runs_dir: Path | None = None
    resume: Path | None = None


Goes = Annotated[Going, Flat]
ANEW = Going()


def asked_of(verb: str, asked: T, going: Going) -> tuple[T, Run | None]:
    """What to do and, where it goes on, the run that it is of.

    Raises:
        UserError: a run of something else, or other options beside --resume.
    """
    if going.resume is None:
        return asked, None
    if asked != type(asked)() or going.runs_dir is not None:
        raise UserError(f"--resume: goes on with what {going.resume} was asked; drop the other options")
    run = Run.open(going.resume)
    if (run.recipe, run.preset) != ("afm", verb):
        raise UserError(f"{going.resume} is a run of {run.recipe} {run.preset}, not of afm {verb}")
    return from_json(type(asked), run.config, where=str(run.path / "config.json")), run


@contextmanager
def working_in(verb: str, asked: Any, run: Run | None, going: Going, title: str) -> Iterator[Run]:
    """The run, in which nobody else works meanwhile; when the block ends well its report is written, and its model's card.

    Raises:
        UserError: another process is working in it.
    """
    run = run or Run.create("afm", verb, asked, going.runs_dir, title=title, paper=PAPER)
    print(f"run: {run.path} (if it is cut off: tenfold afm {verb} --resume {run.path})", flush=True)
    try:
        with FileLock(run.path / ".training.lock", blocking=False):
            yield run
            run.finish()
            if (run.path / MODEL / CONFIG).is_file():
                write_card(run, run.path / MODEL, title)
    except Timeout:
        raise UserError(f"another process is working in {run.path}") from None
    finally:
        run.close()
    print(f"report: {run.path / 'report.html'}")
