"""What the package offers by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tenfold.games


@pytest.mark.parametrize("name", tenfold.games.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(tenfold.games, name).__name__ == name


@pytest.mark.parametrize(
    "used", ["tenfold.games", "tenfold.games.taboo, tenfold.games.self_play, tenfold.games.credit"]
)
def test_playing_loads_no_torch(used: str) -> None:
    code = f"import sys, {used}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_hides_a_name_of_the_package() -> None:
    code = (
        "import pkgutil, sys, tenfold.games as g; "
        "sys.exit(bool({m.name for m in pkgutil.iter_modules(g.__path__)} & set(g.__all__)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
