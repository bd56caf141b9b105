from __future__ import annotations

import errno
import importlib.util
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tenfold.cli import main
from tenfold.core.claims import Claim, Result
from tenfold.core.config import bind
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.recipes import registry
from tenfold.recipes.registry import Recipe

# A recipe small enough to read, as a module of its own: some tests run it in another process.
TINY_RECIPE = '''
from __future__ import annotations
import math, time
from dataclasses import dataclass
from tenfold.core.claims import Claim

@dataclass(frozen=True)
class Model:
    dim: int = 8
    """Model width, in numbers."""

    def __post_init__(self):
        if self.dim < 1:
            raise ValueError(f"dim: got {self.dim}, need at least 1")

@dataclass(frozen=True)
class Config:
    """A recipe."""
    model: Model = Model()
    steps: int = 3
    pause: float = 0.0
    """Seconds a step takes."""
    seed: int = 0

PRESETS = {"tiny": Config(), "laptop": Config(steps=5)}
EXPECTED = {"tiny": "loss 1/3 in one second"}
before_step = lambda config, step: None

def train(config, run):
    for step in range(config.steps):
        if run.done(f"step-{step}"):
            continue
        before_step(config, step)
        time.sleep(config.pause)
        run.log(step, loss=1 / (step + 1))
        run.save_stage(f"step-{step}", step)
    run.claim(Claim("final loss", 1 / config.steps, 1.0, "lower", (math.nan, math.nan), 1, "counted"))
    return run.finish()

def plan(devices: int = 4) -> None:
    """Print the plan.

    Args:
        devices: number of devices.
    """
    print(f"plan for {devices}")

VERBS = {"plan": plan}
'''
RUN_IT = """
import sys
from tenfold.recipes import registry
registry.RECIPES = (registry.Recipe("fake", "A paper", "0000.00000", "nothing", "tiny_recipe", "works"),)
from tenfold.cli import main
sys.exit(main())
"""


@dataclass
class Desk:
    """The command line in this process, with two recipes that work and one that is planned."""

    capsys: pytest.CaptureFixture[str]
    runs: Path
    modules: dict[str, types.ModuleType]

    def __call__(self, *argv: str) -> tuple[int, str, str]:
        code = main(list(argv))
        shown = self.capsys.readouterr()
        return code, shown.out, shown.err

    def newest(self, recipe: str) -> Path:
        return max((file.parent for file in (self.runs / recipe).glob("*/run.json")), key=lambda path: path.name)


@pytest.fixture
def tenfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    modules = {}
    for name in ("fake", "other"):
        file = tmp_path / f"tiny_{name}.py"  # a file, since the help texts are read from the source
        file.write_text(TINY_RECIPE)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        module = modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, file.stem, module)
        spec.loader.exec_module(module)
    rows = (
        Recipe("fake", "A paper", "0000.00000", "nothing", "tiny_fake", "works"),
        Recipe("later", "A later paper", "0000.00001", "nothing yet", "no.such.module"),
        Recipe("other", "Another paper", "0000.00002", "nothing either", "tiny_other", "works"),
    )
    monkeypatch.setattr(registry, "RECIPES", rows)
    monkeypatch.setenv("TENFOLD_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    return Desk(capsys, tmp_path / "runs", modules)


def test_version_and_help(tenfold: Desk) -> None:
    assert tenfold("--version")[:2] == (0, "tenfold 0.1.0\n")
    for argv in ((), ("--help",), ("-h",)):
        code, out, _ = tenfold(*argv)
        assert code == 0
        assert out.startswith("usage: tenfold list")


def test_list_names_every_recipe_with_its_status(tenfold: Desk) -> None:
    code, out, _ = tenfold("list")
    assert code == 0
    words = [line.split()[:2] for line in out.splitlines()[1:]]
    assert words == [["fake", "works"], ["later", "planned"], ["other", "works"]]


def test_the_table_has_ten_recipes_with_names_and_papers_of_their_own() -> None:
    assert len(registry.RECIPES) == 10
    for field in ("name", "title", "arxiv", "module"):
        assert len({getattr(recipe, field) for recipe in registry.RECIPES}) == 10


def test_every_recipe_that_works_has_the_parts_of_a_recipe() -> None:
    for recipe in registry.RECIPES:
        if recipe.status == "works":
            module = registry.load(recipe)
            assert "tiny" in module.PRESETS
            assert all(isinstance(preset, module.Config) for preset in module.PRESETS.values())
            assert set(module.EXPECTED) <= set(module.PRESETS)
            assert callable(module.train)
            assert all(callable(verb) for verb in module.VERBS.values())


def test_train_leaves_a_finished_run_and_prints_its_report_last(tenfold: Desk) -> None:
    code, out, _ = tenfold("fake", "train", "--model.dim", "16")
    assert code == 0
    run = tenfold.newest("fake")
    assert out.splitlines()[-1] == f"report: {run / 'report.html'}"
    assert "final loss: 0.3333 against 1 (one seed, ahead)" in out
    assert json.loads((run / "config.json").read_text())["model"] == {"dim": 16}
    about = json.loads((run / "run.json").read_text())
    assert about["command"] == "tenfold fake train --model.dim 16"
    assert about["paper"] == "A paper, arXiv 0000.00000"
    assert Result.from_json(json.loads((run / "result.json").read_text())).preset == "tiny"


def test_train_takes_a_preset_and_a_runs_dir_anywhere(tenfold: Desk, tmp_path: Path) -> None:
    for argv in (["laptop", "--runs-dir", "here"], ["--runs-dir=there", "laptop"]):
        assert tenfold("fake", "train", *argv)[0] == 0
    for folder in ("here", "there"):
        (run,) = (tmp_path / folder / "fake").iterdir()
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 5


def test_underscores_in_a_recipe_name_count_as_hyphens(tenfold: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RECIPES", (Recipe("a-b", "t", "0", "g", "tiny_fake", "works"),))
    assert tenfold("a_b")[0] == 0


def test_a_recipe_alone_shows_presets_expectations_and_verbs(tenfold: Desk) -> None:
    code, out, _ = tenfold("fake")
    assert code == 0
    for part in ("loss 1/3 in one second", "laptop", "Print the plan."):
        assert part in out


def test_help_of_train_and_of_a_verb_shows_docs_and_defaults(tenfold: Desk) -> None:
    code, out, _ = tenfold("fake", "train", "laptop", "--help")
    assert code == 0
    for part in ("Model width, in numbers. (default: 8)", "(default: 5)", "--resume RUN", "tiny, laptop"):
        assert part in out
    code, out, _ = tenfold("fake", "plan", "--help")
    assert code == 0
    assert "number of devices. (default: 4)" in out


@pytest.mark.parametrize("argv", ["--runs-dir d laptop", "--runs-dir=d laptop", "laptop --runs-dir d"])
def test_help_of_train_knows_the_preset_beside_options_with_a_value(tenfold: Desk, argv: str) -> None:
    code, out, err = tenfold("fake", "train", *argv.split(), "--help")
    assert (code, err) == (0, "")
    assert "Defaults below are those of 'laptop'" in out
    assert tenfold("fake", "train", "--resume", "runs/x", "--help")[::2] == (0, "")


@pytest.mark.parametrize(("stop", "code", "line"), [("verb failed", 1, "verb failed\n"), (3, 3, ""), (None, 0, "")])
def test_a_verb_that_exits_has_the_exit_code_python_gives_it(tenfold: Desk, stop: object, code: int, line: str) -> None:
    def leave() -> None:
        """Leave."""
        raise SystemExit(stop)

    tenfold.modules["fake"].VERBS["leave"] = leave
    assert tenfold("fake", "leave")[::2] == (code, line)


def test_a_verb_gets_its_arguments(tenfold: Desk) -> None:
    assert tenfold("fake", "plan", "--devices", "8")[:2] == (0, "plan for 8\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("lst", "unknown command 'lst' (did you mean list?) (see tenfold --help)"),
        ("fak", "unknown command 'fak' (did you mean fake?) (see tenfold --help)"),
        ("--verson", "unknown option --verson (see tenfold --help)"),
        ("list now", "tenfold list: unexpected argument 'now'"),
        ("later train", "later is planned and not in this version yet; these work: fake, other"),
        ("fake trian", "tenfold fake: unknown verb 'trian' (did you mean train?); known: train, plan"),
        ("fake tiny", "tenfold fake: unknown verb 'tiny' (did you mean tenfold fake train tiny?)"),
        (
            "fake train lptop",
            "tenfold fake train: unknown preset 'lptop' (did you mean laptop?); known: tiny, laptop",
        ),
        ("fake train --model.dimm 3", "tenfold fake train: unknown option --model.dimm (did you mean --model.dim?)"),
        ("fake train --model.dim 0", "tenfold fake train: --model.dim: got 0, need at least 1"),
        (
            "fake train --model.dim x",
            "tenfold fake train: --model.dim: invalid literal for int() with base 10: 'x'",
        ),
        ("fake train --runs-dir", "tenfold fake train: --runs-dir needs a value"),
        ("fake train --resume --runs-dir", "tenfold fake train: --resume needs a value"),
        ("fake train --runs-dir a --runs-dir b", "tenfold fake train: --runs-dir is given twice"),
        ("fake train --resume nowhere", "no such run: nowhere"),
        ("fake train --resume .", "not a run folder (no run.json in it): ."),
        ("fake train laptop --resume x", "tenfold fake train: --resume goes on with the run's own config; drop laptop"),
        (
            "fake train --resume x --runs-dir y",
            "tenfold fake train: --resume goes on with the run's own config; drop --runs-dir",
        ),
        ("fake plan --device 3", "tenfold fake plan: unknown option --device (did you mean --devices?)"),
        ("tour --only nothing", "unknown recipe 'nothing'; `tenfold list` shows all"),
        ("tour --only later", "tenfold tour: later is planned and not in this version yet"),
        ("tour --only ,", "tenfold tour: --only needs recipe names, as in --only moe-vs-dense"),
        ("tour --onyl fake", "tenfold tour: unknown option --onyl (did you mean --only?)"),
        ("view", "tenfold view: need a run folder, or a recipe's name for its newest run"),
        ("view nowhere", "no such run: nowhere"),
        ("view fake", "no run of fake in {runs}/fake; make one: tenfold fake train"),
        ("view tour", "no tour in {runs}/tour; make one: tenfold tour"),
        ("view /etc/passwd", "not a run folder but a file: /etc/passwd"),
        ("view a b", "tenfold view: unexpected argument 'b'"),
        ("data fetch x", "tenfold data: unknown command 'fetch'; known: list, get NAME"),
        ("models get", "tenfold models get: need a name; `tenfold models list` shows all"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(tenfold: Desk, argv: str, line: str) -> None:
    code, _, err = tenfold(*argv.split())
    assert err == f"error: {line.format(runs=tenfold.runs)}\n"
    assert code == 2
    assert not tenfold.runs.exists()  # nothing was begun


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("text not found: x"), 2, "text not found: x"),
        (ValueError("dim:\n  got 3"), 2, "dim: got 3"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.txt"), 2, "file not found: a.txt"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "is a folder, need a file: a"),
        (PermissionError(errno.EACCES, "denied", "a"), 2, "no permission: a"),
        (OSError(errno.EROFS, "Read-only file system", "a"), 2, "read-only file system: a"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a"), 2, "file name too long: a"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a"),
            2,
            "disk full (writing a); free some space, then go on with --resume",
        ),
        (OSError(errno.EFBIG, "File too large"), 2, "disk full; free some space, then go on with --resume"),
        (RuntimeError("two\nlines"), 1, "RuntimeError: two lines (--debug shows the traceback)"),
        (KeyError("x"), 1, "KeyError: 'x' (--debug shows the traceback)"),
        (AssertionError(), 1, "AssertionError (--debug shows the traceback)"),
    ],
)
def test_errors_while_training(tenfold: Desk, error: Exception, code: int, line: str) -> None:
    def fail(config: object, step: int) -> None:
        raise error

    tenfold.modules["fake"].before_step = fail
    assert tenfold("fake", "train")[::2] == (code, f"error: {line}\n")
    got, _, shown = tenfold("fake", "train", "--debug")
    assert got == code
    assert shown.startswith("Traceback (most recent call last):")
    assert type(error).__name__ in shown


def test_what_a_recipe_refuses_leaves_no_folder(tenfold: Desk) -> None:
    def refuse(config: object) -> None:
        raise UserError("text not found: x")

    tenfold.modules["fake"].check = refuse
    assert tenfold("fake", "train")[::2] == (2, "error: text not found: x\n")
    assert not tenfold.runs.exists()
    assert tenfold("tour", "--only", "fake")[0] == 1
    assert not list(tenfold.runs.glob("tour/*/fake"))


def test_a_resumed_run_is_not_checked_again(tenfold: Desk) -> None:
    tenfold("fake", "train")
    tenfold.modules["fake"].check = lambda config: 1 / 0
    assert tenfold("fake", "train", "--resume", str(tenfold.newest("fake")))[0] == 0


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("run.json", "{}", "recipe: need str; the file is damaged"),
        ("run.json", "[]", "got list, need a JSON object; is it the right file, and whole?"),
        ("config.json", "3", "got int, need a JSON object; is it the right file, and whole?"),
        ("clock.json", '{"seconds": "x"}', "seconds: need int | float; the file is damaged"),
        ("items.json", "{}", "items: need list; the file is damaged"),
        ("items.json", '{"items": [3], "claims": []}', "an item without kind, name; the file is damaged"),
        ("items.json", '{"items": [], "claims": [{"name": "a"}]}', "a damaged claim: KeyError: 'ci95'"),
    ],
)
def test_a_damaged_run_is_one_line_that_names_the_file(tenfold: Desk, file: str, content: str, line: str) -> None:
    tenfold("fake", "train")
    run = tenfold.newest("fake")
    (run / "result.json").unlink()
    (run / file).write_text(content)
    for argv in (["view", str(run), "--no-open"], ["fake", "train", "--resume", str(run)]):
        assert tenfold(*argv)[::2] == (2, f"error: {run / file}: {line}\n")


def interrupt_at(step: int) -> Callable[[object, int], None]:
    def before_step(config: object, now: int) -> None:
        if now == step:
            raise KeyboardInterrupt

    return before_step


def test_ctrl_c_says_the_command_that_resumes_and_it_does(tenfold: Desk) -> None:
    tenfold.modules["fake"].before_step = interrupt_at(2)
    code, _, err = tenfold("fake", "train", "laptop", "--runs-dir", "my runs")
    assert code == 130
    (run,) = Path("my runs/fake").iterdir()
    command = f"tenfold fake train --resume '{run}'"
    assert err == f"\ninterrupted; go on with: {command}\n"
    assert not (run / "result.json").exists()

    steps: list[int] = []
    tenfold.modules["fake"].before_step = lambda config, step: steps.append(step)
    code, out, _ = tenfold("fake", "train", "--resume", str(run))
    assert code == 0
    assert steps == [2, 3, 4]  # the preset's five steps, without the two that were done
    assert out.splitlines()[0] == f"run: {run}"
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4]


def test_resume_refuses_another_recipes_run_and_a_config_of_another_version(tenfold: Desk) -> None:
    tenfold("fake", "train")
    run = tenfold.newest("fake")
    code, _, err = tenfold("other", "train", "--resume", str(run))
    assert (code, err) == (2, f"error: {run} is a run of fake; tenfold fake train --resume goes on with it\n")
    (run / "config.json").write_text('{"model": {"width": 3}}')
    code, _, err = tenfold("fake", "train", "--resume", str(run))
    assert (code, err) == (2, f"error: {run / 'config.json'}: model.width: unknown field\n")


def test_two_processes_do_not_train_in_one_run(tenfold: Desk) -> None:
    seen: list[tuple[int, str, str]] = []

    def resume_from_elsewhere(config: object, step: int) -> None:
        if not seen:
            command = [sys.executable, "-c", RUN_IT, "fake", "train", "--resume", str(tenfold.newest("fake"))]
            folder = Path("modules")
            folder.mkdir()
            (folder / "tiny_recipe.py").write_text(TINY_RECIPE)
            environment = {**os.environ, "PYTHONPATH": str(folder)}
            other = subprocess.run(command, capture_output=True, text=True, env=environment)
            seen.append((other.returncode, other.stdout, other.stderr))

    tenfold.modules["fake"].before_step = resume_from_elsewhere
    assert tenfold("fake", "train")[0] == 0
    ((code, _, err),) = seen
    assert (code, err) == (2, f"error: another process is training in {tenfold.newest('fake')}\n")


def test_view_prints_the_report_of_a_run_a_recipe_or_an_unfinished_run(tenfold: Desk) -> None:
    tenfold("fake", "train")
    run = tenfold.newest("fake")
    for name in (str(run), "fake", str(run / "report.html")):
        assert tenfold("view", name, "--no-open")[:2] == (0, f"{run / 'report.html'}\n")
    unfinished = Run.create("other", "tiny", {"seed": 0})
    code, out, _ = tenfold("view", "other", "--no-open")
    assert (code, out) == (0, f"{unfinished.path / 'report.html'}\n")
    assert "unfinished" in (unfinished.path / "report.html").read_text()


def test_view_opens_the_browser_only_where_there_is_a_display(tenfold: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    tenfold("fake", "train")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    tenfold("view", "fake")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    tenfold("view", "fake", "--no-open")
    assert opened == []
    tenfold("view", "fake")
    assert opened == [(tenfold.newest("fake") / "report.html").as_uri()]


def test_tour_runs_what_works_and_prints_one_report_last(tenfold: Desk) -> None:
    code, out, _ = tenfold("tour")
    assert code == 0
    page = Path(out.splitlines()[-1])
    assert page.name == "tour.html"
    html = page.read_text()
    for part in ("A paper, arXiv 0000.00000", "Another paper, arXiv 0000.00002"):
        assert part in html
    assert "later" not in html
    assert tenfold("view", str(page.parent), "--no-open")[1] == f"{page}\n"


def test_a_tour_says_the_time_left_and_each_card_how_to_go_on(tenfold: Desk) -> None:
    code, out, _ = tenfold("tour")
    assert code == 0
    assert out.splitlines()[0] == "2 recipes, about 2 min on two idle cores"
    assert re.search(r"\[1/2\] fake: done, 1 of 1 figures ahead \(0:\d\d since the start, about 1 min left\)", out)
    assert re.search(r"\[2/2\] other: done, 1 of 1 figures ahead \(0:\d\d since the start\)", out)
    html = Path(out.splitlines()[-1]).read_text()
    assert html.count('<article class="card"') == 2
    assert html.count(">ahead</span>") == 2


def test_the_time_left_follows_the_pace_of_this_machine() -> None:
    from tenfold.cli.tour import Tour, time_left

    first, second, third = registry.RECIPES[:3]
    tour = Tour(Path("x"), [each.name for each in (first, second, third)])
    assert time_left(tour, [first, second]) == first.tiny_seconds + second.tiny_seconds
    tour.finished, tour.seconds = [first.name], {first.name: 2.0 * first.tiny_seconds}
    assert time_left(tour, [first, second, third]) == 2.0 * (second.tiny_seconds + third.tiny_seconds)
    assert time_left(tour, []) == 0


def test_what_a_card_says_to_type_is_understood() -> None:
    for recipe in registry.RECIPES:
        assert recipe.purpose and recipe.picture and recipe.go_on, recipe.name
        for command, _ in recipe.go_on:
            program, name, verb, *rest = shlex.split(command)
            module = registry.load(registry.find(name))
            assert program == "tenfold"
            if verb == "train":
                assert rest[0] in module.PRESETS, command
            else:
                bind(module.VERBS[verb], rest, prog=command)


def test_view_finds_the_runs_of_a_tour_and_the_newest_tour(tenfold: Desk) -> None:
    page = Path(tenfold("tour")[1].splitlines()[-1])
    (run,) = page.parent.glob("fake/*")
    assert tenfold("view", "tour", "--no-open")[:2] == (0, f"{page.resolve()}\n")
    assert tenfold("view", "fake", "--no-open")[:2] == (0, f"{(run / 'report.html').resolve()}\n")
    later = run.parent.parent.parent.parent / "fake" / "99999999-000000-tiny"
    later.parent.mkdir()
    run.rename(later)
    assert tenfold("view", "fake", "--no-open")[:2] == (0, f"{(later / 'report.html').resolve()}\n")


def test_tour_only_takes_names_in_any_order(tenfold: Desk) -> None:
    assert "[1/1] other" in tenfold("tour", "--only", "other")[1]
    assert "[2/2] other" in tenfold("tour", "--only", "other,fake")[1]


def test_an_interrupted_tour_goes_on_where_it_stopped(tenfold: Desk) -> None:
    done: list[tuple[str, int]] = []
    tenfold.modules["fake"].before_step = lambda config, step: done.append(("fake", step))
    tenfold.modules["other"].before_step = interrupt_at(1)
    code, _, err = tenfold("tour", "--only", "fake,other")
    assert code == 130
    assert err.splitlines()[-1] == "interrupted; go on with: tenfold tour --only fake,other"
    (folder,) = (tenfold.runs / "tour").iterdir()
    assert "not run to its end yet" in (folder / "tour.html").read_text()

    tenfold.modules["other"].before_step = lambda config, step: done.append(("other", step))
    code, out, _ = tenfold("tour", "--only", "fake,other")
    assert code == 0
    assert "[1/2] fake: done before" in out
    assert done == [("fake", 0), ("fake", 1), ("fake", 2), ("other", 1), ("other", 2)]
    assert list((tenfold.runs / "tour").iterdir()) == [folder]
    assert len(list((folder / "other").iterdir())) == 1

    tenfold("tour", "--only", "fake,other")  # that one has ended: a new one begins
    assert len(list((tenfold.runs / "tour").iterdir())) == 2


def test_a_tour_of_other_recipes_or_a_new_one_does_not_go_on(tenfold: Desk) -> None:
    tenfold.modules["fake"].before_step = interrupt_at(1)
    tenfold("tour")
    tenfold("tour", "--only", "other")
    tenfold("tour", "--new")
    assert len(list((tenfold.runs / "tour").iterdir())) == 3


@pytest.mark.parametrize("state", ["{}", "[]", "{", '{"recipes": ["fake", "other"], "runs": 3}'])
def test_a_tour_whose_state_cannot_be_read_is_passed_over(tenfold: Desk, state: str) -> None:
    tenfold.modules["fake"].before_step = interrupt_at(1)
    tenfold("tour")
    (unfinished,) = (tenfold.runs / "tour").iterdir()
    (tenfold.runs / "tour" / "99999999-foreign").mkdir()
    (tenfold.runs / "tour" / "99999999-foreign" / "tour.json").write_text(state)
    tenfold.modules["fake"].before_step = lambda config, step: None
    code, out, err = tenfold("tour")
    assert (code, err) == (0, "")
    assert f"going on with the tour in {unfinished}" in out


def test_one_failing_recipe_does_not_end_the_tour(tenfold: Desk) -> None:
    def fail(config: object, step: int) -> None:
        raise RuntimeError("it <broke>")

    tenfold.modules["fake"].before_step = fail
    code, out, err = tenfold("tour")
    assert code == 1
    page = Path(out.splitlines()[-1])
    assert err == f"error: fake: RuntimeError: it <broke> (traceback: {page.parent / 'fake.error.txt'})\n"
    assert "it &lt;broke&gt;" in page.read_text()
    assert "[2/2] other: done, 1 of 1 figures ahead" in out

    tenfold.modules["fake"].before_step = lambda config, step: None
    code, out, _ = tenfold("tour")  # tries only what failed
    assert code == 0
    assert "[2/2] other: done before" in out


def test_data_and_models_are_listed_and_fetched(tenfold: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = types.SimpleNamespace(
        name="poems", what="poems", size="3 kB", licence="CC0", source="https://example.org", present=True
    )
    asked: list[tuple[str, bool]] = []

    def get(name: str, *, force: bool = False, progress: bool = False) -> Path:
        asked.append((name, force))
        return Path("/somewhere") / name

    for module, listing in (("tenfold.core.data", "list_datasets"), ("tenfold.lm.pretrained", "list_models")):
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{listing: lambda: [entry], "get": get}))
    for what in ("data", "models"):
        assert tenfold(what, "list")[1].splitlines()[1].split() == [
            *("poems", "here", "3", "kB", "CC0", "poems", "https://example.org")
        ]
        assert tenfold(what, "get", "poems")[:2] == (0, "/somewhere/poems\n")
        assert tenfold(what, "get", "poems", "--force")[0] == 0
    assert asked == [("poems", False), ("poems", True)] * 2


def test_data_list_names_the_groups(tenfold: Desk) -> None:
    lines = tenfold("data", "list")[1].splitlines()
    assert [line.split(":")[0].strip() for line in lines[-3:]] == ["novels", "gsm8k", "evaluation"]


def test_other_ranks_keep_quiet_about_the_users_mistake_but_not_about_their_own(
    tenfold: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        """Fail."""
        raise RuntimeError("lost a device")

    tenfold.modules["fake"].VERBS["fail"] = fail
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert tenfold("fake", "trian")[::2] == (2, "")
    line = "error: rank 3: RuntimeError: lost a device (--debug shows the traceback)\n"
    assert tenfold("fake", "fail")[::2] == (1, line)


# In processes of their own.


def command(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tenfold.cli", *argv], capture_output=True, text=True, **options)


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    assert command("--version").returncode == 0
    wrong = command("moe-vs-dens", cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown command 'moe-vs-dens' (did you mean moe-vs-dense?) (see tenfold --help)\n"


def test_list_imports_neither_torch_nor_a_recipe() -> None:
    script = "import sys; from tenfold.cli import main; main(['list']); sys.exit(str([*sys.modules]))"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stderr
    assert "'tenfold.cli.show'" in modules
    for heavy in ("'torch'", "'tyro'", "'matplotlib'", "'numpy'", "'tenfold.recipes.moe_vs_dense'"):
        assert heavy not in modules


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = f"{sys.executable} -m tenfold.cli list | true"
    assert subprocess.run(script, shell=True, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_a_process_stopped_in_the_middle_can_go_on(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "tiny_recipe.py").write_text(TINY_RECIPE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TENFOLD_RUNS": str(tmp_path / "runs")}
    start = [sys.executable, "-c", RUN_IT, "fake", "train"]
    stopped = subprocess.Popen([*start, "--pause", "0.2", "--steps", "30"], env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("runs/fake/*/stages/step-1.json")):
        assert stopped.poll() is None
        time.sleep(0.02)
    stopped.send_signal(how)
    _, err = stopped.communicate()
    (run,) = (tmp_path / "runs/fake").iterdir()
    if how == signal.SIGINT:
        assert stopped.returncode == 130
        assert err.decode() == f"\ninterrupted; go on with: tenfold fake train --resume {run}\n"
    (run / "config.json").write_text((run / "config.json").read_text().replace("0.2", "0.0"))  # no need to wait
    again = subprocess.run([*start, "--resume", str(run)], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(30))
    assert len(steps) <= 31  # a step killed between its row and its stage is taken again


def test_ctrl_c_while_a_recipe_is_imported_is_not_swallowed(tmp_path: Path) -> None:
    (tmp_path / "tiny_recipe.py").write_text(
        "import time, pathlib\npathlib.Path('importing').touch()\n"
        "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"
        + TINY_RECIPE.replace("from __future__ import annotations", "")
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    start = [sys.executable, "-c", RUN_IT, "fake", "train"]
    process = subprocess.Popen(start, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "importing").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_under_torchrun_two_processes_share_one_run(tmp_path: Path) -> None:
    (tmp_path / "tiny_recipe.py").write_text(TINY_RECIPE)
    (tmp_path / "start.py").write_text(RUN_IT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TENFOLD_RUNS": str(tmp_path / "runs")}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, str(tmp_path / "start.py"), "fake", "train"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/fake").iterdir()
    assert done.stdout.count("run: ") == 1
    assert done.stdout.count("report: ") == 1
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert "2 processes" in json.loads((run / "run.json").read_text())["machine"]


def test_the_resume_command_names_torchrun_where_it_ran(tenfold: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from tenfold.cli.recipe import resume_command

    run = Run.create("fake", "tiny", {})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    expected = f"torchrun --nproc-per-node 4 -m tenfold fake train --resume {run.path}"
    assert resume_command(registry.find("fake"), run) == expected


def test_a_claim_of_a_simulator_says_so(tenfold: Desk) -> None:
    from tenfold.cli.recipe import _claim_line

    claim = Claim("speed-up", 2.0, 1.0, "higher", (math.nan, math.nan), 1, "cost model", simulator=True)
    assert _claim_line(claim) == "  speed-up: 2 against 1 (one seed, ahead, simulator)"


@pytest.mark.parametrize(
    ("value", "better", "interval", "seeds", "verdict"),
    [
        (2.0, "lower", (math.nan, math.nan), 1, "one seed, behind"),
        (0.5, "higher", (math.nan, math.nan), 1, "one seed, behind"),
        (1.0, "higher", (math.nan, math.nan), 1, "one seed, even"),
        (2.0, "higher", (0.5, 1.5), 3, "holds"),
    ],
)
def test_a_claim_of_one_seed_says_on_which_side_it_is(
    value: float, better: Literal["higher", "lower"], interval: tuple[float, float], seeds: int, verdict: str
) -> None:
    from tenfold.cli.recipe import _claim_line

    claim = Claim("loss", value, 1.0, better, interval, seeds, "how")
    assert _claim_line(claim) == f"  loss: {value:.4g} against 1 ({verdict})"
