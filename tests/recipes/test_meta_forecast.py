"""The experiment end to end at a size of seconds, killed and resumed; its settings, its measures and its claims."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file

from tenfold.clinical.binary_metrics import auc_roc
from tenfold.clinical.forecast_data import ForecastDataset
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.task_selection import AutoSelect, fit_mode
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.recipes.meta_forecast import EXPECTED, PRESETS, Config, train, training
from tenfold.recipes.meta_forecast.cohorts import build_cohort
from tenfold.recipes.meta_forecast.config import LEARNED, MODES, Data, Mode
from tenfold.recipes.meta_forecast.evaluation import by_seed, resampled_auc
from tenfold.recipes.meta_forecast.experiment import check, plan, transfer_plan
from tenfold.recipes.meta_forecast.findings import make_claims
from tenfold.recipes.meta_forecast.folder import read_model
from tenfold.recipes.meta_forecast.tables import gap_table, score_table, share_table, top_table
from tenfold.recipes.meta_forecast.training import Job, effective_size, finetuned, train_one

FEW = SelectConfig(rounds=2, inner_steps=2, head_steps=2, lookahead=2, batch_size=16, state_size=3, classifier_steps=5, save_every=1)  # fmt: skip


@pytest.fixture
def config() -> Config:
    return Config(
        mode=("pretrain", "first_order"),
        seed=(0,),
        data=Data(history=6, horizon=3, subjects=60, labelled=40, tested=50),
        simulated=FEW,
        workers=1,
        draws=2,
    )


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figures and tables, which take longer than such a training."""
    monkeypatch.setattr("tenfold.recipes.meta_forecast.reporting.report", lambda *_: None)


def train_in(folder: Path, config: Config) -> Run:
    run = Run.create("meta-forecast", "tiny", config, folder)
    train(config, run)
    return run


def files(run: Run, job: str, name: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((run.path / "models" / job).glob(f"*/{name}"))]


def test_end_to_end_trains_and_reports(config: Config, tmp_path: Path) -> None:
    modes: tuple[Mode, ...] = (
        "supervised",
        "logistic",
        "pretrain",
        "oracle_subset",
        "official_schedule",
        "first_order",
    )
    run = Run.create("meta-forecast", "tiny", config, tmp_path)
    result = train(replace(config, mode=modes, seed=(0, 1)), run)
    names = [claim.name for claim in result.claims]
    assert names[:2] == ["sim: weight on tasks 0 to 3 at least .6", "sim: weight on loud tasks at most .15"]
    assert names[2].startswith("sim: weight of r1 above every loud task's (loud") and names[4].startswith("sim: weight of sum ")  # fmt: skip
    assert names[5:] == [
        "sim: first order at least pretrain (all) + .10",
        "sim: first order at least supervised (same labels) + .02",
        "sim: first order at least .5 + .70 (oracle - .5)",
        "sim: first order at least pretrain (tasks 0 to 3) - .05",
    ]
    assert all(claim.simulator and claim.seeds == 2 and claim.holds is not None for claim in result.claims)
    figures = {file.stem for file in (run.path / "figures").glob("*.png") if file.stat().st_size > 5000}
    assert figures == {"sim scores", "sim weights", "sim differences"}
    rows = json.loads((run.path / "tables" / "sim, 100 pct of labels.json").read_text())["rows"]
    assert [(row["method"], row["encoder"]) for row in rows][:2] == [("AutoSelect, first order", "frozen"), ("AutoSelect, first order", "fine-tuned")]  # fmt: skip
    assert len(rows) == 2 * 4 + 2 + 1 and rows[-1]["method"] == "oracle"
    assert float(rows[-1]["AUC-ROC"].split()[0]) > 0.6
    planted = json.loads((run.path / "tables" / "sim, weights of planted tasks.json").read_text())["rows"]
    schedule = next(row for row in planted if "10 rounds" in row["method"])
    assert float(schedule["furthest from alike"].split()[0]) < 0.2
    assert "simulated subjects" in (run.path / "report.html").read_text()


@pytest.mark.usefixtures("no_report")
def test_every_mode_trains(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, replace(config, mode=MODES["sim"]))
    for mode in MODES["sim"]:
        row = run.load_stage(f"sim-{mode}-100pct-seed0")
        assert all(0 <= score["auc_roc"] <= 1 for score in row["scores"].values())
        uses = {"supervised": ["end_to_end"], "logistic": ["summaries"], "boosting": ["summaries"]}
        assert list(row["scores"]) == uses.get(mode, ["frozen", "finetuned"])


def test_the_artefacts_of_a_training(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, config)
    folder = run.path / "models" / "sim-first_order-100pct-seed0"
    assert {file.name for file in folder.iterdir()} == {"frozen", "finetuned", "metrics.json", "predictions.npz"}
    lines = (folder / "frozen" / "weights.csv").read_text().splitlines()
    assert lines[0] == "task,weight,round" and len(lines) == 1 + 3 * 16 and lines[1].startswith("r1,")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["scores"]["frozen"].keys() == {"auc_roc", "auc_pr", "brier", "ece"}
    assert metrics["labels"]["train"] == metrics["labels"]["valid"] == 40
    assert sum(metrics["weights"].values()) == pytest.approx(1, abs=1e-6)
    tensors = load_file(folder / "frozen" / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"encoder", "decoder", "head"}
    # What is kept is what was measured.
    cohort = build_cohort("sim", config, 0)
    test = cohort.data.batch(cohort.data.split()["test"])
    with np.load(folder / "predictions.npz") as kept:
        for use in ("frozen", "finetuned"):
            model = read_model(folder / use).model
            assert isinstance(model, AutoSelect)
            np.testing.assert_array_equal(model.predict_proba(test)[:, 1], kept[use])
            assert metrics["scores"][use]["auc_roc"] == auc_roc(kept["label"], kept[use])


@pytest.mark.usefixtures("no_report")
def test_fine_tuning_moves_the_encoder_and_leaves_the_frozen_one(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, replace(config, mode=("pretrain",)))
    folder = run.path / "models" / "sim-pretrain-100pct-seed0"
    frozen, tuned = (load_file(folder / use / "model.safetensors") for use in ("frozen", "finetuned"))
    assert torch.equal(frozen["decoder.out.weight"], tuned["decoder.out.weight"])
    assert not torch.equal(frozen["encoder.lstm.weight_ih_l0"], tuned["encoder.lstm.weight_ih_l0"])
    cohort = build_cohort("sim", config, 0)
    _, settings = config.settings("sim", "pretrain", "outcome", 100.0, 0)
    direct = fit_mode("pretrain", cohort.data, replace(settings, freeze_encoder=False))
    assert direct.metrics == run.load_stage("sim-pretrain-100pct-seed0")["scores"]["finetuned"]


class Guarded(ForecastDataset):
    """Raises where a label is read that is neither permitted nor of the test part."""

    permitted: frozenset[int] = frozenset()

    def labelled(self, *args: Any, **kw: Any) -> NDArray[np.int64]:
        rows = super().labelled(*args, **kw)
        object.__setattr__(self, "permitted", self.permitted | set(rows.tolist()))
        return rows

    def batch(self, rows: ArrayLike | None = None, target: str | None = None) -> dict[str, torch.Tensor]:
        if target is not None:
            assert set(np.asarray(rows).tolist()) <= self.permitted
        return super().batch(rows, target)


@pytest.mark.parametrize("outer", ["subsampled", "full"])
def test_fine_tuning_reads_the_labels_that_were_permitted(outer: Any) -> None:
    data = PlantedForecast(history=6, horizon=3).sample(100, 80, 40, labelled=60, seed=0)
    guarded = Guarded(**{field.name: getattr(data, field.name) for field in fields(data)})
    settings = replace(FEW, target="outcome", label_percent=40, outer_labels=outer)
    estimator = fit_mode("pretrain", data, settings).estimator
    assert estimator is not None
    if outer == "full":
        with pytest.raises(AssertionError):  # validation labels beyond the share, which "full" reads by its name
            finetuned(guarded, settings, estimator)
        object.__setattr__(guarded, "permitted", guarded.permitted | set(data.split()["valid"].tolist()))
    finetuned(guarded, settings, estimator)
    assert 20 <= len(guarded.permitted) < 140


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


@pytest.mark.usefixtures("no_report")
def test_killed_and_resumed_gives_the_weights_of_one_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, mode=("first_order", "top_k_of_weights", "supervised"), simulated=replace(FEW, rounds=4))
    whole = train_in(tmp_path, config)
    run = Run.create("meta-forecast", "tiny", config, tmp_path)
    plain_log, plain_finish = training.JobFolder.log, AutoSelect._finish
    names = [job.name for job in plan(config)]
    killed: set[str] = set()

    def log_until_killed(self: training.JobFolder, step: int, **metrics: Any) -> None:
        plain_log(self, step, **metrics)
        if (key := f"{self.name}-{metrics['model']}") not in killed and metrics["round"] == 2:
            killed.add(key)
            raise Killed

    def finish_until_killed(self: AutoSelect, labels: Any, mode: Any) -> None:
        if mode not in killed:
            killed.add(mode)
            raise Killed
        plain_finish(self, labels, mode)

    monkeypatch.setattr(training.JobFolder, "log", log_until_killed)
    monkeypatch.setattr(AutoSelect, "_finish", finish_until_killed)
    attempts = 0
    while attempts < 20:
        attempts += 1
        try:
            train(config, Run.open(run.path))
            break
        except Killed:
            continue
    assert killed >= {
        f"{names[0]}-pretraining",
        f"{names[1]}-selection",
        "autoselect",
        "top_k_of_weights",
        "supervised",
    }
    assert attempts == len(killed) + 1
    for name in names:
        for file in ("model.safetensors", "weights.csv"):
            assert files(run, name, file) == files(whole, name, file) != []
        ours, theirs = (each.load_stage(name) for each in (run, whole))
        assert ours["scores"] == theirs["scores"] and ours["weights"] == theirs["weights"]
        assert not (run.path / "models" / name / "checkpoints").exists()
    kept, expected = ([(row["model"], row["step"], row["loss"]) for row in each.rows()] for each in (run, whole))
    assert kept == expected


@pytest.mark.usefixtures("no_report")
def test_a_finished_job_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_in(tmp_path, config)
    rows: list[Any] = []
    monkeypatch.setattr("tenfold.recipes.meta_forecast.reporting.report", lambda _c, _run, given: rows.extend(given))
    monkeypatch.setattr(training, "fit_mode", None)
    train(config, Run.open(run.path))
    assert [row["mode"] for row in rows] == ["pretrain", "first_order", "oracle"]
    assert rows[1] == run.load_stage("sim-first_order-100pct-seed0")


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_jobs_side_by_side_give_the_weights_of_one_process(config: Config, tmp_path: Path) -> None:
    alone, together = (train_in(tmp_path, replace(config, workers=workers)) for workers in (1, 2))
    for job in plan(config):
        assert files(alone, job.name, "model.safetensors") == files(together, job.name, "model.safetensors")


@pytest.mark.usefixtures("no_report")
def test_the_seed_decides(config: Config, tmp_path: Path) -> None:
    first, again = (train_in(tmp_path, replace(config, seed=(0, 1), mode=("first_order",))) for _ in range(2))
    names = [f"sim-first_order-100pct-seed{seed}" for seed in (0, 1)]
    assert [files(first, name, "weights.csv") for name in names] == [
        files(again, name, "weights.csv") for name in names
    ]
    assert files(first, names[0], "weights.csv") != files(first, names[1], "weights.csv")
    data = [build_cohort("sim", config, seed).data for seed in (0, 1)]
    assert not np.array_equal(data[0].x, data[1].x)


@pytest.mark.usefixtures("no_report")
def test_weights_of_another_run_can_be_given(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, config)
    learned = run.load_stage("sim-first_order-100pct-seed0")["weights"]
    folder = run.path / "models" / "sim-first_order-100pct-seed0" / "frozen"
    for number, source in enumerate((run.path, folder, folder / "weights.csv")):
        given = replace(config, mode=("given_weights",), transfer_from=source)
        check(given)
        row = train_in(tmp_path / str(number), given).load_stage("sim-given_weights-100pct-seed0")
        assert row["weights"] == pytest.approx(learned, abs=1e-6)
    (tmp_path / "w.csv").write_text("task,weight,round\nHR,1.0,0\n")
    with pytest.raises(UserError, match="weighs other variables than those of sim"):
        check(replace(config, mode=("given_weights",), transfer_from=tmp_path / "w.csv"))


# Settings.


def test_every_mode_is_a_mode_of_the_library(config: Config) -> None:
    config = replace(config, simulated=replace(FEW, include=(0,), rounds=60, inner_steps=4), seed=(0,))
    named = {mode: config.settings("sim", mode, "outcome", 10.0, 7) for mode in get_args(Mode)}
    assert all(s.label_percent == 10.0 and s.seed == 7 and s.target == "outcome" for _, s in named.values())
    assert {mode for mode, (kind, _) in named.items() if kind == "autoselect"} == set(LEARNED)
    assert named["unrolled"][1].hypergradient == "unrolled"
    assert named["oracle_subset"][0] == "pretrain_subset" and named["oracle_subset"][1].include == (0, 1, 2, 3)
    assert named["first_order_unscaled"][1].task_scale == "none" != named["first_order"][1].task_scale
    official = named["official_schedule"][1]
    assert (official.hypergradient, official.rounds, official.lr_weights) == ("official_approx", 10, 0.01)
    assert official.total_steps == named["first_order"][1].total_steps == 240


def test_presets_say_what_they_are() -> None:
    assert EXPECTED.keys() == PRESETS.keys() and all(EXPECTED.values())
    laptop = PRESETS["laptop"]
    assert laptop.cohort == ("sim", "death48") and len(laptop.seed) == 5 and laptop.transfer_to == ("long_stay",)
    assert set(laptop.percents("death48")) >= {100, 10, 1} and "boosting" in laptop.modes("death48")
    paper = PRESETS["paper"].select
    assert (paper.inner_steps, paper.head_steps, paper.rounds, paper.state_size) == (300, 300, 10, 10)
    assert (paper.lr_unsupervised, paper.lr_weights, paper.batch_size) == (1e-3, 1e-2, 32)
    for preset in PRESETS.values():
        assert from_json(Config, json.loads(json.dumps(to_json(preset)))) == preset


def test_several_processes_are_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    check(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start it without torchrun"):
        check(config)


def test_names_of_jobs() -> None:
    assert Job("sim", "first_order", 0.5, 2).name == "sim-first_order-0.5pct-seed2"
    assert Job("sim", "first_order", 50.0, 2).name == "sim-first_order-50pct-seed2"
    assert Job("sim", "first_order", 50.00001, 2).name == "sim-first_order-50.00001pct-seed2"
    config = replace(PRESETS["laptop"], seed=(0,), label_percent=(1.0,), mode=("first_order",), draws=2)
    assert [job.name for job in transfer_plan(config)] == [
        *(f"death48-long_stay-{mode}-1pct-seed0" for mode in ("supervised", "pretrain", "first_order")),
        *(f"death48-long_stay-{mode}-1pct-seed0" for mode in ("transferred", "draw0", "draw1")),
    ]
    names = [job.name for job in (*plan(PRESETS["laptop"]), *transfer_plan(PRESETS["laptop"]))]
    assert len(set(names)) == len(names)


# Measures.


def test_effective_size_counts_tasks_that_matter() -> None:
    assert effective_size({"a": 1.0, "b": 0.0}) == 1
    assert effective_size(dict.fromkeys("abcde", 0.2)) == 5
    assert effective_size({"a": 0.5, "b": 0.4, "c": 0.1}) == 3  # exp(0.943) = 2.57


def test_auc_of_resamples_is_that_of_repeated_subjects() -> None:
    rng = np.random.default_rng(0)
    label, score = rng.random(30) < 0.4, rng.integers(0, 8, 30) / 8  # with ties
    drawn = rng.integers(0, 30, size=(6, 30))
    weight = np.stack([np.bincount(rows, minlength=30) for rows in drawn]).astype(np.float32)
    expected = [auc_roc(label[rows], score[rows]) for rows in drawn]
    np.testing.assert_allclose(resampled_auc(label, score, weight), expected)
    only = np.zeros((1, 30), np.float32)
    only[0, np.flatnonzero(label)[0]] = 30
    assert np.isnan(resampled_auc(label, score, only)).all()


def row_of(
    mode: str, seed: int, auc: float, percent: float = 100.0, target: str = "hospital_death", **more: Any
) -> Any:
    use = {"supervised": "end_to_end", "logistic": "summaries", "oracle": "law"}.get(mode)
    scores = {use or each: {"auc_roc": auc, "auc_pr": auc, "brier": 0.1, "ece": 0.1} for each in ([use] if use else ["frozen", "finetuned"])}  # fmt: skip
    return {"name": f"{mode}{seed}", "cohort": "death48", "mode": mode, "seed": seed, "percent": percent, "target": target,
            "scores": scores, "weights": {}, "labels": {"train": 10, "valid": 5}, **more}  # fmt: skip


def test_claims_pair_the_seeds_and_lay_the_bar() -> None:
    config = Config(cohort=("death48",), seed=(0, 1, 2))
    rows = [row_of(mode, seed, auc + 0.01 * seed, percent)
            for mode, auc in (("first_order", 0.76), ("pretrain", 0.76), ("supervised", 0.735), ("logistic", 0.775))
            for percent in (100.0, 10.0, 1.0) for seed in (2, 0, 1)]  # fmt: skip
    claims = {claim.name: claim for claim in make_claims(config, rows)}
    bar = claims["death48: first order (frozen), 1 % of labels, at least supervised + 0.02"]
    assert bar.value == pytest.approx(0.77) and bar.baseline == pytest.approx(0.765) and bar.holds
    assert "the rival has 0.7450" in bar.how  # which no reader should have to compute from the bar
    assert claims["death48: first order (fine-tuned), 10 % of labels, at least pretrain (all) - .005"].holds
    assert not claims["death48: supervised LSTM at least .76, 100 % of labels"].holds
    best = claims["death48: first order (frozen), 100 % of labels, within .01 of the best other mode (logistic regression)"]  # fmt: skip
    assert best.margin == pytest.approx(0.77 - 0.785 + 0.01) and not best.holds
    assert any(name.startswith("death48: best network (AutoSelect, first order") for name in claims)
    assert not any(claim.simulator for claim in claims.values()) and len(claims) == 1 + 2 * 5 + 1


def test_transfers_are_held_against_the_mean_of_the_draws() -> None:
    config = Config(cohort=("death48",), seed=(0, 1), transfer_to=("long_stay",))
    rows = [row_of("first_order", seed, 0.7) for seed in (0, 1)]
    for seed in (0, 1):
        rows += [row_of("transferred", seed, 0.7 + seed / 100, target="long_stay")]
        rows += [row_of("random_draw", seed, auc, target="long_stay") for auc in (0.6, 0.7)]
    (claim, _) = [claim for claim in make_claims(config, rows) if "long_stay" in claim.name]
    assert claim.value == pytest.approx(0.705) and claim.baseline == pytest.approx(0.65)
    assert by_seed([row for row in rows if row["mode"] == "random_draw"], "frozen") == pytest.approx([0.65, 0.65])


def test_weights_are_held_against_the_loudest_task() -> None:
    names = PlantedForecast().features
    rows = []
    for seed in (0, 1):
        weights = dict.fromkeys(names, 0.01)
        weights |= {"r1": 0.3, "r2": 0.2, "sum": 0.05 + seed / 1000, "loud2": 0.06, "loud1": 0.1 * seed}
        rows.append(row_of("first_order", seed, 0.8, target="outcome") | {"cohort": "sim", "weights": weights})
    claims = {claim.name: claim for claim in make_claims(Config(seed=(0, 1)), rows)}
    assert claims["sim: weight on tasks 0 to 3 at least .6"].value == pytest.approx(0.5605)
    one = claims["sim: weight of sum above every loud task's (loud2)"]
    assert one.baseline == pytest.approx(0.06) and not one.holds
    assert claims["sim: weight of r1 above every loud task's (loud2)"].holds
    top = top_table([row | {"cohort": "death48"} for row in rows], "first_order", 2)
    assert [line["task"] for line in top] == ["r1", "r2"] and top[0]["100 %"].startswith("0.300")


def test_tables_of_one_seed_and_of_missing_modes() -> None:
    rows = [row_of("first_order", 0, 0.7), row_of("pretrain", 0, 0.65), row_of("logistic", 0, 0.75)]
    near = [row_of("first_order", 0, 0.7, percent) for percent in (50.0, 50.00001)]
    assert [list(line)[2:] for line in share_table(near)] == [["50.00001 %", "50 %"]] * 2
    assert [line["AUC-ROC"] for line in score_table(rows)] == ["0.700", "0.700", "0.650", "0.650", "0.750"]
    gaps = gap_table(rows, "first_order", None)
    assert [(line["encoder"], line["against"], line["difference"]) for line in gaps][:2] == [
        ("frozen", "pretrain (all tasks)", "+0.050"),
        ("frozen", "logistic regression", "-0.050"),
    ]
    assert all("95 %, seeds" not in line for line in gaps)
    claims = make_claims(Config(cohort=("death48",), seed=(0,)), rows)
    assert claims and all(claim.holds is None and math.isnan(claim.ci95[0]) for claim in claims)


@pytest.mark.slow
def test_the_planted_tasks_are_found_at_the_size_of_tiny(tmp_path: Path) -> None:
    config = replace(PRESETS["tiny"], mode=("pretrain", "first_order"), workers=1)
    run = Run.create("meta-forecast", "tiny", config, tmp_path)
    rows = {job.mode: train_one(config, str(run.path), job) for job in plan(config)}
    weights = list(rows["first_order"]["weights"].values())
    assert sum(weights[:4]) > 0.6 and sum(weights[4:10]) < 0.15
    assert rows["first_order"]["scores"]["frozen"]["auc_roc"] > rows["pretrain"]["scores"]["frozen"]["auc_roc"] + 0.05
