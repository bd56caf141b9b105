"""The recipe end to end at a size of seconds, its protocol by hand-made numbers, and its verbs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.cli import main
from tenfold.core.claims import Claim
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.moe_vs_dense import PRESETS, Config, train, training
from tenfold.recipes.moe_vs_dense.config import FAMILIES, Budget, Data, Mesh
from tenfold.recipes.moe_vs_dense.experiment import dense_parameters, missed, plan_jobs
from tenfold.recipes.moe_vs_dense.figures import learning_figure, trade_off_figure
from tenfold.recipes.moe_vs_dense.findings import make_claims, protocol_table, score_table, step_time_at_loss, summary
from tenfold.recipes.moe_vs_dense.training import Job


@pytest.fixture
def text(words_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short text; nothing is cached outside the test."""
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return words_file


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
    claims = json.loads((run.path / "result.json").read_text())["claims"]
    assert claims and all(f">{Claim.from_json(claim).verdict}</span>" in report for claim in claims)
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


def rows_of(config: Config) -> list[dict[str, Any]]:
    """A row for every model that `config` trains, with made-up figures and no scores."""
    return [
        {
            "name": f"{family}-{width}-{protocol}-{seed}",
            "family": family,
            "width": width,
            "seed": seed,
            "protocol": protocol,
            "step_s": {"dense": 0.02, "dense-wide": 0.04}.get(family, 0.03),
            "loss": 4.0 + 0.01 * seed,
            "bits_per_byte": 2.0,
            "budget_s": 1.0,
            "seconds": 1.0,
            "tokens": 100,
            "params_total": 10,
            "params_active": 10,
            "load_entropy": 0.9,
            "scores": {},
        }
        for family, width, seed, protocol in itertools.product(
            config.families, config.widths, config.seeds, config.protocols
        )
        if protocol == "seconds" or FAMILIES[family].same_active
    ]


def test_both_panels_of_the_trade_off_have_one_range_and_their_ticks(config: Config) -> None:
    config = replace(config, families=(*config.families, "dense-wide"))  # in the left panel alone
    left, right = trade_off_figure(config, rows_of(config)).axes
    assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
    for axes in (left, right):
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 3
        assert axes.yaxis.get_tick_params()["labelleft"]


@pytest.mark.parametrize(("seeds", "bars"), [((0,), False), ((0, 1), True)])
def test_only_several_seeds_draw_bars(config: Config, seeds: tuple[int, ...], bars: bool) -> None:
    config = replace(config, seeds=seeds)
    (axes, _) = trade_off_figure(config, rows_of(config)).axes
    assert [container.has_yerr for container in axes.containers] == [bars] * 3


def test_the_learning_curve_is_calm_where_the_loss_is_flat(config: Config, tmp_path: Path) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense",), protocols=("seconds",))
    run = Run.create("moe-vs-dense", "tiny", config, tmp_path)
    rows = rows_of(config)
    for step in range(50):
        run.log(step, model=rows[0]["name"], ce=max(3.0, 7.0 - 0.5 * step) + 0.2 * (-1) ** step)
    (axes,) = learning_figure(config, run, rows).axes
    (line,) = axes.lines
    assert list(line.get_xdata())[-1] == pytest.approx(49 * rows[0]["step_s"])
    drawn = [float(value) for value in line.get_ydata()]
    assert drawn[0] == pytest.approx(7.2)
    assert drawn[-10:] == pytest.approx([3.0] * 10, abs=0.02)


def test_the_losses_stand_beside_the_model(config: Config) -> None:
    table = protocol_table(config, rows_of(config))
    assert list(table[1])[:4] == ["model", "width", "loss, equal seconds", "loss, equal tokens"]
    assert table[1]["step time / dense"] == pytest.approx(1.5)


def test_tasks_without_a_score_stand_together_by_their_reason(config: Config) -> None:
    config = replace(config, families=("dense", "moe-half"))
    rows = rows_of(config)
    for row in rows:
        row["scores"] = {name: {"reason": "no data"} for name in ("arc_easy", "boolq", "hellaswag", "lambada")}
        row["scores"]["mmlu"] = {"reason": "5-shot prompts exceed 256 tokens"}
        row["scores"]["copa"] = {"acc": 0.5, "n": 60}
        row["scores"]["piqa"] = {"acc": 0.5 + 0.1 * row["seed"] * (row["family"] == "dense"), "n": 200}
    table = score_table(config, rows)
    assert all(list(line)[-1] == "why n/a" for line in table)
    lines = {line["task"]: line for line in table}
    assert lines["copa"]["dense"] == "50.0 (all seeds)" and lines["copa"]["items"] == 60
    assert lines["piqa"]["dense"].startswith("55.0 ± ") and lines["piqa"]["why n/a"] is None
    assert lines["arc_easy, boolq, lambada"]["why n/a"] == "no data; tenfold data get evaluation"
    assert lines["hellaswag"]["why n/a"] == "no data; bring your own in the folder TENFOLD_DATA"
    assert lines["mmlu"]["shots"] == "5" and lines["mmlu"]["dense"] == "n/a"
    names = [name for line in table for name in line["task"].split(", ")]
    assert len(names) == len(set(names)) == 15


@pytest.mark.parametrize(("widths", "said"), [((16,), "2 seeds, 1 width."), ((16, 32), "2 seeds, 2 widths.")])
def test_the_summary_counts_in_words(config: Config, widths: tuple[int, ...], said: str) -> None:
    config = replace(config, widths=widths)
    assert said in summary(config, rows_of(config), "words")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "30"], "--widths: got (30,), need multiples of head_dim (16,)"),
        (["--widths", "16", "16"], "--widths: got (16, 16), need ascending, all different"),
        (["--widths", "32", "16"], "--widths: got (32, 16), need ascending, all different"),
        (["--widths", "-16"], "--widths: got -16, need at least 1"),
        (["--widths", "0"], "--widths: got 0, need at least 1"),
        (["--widths"], "--widths: got none, need one or more"),
        (["--widths", "9" * 20], "--widths: got 99999999999999999999, need at least 1, at most 16777216"),
        (["--ffn", "-8"], "--ffn: got -8, need at least 1"),
        (["--load-balance", "nan"], "--load-balance: got nan, need at least 0"),
        (["--seeds", "-1"], "--seeds: got -1, need at least 0"),
        (["--families", "dense", "dense"], "--families: got ('dense', 'dense'), need all different"),
        (["--mesh.data", "-1"], "--mesh.data: got -1, need at least 1"),
        (["--mesh.data", "2"], "mesh: data x expert x model: got 2, need 1"),
        (["--optimizer.reference-width", "0"], "--optimizer.reference-width: got 0, need at least 1"),
        (["--optimizer.learning-rate", "nan"], "--optimizer.learning-rate: got nan, need more than 0"),
        (["--optimizer.warmup", "5"], "--optimizer.warmup: got 5.0, need at least 0, at most 1"),
        (["--budget.tokens-per-param", "1e300"], "--budget.tokens-per-param: got 1e+300, need more than 0, at most"),
        (["--budget.tokens-per-param", "nan"], "--budget.tokens-per-param: got nan, need more than 0"),
        (["--budget.tokens-per-param", "1e-9"], "raise --budget.tokens-per-param"),
        (["--data.vocabulary", "1"], "--data.vocabulary: got 1, need at least 272"),
        (["--data.source", "files", "--data.text", "."], "text: . is a folder; name files"),
        (["--families", "moe-half"], "--families: need dense"),
        (["--families", "dense", "nonsense"], "--families: unknown nonsense"),
        (["--budget.tokens-per-param", "0"], "--budget.tokens-per-param: got 0.0"),
        (["--data.source", "files"], "--data.text: name files"),
        (["--data.source", "files", "--data.text", "absent.txt"], "text not found: absent.txt (see README: data)"),
        (["--seeds", "0", "0"], "--seeds: got (0, 0)"),
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
    assert not list(tmp_path.iterdir())  # no dead run that would be the newest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("plan --shapes", "shapes: got none"),
        ("plan --batch-tokens -5", "batch_tokens: got -5, need at least 1"),
        ("plan --devices 0", "devices: got 0, need at least 1"),
        ("bench --tokens -1", "tokens: got -1, need at least 1"),
        ("bench --threads -3", "threads: got -3, need at least 0"),
        ("bench --experts", "experts: got none"),
        ("bench --top-k 9", "top_k: got 9, need at least 1, at most 8"),
        ("eval", "checkpoint: got none, need a folder, a .gguf file"),
        ("eval x --limit 0", "limit: got 0, need at least 1"),
    ],
)
def test_bad_arguments_of_verbs(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moe-vs-dense", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_damaged_stage_is_one_line_that_names_the_file(config: Config, tmp_path: Path) -> None:
    config = replace(config, widths=(16,), seeds=(0,), families=("dense",), protocols=("seconds",))
    run = Run.create("moe-vs-dense", "tiny", config, tmp_path / "runs")
    for name, field in (("dense-16-seconds-seed0", "'family'"), ("step-time-16", "'dense'")):
        run.save_stage("step-time-16", {"dense": 0.01})
        run.save_stage(name, {"a": 1})
        with pytest.raises(UserError, match=f"{name}.json: no {field}; delete the file"):
            train(config, run)


def test_ctrl_c_while_workers_start_is_quiet_and_ends_them(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom tenfold.core.jobs import run_jobs\n"
        "if __name__ == '__mp_main__':\n    Path(sys.argv[1], f'starting{os.getpid()}').touch()\n    time.sleep(1)\n"
        "def job(number):\n    time.sleep(300)\n"
        "if __name__ == '__main__':\n    try:\n"
        "        run_jobs(job, [(0,), (1,), (2,)], workers=2, expected_seconds=1, title='t')\n"
        "    except KeyboardInterrupt:\n        sys.exit(130)\n"
    )
    start = [sys.executable, str(script), str(tmp_path)]
    parent = subprocess.Popen(
        start, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: len(list(tmp_path.glob("starting*"))) == 2)
    os.killpg(parent.pid, signal.SIGINT)
    assert parent.communicate(timeout=60)[1] == ""
    assert parent.returncode == 130


def test_plan_prints_every_scale(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["moe-vs-dense", "plan", "--devices", "64"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("6.4B", "12.6B", "29.6B", "3.331"))
    # A pipe has no width to fold to: the longest lines stay whole.
    assert "sparse step in exposed communication, or by 0.618 of dense's MFU\n" in printed
    assert "one slot a token; this counts weight FLOPs alone" in printed


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
        "import os, sys, time\nfrom pathlib import Path\nfrom tenfold.core.jobs import run_jobs\n"
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
