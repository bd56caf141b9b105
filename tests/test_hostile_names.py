"""Names of files that somebody made to do harm, or by mistake: one harmless line, or work as with any other name."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from tenfold.cli import main
from tenfold.core.run import Run
from tenfold.recipes import registry
from tenfold.recipes.registry import Recipe

NAMES = {
    "line end": "a\nerror: b",
    "return": "a\rb",
    "escape": "a\x1b[2J\x1b]0;title\x07b",
    "direction": "a\u202etxt.exe",
    "dash": "-rf",
    "dashes": "--help",
    "long": "n" * 255,
    "bytes": os.fsdecode(b"a\xff\xfe"),
    "markup": "<script>alert(1)[red]%s{x}$(touch x)`touch x`",
    "blanks": "  ",
    "emoji": "é 漢字 🙂",
}
FOLDERS = ("line end", "escape", "long", "markup")  # a run costs seconds


@pytest.fixture(autouse=True)
def line_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recipe of seconds, and a working folder of our own."""
    spec = importlib.util.spec_from_file_location("line_fit", Path(__file__).with_name("recipes") / "line_fit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "line_fit", module)
    spec.loader.exec_module(module)
    recipe = Recipe("fit", "A paper", "0000.00000", "nothing", "line_fit", "works")
    monkeypatch.setattr(registry, "RECIPES", (recipe,))
    monkeypatch.chdir(tmp_path)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, which is one error that a terminal can show."""
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.endswith("\n") and said[:-1].isprintable()
    return said


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize(
    "words",
    [["view"], ["fit", "train", "--resume"], ["data", "get"], ["models", "get"], ["fit"], [], ["fit", "train"], ["fit", "train", "--steps"]],
    ids=" ".join,
)  # fmt: skip
def test_a_name_that_is_none_is_one_line(words: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "--help" and words[-1:] != ["--resume"]:  # there it asks for help
        return
    assert main([*words, name]) == 2
    one_line(capsys)


@pytest.mark.parametrize("name", [NAMES[name] for name in FOLDERS], ids=FOLDERS)
def test_a_run_in_a_folder_of_that_name(name: str, tmp_path: Path) -> None:
    folder = f"./{name}"
    assert main(["fit", "train", "--steps", "12", "--runs-dir", folder]) == 0
    (run,) = (Path(folder) / "fit").iterdir()
    assert Run.open(run).about["command"].startswith("tenfold fit train")
    assert json.loads((run / "result.json").read_text())["recipe"] == "fit"
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert main(["view", str(run), "--no-open"]) == 0
    assert main(["fit", "train", "--resume", str(run)]) == 0
    assert sorted(tmp_path.iterdir()) == [tmp_path / name]


def test_a_runs_folder_whose_name_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other libraries that write into it take UTF-8 alone."""
    assert main(["fit", "train", "--steps", "12", "--runs-dir", NAMES["bytes"]]) == 2
    assert r"a\udcff\udcfe/fit: the folder's name is no UTF-8 text" in one_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", ["file", "below a file", "link to nothing", "link to itself"])
def test_runs_folders_that_are_none(made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "runs"
    if made == "link to nothing":
        place.symlink_to(tmp_path / "absent" / "deeper")
    elif made == "link to itself":
        place.symlink_to(place)
    else:
        place.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["fit", "train", "--runs-dir", str(place / "deep" if made == "below a file" else place)]) == 2
    assert str(place) in one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("place", ["runs", "runs/fit"])
def test_runs_folders_that_may_not_be_written(place: str, tmp_path: Path) -> None:
    """As nobody, in a child, since a process cannot become root again."""
    (tmp_path / place).mkdir(parents=True)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o005:
            folder.chmod(folder.stat().st_mode | 0o005)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        os.setuid(65534)
        os._exit(main(["fit", "train", "--runs-dir", str(tmp_path / "runs")]))
    os.close(write)
    with os.fdopen(read) as said:
        words = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, words
    assert words.startswith(f"error: no permission: {tmp_path / place}") and words.count("\n") == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
