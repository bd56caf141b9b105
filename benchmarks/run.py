"""`make bench`: every benchmark of this folder in turn, then docs/benchmarks.md from their figures; on a machine with an
accelerator the papers' sizes there, and docs/benchmarks-accelerator.md.

`python benchmarks/run.py graph survival` measures these files alone and leaves the page's other sections as they were.

Each file takes `--threads N`, `--repeats N` and `--out FILE` and writes {"sections": [{"title", "what", "rows": [{"name", "ratio", "bar", "met", "note"}], "machine"}]}.
A ratio is the median of interleaved pairs in one process; a bar is what we answer for, and where it is not met the note says why.
"""

from __future__ import annotations

import argparse
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


def merged(page: Path, sections: list[str]) -> str:
    """The page with new sections in the place of those of the same title, others behind its last."""
    text = page.read_text() if page.is_file() else ""
    kept = {title_of(part): part.rstrip() + "\n" for part in text.split("\n## ")[1:] for part in [f"## {part}"]}
    return HEADER + "\n" + "\n".join((kept | {title_of(part): part for part in sections}).values())


def title_of(part: str) -> str:
    return part.split("\n", 1)[0]


def main() -> None:
    known = {
        script.stem: script
        for script in sorted(HERE.glob("*.py"))
        if script.name not in ("run.py", "rows.py", ACCELERATOR)
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--repeats", help="pairs a row; more cost time and narrow the noise")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; have {', '.join(known)}")
    more = ["--repeats", arguments.repeats] if arguments.repeats else []
    if device_type() != "cpu":
        page = DOCS / "benchmarks-accelerator.md"
        text = HEADER + "\n" + "\n".join(section(each) for each in measure(HERE / ACCELERATOR, more)["sections"])
    else:
        page, sections = DOCS / "benchmarks.md", []
        for name in arguments.only or known:
            for threads in sorted({1, os.cpu_count() or 1}):
                print(f"== {name}, {threads} threads", flush=True)
                figures = measure(known[name], ["--threads", str(threads), *more])
                sections += [section(each) for each in figures["sections"] if each["rows"]]
        text = merged(page, sections) if arguments.only else HEADER + "\n" + "\n".join(sections)
    page.write_text(text)
    print(f"wrote {page.relative_to(Path.cwd()) if page.is_relative_to(Path.cwd()) else page}")


if __name__ == "__main__":
    main()
