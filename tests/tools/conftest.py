"""ToolDEER's data, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenfold.tools.data import DeerData, load


@pytest.fixture(scope="session")
def deer(data_dir: Path) -> DeerData:
    data: DeerData = load("deer", root=data_dir)
    return data
