"""What the package offers by name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import tenfold.clinical


@pytest.mark.parametrize("name", tenfold.clinical.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(tenfold.clinical, name).__name__ == name


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"module 'tenfold\.clinical' has no attribute 'Event'"):
        tenfold.clinical.Event  # noqa: B018


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, tenfold.clinical; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("door", ["ssm", "autoselect"])
def test_a_system_is_one_import(door: str) -> None:
    module = importlib.import_module(f"tenfold.clinical.{door}")
    assert len(module.__all__) == len(set(module.__all__)) > 10
    for name in module.__all__:
        assert callable(getattr(module, name)), name
