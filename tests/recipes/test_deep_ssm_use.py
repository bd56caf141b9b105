"""The verbs as a user types them, on every kind of patient data, and what they say to bad input."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tenfold.cli import main
from tenfold.clinical.events import part_of
from tenfold.clinical.icu12 import EVENTS, free_events
from tenfold.clinical.meds import write_meds
from tenfold.clinical.physionet2012 import read_physionet2012, write_npz
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.recipes.deep_ssm import Config, train
from tenfold.recipes.deep_ssm.cohorts import build_cohort
from tenfold.recipes.deep_ssm.config import NETWORK, Data, Rivals, Training
from tenfold.recipes.deep_ssm.folder import Opened, read_model
from tenfold.recipes.deep_ssm.verbs import parse_plan, survival_of

CONFIG = Config(
    methods=("dssm",),
    seeds=(0,),
    data=Data(patients=60, few=30),
    network=replace(NETWORK, z_dim=4),
    rivals=Rivals(width=4),
    training=Training(steps=4, batch=16, eval_every=2),
    workers=1,
    samples=3,
)
COLUMNS = ["subject_id", "prediction_time", "event", "horizon_hours", "probability"]


def train_without_pictures(config: Config, folder: Path) -> Path:
    run = Run.create("deep-ssm", "tiny", config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.recipes.deep_ssm.reporting.report", lambda *_: None)
        train(config, run)
    return run.path


@pytest.fixture(scope="module")
def sim_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every method on two cohorts."""
    config = replace(CONFIG, methods=Config().methods, cohorts=("sim", "sim-300"))
    return train_without_pictures(config, tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="module")
def icu_run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The joint model of two events, on 400 stays."""
    folder = tmp_path_factory.mktemp("icu")
    stays = read_physionet2012(data_dir / "03-04-clinical", ["a"])
    last = int(stays.offsets[400])
    few = {name: getattr(stays, name)[:400] for name in ("record_id", "static", "outcomes")}
    rows = {name: getattr(stays, name)[:last] for name in ("minute", "var", "value")}
    write_npz(replace(stays, **few, **rows, offsets=stays.offsets[:401]), folder / "physionet2012_a.npz")
    data = replace(CONFIG.data, path=folder, events=("kidney", "death30"))
    return train_without_pictures(replace(CONFIG, cohorts=("icu12",), data=data), folder)


def long_tables(folder: Path, patients: int = 60) -> None:
    """Two lab values and a drug, an event, age; with other names of columns and dates."""
    rng = np.random.default_rng(0)
    measured, outcomes = ["pid,when,what,number"], ["pid,at,sepsis_hours,sepsis_observed,age"]
    for row in range(patients):
        outcomes.append(f"p{row},2030-01-01T04:00,{rng.integers(1, 30)},{row % 2},{40 + row % 30}")
        measured += [
            f"p{row},2030-01-01T0{hour}:30,{what},{rng.normal():.3f}" for hour in range(4) for what in ("HR", "WBC")
        ]
        measured.append(f"p{row},2030-01-01T03:00,drug,1")
    for name, lines in (("m", measured), ("o", outcomes)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


OWN = ["--cohorts", "files", "--data.events", "sepsis=6x5", "--data.interventions", "drug", "--data.statics", "age",
       "--data.steps", "4", "--data.columns.subject", "pid", "--data.columns.time", "when", "--data.columns.variable", "what",
       "--data.columns.value", "number", "--data.columns.trigger", "at"]  # fmt: skip
SMALL = ["--methods", "dssm", "cox", "--seeds", "0", "--training.steps", "2", "--training.batch", "8", "--network.z-dim", "3",
         "--workers", "1", "--samples", "2"]  # fmt: skip


def predicted(path: Path) -> Any:
    table = pq.read_table(path)
    assert table.column_names == COLUMNS
    chances = table["probability"].to_numpy()
    assert ((chances >= 0) & (chances <= 1)).all()
    return table.to_pandas()


# What each kind of data becomes.


def test_a_table_of_ones_own_is_trained_on_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long_tables(tmp_path)
    files = ["--data.path", str(tmp_path / "m.csv"), "--data.outcomes", str(tmp_path / "o.csv")]
    assert main(["deep-ssm", "train", "tiny", "--runs-dir", str(tmp_path / "runs"), *SMALL, *OWN, *files]) == 0
    out = capsys.readouterr().out
    assert "files: DSSM, joint above Cox (last value), C-index" in out and "simulator" not in out
    (run,) = (tmp_path / "runs" / "deep-ssm").iterdir()
    # The run's own test patients, alone: predicted as it predicted them, so grid, scaling and columns are kept.
    curves = np.load(run / "models" / "files-dssm-seed0" / "curves.npz")
    assert len(curves["ids"]) > 5
    for name in ("m", "o"):
        head, *lines = (tmp_path / f"{name}.csv").read_text().splitlines()
        lines = [line for line in lines if line.split(",")[0] in curves["ids"]]
        (tmp_path / f"test_{name}.csv").write_text("\n".join([head, *lines]) + "\n")
    words = ["deep-ssm", "predict", str(run), str(tmp_path / "test_m.csv"), "--out", str(tmp_path / "p.parquet")]
    assert main([*words, "--subjects", str(tmp_path / "test_o.csv")]) == 0
    chances = predicted(tmp_path / "p.parquet")["probability"].to_numpy().reshape(len(curves["ids"]), 6)
    np.testing.assert_allclose(chances, 1 - curves["sepsis"][:, 1:], atol=1e-6)
    capsys.readouterr()
    # New patients: no events known. The map of columns, the scaling and the grid are the model's.
    subjects = "pid,at,age\n" + "".join(f"new{row},2030-01-01T04:00,5{row}\n" for row in range(3))
    (tmp_path / "s.csv").write_text(subjects)
    rows = [f"new{row},2030-01-01T03:30,HR,{row}" for row in range(2)]
    (tmp_path / "n.csv").write_text("pid,when,what,number\n" + "\n".join(rows) + "\n")
    words = ["deep-ssm", "predict", str(run), str(tmp_path / "n.csv"), "--out", str(tmp_path / "p.parquet")]
    assert main([*words, "--subjects", str(tmp_path / "s.csv")]) == 0
    assert "3 predictions of sepsis by files-dssm-seed0\n1 of them without any record" in capsys.readouterr().out
    frame = predicted(tmp_path / "p.parquet")
    assert frame["subject_id"].tolist() == ["new0"] * 6 + ["new1"] * 6 + ["new2"] * 6
    assert frame["horizon_hours"].tolist() == [5.0, 10.0, 15.0, 20.0, 25.0, 30.0] * 3
    assert str(frame["prediction_time"][0]) == "2030-01-01 04:00:00"
    assert (frame.groupby("subject_id")["probability"].diff().dropna() >= 0).all()
    # Other names of columns than in training.
    (tmp_path / "n2.csv").write_text((tmp_path / "n.csv").read_text().replace("pid", "who").replace("when", "t"))
    (tmp_path / "s2.csv").write_text(subjects.replace("pid", "who"))
    words[3:] = [
        str(tmp_path / "n2.csv"),
        "--out",
        str(tmp_path / "p2.parquet"),
        "--subjects",
        str(tmp_path / "s2.csv"),
    ]
    assert main([*words, "--columns.subject", "who", "--columns.time", "t"]) == 0
    assert predicted(tmp_path / "p2.parquet").equals(frame)
    assert main([*words[:5], str(tmp_path / "x.parquet")]) == 2
    assert "--subjects: the model reads age" in capsys.readouterr().err


def test_a_meds_folder_gives_what_the_data_set_gives(sim_run: Path, tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim().dataset(20, 7), ids=[str(row) for row in range(100, 120)])
    write_meds(dataset, tmp_path / "patients")
    folder = sim_run / "models" / "sim-dssm-seed0"
    out = tmp_path / "p.parquet"
    words = ["deep-ssm", "predict", str(folder), str(tmp_path / "patients"), "--out", str(out)]
    assert main([*words, "--labels", str(tmp_path / "patients" / "labels.parquet")]) == 0
    frame = predicted(out)
    expected = survival_of(read_model(folder), dataset)
    for event, curve in expected.items():
        mine = frame[frame["event"] == event]["probability"].to_numpy().reshape(20, 24)
        np.testing.assert_allclose(mine, 1 - curve[:, 1:], atol=1e-6)
    assert frame["subject_id"].tolist()[:24] == [100] * 24 and frame["prediction_time"].notna().all()
    # Every model of a run predicts: single-event ones, rivals, Cox and boosted trees.
    for other in (
        "sim-dssm-single-seed0-death",
        "sim-lstm-seed0",
        "sim-deephit-seed0",
        "sim-mlp-seed0",
        "sim-exponential-seed0",
        "sim-cox-seed0",
        "sim-boosting-seed0",
    ):
        words[2] = str(sim_run / "models" / other)
        assert main(words) == 0
        assert len(predicted(out)) == 20 * 24 * (1 if "death" in other else 3)  # fmt: skip


def test_codes_map_the_names_of_a_model_to_those_of_a_hospital(sim_run: Path, tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim().dataset(5, 7), ids=[str(row) for row in range(5)])
    other = replace(dataset, observation_names=tuple(f"LAB//{name}" for name in dataset.observation_names))
    frames = []
    codes = tmp_path / "codes.json"
    codes.write_text(json.dumps({name: [f"LAB//{name}"] for name in dataset.observation_names}))
    for name, each, more in (("a", dataset, []), ("b", other, ["--codes", str(codes)])):
        write_meds(each, tmp_path / name)
        words = [
            "deep-ssm",
            "predict",
            str(sim_run),
            str(tmp_path / name),
            "--cohort",
            "sim",
            "--out",
            str(tmp_path / f"{name}.parquet"),
        ]
        assert main([*words, *more]) == 0
        frames.append(predicted(tmp_path / f"{name}.parquet"))
    assert frames[0].equals(frames[1])  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False])
def test_birth_does_not_move_a_prediction(labelled: bool, sim_run: Path, tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim().dataset(8, 7), ids=[str(row) for row in range(8)], length=np.full(8, 9))
    frames = []
    for name in ("plain", "born"):
        root = tmp_path / name
        write_meds(dataset, root)
        if name == "born":
            table = pq.read_table(root / "data" / "0.parquet")
            births = [
                {"subject_id": row, "time": datetime.datetime(1960, 1, 1), "code": "MEDS_BIRTH"} for row in range(8)
            ]
            pq.write_table(
                pa.concat_tables([pa.Table.from_pylist(births, table.schema), table]), root / "data" / "0.parquet"
            )
        words = [
            "deep-ssm",
            "predict",
            str(sim_run / "models" / "sim-dssm-seed0"),
            str(root),
            "--out",
            f"{root}.parquet",
        ]
        assert main([*words, *(["--labels", str(root / "labels.parquet")] if labelled else [])]) == 0
        frames.append(predicted(Path(f"{root}.parquet")))
    assert frames[0].equals(frames[1])


@pytest.mark.parametrize(
    ("name", "codes"), [("x0", ["x_0"]), ("treatment", ["treat"]), ("circulatory", ["Circulatory"])]
)
def test_codes_that_occur_nowhere_are_not_trained_on(name: str, codes: list[str], tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim(horizon=6).dataset(40, 5), ids=[str(row) for row in range(40)])
    write_meds(dataset, tmp_path / "meds")
    own = {name: [name] for name in (*dataset.observation_names, "treatment", "circulatory")}
    (tmp_path / "codes.json").write_text(json.dumps(own | {name: codes}))
    data = Data(path=tmp_path / "meds", codes=tmp_path / "codes.json", events=("circulatory=6x1",), interventions=("treatment",))  # fmt: skip
    with pytest.raises(UserError, match=rf"no record with a time has a code of '{name}' .*did you mean {name}"):
        build_cohort("meds", replace(CONFIG, cohorts=("meds",), data=data), 0)


def test_meds_folders_are_trained_on(tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim(horizon=6).dataset(80, 5), ids=[str(row) for row in range(80)])
    write_meds(dataset, tmp_path / "meds")
    codes = {name: [name] for name in (*dataset.observation_names, "treatment", "kidney", "death")}
    (tmp_path / "codes.json").write_text(json.dumps(codes))
    data = Data(path=tmp_path / "meds", codes=tmp_path / "codes.json", labels=tmp_path / "meds" / "labels.parquet",
                events=("kidney=6x1",), interventions=("treatment",))  # fmt: skip
    (tmp_path / "codes.json").write_text(json.dumps({name: value for name, value in codes.items() if name != "death"}))
    path = train_without_pictures(replace(CONFIG, cohorts=("meds",), data=data, methods=("dssm", "lstm")), tmp_path)
    inputs = read_model(path / "models" / "meds-dssm-seed0").inputs
    assert inputs.codes["x0"] == ["x0"] and inputs.interventions == ("treatment",) and inputs.scaling
    assert inputs.observations == dataset.observation_names


def test_raw_files_of_physionet_are_predicted_with_and_without_outcomes(
    icu_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    sample = data_dir / "03-04-clinical" / "raw_sample"
    frames = []
    shutil.copytree(sample / "set-a", tmp_path / "patients")
    for number, place in enumerate((sample, tmp_path / "patients")):
        out = tmp_path / f"{number}.parquet"
        assert main(["deep-ssm", "predict", str(icu_run), str(place), "--out", str(out), "--samples", "2"]) == 0
        frames.append(predicted(out))
    assert frames[0].equals(frames[1])
    assert len(frames[0]) == 12 * (18 + 30) and frames[0]["prediction_time"].isna().all()
    assert frames[0].groupby("event")["horizon_hours"].max().to_dict() == {"death30": 720.0, "kidney": 36.0}


# What-if and report.


@pytest.mark.parametrize("more", [[], ["--plan", "treatment=1,1,0", "--subject", "sim3", "--samples", "4"]])
def test_whatif_forces_a_plan(
    more: list[str], sim_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.png"
    assert main(["deep-ssm", "whatif", str(sim_run), "--cohort", "sim", "--out", str(out), *more]) == 0
    assert out.stat().st_size > 5000 and out.read_bytes()[:4] == b"\x89PNG"
    printed = capsys.readouterr().out
    assert ("patient sim3" if more else "60 patients") in printed
    lines = [line for line in printed.splitlines() if line.startswith("kidney")]
    assert "24 slots of 1 h" in lines[0] and "without" in lines[0] and "as forecast" in lines[0]


def test_whatif_leaves_out_what_a_plan_decides() -> None:
    events = [EVENTS["ventilation"], EVENTS["kidney"]]
    assert free_events(events, ["MechVent"]) == events[1:]
    assert free_events(events, []) == events


def test_a_plan_changes_what_comes_after_it_and_nothing_before(sim_run: Path) -> None:
    opened = read_model(sim_run / "models" / "sim-dssm-seed0")
    dataset = HmmIcuSim().dataset(3, 0)
    plans = [parse_plan([text], ("treatment",), 24) for text in ("treatment=1", "treatment=1,1,1,0")]
    assert plans[1].sum() == 3 and plans[1][:3].all()
    first, second = (survival_of(opened, dataset, u_future=u)["death"] for u in plans)
    np.testing.assert_array_equal(first[:, :4], second[:, :4])
    assert (first[:, 5:] != second[:, 5:]).all()


def test_report_prints_methods_by_events(sim_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deep-ssm", "report", str(sim_run), "--events"]) == 0
    out = capsys.readouterr().out
    assert out.count("method ") == 2 * (1 + 3) and "sim-300, mean of events" in out and "sim, circulatory" in out
    row = Run.open(sim_run).load_stage("sim-cox-seed0")
    (line,) = [line for line in out.split("sim, kidney")[1].split("\n\n")[0].splitlines() if line.startswith("Cox")]
    assert f"{row['events']['kidney']['c_td']:.3f}" in line and f"{row['events']['kidney']['ibs']:.3f}" in line


# Model folders.


def test_a_model_folder_opens_as_the_library_opens_it(sim_run: Path) -> None:
    folder = sim_run / "models" / "sim-dssm-seed0"
    opened = read_model(folder)
    batch = HmmIcuSim().dataset(4, 1).batch()
    with torch.no_grad():
        mine, plain = opened.model.survival(batch), DeepStateSpace.from_pretrained(folder).survival(batch)
    assert all(torch.equal(mine[name], plain[name]) for name in mine)
    assert opened.inputs.observations[0] == "x0" and [event.name for event in opened.events][-1] == "death"


@pytest.mark.parametrize("name", ["lstm", "deephit", "mlp", "exponential", "cox", "boosting"])
def test_rivals_are_read_back_bit_for_bit(name: str, sim_run: Path) -> None:
    opened = read_model(sim_run / "models" / f"sim-{name}-seed0")
    assert isinstance(opened, Opened)
    row = Run.open(sim_run).load_stage(f"sim-{name}-seed0")
    from tenfold.recipes.deep_ssm.evaluation import predict, score

    cohort = build_cohort("sim", replace(CONFIG, methods=Config().methods, cohorts=("sim", "sim-300")), 0)
    assert score(predict(opened.model, cohort.test), cohort) == row["events"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("inputs.json", None, "file not found"),
        ("inputs.json", "{", "not valid JSON"),
        ("inputs.json", '{"cohort": "sim"}', "inputs.json: observations: missing"),
        ("config.json", None, "file not found"),
        ("config.json", '{"kind": "tree"}', "kind: got 'tree', need one of DeepStateSpace, lstm"),
        ("config.json", '{"kind": "lstm", "events": [], "rivals": {}}', "events: got none"),
        ("config.json", '{"kind": "lstm", "events": [{"name": "e", "slot_hours": 1, "n_slots": 2}], "rivals": {"layers": 99999999}}', "more layers than the weights hold"),
        ("config.json", '{"kind": "lstm", "events": [{"name": "e", "slot_hours": 1, "n_slots": 2}], "rivals": {}}', "tensors do not fit"),
        ("model.safetensors", "x", "not a whole safetensors file"),
        ("model.safetensors", None, "weights not found"),
    ],
)  # fmt: skip
def test_damaged_model_folders_are_named(
    file: str, content: str | None, message: str, sim_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sim_run / "models" / "sim-lstm-seed0", folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        read_model(folder)


ODD_SCALING = {"observations": {"names": ["x0"], "low": [0], "high": [1], "mean": [0], "sd": [0]}}


@pytest.mark.parametrize(
    ("method", "file", "place", "value", "message"),
    [
        ("dssm", "config.json", ["z_dim"], 10**9, "config.json: got sizes that no weights have; the file is damaged"),
        ("lstm", "config.json", ["rivals", "width"], 10**9, "config.json: got sizes that no weights have"),
        ("mlp", "config.json", ["rivals", "width"], 10**6, "tensors do not fit config.json"),
        ("dssm", "config.json", ["events", 0, "n_slots"], 10**9, "config.json: events.0: n_slots: got 1000000000"),
        ("cox", "config.json", ["events", 0, "slot_hours"], 1e308, "config.json: events.0: slot_hours: got 1e"),
        ("dssm", "inputs.json", ["steps"], 10**9, "inputs.json: steps: got 1000000000, need at least 1, at most 10000"),
        ("dssm", "inputs.json", ["step_hours"], 1e308, "inputs.json: step_hours: got 1e"),
        ("boosting", "inputs.json", ["observations", 0], "x1", "inputs.json: observations: got x1, x1, x2"),
        ("dssm", "inputs.json", ["scaling"], ODD_SCALING, "inputs.json: scaling.observations.sd: got"),
    ],
)
def test_settings_of_a_damaged_folder_are_bounded(
    method: str, file: str, place: list[Any], value: Any, message: str, sim_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sim_run / "models" / f"sim-{method}-seed0", folder)
    content = inner = json.loads((folder / file).read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_model(folder)


@pytest.mark.parametrize("method", ["dssm", "lstm", "cox", "boosting"])
def test_weights_that_are_not_finite_are_named(method: str, sim_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sim_run / "models" / f"sim-{method}-seed0", folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in sorted(tensors.items()) if tensor.is_floating_point() and tensor.numel())
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"model: weights that are not finite: {name}"):
        read_model(folder)


def test_boosted_trees_are_read_without_scikit_learn_and_damaged_ones_are_named(
    sim_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    folder = tmp_path / "model"
    shutil.copytree(sim_run / "models" / "sim-boosting-seed0", folder)
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}  # no pickle
    batch = HmmIcuSim().dataset(4, 1).batch()
    assert read_model(folder).model.survival(batch)["death"].shape == (4, 25)
    tensors = load_file(folder / "model.safetensors")
    tensors["forests.1.left"][0] = 0  # a circle
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model: tensors do not fit config.json: nodes: got children"):
        read_model(folder)


def test_a_model_and_other_columns_do_not_go_together(sim_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sim_run / "models" / "sim-dssm-seed0", folder)
    inputs = json.loads((folder / "inputs.json").read_text())
    (folder / "inputs.json").write_text(json.dumps(inputs | {"observations": ["x0"]}))
    with pytest.raises(UserError, match="its columns are not those of the weights"):
        read_model(folder)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "unknown preset"),
        (["tiny", "--cohorts", "icu13"], "cohorts"),
        (["tiny", "--methods", "lstm", "lstm"], "methods: got"),
        (["tiny", "--seeds", "-1"], "seeds: got (-1,)"),
        (["tiny", "--network.infer-model", "x"], "infer-model"),
        (["tiny", "--network.z-dim", "0"], "--network.z-dim: got 0, need at least 1"),
        (["tiny", "--network.obs-noise-init", "0"], "--network.obs-noise-init: got 0.0"),
        (["tiny", "--training.steps", "0"], "steps: got 0, need at least 1"),
        (["tiny", "--training.lr", "nan"], "lr: got nan"),
        (["tiny", "--training.kl-warmup", "2"], "kl-warmup: got 2.0"),
        (["tiny", "--rivals.ridge", "-1"], "ridge: got -1.0"),
        (["tiny", "--rivals.tree-rate", "0"], "tree-rate: got 0.0"),
        (["tiny", "--rivals.leaves", "1"], "leaves: got 1, need at least 2"),
        (["tiny", "--data.patients", "3"], "patients: got 3, need at least 9"),
        (["tiny", "--data.events", "death", "death"], "events: got death, death"),
        (["tiny", "--data.events", "deth"], "event: got 'deth' (did you mean death?); the simulator has kidney"),
        (["tiny", "--data.events", "death=0x1"], "n_slots: got 0, need at least 1"),
        (["tiny", "--data.events", "death=5x0"], "slot_hours: got 0.0"),
        (["tiny", "--data.events", "death=5"], "events: got 'death=5', need NAME or NAME=SLOTSxHOURS"),
        (["tiny", "--data.events", "death=5x1"], "on its own grid"),
        (["tiny", "--data.rules", "Urine=max"], "rules: got 'Urine=max', need NAME=mean"),
        (["icu12", "--data.events", "sepsis"], "event: got 'sepsis'; known: kidney, circulatory"),
        (["icu12", "--data.path", "absent"], "data.path: absent not found"),
        (["icu12", "--data.path", "EMPTY"], "physionet2012_a.npz not found in EMPTY; pass its folder (data_dir=…, --data.path)"),
        (["tiny", "--cohorts", "mimic3", "--data.path", "EMPTY"], "table PATIENTS not found in"),
        (["tiny", "--cohorts", "mimic3"], "data.path: got none, need it with cohort mimic3"),
        (["laptop", "--cohorts", "icu12", "mimic3", "--data.path", "EMPTY"], "need one cohort that reads it"),
        (["tiny", "--cohorts", "meds", "--data.path", "EMPTY"], "data.events: got none, need NAME=SLOTSxHOURS"),
        (["tiny", "--cohorts", "meds", "--data.path", "EMPTY", "--data.events", "d=2x1"], "data.codes: need a JSON file"),
        (["tiny", "--cohorts", "files", "--data.path", "m.csv"], "data.outcomes: got none"),
        ([*OWN, "TABLES", "HR"], "m.csv row 3, column number: got 'HR', need a number"),
        ([*OWN, "TABLES", "EVENT"], "o.csv row 1, column sepsis_hours: need hours >= 0"),
        ([*OWN, "TABLES", "FLAG"], "o.csv row 1, column sepsis_observed: need 0 or 1"),
        ([*OWN, "TABLES", "COLUMN"], "no column sepsis_hours"),
        ([*OWN, "TABLES", "NOBODY"], "files, event 'sepsis': nobody of its train part"),
        ([*OWN, "TABLES", "CENSORED"], "files, event 'sepsis': seen in nobody of the train part; leave cox out"),
        ([*OWN, "TABLES", "FEW"], "1 patients leave the"),
        ([*OWN, "TABLES", "CLOCK"], "o.csv, column at: got numbers, need dates and times as in m.csv, column when"),
        ([*OWN, "TABLES", "LATE"], "data.path: m.csv: no observation lies in the 4 steps before a prediction"),
        ([*OWN, "--data.observations", "HR", "WCB", "TABLES", ""], "m.csv, column what: no row is of 'WCB' (did you mean WBC?)"),
        ([*OWN, "--data.interventions", "drog", "TABLES", ""], "no row is of 'drog' (did you mean drug?)"),
        ([*OWN, "--data.rules", "Nope=sum", "TABLES", ""], "rules: got 'Nope', need one of HR, WBC, drug"),
    ],
    ids=lambda value: " ".join(map(str, value))[-60:] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_settings_and_data_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    if "TABLES" in arguments:
        place = arguments.index("TABLES")
        spoil(tmp_path, arguments[place + 1])
        arguments = ["tiny", *arguments[:place], *SMALL, "--data.path", "m.csv", "--data.outcomes", "o.csv"]
    assert main(["deep-ssm", "train", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def spoil(folder: Path, how: str) -> None:
    long_tables(folder)
    measured, outcomes = folder / "m.csv", folder / "o.csv"
    lines = outcomes.read_text().splitlines()
    head, first, rest = lines[0], lines[1].split(","), [line.split(",") for line in lines[1:]]
    if how == "HR":
        text = measured.read_text().splitlines()
        text[3] = text[3].rsplit(",", 1)[0] + ",HR"
        measured.write_text("\n".join(text) + "\n")
    elif how == "COLUMN":
        head = head.replace("sepsis", "shock")
    elif how == "EVENT":
        rest[0] = [*first[:2], "-1", *first[3:]]
    elif how == "FLAG":
        rest[0] = [*first[:3], "2", *first[4:]]
    elif how == "NOBODY":
        rest = [[*row[:2], "" if part_of(row[0]) == "train" else row[2], *row[3:]] for row in rest]
    elif how == "CENSORED":
        rest = [[*row[:3], "0", *row[4:]] for row in rest]
    elif how == "FEW":
        rest = rest[:1]
    elif how == "CLOCK":
        rest = [[row[0], "4", *row[2:]] for row in rest]
    elif how == "LATE":
        rest = [[row[0], "2029-01-01T04:00", *row[2:]] for row in rest]
    outcomes.write_text("\n".join([head, *(",".join(row) for row in rest)]) + "\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "absent", "x"], "no such run: absent"),
        (["predict", "EMPTY", "x"], "not a run folder"),
        (["predict", "RUN", "x"], "RUN has models of sim, sim-300; choose one with --cohort"),
        (["predict", "RUN", "x", "--cohort", "icu12"], "--cohort: got icu12, RUN has sim, sim-300"),
        (["predict", "MODEL", "absent"], "patients: absent not found"),
        (["predict", "MODEL", "EMPTY"], "patients: got EMPTY, need a MEDS folder, PhysioNet files"),
        (["predict", "MODEL", "STAYS"], "holds PhysioNet files, and the model is of cohort sim, not icu12"),
        (["predict", "MODEL", "WARD"], "holds MIMIC-III tables, and the model is of cohort sim"),
        (["predict", "MODEL", "other.csv"], "holds none of the model's variables before the prediction (x0, x1"),
        (["predict", "MODEL", "torn.csv"], "torn.csv row 2, column value: got 'high', need a number"),
        (["predict", "MODEL", "EMPTY", "--out", "p.csv"], "--out: got p.csv, need a .parquet file"),
        (["predict", "MODEL", "EMPTY", "--out", "no/p.parquet"], "in a folder that exists"),
        (["predict", "MODEL", "EMPTY", "--samples", "-1"], "--samples: got -1"),
        (["predict", "MODEL", "MEDS", "--codes", "bad.json"], "bad.json: HR: need a list of codes"),
        (
            ["predict", "MODEL", "MEDS", "--codes", "odd.json"],
            "odd.json: got 'x19' (did you mean x1?), need names of the model",
        ),
        (["predict", "MODEL", "MEDS", "--subjects", "s.csv"], "--subjects: no effect on MEDS, which is read as meds"),
        (
            ["predict", "MODEL", "other.csv", "--labels", "l.parquet"],
            "--labels: no effect on other.csv, which is read as table",
        ),
        (["whatif", "MODEL", "--plan", "drug=1"], "--plan: got 'drug=1', need NAME=VALUE with one of treatment"),
        (["whatif", "MODEL", "--plan", "treatment=x"], "--plan: got 'treatment=x', need 1 to 24 numbers"),
        (["whatif", "MODEL", "--plan", "treatment"], "--plan: got 'treatment'"),
        (["whatif", "MODEL", "--plan", "treatment=" + "1," * 24 + "1"], "need 1 to 24 numbers"),
        (["whatif", "MODEL", "--plan", "treatment=1e30"], "need 1 to 24 numbers from 0 to 1"),
        (["whatif", "MODEL", "--plan", "treatment=0", "treatment=1"], "--plan: got treatment twice"),
        (["predict", "MODEL", "other.csv", "--cohort", "sim"], "--cohort: got sim, no effect on MODEL"),
        (["predict", "RIVAL", "other.csv", "--samples", "5"], "--samples: got 5, no effect on"),
        (["predict", "HALF", "other.csv", "--cohort", "sim"], "sim-dssm-seed0 is not trained yet"),
        (["train", "tiny", "--network.context-len-to-trigger", "3"], "network.context_len_to_trigger: got one"),
        (["whatif", "MODEL", "--subject", "sim999"], "--subject: got 'sim999'"),
        (["whatif", "MODEL", "--out", "w.txt"], "--out: got w.txt, need a .png"),
        (["whatif", "RIVAL"], "no what-if: need a state-space model with interventions"),
        (["whatif", "LONE"], "patients: none given, and LONE stands in no run"),
        (["report", "EMPTY"], "not a run folder"),
        (["report", "FRESH"], "no model of this run is finished yet"),
        (["report", "FOREIGN"], "is a run of afm, need one of deep-ssm"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_words_are_one_line(
    words: list[str],
    message: str,
    sim_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("EMPTY", "STAYS", "WARD"):
        (tmp_path / folder).mkdir()
    (tmp_path / "STAYS" / "1.txt").write_text("Time,Parameter,Value\n")
    (tmp_path / "WARD" / "ICUSTAYS.csv").write_text("SUBJECT_ID\n")
    (tmp_path / "other.csv").write_text("id,time,variable,value\na,0,Pulse,70\n")
    (tmp_path / "torn.csv").write_text("id,time,variable,value\na,0,x0,1\na,1,x0,high\n")
    (tmp_path / "bad.json").write_text('{"HR": 7}')
    (tmp_path / "odd.json").write_text('{"x19": []}')
    (tmp_path / "MEDS" / "data").mkdir(parents=True)
    (tmp_path / "MEDS" / "data" / "0.parquet").write_text("")
    (tmp_path / "RUN").symlink_to(sim_run)
    (tmp_path / "MODEL").symlink_to(sim_run / "models" / "sim-dssm-seed0")
    (tmp_path / "RIVAL").symlink_to(sim_run / "models" / "sim-lstm-seed0")
    shutil.copytree(sim_run / "models" / "sim-dssm-seed0", tmp_path / "LONE")
    shutil.copytree(sim_run, tmp_path / "HALF", ignore=shutil.ignore_patterns("*-dssm-*"))
    (tmp_path / "FRESH").symlink_to(Run.create("deep-ssm", "tiny", CONFIG, tmp_path / "made").path)
    (tmp_path / "FOREIGN").symlink_to(Run.create("afm", "tiny", {}, tmp_path / "made").path)
    if words[0] == "whatif" and "MODEL" in words:
        words = [word if word != "MODEL" else str(sim_run / "models" / "sim-dssm-seed0") for word in words]
    assert main(["deep-ssm", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error
