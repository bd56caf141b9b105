"""`make bench`: every benchmark of this folder in turn, then docs/benchmarks.md from their figures; on a machine with an
accelerator the papers' sizes there, and docs/benchmarks-accelerator.md.

Each file takes `--threads N`, `--repeats N` and `--out FILE` and writes {"sections": [{"title", "what", "rows": [{"name", "ratio", "bar", "met", "note"}], "machine"}]}.
A ratio is the median of interleaved pairs in one process; a bar is what we answer for, and where it is not met the note says why.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tenfold.core.mesh import device_type

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
ACCELERATOR = "accelerator.py"  # measures what the others do not: the papers' sizes
HEADER = """# Benchmarks

Ratios measured in one process, interleaved (A, B, A, B, …), medians of the pairs: they survive a noisy machine, single times do not.
`make bench` measures them anew on your machine and rewrites this page. A bar is what we answer for; where it is not met, the table says so.
"""


def measure(script: Path, arguments: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        subprocess.run([sys.executable, str(script), *arguments, "--out", str(out)], check=True)
        return json.loads(out.read_text())


def section(figures: dict) -> str:
    lines = [f"## {figures['title']}", "", figures["what"], "", f"Measured on: {figures['machine']}.", ""]
    lines += ["| what | measured | bar | met | note |", "|---|---|---|---|---|"]
    for row in figures["rows"]:
        met = {True: "yes", False: "**no**", None: ""}[row.get("met")]
        lines.append(
            f"| {row['name']} | {row['ratio']:.2f} | {row.get('bar') or ''} | {met} | {row.get('note') or ''} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    if device_type() != "cpu":
        page = DOCS / "benchmarks-accelerator.md"
        sections = [section(each) for each in measure(HERE / ACCELERATOR, sys.argv[1:])["sections"]]
    else:
        page, sections = DOCS / "benchmarks.md", []
        for script in sorted(HERE.glob("*.py")):
            if script.name in ("run.py", "rows.py", ACCELERATOR):
                continue
            for threads in sorted({1, os.cpu_count() or 1}):
                print(f"== {script.name}, {threads} threads", flush=True)
                figures = measure(script, ["--threads", str(threads), *sys.argv[1:]])
                sections += [section(each) for each in figures["sections"]]
    page.write_text(HEADER + "\n" + "\n".join(sections))
    print(f"wrote {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")


if __name__ == "__main__":
    main()
