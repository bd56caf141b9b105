"""Commands that only show or fetch: `list`, `view`, `data`, `models`."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tenfold.cli.options import refuse, take_flag, wants_help
from tenfold.core.errors import UserError
from tenfold.core.interrupt import at_once
from tenfold.core.run_folders import newest_run, runs_root
from tenfold.recipes import registry

GROUP_SHOWN = 9  # members of a group that `data list` names
VIEW_HELP = """\
usage: tenfold view RUN [--no-open]

Prints the path of a run's report and opens it in the browser. RUN is a run folder, a recipe's name for its newest run
below TENFOLD_RUNS (else ./runs), those of tours included, or `tour` for the newest tour. A run that has not finished
shows what it has so far.
"""
SHELF_HELP = """\
usage: tenfold {what} list                  what there is, with size, licence and source
       tenfold {what} get NAME [--force]    bring it to this machine and print where it is; --force fetches it again
"""


def list_recipes(argv: list[str]) -> int:
    """`tenfold list`: the ten recipes with their honest status."""
    if wants_help(argv):
        print("usage: tenfold list")
        return 0
    refuse(argv, "tenfold list")
    rows = [(recipe.name, recipe.status, recipe.gives, recipe.arxiv) for recipe in registry.RECIPES]
    _print_table(("recipe", "status", "what you get from it", "arXiv"), rows)
    return 0


def view(argv: list[str]) -> int:
    """`tenfold view RUN`: print the report's path and open it."""
    if wants_help(argv):
        print(VIEW_HELP, end="")
        return 0
    no_open, rest = take_flag(argv, "--no-open")
    if not rest:
        raise UserError("tenfold view: need a run folder, or a recipe's name for its newest run")
    refuse(rest[1:] if not rest[0].startswith("-") else rest, "tenfold view", ("--no-open",))
    page = _page(rest[0])
    print(page)
    if not no_open and _has_display():
        webbrowser.open(page.as_uri())
    return 0


def data(argv: list[str]) -> int:
    """`tenfold data list | get NAME`."""

    def listed() -> Sequence[Any]:
        from tenfold.core.data import list_datasets

        return list_datasets()

    def get(name: str, force: bool) -> Path:
        from tenfold.core.data import get

        return get(name, force=force, progress=True)

    code = _shelf("data", argv, listed, get)
    if argv[:1] == ["list"] and not wants_help(argv):
        from tenfold.core.catalogue import GROUPS

        print("\n`tenfold data get` also takes a path below the data folder, say 02-afm/text, and these groups:")
        for name, members in GROUPS.items():
            more = f" and {len(members) - GROUP_SHOWN} more" if len(members) > GROUP_SHOWN else ""
            print(f"  {name}: {', '.join(members[:GROUP_SHOWN])}{more}")
    return code


def models(argv: list[str]) -> int:
    """`tenfold models list | get NAME`."""

    def listed() -> Sequence[Any]:
        with at_once():
            from tenfold.lm.pretrained import list_models

        return list_models()

    def get(name: str, force: bool) -> Path:
        with at_once():
            from tenfold.lm.pretrained import get

        return get(name, force=force, progress=True)

    return _shelf("models", argv, listed, get)


def _shelf(what: str, argv: list[str], listed: Callable[[], Sequence[Any]], get: Callable[[str, bool], Path]) -> int:
    """`list` and `get` over entries that have a name, what, size, licence, source and present."""
    command = f"tenfold {what}"
    if not argv or wants_help(argv):
        print(SHELF_HELP.format(what=what), end="")
        return 0
    if argv[0] == "list":
        refuse(argv[1:], f"{command} list")
        rows = [
            (entry.name, "here" if entry.present else "to fetch", entry.size, entry.licence, entry.what, entry.source)
            for entry in listed()
        ]
        _print_table(("name", "status", "size", "licence", "what", "source"), rows)
        return 0
    if argv[0] == "get":
        force, rest = take_flag(argv[1:], "--force")
        if not rest:
            raise UserError(f"{command} get: need a name; `{command} list` shows all")
        refuse(rest[1:] if not rest[0].startswith("-") else rest, f"{command} get", ("--force",))
        print(get(rest[0], force))
        return 0
    raise UserError(f"{command}: unknown command {argv[0]!r}; known: list, get NAME")


def _page(name: str) -> Path:
    """The report to show: a tour's, a run's own, or one made now of what an unfinished run has so far."""
    path = Path(name)
    spelt = name.replace("_", "-")
    if not path.exists() and spelt in ["tour", *(each.name for each in registry.RECIPES)]:
        path = _newest_tour() if spelt == "tour" else _newest(spelt)
    if (path / "tour.html").is_file():
        return (path / "tour.html").resolve()
    if path.is_file() and path.suffix == ".html":
        return path.resolve()
    if (path / "result.json").is_file() and (path / "report.html").is_file():
        return (path / "report.html").resolve()
    from tenfold.core import report
    from tenfold.core.run import Run

    return report.write(Run.open(path).path).resolve()


def _newest(recipe: str) -> Path:
    """The newest run of a recipe, trained alone or by a tour; a run's name begins with its time."""
    root = runs_root()
    run = newest_run(root, recipe)
    if run is None:
        raise UserError(f"no run of {recipe} in {root / recipe}; make one: tenfold {recipe} train")
    return run


def _newest_tour() -> Path:
    tours = [file.parent for file in runs_root().glob("tour/*/tour.html")]
    if not tours:
        raise UserError(f"no tour in {runs_root() / 'tour'}; make one: tenfold tour")
    return max(tours, key=lambda tour: tour.name)


def _has_display() -> bool:
    """Without a display `webbrowser` would start a text browser in this terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table folded to the terminal's width; plain aligned lines where the output is a file or a pipe."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in [columns, *rows]:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("recipe", "name", "status", "size", "arXiv"))
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    Console().print(table)


def _style(cell: str) -> str:
    return {"works": "green", "here": "green", "planned": "dim", "to fetch": "dim"}.get(cell, "")
