"""What the pages say stands in the runs that were kept."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
_spec = importlib.util.spec_from_file_location("docs_results", DOCS / "results.py")
assert _spec is not None and _spec.loader is not None
results = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(results)


def test_the_page_of_claims_is_that_of_the_kept_runs() -> None:
    kept = [json.loads(file.read_text()) for file in sorted((DOCS / "results").glob("*.json"))]
    assert (DOCS / "claims.md").read_text() == results.claims_page(kept)
    assert {run["recipe"] for run in kept} == {page.stem for page in (DOCS / "systems").glob("*.md")}


def test_every_kept_run_stands_on_the_page_of_its_system() -> None:
    for file in (DOCS / "results").glob("*.md"):
        recipe = json.loads(file.with_suffix(".json").read_text())["recipe"]
        assert f"docs/results/{file.name}" in (DOCS / "systems" / f"{recipe}.md").read_text(), file.name
