"""The names that the package offers."""

from __future__ import annotations

import subprocess
import sys

import tenfold.prompts as prompts


def test_every_name_can_be_had_also_after_its_module() -> None:
    import tenfold.prompts.evaluation

    for name in prompts.__all__:
        assert callable(getattr(prompts, name)) or name == "Placement", name
    assert callable(prompts.evaluate) and tenfold.prompts.evaluation.evaluate is prompts.evaluate


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, tenfold.prompts; assert not {'torch', 'numpy', 'scipy', 'openai', 'dspy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
