"""Keep a finished run that we stand by: `python docs/results.py RUN [--figure trade-off]`.

Writes docs/results/<recipe>-<preset>.json (claims, tables, command, machine), the same as Markdown for the docs pages to
include, the named figures as docs/figures/<recipe>-<preset>-<figure>.png, and docs/claims.md, the claims of all kept runs.
Without RUN it writes that page alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.config import read_json
from tenfold.core.report import duration, number
from tenfold.core.run import Run

DOCS = Path(__file__).parent
VERDICTS = ("holds", "does not hold", "the opposite holds", "one seed")


def markdown_table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [[*columns], ["---"] * len(columns), *([number(value) for value in row] for row in rows)]
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines]


def claims_table(claims: list[dict[str, Any]]) -> list[str]:
    rows = []
    for claim in claims:
        interval = "–" if claim["ci95"] is None else "{:.4f} … {:.4f}".format(*claim["ci95"]).replace("-", "−")
        difference = f"{claim['margin']:+.4f}".replace("-", "−")
        rows.append(
            [claim["name"], claim["value"], claim["baseline"], difference, interval, Claim.from_json(claim).verdict]
        )
    return markdown_table(["claim", "measured", "baseline", "difference", "95 % interval", "verdict"], rows)


def claims_page(kept: list[dict[str, Any]]) -> str:
    """All claims of all kept runs, as Markdown, after a count of their verdicts."""
    counts, sections = [], []
    for run in kept:
        verdicts = [Claim.from_json(claim).verdict for claim in run["claims"]]
        name = f"[{run['recipe']} {run['preset']}](#{run['recipe']}-{run['preset']})"
        counts.append([name, *(verdicts.count(each) for each in VERDICTS), duration(run["seconds"])])
        sections += [
            f"## {run['recipe']} {run['preset']}",
            "",
            f"`{run['command']}`, {duration(run['seconds'])} on {run['machine']}; more in "
            f"[its page](systems/{run['recipe']}.md).",
            "",
            *claims_table(run["claims"]),
            "",
        ]
    counts.append(["all", *(sum(row[i] for row in counts) for i in range(1, len(VERDICTS) + 1)), ""])
    lines = [
        "# Claims",
        "",
        "What each kept run claims and what it measured, also where it came out against us. A claim holds where its",
        "95 % interval over seeds, people or questions lies on its side of the baseline, its room included; the opposite",
        "holds where the interval lies on the other side; where it holds both sides, the claim does not hold and nothing is",
        "settled. A run of one seed has no interval and settles nothing.",
        "",
        *markdown_table(["run", *VERDICTS, "time"], counts),
        "",
        *sections,
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="keep a finished run under docs/results, and write the page of claims")
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--figure", nargs="*", default=[], help="names of the figures to keep")
    arguments = parser.parse_args()
    if arguments.run is not None:
        keep(parser, arguments.run, arguments.figure)
    kept = [read_json(file) for file in sorted((DOCS / "results").glob("*.json"))]
    (DOCS / "claims.md").write_text(claims_page(kept))


def keep(parser: argparse.ArgumentParser, path: Path, figures: list[str]) -> None:
    run = Run.open(path)
    if not run.finished:
        parser.error(f"{run.path} has not finished")
    result = read_json(run.path / "result.json")
    items = read_json(run.path / "items.json")["items"]
    tables = [read_json(run.path / "tables" / f"{i['name']}.json") for i in items if i["kind"] == "table"]
    texts = [item["text"] for item in items if item["kind"] == "text"]
    about = {key: run.about[key] for key in ("command", "machine", "created")}
    about["command"] = about["command"].split(" --runs-dir")[0]
    name = f"{run.recipe}-{run.preset}"
    kept = {**result, **about, "config": run.config, "texts": texts, "tables": tables}
    (DOCS / "results" / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    lines = [
        *texts,
        "",
        f"`{about['command']}`, {duration(result['seconds'])} on {about['machine']}.",
        "",
    ]
    lines += [*claims_table(result["claims"]), ""]
    for table in tables:
        cells = [[row.get(column) for column in table["columns"]] for row in table["rows"]]
        lines += [f"**{table['name']}**", "", *markdown_table(table["columns"], cells), "", table["note"] or "", ""]
    (DOCS / "results" / f"{name}.md").write_text("\n".join(lines).rstrip() + "\n")
    for figure in figures:
        kept_as = f"{name}-{figure}.png".replace(" ", "-")
        shutil.copyfile(run.path / "figures" / f"{figure}.png", DOCS / "figures" / kept_as)


if __name__ == "__main__":
    main()
