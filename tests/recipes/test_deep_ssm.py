"""The experiment end to end at a size of seconds, killed and resumed, on two processes; its cohorts, measures and claims."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import icu12
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_baselines import SurvivalBaseline
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import NonFiniteError, TrainState
from tenfold.core.run import Run
from tenfold.recipes.deep_ssm import EXPECTED, PRESETS, Config, cohorts, train, training
from tenfold.recipes.deep_ssm.cohorts import Cohort, build_cohort
from tenfold.recipes.deep_ssm.config import NETWORK, Data, Rivals, Training
from tenfold.recipes.deep_ssm.evaluation import FollowUp, kaplan_meier_laws, law_of, score
from tenfold.recipes.deep_ssm.experiment import check, plan
from tenfold.recipes.deep_ssm.findings import make_claims, mean_sd
from tenfold.recipes.deep_ssm.folder import read_model
from tenfold.recipes.deep_ssm.learning import Learner, build_model, columns_of
from tenfold.recipes.deep_ssm.training import Job


@pytest.fixture
def config() -> Config:
    return Config(
        methods=("dssm",),
        seeds=(0,),
        data=Data(patients=60, few=30),
        network=replace(NETWORK, z_dim=4, hazard_smlp=4, obs_smlp=4, stran_smlp=4, ctran_smlp=4, interv_smlp=4),
        rivals=Rivals(width=4),
        training=Training(steps=6, batch=8, eval_every=2),
        workers=1,
        log_every=1,
        save_every=2,
        samples=3,
    )


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figures and tables, which take longer than such a training."""
    monkeypatch.setattr("tenfold.recipes.deep_ssm.reporting.report", lambda *_: None)


def train_in(folder: Path, config: Config) -> Run:
    run = Run.create("deep-ssm", "tiny", config, folder)
    train(config, run)
    return run


def weights(run: Run, name: str) -> bytes:
    return (run.path / "models" / name / "model.safetensors").read_bytes()


def test_end_to_end_trains_every_method_and_reports(config: Config, tmp_path: Path) -> None:
    config = replace(config, methods=Config().methods, seeds=(0, 1))
    config = replace(config, training=replace(config.training, steps=2), data=replace(config.data, patients=45))
    run = Run.create("deep-ssm", "tiny", config, tmp_path)
    result = train(config, run)
    names = [claim.name for claim in result.claims]
    assert "sim: joint DSSM, C-index at least .5 + .95 (oracle - .5)" in names
    assert "sim: what-if nearer to the law than no plan" in names
    assert "sim: LSTM + hazard above Cox (last value), C-index" in names
    assert len(names) == len(set(names)) == 5 + 1 + 4
    assert all(claim.simulator and claim.seeds == 2 and claim.holds is not None for claim in result.claims)
    figures = {file.stem for file in (run.path / "figures").glob("*.png") if file.stat().st_size > 5000}
    kinds = ("patients", "hazards", "correlation", "calibration", "what-if")
    assert figures == {"scores", "learning"} | {f"{name}-{kind}" for name in config.cohorts for kind in kinds}
    table = json.loads((run.path / "tables" / "sim, mean of events.json").read_text())["rows"]
    rows = {row["method"]: row for row in table}
    assert list(rows)[:3] == ["DSSM, joint", "DSSM, single event", "LSTM + hazard"] and list(rows)[-1] == "oracle"
    assert rows["oracle"]["mean |S - S*|"] == "0.000 ± 0.000" and rows["Kaplan–Meier"]["C Antolini"] == "—"
    assert float(rows["oracle"]["C Harrell"].split()[0]) > 0.6
    each = json.loads((run.path / "tables" / "sim, each event.json").read_text())["rows"]
    assert {row["event"] for row in each} == {"kidney", "circulatory", "death"} and len(each) == 3 * 10
    pairs = json.loads((run.path / "tables" / "sim, correlation of events.json").read_text())["rows"]
    assert [row["events"] for row in pairs] == ["kidney, circulatory", "kidney, death", "circulatory, death", "mean"]
    joint = json.loads((run.path / "tables" / "sim, several events at once.json").read_text())["rows"]
    assert [row["none of"] for row in joint][-2:] == ["kidney, circulatory, death", "mean"] and len(joint) == 5
    assert not (run.path / "tables" / "sim, groups of patients.json").exists()  # the simulator knows no age
    curves = np.load(run.path / "models" / "sim-dssm-seed1" / "curves.npz")
    assert curves["death"].shape == (45, 25) and curves["ids"][0] == "sim0" and (curves["death_true"][:, 0] == 1).all()


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


@pytest.mark.usefixtures("no_report")
def test_killed_and_resumed_gives_the_weights_of_one_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, methods=("dssm-single", "lstm"), training=replace(config.training, lr=0.05))
    config = replace(config, data=replace(config.data, events=("death",)))
    whole = train_in(tmp_path, config)
    plain_fit, kill_at = training.fit, []

    def fit_until_killed(state: TrainState, loss: Any, *, after_step: Any, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            after_step(state)
            if name in kill_at and state.step == 3:  # one step past the checkpoint at 2
                kill_at.remove(name)
                raise Killed

        return plain_fit(state, loss, after_step=after, name=name, **options)

    monkeypatch.setattr(training, "fit", fit_until_killed)
    run = Run.create("deep-ssm", "tiny", config, tmp_path)
    names = ["sim-dssm-single-seed0-death", "sim-lstm-seed0"]
    for name in names:
        kill_at.append(name)
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
    train(config, Run.open(run.path))
    for name in names:
        assert weights(run, name) == weights(whole, name)
        kept, expected = ([{k: v for k, v in row.items() if k in ("step", "loss", "valid_nll")} for row in each.rows(name)]
                          for each in (run, whole))  # fmt: skip
        assert kept == expected and sum("valid_nll" in row for row in kept) == 3
    ours, theirs = (each.load_stage("sim-dssm-single-seed0") for each in (run, whole))
    assert ours["best_step"] == theirs["best_step"] and ours["events"] == theirs["events"]


@pytest.mark.usefixtures("no_report")
def test_the_weights_kept_are_those_of_least_validation_loss(config: Config, tmp_path: Path) -> None:
    config = replace(config, training=Training(steps=12, batch=8, eval_every=1, lr=0.3, clip=100.0))
    run = train_in(tmp_path, config)
    row = run.load_stage("sim-dssm-seed0")
    seen = {row["step"]: row["valid_nll"] for row in run.rows("sim-dssm-seed0") if "valid_nll" in row}
    best = min(seen, key=lambda step: seen[step])
    assert row["best_step"] == [best] and best < 12 and row["valid_nll"] == pytest.approx(seen[best])
    cohort = build_cohort("sim", config, 0)
    kept = read_model(run.path / "models" / "sim-dssm-seed0").model
    assert training.score_valid(kept, cohort, cohort.events) == pytest.approx(seen[best], rel=1e-6)


@pytest.mark.usefixtures("no_report")
def test_a_finished_job_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_in(tmp_path, config)
    rows: list[Any] = []
    monkeypatch.setattr("tenfold.recipes.deep_ssm.reporting.report", lambda _config, _run, given: rows.extend(given))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr("tenfold.recipes.deep_ssm.experiment.references", refuse)
    train(config, Run.open(run.path))
    assert [row["method"] for row in rows] == ["dssm", "kaplan-meier", "oracle"]
    assert rows[0] == run.load_stage("sim-dssm-seed0")


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_jobs_side_by_side_give_the_weights_of_one_process(config: Config, tmp_path: Path) -> None:
    config = replace(config, methods=("lstm", "mlp"))
    alone, together = (train_in(tmp_path, replace(config, workers=workers)) for workers in (1, 2))
    for job in plan(config):
        assert weights(alone, job.name) == weights(together, job.name)


@pytest.mark.usefixtures("no_report")
def test_another_seed_gives_other_patients_and_weights(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, replace(config, seeds=(0, 1), methods=("lstm",), save_every=100))
    assert weights(run, "sim-lstm-seed0") != weights(run, "sim-lstm-seed1")
    first, second = (build_cohort("sim", config, seed) for seed in (0, 1))
    assert not np.array_equal(first.train.x, second.train.x)
    assert not np.array_equal(first.train.x, first.test.x)


NOT_THE_DEFAULT: tuple[dict[str, Any], ...] = (
    {"infer_model": "lr", "cov": "tril", "analytic_kl": False, "combine": "official", "align_backward": False, "use_jitter": True},
    {"infer_model": "r", "head": "official", "reuse_encoding": False, "forecast_delta": True, "last_slot_loss": True},
    {"infer_model": "st", "elbo_reduction": "official", "noise_trainable": True, "obs_noise_init": 0.5, "state_only_loss": True},
    {"infer_model": "l", "head": "exponential", "forecast_interv": False, "feed_mask": False, "sys_id_len": 7},
    {"head": "cox", "em_act": "sigmoid", "pretrain_interv": False, "sys_id_weight": None, "ds_nrl": 2},
)  # fmt: skip


@pytest.mark.parametrize("switches", NOT_THE_DEFAULT, ids=str)
@pytest.mark.usefixtures("no_report")
def test_every_switch_trains(switches: dict[str, Any], config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, replace(config, network=replace(config.network, **switches), save_every=100))
    losses = [row["loss"] for row in run.rows() if "loss" in row]
    assert len(set(losses)) == 6 and all(map(math.isfinite, losses))
    assert read_model(run.path / "models" / "sim-dssm-seed0").model.config.z_dim == 4


def test_every_switch_is_turned_above() -> None:
    turned = {name for switches in NOT_THE_DEFAULT for name in switches}
    refused = {"context_len_to_trigger"}  # a cohort's grid ends at the trigger
    assert {name for name in asdict(NETWORK) if not name.endswith(("mlp", "z_dim"))} - refused == turned


def test_a_loss_that_is_infinite_stops_and_names_the_model(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(dataset: EventTimeDataset, events: Any, *, tail: bool) -> dict[str, torch.Tensor]:
        columns = columns_of(dataset, events, tail=tail)
        return columns | {"x": columns["x"] * 1e30}

    monkeypatch.setattr(training, "columns_of", poisoned)
    with pytest.raises(NonFiniteError, match="sim-dssm-seed0: loss is inf"):
        train_in(tmp_path, config)


WORK = """import json, sys
from pathlib import Path
from tenfold.cli.recipe import on_all_ranks
from tenfold.core.config import from_json
from tenfold.core.run import Run
from tenfold.recipes.deep_ssm import Config, check, train
config = from_json(Config, json.loads(Path(sys.argv[1]).read_text()))
check(config)
train(config, on_all_ranks(lambda: Run.create('deep-ssm', 'tiny', config, sys.argv[2])))
"""


@pytest.mark.slow
def test_two_processes_train_the_models_of_one(config: Config, tmp_path: Path) -> None:
    """Patients who are not at risk fall unevenly on the two; draws of the state are those of the whole batch."""
    outcomes = ["id,kidney_hours,kidney_observed"]
    measured = ["id,time,variable,value"]
    rng = np.random.default_rng(0)
    for row in range(60):
        outcomes.append(f"p{row}," + (",0" if row % 3 == 0 else f"{rng.integers(1, 30)},{rng.integers(0, 2)}"))
        measured += [f"p{row},{hour},HR,{rng.normal():.3f}" for hour in range(4)] + [f"p{row},2,drug,1"]
    for name, lines in (("o", outcomes), ("m", measured)):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    data = Data(path=tmp_path / "m.csv", outcomes=tmp_path / "o.csv", events=("kidney=5x4",), interventions=("drug",), steps=4)  # fmt: skip
    config = replace(config, cohorts=("files",), data=data, methods=("dssm", "lstm"), rivals=Rivals(width=4, forecast_weight=0.5))  # fmt: skip
    file, script = tmp_path / "config.json", tmp_path / "work.py"
    file.write_text(json.dumps(to_json(config)))
    script.write_text(WORK)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*start, str(script), str(file), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (two,) = (tmp_path / "two" / "deep-ssm").iterdir()
    one = train_in(tmp_path / "one", config)
    for job in plan(config):
        name = f"models/{job.name}/model.safetensors"
        expected, got = load_file(one.path / name), load_file(two / name)
        for key, tensor in expected.items():
            torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-5, msg=f"{job.name} {key}")


def test_several_processes_refuse_what_they_cannot_share(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(config)
    check(replace(config, methods=("deephit",), rivals=Rivals(rank_weight=0.0)))
    for changed, message in (
        ({"workers": 2}, "workers: got 2 under torchrun"),
        ({"methods": ("deephit",)}, "methods: got deephit under torchrun"),
        ({"training": Training(batch=3)}, "training.batch: got 3, need a multiple of 2"),
    ):
        with pytest.raises(UserError, match=message):
            check(replace(config, **changed))


def test_presets_say_what_they_are() -> None:
    assert EXPECTED.keys() == PRESETS.keys() and all(EXPECTED.values())
    laptop = PRESETS["laptop"]
    assert laptop.cohorts == ("sim", "sim-300", "icu12") and len(laptop.seeds) >= 3
    assert set(laptop.methods) == {"dssm", "dssm-single", "lstm", "deephit", "mlp", "exponential", "cox", "boosting"}
    assert all("boosting" in PRESETS[name].methods for name in ("sim", "sim-300", "icu12"))
    paper = PRESETS["paper"]
    assert (paper.network.z_dim, paper.network.cov, paper.training.batch, paper.training.lr) == (30, "tril", 32, 1e-3)
    for preset in PRESETS.values():
        assert from_json(Config, json.loads(json.dumps(to_json(preset)))) == preset


# Cohorts.


def test_validation_is_beside_the_patients_learnt_from(config: Config) -> None:
    sizes = {name: [len(getattr(build_cohort(name, config, 0), part)) for part in ("train", "valid", "test")]
             for name in ("sim", "sim-300")}  # fmt: skip
    assert sizes == {"sim": [60, 20, 60], "sim-300": [30, 10, 60]}


def test_events_of_the_simulator_can_be_chosen(config: Config) -> None:
    chosen = build_cohort("sim", replace(config, data=replace(config.data, events=("death", "kidney"))), 0)
    everything = build_cohort("sim", config, 0)
    assert [event.name for event in chosen.events] == ["kidney", "death"]
    np.testing.assert_array_equal(chosen.test.time_hours, everything.test.time_hours[:, [0, 2]])
    assert chosen.truth is not None and list(chosen.truth) == ["kidney", "death"]


def test_who_is_at_risk_of_ventilation_was_never_ventilated(data_dir: Path) -> None:
    """So the joint model is told nothing of that event by the flag among its inputs."""
    dataset = icu12(data_dir / "03-04-clinical")
    at_risk = dataset.at_risk[:, [event.name for event in dataset.events].index("ventilation")]
    assert dataset.intervention_names == ("MechVent",) and dataset.u[~at_risk].any()
    assert not dataset.u[at_risk].any() and at_risk.sum() > 1000


# Measures.


def two_patients() -> Cohort:
    """Slots of 12 hours: an event in slot 1, a censoring in slot 1 that it outlived, an event in slot 3, one not at risk."""
    event = EventSpec("kidney", 12.0, 4)
    nothing = np.zeros((4, 1, 1))
    dataset = EventTimeDataset(
        nothing, nothing, nothing, np.ones(4), np.zeros((4, 0)), np.array([[5.0], [7.0], [30.0], [0.0]]),
        np.array([[1], [0], [1], [0]]), np.array([[1], [1], [1], [0]]), (event,),
    )  # fmt: skip
    return Cohort("icu12", dataset, dataset, dataset)


def test_a_censored_patient_survived_its_slot() -> None:
    follow = FollowUp.of(two_patients().test, EventSpec("kidney", 12.0, 4))
    assert follow.rows.tolist() == [0, 1, 2] and follow.time.tolist() == [1.0, 1.5, 3.0]


def test_measures_by_hand() -> None:
    curves = np.array(
        [[1, 0.5, 0.5, 0.4, 0.4], [1, 0.9, 0.9, 0.9, 0.6], [1, 0.8, 0.8, 0.4, 0.3], [1, 0.1, 0.1, 0.1, 0.1]]
    )
    scores = score({"kidney": law_of(curves)}, two_patients())["kidney"]
    # Pairs: the first event beside the censored one (risk .6 > .4) and beside the second event (.6 < .7).
    assert scores["c"] == 0.5 and scores["c_td"] == 1.0 and scores["events"] == 2
    assert scores["nll"] == pytest.approx(-(np.log(0.5) + np.log(0.9) + np.log(0.8 - 0.4)) / 3)
    # At 24 h the first had the event, the last is free of it, the censored one is unknown: .5 > .2.
    assert scores["auc24"] == 1.0 and "auc48" in scores
    mean_times = 12 * curves[:, :-1].sum(1)
    assert scores["mae"] == pytest.approx((abs(mean_times[0] - 5) + abs(mean_times[2] - 30)) / 2)
    # Nobody is censored before slot 1 or 2 ends but the one of slot 1: G = 1, then 1/2.
    brier = [(0.5**2 + (1 - 0.9) ** 2 + (1 - 0.8) ** 2) / 3, (0.5**2 + 2 * (1 - 0.8) ** 2) / 3]
    assert scores["ibs"] == pytest.approx(np.mean(brier))


def test_one_curve_for_all_is_that_of_kaplan_and_meier() -> None:
    law = kaplan_meier_laws(two_patients())["kidney"]
    np.testing.assert_allclose(law.survival.numpy(), np.tile([1, 2 / 3, 2 / 3, 0, 0], (4, 1)), atol=1e-12)


def test_constant_rates_begin_at_their_best(config: Config) -> None:
    cohort = build_cohort("sim", config, 0)
    model = build_model(config, "exponential", cohort.train, cohort.events, 0)
    assert isinstance(model, SurvivalBaseline)
    with torch.no_grad():
        model.head.rate.weight.zero_()
        start = training.score_valid(model, cohort, cohort.events)
        for shift in (-0.5, 0.5):
            model.head.rate.bias += shift
            columns = columns_of(cohort.train, cohort.events, tail=False)
            assert float(model.loss(columns)[0]) > 0
            model.head.rate.bias -= shift
    assert start < 10 and math.isfinite(start)


def test_the_best_weights_are_copied_and_not_shared() -> None:
    learner = Learner(DeepStateSpace(2, 0, (EventSpec("e", 1.0, 2),), 2, generator=torch.Generator().manual_seed(0)))
    learner.keep_if_better(1.0, 5)
    before = {name: tensor.clone() for name, tensor in learner.best.state_dict().items()}
    with torch.no_grad():
        for parameter in learner.model.parameters():
            parameter += 1
    learner.keep_if_better(1.5, 9)
    assert int(learner.best_step) == 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.best.state_dict().items())
    learner.keep_if_better(0.5, 9)
    assert int(learner.best_step) == 9 and not any(parameter.requires_grad for parameter in learner.best.parameters())


# Findings.


def rows_of(method: str, c: tuple[float, ...], cohort: str = "icu12", ibs: float = 0.1) -> list[dict[str, Any]]:
    return [{"cohort": cohort, "method": method, "seed": seed, "mean": {"c": value, "nll": 1.0, "error": 0.01},
             "events": {"death30": {"c": value, "ibs": ibs}}} for seed, value in enumerate(c)]  # fmt: skip


def test_claims_pair_the_seeds_and_lay_the_bar() -> None:
    config = Config(cohorts=("icu12",))
    rows = rows_of("dssm", (0.78, 0.76, 0.77)) + rows_of("cox", (0.75, 0.735, 0.74)) + rows_of("kaplan-meier", (0.5,) * 3, ibs=0.2)  # fmt: skip
    claims = {claim.name: claim for claim in make_claims(config, rows)}
    assert set(claims) == {
        "icu12: joint DSSM, C-index at least Cox + .01",
        "icu12: joint DSSM, C-index of death30 at least .75",
        "icu12: joint DSSM, IBS of death30 below Kaplan–Meier",
        "icu12: DSSM, joint above Cox (last value), C-index",
    }
    bar = claims["icu12: joint DSSM, C-index at least Cox + .01"]
    assert bar.value == pytest.approx(0.77) and bar.seeds == 3
    assert bar.holds and not bar.simulator and bar.margin == pytest.approx(0.77 - (0.75 + 0.735 + 0.74) / 3 - 0.01)
    assert claims["icu12: joint DSSM, IBS of death30 below Kaplan–Meier"].holds
    worse = make_claims(config, rows_of("dssm", (0.7, 0.71, 0.7)) + rows_of("cox", (0.75, 0.735, 0.74)))
    assert [claim.holds for claim in worse] == [False, False, False]


def test_bars_of_few_patients_take_the_rival_they_name() -> None:
    rows = [row for method, c in (("dssm", (0.7, 0.72)), ("dssm-single", (0.6, 0.61)), ("oracle", (0.8, 0.8)))
            for row in rows_of(method, c, "sim-300")]  # fmt: skip
    claims = {claim.name.split(", ")[-1]: claim for claim in make_claims(Config(cohorts=("sim-300",)), rows)}
    assert claims["C-index at least single-event + .02"].baseline == pytest.approx(0.605 + 0.02)
    assert claims["C-index at least .5 + .85 (oracle - .5)"].baseline == pytest.approx(0.5 + 0.85 * 0.3)
    assert all(claim.simulator for claim in claims.values()) and len(claims) == 3


def test_a_figure_that_is_undefined_makes_no_claim() -> None:
    rows = rows_of("dssm", (0.7, math.nan)) + rows_of("cox", (0.6, 0.6))
    assert make_claims(Config(cohorts=("icu12",)), rows) == []
    assert mean_sd([0.7, math.nan]) == "—" and mean_sd([0.7]) == "0.700" and mean_sd([0.6, 0.8]) == "0.700 ± 0.141"


def test_names_of_trainings() -> None:
    events = (EventSpec("a", 1.0, 2), EventSpec("b", 1.0, 2))
    assert Job("sim", "lstm", 2).parts(events) == {"sim-lstm-seed2": events}
    assert list(Job("sim", "dssm-single", 0).parts(events)) == ["sim-dssm-single-seed0-a", "sim-dssm-single-seed0-b"]


def test_patients_are_made_once_a_seed(config: Config) -> None:
    cohorts._built.cache_clear()
    first = build_cohort("sim", config, 0)
    assert build_cohort("sim", replace(config, training=Training()), 0) is first
    assert build_cohort("sim", config, 1) is not first
