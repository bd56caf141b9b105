"""The recipe end to end at a size of seconds, its protocol by hand-made numbers, and its verbs."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tenfold.cli import main
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.moe_vs_dense import PRESETS, Config, train, training
from tenfold.recipes.moe_vs_dense.config import Budget, Data, Mesh
from tenfold.recipes.moe_vs_dense.experiment import dense_parameters, missed, plan_jobs
from tenfold.recipes.moe_vs_dense.findings import make_claims, step_time_at_loss
from tenfold.recipes.moe_vs_dense.training import Job


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of 4000 words in a fixed random order."""
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    words = [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "one",
        "more",
        "dog",
        "run",
        "far",
        "away",
        "from",
        "home",
    ]
    path = tmp_path / "words.txt"
    path.write_text(" ".join(random.Random(0).choices(words, k=4000)))
    return path


@pytest.fixture
def config(text: Path) -> Config:
    return Config(
        widths=(16, 32),
        layers=(2,),
        head_dim=(8,),
        families=("dense", "moe-half", "moe-top1"),
        seeds=(0, 1),
        data=Data(source="files", text=(text,), vocabulary=280, sequence=16, rows=4, validation_rows=8),
        budget=Budget(tokens_per_param=0.05, timing_steps=3, tolerance=1e9),
        eval_items=0,
        workers=1,
    )


def test_end_to_end_trains_every_family_under_both_protocols_and_reports(config: Config, tmp_path: Path) -> None:
    config = replace(config, profile=2)
    run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
    result = train(config, run)
    assert [claim.seeds for claim in result.claims] == [2] * 8  # two families: two widths, their mean, equal tokens
    table = json.loads((run.path / "tables" / "protocols.json").read_text())["rows"]
    assert [(row["model"], row["width"]) for row in table][:2] == [("dense", 16), ("MoE 8 half-width, top-2", 16)]
    assert all(row["loss, equal tokens"] and row["loss, equal seconds"] for row in table)
    names = {path.name for path in (run.path / "models").iterdir()}
    assert len(names) == 2 * 2 * 5  # widths x seeds x (3 at equal seconds + 2 at equal tokens)
    for name in ("trade-off", "learning", "expert load"):
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 5000
    (trace,) = (run.path / "profiles").iterdir()  # of the longest training alone
    assert len(json.loads(trace.read_text())["traceEvents"]) > 100
    shares = [row["mfu"] for row in run.rows("dense-32-seconds-seed0") if "mfu" in row]
    assert shares and all(0 < share < 1 for share in shares)
    report = (run.path / "report.html").read_text()
    assert "does not hold" in report or "holds" in report
    # What was trained opens as a model of its own, with the loss that the table holds.
    model = Decoder.from_pretrained(run.path / "models" / "moe-half-32-seconds-seed0")
    assert model.cfg.moe is not None and model.cfg.moe.num_experts == 8


def test_a_finished_job_is_not_trained_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense", "moe-half"))
    run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
    first = train(config, run)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("tenfold.recipes.moe_vs_dense.training.fit", refuse)
    second = train(config, Run.open(run.path))
    assert [c.value for c in second.claims] == [c.value for c in first.claims]


def test_two_workers_give_the_weights_of_one(config: Config, tmp_path: Path) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense", "moe-half"), protocols=("seconds", "tokens"))
    losses = []
    for workers in (1, 2):
        run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
        train(replace(config, workers=workers), run)
        losses.append(run.load_stage("dense-16-seconds-seed0") if workers == 1 else None)
        if workers == 2:
            losses[-1] = Run.open(run.path).load_stage("dense-16-seconds-seed0")
    assert losses[0]["loss"] == losses[1]["loss"]


def test_steps_are_the_budget_over_the_step_time(config: Config) -> None:
    config = replace(config, widths=(16,), seeds=(0,), budget=Budget(tokens_per_param=20.0))
    times = {16: {"dense": 0.010, "moe-half": 0.0125, "moe-top1": 0.010}}
    jobs = {job.run_name: job for job in plan_jobs(config, times, 280)}
    params = sum(p.numel() for p in Decoder(config.decoder("dense", 16, 280)).parameters())
    assert dense_parameters(config, 16, 280) == params
    dense = jobs["dense-16-seconds-seed0"]
    assert dense.steps == 20 * params // 64
    assert jobs["moe-half-16-seconds-seed0"].steps == int(
        dense.steps * 0.8 + 1e-9
    )  # 1.25 times the step, 0.8 of the steps
    assert jobs["moe-half-16-tokens-seed0"].steps == dense.steps
    assert jobs["moe-top1-16-seconds-seed0"].steps == dense.steps
    assert "dense-16-tokens-seed0" not in jobs  # one run serves both protocols


def test_a_budget_below_one_step_is_refused_in_one_line(config: Config) -> None:
    config = replace(config, budget=Budget(tokens_per_param=1e-6))
    with pytest.raises(UserError, match=r"budget at width 16: .*raise --budget.tokens-per-param") as caught:
        plan_jobs(config, {w: dict.fromkeys(config.families, 0.01) for w in config.widths}, 280)
    assert "\n" not in str(caught.value)


def test_a_miss_is_measured_against_the_dense_runs_of_the_same_width() -> None:
    dense = {"family": "dense", "width": 16, "protocol": "seconds", "seconds": 10.0}
    sparse = {"family": "moe-half", "width": 16, "protocol": "seconds", "seconds": 10.5}
    rows = {"a": dense, "b": {**dense, "seconds": 12.0}, "c": sparse, "d": {**dense, "width": 32, "seconds": 1.0}}
    assert missed(rows, sparse) == pytest.approx(10.5 / 11.0 - 1)
    assert missed(rows, dense) == 0.0
    assert missed(rows, {**sparse, "protocol": "tokens"}) == 0.0


def test_claims_are_paired_by_seed_and_fail_when_the_interval_crosses_zero(config: Config) -> None:
    config = replace(config, widths=(16,), families=("dense", "moe-half"), seeds=(0, 1, 2), protocols=("seconds",))

    def rows(dense: list[float], sparse: list[float]) -> list[dict]:
        return [
            {"family": family, "width": 16, "protocol": "seconds", "seed": seed, "loss": loss}
            for family, losses in (("dense", dense), ("moe-half", sparse))
            for seed, loss in enumerate(losses)
        ]

    (clear,) = make_claims(config, rows([3.0, 4.0, 5.0], [2.9, 3.89, 4.91]))  # far apart seeds, steady differences
    assert clear.holds is True and clear.margin == pytest.approx(-0.1)
    (unclear,) = make_claims(config, rows([3.0, 4.0, 5.0], [2.5, 4.2, 4.9]))
    assert unclear.holds is False
    (worse,) = make_claims(config, rows([3.0, 4.0, 5.0], [3.1, 4.1, 5.1]))
    assert worse.holds is False


def test_equal_loss_is_found_between_points_and_nowhere_else() -> None:
    curve = [(0.010, 4.0), (0.040, 3.0)]
    assert step_time_at_loss(curve, 3.5) == pytest.approx(0.020)  # halfway on a log scale
    assert step_time_at_loss(curve, 2.9) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "30"], "widths: got (30,), need multiples of head_dim (16,)"),
        (["--families", "moe-half"], "families: need dense"),
        (["--families", "dense", "nonsense"], "families: unknown nonsense"),
        (["--budget.tokens-per-param", "0"], "budget: tokens_per_param: got 0.0"),
        (["--data.source", "files"], "data: text: name files"),
        (["--data.source", "files", "--data.text", "absent.txt"], "text not found: absent.txt (see README: data)"),
        (["--seeds", "0", "0"], "seeds: got (0, 0)"),
        (["--widthz", "32"], "--widthz"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["moe-vs-dense", "train", "tiny", "--runs-dir", str(tmp_path), "--workers", "1", *arguments])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert message in error and "\n" not in error


def test_plan_prints_every_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moe-vs-dense", "plan", "--devices", "64"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("6.4B", "12.6B", "29.6B", "3.331"))


def test_eval_scores_a_checkpoint(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense",), protocols=("seconds",))
    run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
    train(config, run)
    rows = [{"id": str(i), "context": f"the cat {i}", "choices": ["sat", "dog"], "gold": i % 2} for i in range(6)]
    (tmp_path / "copa.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    folder = run.path / "models" / "dense-16-seconds-seed0"
    assert main(["moe-vs-dense", "eval", str(folder), "--tasks", "copa", "--data", str(tmp_path)]) == 0
    assert "copa" in capsys.readouterr().out
    assert main(["moe-vs-dense", "eval", str(tmp_path / "none")]) == 2
    assert "checkpoint not found" in capsys.readouterr().err


def test_two_processes_train_the_model_of_one(config: Config, tmp_path: Path) -> None:
    """The same recipe under torchrun, tokens and experts split over two ranks: same losses, same saved weights."""
    config = replace(config, widths=(16,), seeds=(0,), families=("dense", "moe-half"), protocols=("seconds",))
    options = ["--widths", "16", "--layers", "2", "--head-dim", "8", "--families", "dense", "moe-half", "--seeds", "0"]
    options += ["--protocols", "tokens", "seconds", "--data.source", "files", "--data.text", str(config.data.text[0])]
    options += ["--data.vocabulary", "280", "--data.sequence", "16", "--data.rows", "4", "--data.validation-rows", "8"]
    options += ["--budget.tokens-per-param", "0.05", "--budget.timing-steps", "2", "--budget.tolerance", "1e9"]
    options += ["--eval-items", "0", "--workers", "1"]
    losses = []
    for count, mesh in ((1, []), (2, ["--mesh.expert", "2"])):
        launcher = [sys.executable, "-m"] + (
            ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] * (count > 1)
        )
        command = [
            *launcher,
            "tenfold",
            "moe-vs-dense",
            "train",
            "tiny",
            "--runs-dir",
            str(tmp_path / f"r{count}"),
            *options,
            *mesh,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (folder,) = (tmp_path / f"r{count}" / "moe-vs-dense").iterdir()
        losses.append(Run.open(folder).load_stage("moe-half-16-tokens-seed0")["loss"])
        model = Decoder.from_pretrained(folder / "models" / "moe-half-16-tokens-seed0")
        losses.append(float(sum(p.double().square().sum() for p in model.parameters())))
    assert losses[0] == pytest.approx(losses[2], abs=1e-4)
    assert losses[1] == pytest.approx(losses[3], rel=1e-4)


def test_the_paper_preset_has_the_papers_sizes() -> None:
    config = PRESETS["paper"]
    for width, billions in zip(config.widths, (6.4, 12.6, 29.6), strict=True):
        params = dense_parameters(config, width, config.data.vocabulary)
        assert params / 1e9 == pytest.approx(billions, rel=0.01)
        moe = config.decoder("moe-256", width, config.data.vocabulary)
        assert moe.moe is not None and moe.moe.num_experts == 256 and moe.moe_every == 4
        assert moe.moe.num_experts % config.mesh.expert == 0 and moe.moe.hidden % config.mesh.model == 0
    assert config.mesh == Mesh(data=16, expert=16, model=4)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Workers that outlived it would write into the run that somebody resumes."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom tenfold.recipes.moe_vs_dense.jobs import run_jobs\n"
        "def job(folder, number):\n    (Path(folder) / f'worker{number}').write_text(str(os.getpid()))\n    time.sleep(300)\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(job, [(sys.argv[1], 0), (sys.argv[1], 1)], workers=2, expected_seconds=1, title='t')\n"
    )
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.DEVNULL)
    files = [tmp_path / f"worker{number}" for number in range(2)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(Path(f"/proc/{file.read_text()}").exists() for file in files))


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def test_turns_change_nothing_but_the_order(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense", "moe-half"), protocols=("seconds",))
    steps = {"dense": 30, "moe-half": 24}
    jobs = [Job(family, 16, 0, "seconds", steps[family], 0.01, 0.3) for family in config.families]
    losses, orders = [], []
    for turns in (1, 5):
        monkeypatch.setattr(training, "TURNS", turns)
        run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
        rows = training.train_together(config, str(run.path), jobs)
        losses.append([row["loss"] for row in rows])
        names = [row["model"] for row in run.rows()]
        orders.append(sum(a != b for a, b in itertools.pairwise(names)))
    assert losses[0] == losses[1]
    assert orders == [1, 9]  # one after the other; five turns of each
