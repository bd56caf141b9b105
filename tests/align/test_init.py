"""What the package offers by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tenfold.align


@pytest.mark.parametrize("name", tenfold.align.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(tenfold.align, name).__name__ == name


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, tenfold.align; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
