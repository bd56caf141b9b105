"""What the benchmarks share: a row of the table, and the file that `run.py` makes the page of."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tenfold.core.timing import Timing

Row = dict[str, object]


def row(name: str, value: float, note: str, bar: float | None = None) -> Row:
    """A measured ratio, printed at once; met from `bar` on."""
    print(f"{name:60} {value:7.3f}  {note}", flush=True)
    met = None if bar is None else value >= bar
    return {"name": name, "ratio": value, "bar": None if bar is None else f">= {bar:.2f}", "met": met, "note": note}


def clock() -> float:
    """Seconds: of the processor with one thread, which a loaded machine disturbs less; of the wall with more, since
    threads that wait for others burn time too."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def time_of(threads: int) -> str:
    """What `clock` counts, in words."""
    return "processor time" if threads == 1 else "wall time"


def milliseconds(timing: Timing) -> str:
    """The median of a timing, in words."""
    return f"{1e3 * timing.median:.0f} ms"


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--threads", type=int, default=torch.get_num_threads(), help="compute threads")
    options.add_argument("--repeats", type=int, default=repeats, help="interleaved repeats")
    options.add_argument("--out", type=Path, default=None, help="write the rows as JSON to this file")
    return options


def write(out: Path | None, title: str, what: str, threads: int, rows: Sequence[Row]) -> None:
    """Write the section of a benchmark on CPU threads."""
    title = f"{title}, {threads} thread{'s' if threads > 1 else ''}"
    write_section(out, title, what, f"{platform.machine()}, {threads} threads, torch {torch.__version__}", rows)


def write_section(out: Path | None, title: str, what: str, machine: str, rows: Sequence[Row]) -> None:
    """Write a section for `run.py`, if a file was asked for."""
    if out is not None:
        section = {"title": title, "what": what, "machine": machine, "rows": list(rows)}
        out.write_text(json.dumps({"sections": [section]}, indent=1) + "\n")
