"""The wheel in fresh environments: without extras it lists and trains, and every extra alone brings what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"

# What works with an extra and asks for it without.
NEEDS = {
    "data": "from tenfold.text.html import clean_html; assert clean_html('<p>So it is.</p>').strip() == 'So it is.'",
    "graph": "from pathlib import Path; Path('a.nt').write_text('<x:a> <x:b> <x:c> .'); "
    "from tenfold.graph.readers import read_rdf; assert len(read_rdf('a.nt')) == 1",
    "models": "import gguf.quants; from tenfold.lm.gguf import read_gguf",
    "serve": "import tenfold.lm.serve, tenfold.lm.serve_answers, tenfold.prompts.fault_server",
    "tools": "from tenfold.text.chat import EndpointChatModel; EndpointChatModel('m', base_url='http://127.0.0.1:9/v1', api_key='k')",
    "diffusion": "from diffusers import AutoencoderKL",
    "clinical": "import pandas",
}
IMPORTED = """
import importlib, pkgutil, tenfold
from tenfold.core.errors import UserError
for module in pkgutil.walk_packages(tenfold.__path__, "tenfold."):
    if module.name.endswith(("__main__", "sandbox_child")):  # programs
        continue
    try:
        importlib.import_module(module.name)
    except (UserError, ModuleNotFoundError) as error:
        print(module.name, "names its extra" if "tenfold[" in str(error) else error.name)
"""


class Place:
    """A virtual environment that sees the packages of another one."""

    def __init__(self, folder: Path, under: Place | None = None) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        (self.site,) = folder.glob("lib/python*/site-packages")
        if under is not None:
            (self.site / "under.pth").write_text(f"{under.site}\n")

    def run(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
        command = [str(self.bin / str(words[0])), *map(str, words[1:])]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=self.bin.parent, timeout=1500)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def install(self, *what: str | Path) -> None:
        self.run("python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", CONSTRAINTS, *what)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (found,) = folder.glob("tenfold-*.whl")
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("bare") / "venv")
    place.install(wheel)
    return place


@pytest.mark.slow
def test_without_extras_it_lists_and_trains(bare: Place, tmp_path: Path) -> None:
    listed = bare.run("tenfold", "list").stdout
    assert listed.count("works") == 10
    quick = ["--imitation.games", "60", "--imitation.steps", "10", "--self-play.games", "40"]
    trained = bare.run("tenfold", "spag", "train", "tiny", *quick, "--runs-dir", tmp_path).stdout
    assert Path(trained.rsplit("report: ", 1)[1].strip()).is_file()
    light = bare.run("python", "-c", "import sys, tenfold, tenfold.cli; print('torch' in sys.modules)").stdout
    assert light.strip() == "False"


@pytest.mark.slow
def test_every_module_is_there_or_names_its_extra(bare: Place) -> None:
    missing = dict(line.split(" ", 1) for line in bare.run("python", "-c", IMPORTED).stdout.splitlines())
    assert missing["tenfold.lm.serve"] == "names its extra"
    # Parts of what names it: imported behind it alone.
    behind = {"tenfold.lm.serve_answers": "fastapi"}
    assert {name: why for name, why in missing.items() if why != "names its extra"} == behind


@pytest.mark.slow
@pytest.mark.parametrize("extra", NEEDS)
def test_each_extra_alone(extra: str, wheel: Path, bare: Place, tmp_path: Path) -> None:
    before = bare.run("python", "-c", NEEDS[extra], check=False)
    assert before.returncode != 0
    place = Place(tmp_path / "venv", bare)
    place.install(f"{wheel}[{extra}]")
    place.run("python", "-c", NEEDS[extra])
