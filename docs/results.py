"""Keep a finished run that we stand by: `python docs/results.py RUN [--figure trade-off]`.

Writes docs/results/<recipe>-<preset>.json (claims, tables, command, machine), the same as Markdown for the docs pages to
include, and the named figures as docs/figures/<recipe>-<preset>-<figure>.png.
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


def main() -> None:
    parser = argparse.ArgumentParser(description="keep a finished run under docs/results")
    parser.add_argument("run", type=Path)
    parser.add_argument("--figure", nargs="*", default=[], help="names of the figures to keep")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
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
    for figure in arguments.figure:
        kept_as = f"{name}-{figure}.png".replace(" ", "-")
        shutil.copyfile(run.path / "figures" / f"{figure}.png", DOCS / "figures" / kept_as)


if __name__ == "__main__":
    main()
