from __future__ import annotations

import csv
import json
import math
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from tenfold.core.claims import Claim, Result
from tenfold.core.errors import UserError
from tenfold.core.run import Run


@dataclass(frozen=True)
class Config:
    dim: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create("moe-vs-dense", "tiny", Config(), tmp_path)


def claim(value: float = 1.0, **changes: object) -> Claim:
    fields = {"baseline": 1.5, "better": "lower", "ci95": (-0.7, -0.3), "seeds": 3, "how": "nats"} | changes
    return Claim("loss", value, **fields)


def lines(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_create_makes_a_new_folder_each_time(tmp_path: Path) -> None:
    first, second = (Run.create("abo", "tiny", Config(), tmp_path) for _ in range(2))
    assert first.path != second.path
    assert first.path.parent == second.path.parent == tmp_path / "abo"
    assert first.path.name.split("-")[2] == "tiny"
    assert json.loads((first.path / "config.json").read_text()) == {"dim": 8, "seeds": [0, 1, 2]} == first.config


def test_runs_dir_comes_from_the_argument_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENFOLD_RUNS", str(tmp_path / "env"))
    assert Run.create("abo", "tiny", {}, tmp_path / "arg").path.parent == tmp_path / "arg" / "abo"
    assert Run.create("abo", "tiny", {}).path.parent == tmp_path / "env" / "abo"
    monkeypatch.delenv("TENFOLD_RUNS")
    assert Run.create("abo", "tiny", {}).path.parent == Path("runs/abo")


def test_open_gives_back_what_create_was_given(run: Run) -> None:
    again = Run.open(run.path)
    assert (again.recipe, again.preset, again.config) == ("moe-vs-dense", "tiny", run.config)
    assert not again.finished


@pytest.mark.parametrize(("make", "message"), [(False, "no such run: "), (True, "not a run folder .*no run.json")])
def test_open_refuses_what_is_no_run(tmp_path: Path, make: bool, message: str) -> None:
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=message):
        Run.open(tmp_path / "x")


def test_log_appends_rows_that_open_can_read(run: Run) -> None:
    run.log(0, loss=torch.tensor(2.5), note="NaN")
    run.log(1, model="dense", loss=math.nan)
    run.close()
    Run.open(run.path).log(2, loss=1)
    first, second, third = lines(run)
    assert first == {"step": 0, "loss": 2.5, "note": "NaN"}
    assert second == {"step": 1, "model": "dense", "loss": {"$float": "NaN"}}  # strict JSON has no NaN
    assert third == {"step": 2, "loss": 1}
    assert math.isnan(run.rows("dense")[0]["loss"])
    assert run.rows()[0]["note"] == "NaN"
    assert len(run.rows()) == 3


def test_a_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_row(run: Run) -> None:
    run.log(0, loss=1.0)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "lo')
    assert [row["step"] for row in run.rows()] == [0]
    Run.open(run.path).log(1, loss=0.5)
    assert [row["loss"] for row in lines(run)] == [1.0, 0.5]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(run: Run) -> None:
    (run.path / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not JSON"):
        run.rows()


def test_rewind_drops_rows_past_the_checkpoint_of_that_model_only(run: Run) -> None:
    for step in range(4):
        run.log(step, loss=step)
        run.log(step, model="dense", loss=step)
        run.log(step, model="moe", loss=step)
    run.rewind(1, "dense")
    assert [row["step"] for row in run.rows("dense")] == [0, 1]
    assert len(run.rows("moe")) == 4
    assert len(run.rows()) == 10
    run.rewind(2)
    assert len(run.rows()) == 9  # only the row without a model
    run.log(2, model="dense", loss=9)
    assert [row["loss"] for row in run.rows("dense")] == [0, 1, 9]


def test_tensorboard_gets_the_numbers_and_forgets_rewound_steps(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step in range(4):
        run.log(step, model="dense", loss=float(step), note="NaN")  # text is no curve
    run.rewind(1, "dense")
    run.log(2, model="dense", loss=20.0)
    run.close()
    events = EventAccumulator(str(run.path / "tensorboard" / "dense")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 0.0), (1, 1.0), (2, 20.0)]


def work(path: Path, name: str) -> None:
    run = Run.open(path)
    for step in range(50):
        run.log(step, model=name, loss=step)
    run.rewind(39, name)
    run.save_stage(name, {"name": name})


def test_workers_of_one_run_lose_no_rows_and_their_stages_are_seen(run: Run) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(run.path, name)) for name in ("a", "b", "c")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(run.rows(name)) for name in ("a", "b", "c")] == [40, 40, 40]
    assert run.load_stage("b") == {"name": "b"}


def test_stages_survive_and_read_the_same_before_and_after_a_resume(run: Run) -> None:
    assert not run.done("dense-0")
    with pytest.raises(KeyError, match="dense-0"):
        run.load_stage("dense-0")
    run.save_stage("dense-0", {"loss": math.inf, "shape": (1, 2), "answer": "Infinity"})
    again = Run.open(run.path)
    for each in (run, again):
        assert each.done("dense-0")
        assert each.load_stage("dense-0") == {"loss": math.inf, "shape": [1, 2], "answer": "Infinity"}
    assert run.stage("dense-0") == run.path / "stages" / "dense-0.json"


@pytest.mark.parametrize("name", ["", "a/b", "..", "../up", ".hidden", "a\nb", "x" * 121])
def test_names_that_would_leave_the_folder_are_refused(run: Run, name: str) -> None:
    for act in (run.stage, run.done, lambda name: run.text(name, "x"), lambda name: run.table(name, [])):
        with pytest.raises(ValueError, match="name: got"):
            act(name)


def test_figure_saves_png_at_150_dpi_and_svg(run: Run) -> None:
    figure = Figure(figsize=(4, 3))
    figure.add_subplot().plot([0, 1])
    run.figure("curve", fig=figure, caption="a line")
    png = (run.path / "figures" / "curve.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    width = int.from_bytes(png[16:20], "big")
    assert 300 < width <= 4 * 150 + 60  # tight to its contents
    assert b"<svg" in (run.path / "figures" / "curve.svg").read_bytes()


def test_table_is_json_and_csv(run: Run) -> None:
    run.table("models", [{"model": "dense", "loss": 1.5}, {"model": "a, b", "extra": None, "loss": math.nan}], note="n")
    data = json.loads((run.path / "tables" / "models.json").read_text())
    assert data["columns"] == ["model", "loss", "extra"]
    assert data["rows"][0] == {"model": "dense", "loss": 1.5}
    with open(run.path / "tables" / "models.csv", newline="") as file:
        assert list(csv.reader(file)) == [["model", "loss", "extra"], ["dense", "1.5", ""], ["a, b", "nan", ""]]


def test_finish_writes_result_and_report(run: Run) -> None:
    run.claim(claim())
    result = run.finish()
    data = json.loads((run.path / "result.json").read_text())
    assert set(data) == {"recipe", "preset", "seed", "versions", "seconds", "claims"}
    assert data["seed"] == [0, 1, 2]
    assert data["versions"]["torch"] == torch.__version__
    assert data["claims"][0]["holds"] is True
    assert Result.from_json(data) == result
    assert Run.open(run.path).finished
    assert "moe-vs-dense" in (run.path / "report.html").read_text()


def test_finishing_again_after_a_resume_replaces_claims_by_name(run: Run) -> None:
    run.claim(claim(1.0))
    run.finish()
    again = Run.open(run.path)
    again.claim(claim(1.2))
    assert [each.value for each in again.finish().claims] == [1.2]


def test_seconds_add_up_over_resumes_but_not_over_the_pause_between(tmp_path: Path) -> None:
    clock = Clock()
    run = Run.create("abo", "tiny", {"seed": 3}, tmp_path, clock=clock)
    clock.now += 10
    run.close()
    clock.now += 1000
    again = Run.open(run.path, clock=clock)
    clock.now += 5
    result = again.finish()
    assert result.seconds == 15
    assert result.seed == 3


def test_seconds_survive_a_kill_to_within_the_last_save(tmp_path: Path) -> None:
    clock = Clock()
    run = Run.create("abo", "tiny", {}, tmp_path, clock=clock)
    for step in range(10):
        clock.now += 3
        run.log(step, loss=0)
    assert 24 <= Run.open(run.path, clock=clock).seconds <= 30  # never closed


def test_a_worker_that_began_late_does_not_shorten_the_runs_seconds(tmp_path: Path) -> None:
    clock = Clock()
    run = Run.create("abo", "tiny", {}, tmp_path, clock=clock)
    worker = Run.open(run.path, clock=clock)
    clock.now += 60
    run.save_stage("parent")
    late = Run.open(run.path, clock=Clock())
    worker._start += 50  # as if it had begun 50 seconds after its parent
    worker.save_stage("child")
    assert late.seconds == Run.open(run.path, clock=clock).seconds == 60


def test_other_ranks_write_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
    other = Run.open(run.path)
    other.log(0, loss=1)
    other.save_stage("a", 1)
    other.text("summary", "x")
    other.table("t", [{"a": 1}])
    other.figure("f", Figure())
    other.claim(claim())
    result = other.finish()
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == before
    assert other.load_stage("a") == 1  # but knows what it has done
    assert result.claims == (claim(),)


@pytest.mark.parametrize(
    "program",
    ["/home/a/.venv/bin/tenfold", "/home/a/src/tenfold/cli/__main__.py", "/a/src/tenfold/__main__.py", "tenfold"],
)
def test_the_command_is_kept_without_where_the_program_lies(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "afm", "train", "--text", "a b"])
    assert Run.create("afm", "tiny", {}, tmp_path).about["command"] == "tenfold afm train --text 'a b'"
