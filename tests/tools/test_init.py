"""Every name that the package offers is there, and importing it loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import tenfold.tools


def test_names() -> None:
    for name in tenfold.tools.__all__:
        assert getattr(tenfold.tools, name) is not None


def test_importing_is_cheap() -> None:
    code = "import sys, tenfold.tools; print([m for m in ('torch', 'sklearn', 'mcp', 'pydantic', 'jsonschema') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
