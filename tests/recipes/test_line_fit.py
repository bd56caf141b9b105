"""The recipe that docs/adding-a-system.md shows works as the page says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tenfold.core.run import Run


@pytest.fixture
def line_fit() -> ModuleType:
    import sys

    spec = importlib.util.spec_from_file_location("line_fit", Path(__file__).with_name("line_fit.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["line_fit"] = module
    spec.loader.exec_module(module)
    return module


def test_every_seed_fits_the_line_and_the_claim_holds(line_fit: ModuleType, tmp_path: Path) -> None:
    config = line_fit.PRESETS["laptop"]
    run = Run.create("line-fit", "laptop", config, tmp_path)
    (claim,) = line_fit.train(config, run).claims
    assert claim.holds is True and claim.seeds == 5
    assert claim.value < 0.02  # noise of 0.1 leaves 0.01
    assert (run.path / "report.html").exists()


def test_the_page_shows_this_file() -> None:
    page = Path(__file__).parents[2] / "docs" / "adding-a-system.md"
    assert '--8<-- "tests/recipes/line_fit.py"' in page.read_text()
