"""The verbs as a user types them, on every kind of data, and what they say to bad input."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tenfold.cli import main
from tenfold.clinical.cohort_words import Source
from tenfold.clinical.death48 import death48
from tenfold.clinical.events import EventSpec, part_of
from tenfold.clinical.long_table import LongColumns
from tenfold.clinical.meds import write_meds
from tenfold.clinical.mimic3 import TABLES, read_mimic3
from tenfold.clinical.physionet2012 import read_physionet2012, write_npz
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.core.config import from_json
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.recipes.meta_forecast import PRESETS, Config, train
from tenfold.recipes.meta_forecast.cohorts import Cohort, build_cohort, known_target
from tenfold.recipes.meta_forecast.config import MODES, CohortName, Data
from tenfold.recipes.meta_forecast.evaluation import Resampling
from tenfold.recipes.meta_forecast.folder import read_model, read_weights
from tenfold.recipes.meta_forecast.patients import read_histories
from tenfold.recipes.meta_forecast.runs import Choice, model_folder

FEW = SelectConfig(rounds=2, inner_steps=2, head_steps=2, lookahead=2, batch_size=16, state_size=3, classifier_steps=5)
DATA = Data(history=6, horizon=3, subjects=60, labelled=40, tested=50)
SIM = Config(mode=("supervised", "first_order"), seed=(0,), data=DATA, simulated=FEW, workers=1, draws=2)


def real(cohort: CohortName, **changed: Any) -> Config:
    """The same on real data."""
    return replace(SIM, cohort=(cohort,), simulated=Config().simulated, select=FEW, **changed)


def train_without_pictures(config: Config, folder: Path) -> Path:
    run = Run.create("meta-forecast", "tiny", config, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.recipes.meta_forecast.reporting.report", lambda *_: None)
        train(config, run)
    return run.path


@pytest.fixture(scope="module")
def sim_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_without_pictures(SIM, tmp_path_factory.mktemp("sim"))


@pytest.fixture(scope="module")
def stays(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """300 stays in intensive care."""
    folder = tmp_path_factory.mktemp("stays")
    write_stays(folder, data_dir, range(300))
    return folder


def write_stays(folder: Path, data_dir: Path, rows: Any) -> None:
    whole = read_physionet2012(data_dir / "03-04-clinical", ["a"])
    chosen = np.array(list(rows))
    counts = np.diff(whole.offsets)[chosen]
    place = np.concatenate([np.arange(whole.offsets[row], whole.offsets[row + 1]) for row in chosen])
    few = {name: getattr(whole, name)[chosen] for name in ("record_id", "static", "outcomes")}
    each = {name: getattr(whole, name)[place] for name in ("minute", "var", "value")}
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    write_npz(replace(whole, **few, **each, offsets=offsets), folder / "physionet2012_a.npz")


@pytest.fixture(scope="module")
def icu_run(tmp_path_factory: pytest.TempPathFactory, stays: Path) -> Path:
    config = real("death48", data=replace(DATA, path=stays), label_percent=(100.0, 30.0), seed=(0, 1))
    return train_without_pictures(config, tmp_path_factory.mktemp("icu"))


def long_table(path: Path, ids: list[str], x: Any, mask: Any, names: tuple[str, ...]) -> None:
    """What was observed, a row each, on the grid whose first step is hour 0."""
    lines = [
        f"{ids[row]},{step + 0.5},{names[variable]},{float(x[row, step, variable])!r}"
        for row, step, variable in np.argwhere(mask).tolist()
    ]
    path.write_text("\n".join(["id,time,variable,value", *lines]) + "\n")


def predicted(path: Path) -> Any:
    table = pq.read_table(path)
    assert table.column_names == ["subject_id", "prediction_time", "target", "probability"]
    chances = table["probability"].to_numpy()
    assert ((chances > 0) & (chances < 1)).all()
    return table.to_pandas()


# The simulator.


def test_simulated_subjects_in_a_table_are_predicted_as_they_were_scored(sim_run: Path, tmp_path: Path) -> None:
    data = build_cohort("sim", SIM, 0).data
    with np.load(sim_run / "models" / "sim-first_order-100pct-seed0" / "predictions.npz") as kept:
        ids, chance = kept["ids"].tolist(), kept["finetuned"]
    rows = [data.ids.index(one) for one in ids]
    long_table(tmp_path / "m.csv", ids, data.x[rows], data.mask[rows], data.features)
    (tmp_path / "s.csv").write_text("id,trigger\n" + "".join(f"{one},6\n" for one in ids))
    out = tmp_path / "p.parquet"
    words = ["meta-forecast", "predict", sim_run, tmp_path / "m.csv", "--subjects", tmp_path / "s.csv", "--out", out]
    assert main([str(word) for word in words]) == 0
    np.testing.assert_allclose(predicted(out)["probability"], chance, rtol=1e-5)


# Intensive care.


def test_the_runs_own_test_stays_are_predicted_as_they_were_scored(
    icu_run: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = icu_run / "models" / "death48-first_order-100pct-seed0"
    with np.load(folder / "predictions.npz") as kept:
        ids, frozen, tuned = kept["ids"], kept["frozen"], kept["finetuned"]
    whole = read_physionet2012(data_dir / "03-04-clinical", ["a"])
    write_stays(tmp_path, data_dir, [whole.ids.index(str(one)) for one in ids])
    out = tmp_path / "p.parquet"
    assert main(["meta-forecast", "predict", str(icu_run), str(tmp_path), "--out", str(out)]) == 0
    assert f"{len(ids)} predictions of hospital_death" in capsys.readouterr().out
    frame = predicted(out)
    assert frame["subject_id"].tolist() == [int(one) for one in ids] and frame["prediction_time"].isna().all()
    np.testing.assert_allclose(frame["probability"], tuned, rtol=1e-5)
    assert main(["meta-forecast", "predict", str(icu_run), str(tmp_path), "--out", str(out), "--use", "frozen"]) == 0
    np.testing.assert_allclose(predicted(out)["probability"], frozen, rtol=1e-5)


def test_stays_in_a_table_are_read_as_in_training(icu_run: Path, stays: Path, tmp_path: Path) -> None:
    opened = read_model(model_folder(icu_run))
    trained = death48(stays)
    series = read_physionet2012(stays, ["a"]).series()
    rows = [
        f"{trained.ids[stay]},{hour!r},{series.columns[column]},{float(value)!r}"
        for stay, hour, column, value in zip(
            series.subject.tolist(), series.hours.tolist(), series.column.tolist(), series.value, strict=True
        )
    ]
    (tmp_path / "m.csv").write_text("\n".join(["id,time,variable,value", *rows]) + "\n")
    (tmp_path / "s.csv").write_text("id,trigger\n" + "".join(f"{one},24\n" for one in trained.ids))
    read = read_histories(opened, Source(tmp_path / "m.csv", subjects=tmp_path / "s.csv"))
    # Among them late first records and values beyond five standard deviations.
    begins = np.array([series.hours[series.subject == row].min() for row in range(len(trained))])
    assert (begins >= 1).sum() > 10 and (np.abs(trained.x) == 5).any()
    assert read.ids == trained.ids and read.empty == 0
    np.testing.assert_array_equal(read.mask, trained.mask)
    np.testing.assert_allclose(read.x, trained.x, atol=1e-5)


def test_raw_files_without_outcomes_and_a_csv(icu_run: Path, data_dir: Path, tmp_path: Path) -> None:
    sample = data_dir / "03-04-clinical" / "raw_sample"
    shutil.copytree(sample / "set-a", tmp_path / "patients")
    tables = []
    for number, place in enumerate((sample, tmp_path / "patients")):
        out = tmp_path / f"{number}.csv"
        words = ["meta-forecast", "predict", str(icu_run), str(place), "--out", str(out), "--mode", "supervised"]
        assert main([*words, "--label_percent", "30", "--seed", "1", "--target", "hospital_death"]) == 0
        tables.append(list(csv.DictReader(out.open())))
    assert tables[0] == tables[1] and len(tables[0]) == 12
    assert tables[0][0]["target"] == "hospital_death" and 0 < float(tables[0][0]["probability"]) < 1


def test_a_selection_is_transferred(icu_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(icu_run, run)
    source = run / "stages" / "death48-first_order-30pct-seed1.json"
    row = json.loads(source.read_text())
    chosen = dict.fromkeys(row["weights"], 0.0) | dict.fromkeys(("HR", "GCS", "BUN", "Urine"), 0.25)
    source.write_text(json.dumps(row | {"weights": chosen}))
    assert main(["meta-forecast", "transfer", str(run), "--target", "long_stay", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "death48, long_stay, AUC-ROC by share of labels" in out and "random tasks, as many as weighed" in out
    opened = Run.open(run)
    moved = opened.load_stage("death48-long_stay-transferred-30pct-seed1")
    assert moved["weights"] == chosen and moved["target"] == "long_stay"
    draws = [opened.load_stage(f"death48-long_stay-draw{draw}-30pct-seed1")["weights"] for draw in (0, 1)]
    assert draws[0] != draws[1]
    assert [sum(w > 0 for w in each.values()) for each in draws] == [4, 4]
    config = from_json(Config, opened.config)
    words = ["meta-forecast", "predict", run, config.data.path, "--target", "long_stay", "--out", tmp_path / "p.csv"]
    assert main([str(word) for word in words]) == 0
    assert "300 predictions of long_stay" in capsys.readouterr().out
    assert main(["meta-forecast", "report", str(run), "--differences"]) == 0
    out = capsys.readouterr().out
    assert out.index("death48, hospital_death, 30 % of labels") < out.index("death48, long_stay, 30 % of labels")


@pytest.mark.slow
def test_a_transfer_is_part_of_the_experiment(icu_run: Path, tmp_path: Path) -> None:
    config = replace(from_json(Config, Run.open(icu_run).config), transfer_to=("long_stay",))
    run = Run.create("meta-forecast", "death48", config, tmp_path)
    names = [claim.name for claim in train(config, run).claims if "long_stay" in claim.name]
    assert len(names) == 4
    assert names[0].startswith("death48: long_stay with transferred weights (frozen), 100 % of labels")
    pictures = {file.stem for file in (run.path / "figures").glob("*.png")}
    kinds = ("scores", "label shares", "weights", "differences")
    assert pictures == {f"death48 {target} {kind}" for target in ("hospital_death", "long_stay") for kind in kinds}
    gaps = json.loads((run.path / "tables" / "death48 hospital_death, differences.json").read_text())["rows"]
    assert {"95 %, seeds", "95 %, test subjects"} <= gaps[0].keys()


def test_report_prints_what_was_measured(icu_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["meta-forecast", "report", str(icu_run)]) == 0
    out = capsys.readouterr().out
    assert "death48, hospital_death, AUC-ROC by share of labels" in out and "weights of the tasks" in out
    rows = [Run.open(icu_run).load_stage(f"death48-supervised-100pct-seed{seed}") for seed in (0, 1)]
    mean = np.mean([row["scores"]["end_to_end"]["auc_roc"] for row in rows])
    line, *_ = [line for line in out.splitlines() if line.startswith("supervised LSTM")]
    assert f"{mean:.3f} ±" in line


def test_compare_trains_every_mode_of_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", SIM)
    monkeypatch.setitem(MODES, "sim", ("pretrain", "first_order"))
    words = ["meta-forecast", "compare", "tiny", "--seeds", "2", "--workers", "1", "--runs-dir", str(tmp_path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "AutoSelect, first order minus each rival" in out and "95 %, seeds" in out
    (run,) = (tmp_path / "meta-forecast").iterdir()
    assert (run / "report.html").is_file() and Run.open(run).config["seed"] == [0, 1]


# One's own data.


def long_tables(folder: Path, patients: int = 80) -> None:
    """Two lab values over nine hours, of some less, an event after them; with other names of columns and dates."""
    rng = np.random.default_rng(0)
    measured, outcomes = ["pid,when,what,number"], ["pid,at,sepsis_hours,sepsis_observed"]
    for row in range(patients):
        hours = rng.integers(1, 30) if row % 2 else 40  # within the grid, or free of it
        outcomes.append(f"p{row},2030-01-01T09:00,{hours},{row % 2}")
        measured += [
            f"p{row},2030-01-01T0{hour}:30,{what},{rng.normal():.3f}"
            for hour in range(row % 5, 9)
            for what in ("HR", "WBC")
        ]
    for name, lines in (("m", measured), ("o", outcomes)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


OWN = ["--data.events", "sepsis=6x5", "--data.history", "6", "--data.horizon", "3", "--data.columns.subject",
       "pid", "--data.columns.time", "when", "--data.columns.variable", "what", "--data.columns.value", "number",
       "--data.columns.trigger", "at"]  # fmt: skip
SMALL = ["--mode", "first_order", "logistic", "--seed", "0", "--label_percent", "100", "--workers", "1", "--select.rounds", "2",
         "--select.inner-steps", "2", "--select.head-steps", "2", "--select.state-size", "3", "--select.classifier-steps", "5"]  # fmt: skip


def test_a_table_of_ones_own_is_trained_on_and_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long_tables(tmp_path)
    given = ["--data.path", str(tmp_path / "m.csv"), "--data.outcomes", str(tmp_path / "o.csv")]
    words = ["meta-forecast", "train", "own", "--runs-dir", str(tmp_path / "runs"), *SMALL, *OWN, *given]
    assert main([*words, "--target", "sepsis"]) == 0
    assert "files: first order (frozen), 100 % of labels, within .01" in capsys.readouterr().out
    (run,) = (tmp_path / "runs" / "meta-forecast").iterdir()
    with np.load(run / "models" / "files-first_order-100pct-seed0" / "predictions.npz") as kept:
        ids, chance = kept["ids"], kept["finetuned"]
    assert len(ids) > 5
    # The training tables again: the trigger means what it meant, and the prediction is made three hours before it.
    base = ["meta-forecast", "predict", str(run), str(tmp_path / "m.csv"), "--subjects", str(tmp_path / "o.csv")]
    assert main([*base, "--out", str(tmp_path / "p.parquet")]) == 0
    frame = predicted(tmp_path / "p.parquet")
    assert len(frame) == 80 and set(map(str, frame["prediction_time"])) == {"2030-01-01 06:00:00"}
    np.testing.assert_allclose(frame.set_index("subject_id").loc[ids, "probability"], chance, rtol=1e-5)
    # Nothing at or after the prediction is read.
    lines = (tmp_path / "m.csv").read_text().splitlines()
    late = [line.rsplit(",", 1)[0] + ",999" if "T06" in line or "T07" in line else line for line in lines]
    (tmp_path / "m.csv").write_text("\n".join(late) + "\n")
    assert main([*base, "--out", str(tmp_path / "q.parquet")]) == 0
    assert predicted(tmp_path / "q.parquet").equals(frame)
    # Other names of columns, and somebody of whom nothing is known.
    (tmp_path / "n.csv").write_text("who,when,what,number\na,2030-01-01T05:30,HR,1\n")
    (tmp_path / "s.csv").write_text("who,at\na,2030-01-01T09:00\nb,2030-01-01T09:00\n")
    base[3], base[5] = str(tmp_path / "n.csv"), str(tmp_path / "s.csv")
    assert main([*base, "--out", str(tmp_path / "r.csv"), "--columns.subject", "who"]) == 0
    assert "1 of them without any value before the prediction" in capsys.readouterr().out


def test_meds_folders_are_trained_on_and_predicted(tmp_path: Path) -> None:
    dataset = replace(HmmIcuSim().dataset(200, 3), ids=[str(row) for row in range(100, 300)])
    write_meds(dataset, tmp_path / "meds")
    (tmp_path / "codes.json").write_text(json.dumps({name: [name] for name in (*dataset.observation_names, "kidney")}))
    steps = dataset.x.shape[1]
    data = Data(path=tmp_path / "meds", codes=tmp_path / "codes.json", labels=tmp_path / "meds" / "labels.parquet",
                events=("kidney=12x1",), history=steps - 2, horizon=2)  # fmt: skip
    path = train_without_pictures(real("meds", mode=("first_order",), label_percent=(100.0,), data=data), tmp_path)
    folder = model_folder(path)
    inputs = read_model(folder).inputs
    assert inputs.codes["x0"] == ["x0"] and inputs.target == "kidney" and inputs.history == steps - 2
    out = tmp_path / "p.parquet"
    words = ["meta-forecast", "predict", str(folder), str(tmp_path / "meds"), "--out", str(out)]
    assert main([*words, "--labels", str(tmp_path / "meds" / "labels.parquet")]) == 0
    frame = predicted(out)
    assert frame["subject_id"].tolist() == list(range(100, 300))
    with np.load(path / "models" / "meds-first_order-100pct-seed0" / "predictions.npz") as kept:
        ids, chance = kept["ids"].astype(int), kept["finetuned"]
    np.testing.assert_allclose(frame.set_index("subject_id").loc[ids, "probability"], chance, rtol=1e-5)
    labels = pq.read_table(tmp_path / "meds" / "labels.parquet").to_pandas()
    made = labels.set_index("subject_id")["prediction_time"].loc[frame["subject_id"]] - np.timedelta64(2, "h")
    assert frame["prediction_time"].tolist() == made.tolist()


def mimic_tables(folder: Path, patients: int = 60) -> None:
    """Sixty adults in intensive care for four days: heart rate, potassium, a rare item, creatinine; every third dies."""
    rng, zero = np.random.default_rng(0), np.datetime64("2150-03-10T08:00:00")

    def at(hours: float) -> str:
        return str(zero + np.timedelta64(round(hours * 3600), "s")).replace("T", " ")

    rows: dict[str, list[str]] = {
        "PATIENTS": ["SUBJECT_ID,GENDER,DOB,DOD"],
        "ADMISSIONS": ["SUBJECT_ID,HADM_ID,DEATHTIME"],
        "ICUSTAYS": ["SUBJECT_ID,HADM_ID,INTIME,OUTTIME"],
        "CHARTEVENTS": ["SUBJECT_ID,ITEMID,CHARTTIME,VALUENUM,ERROR"],
        "LABEVENTS": ["SUBJECT_ID,ITEMID,CHARTTIME,VALUENUM"],
        "INPUTEVENTS_CV": ["SUBJECT_ID,ITEMID,CHARTTIME,AMOUNT,RATE"],
        "INPUTEVENTS_MV": ["SUBJECT_ID,ITEMID,STARTTIME,ENDTIME,STATUSDESCRIPTION"],
        "PROCEDUREEVENTS_MV": ["SUBJECT_ID,ITEMID,STARTTIME,ENDTIME,STATUSDESCRIPTION"],
    }
    for who in range(1, patients + 1):
        rows["PATIENTS"].append(f"{who},M,2090-01-01 00:00:00,")
        rows["ADMISSIONS"].append(f"{who},{who},{at(300) if who % 3 == 0 else ''}")
        rows["ICUSTAYS"].append(f"{who},{who},{at(0)},{at(96)}")
        for hour in range(0, 58, 4):
            rows["CHARTEVENTS"].append(f"{who},{211 if who % 2 else 220045},{at(hour + 0.5)},{rng.normal(80, 5):.1f},")
            rows["LABEVENTS"].append(f"{who},50971,{at(hour + 0.5)},{rng.normal(4, 0.3):.2f}")
            rows["LABEVENTS"].append(f"{who},50912,{at(hour + 0.5)},{rng.normal(1, 0.1):.2f}")
        if who == 1:
            rows["LABEVENTS"].append(f"{who},51999,{at(3)},1.0")
    assert set(rows) == set(TABLES)
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("items", [(), (50971, 211)])
def test_mimic_tables_are_trained_on_and_predicted(items: tuple[int, ...], tmp_path: Path) -> None:
    mimic_tables(tmp_path)
    data = Data(path=tmp_path, history=48, horizon=10, items=items)
    config = real("mimic3", label_percent=(100.0,), data=data)
    cohort = build_cohort("mimic3", config, 0)
    # Both charting systems give one heart rate; what one stay has is no task.
    assert set(cohort.data.features) == ({"HR", "K"} if items else {"HR", "K", "Creatinine"})
    assert cohort.data.targets == ("death30",) and cohort.data.labels.mean() == pytest.approx(1 / 3)
    heart = cohort.data.features.index("HR")
    assert (
        cohort.data.mask[:, :, heart].sum(1).tolist() == [12] * 60 and cohort.data.y_mask[:, :, heart].all(1).sum() == 0
    )
    path = train_without_pictures(config, tmp_path)
    test = cohort.data.split()["test"]
    out = tmp_path / "p.parquet"
    assert main(["meta-forecast", "predict", str(path), str(tmp_path), "--out", str(out)]) == 0
    frame = predicted(out)
    assert len(frame) == 60 and str(frame["prediction_time"][0]) == "2150-03-12 08:00:00"
    with np.load(path / "models" / "mimic3-first_order-100pct-seed0" / "predictions.npz") as kept:
        np.testing.assert_allclose(frame["probability"].to_numpy()[test], kept["finetuned"], rtol=1e-5)


def test_mimic_reads_the_values_that_the_reader_reads(tmp_path: Path) -> None:
    mimic_tables(tmp_path)
    data = Data(path=tmp_path, history=48, horizon=10, events=("kidney",))
    cohort = build_cohort("mimic3", real("mimic3", data=data), 0)
    plain = read_mimic3(tmp_path, ["kidney"], context_hours=58)
    place = plain.observation_names.index("Creatinine")
    ours = cohort.data.y[:, :, cohort.data.features.index("Creatinine")]
    np.testing.assert_allclose(ours, plain.x[:, 48:, place], rtol=1e-6)
    scaling = cohort.data.reading.scaling
    assert cohort.data.targets == ("kidney",) and scaling is not None and "SpO2" in scaling.names


# Models of a run.


def test_a_model_is_chosen_by_what_it_is(icu_run: Path) -> None:
    assert model_folder(icu_run).name == "finetuned" and model_folder(icu_run).parent.name == "death48-first_order-100pct-seed0"  # fmt: skip
    chosen = model_folder(icu_run, Choice(mode="supervised", label_percent=30.0, seed=1))
    assert (chosen.parent.name, chosen.name) == ("death48-supervised-30pct-seed1", "end_to_end")
    with pytest.raises(UserError, match="no such model; it has "):
        model_folder(icu_run, Choice(mode="cotrain"))
    assert list(read_weights(icu_run))[:2] == list(read_model(chosen).inputs.variables)[:2]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("inputs.json", None, "file not found"),
        ("inputs.json", {"history": 10**9}, "history: got 1000000000"),
        ("inputs.json", {"gap": -1}, "gap: got -1"),
        ("inputs.json", {"step_hours": 0}, "step_hours: got 0"),
        ("inputs.json", {"variables": ["r1", "r1"]}, "variables: got r1, r1, need names that differ"),
        ("inputs.json", {"cohort": "files"}, "its scaling is not that of cohort files"),
        ("config.json", {"reading": {"scaling": {"names": ["a"], "low": [0], "high": [1], "mean": [0], "sd": []}}}, "scaling.sd: got 0 numbers, need 1"),
        ("config.json", {"reading": {"scaling": {"names": ["a"], "low": [0], "high": [1], "mean": [0], "sd": [0]}}}, "scaling.sd: got .*need finite numbers > 0"),
        ("weights.csv", "task,weight,round\n", "got weights of , need those of r1"),
        ("weights.csv", "task,weight,round\nr1,1.0,0\n", "got weights of r1, need those of r1"),
        ("inputs.json", "{", "not valid JSON"),
        ("inputs.json", '{"cohort": "sim"}', "inputs.json: target: missing"),
        ("inputs.json", '{"cohort": "sim", "target": "t", "variables": ["a"], "history": 6}', "its variables are not those of the weights"),
        ("config.json", None, "file not found"),
        ("config.json", '{"config": {}}', "config.json: reading: missing"),
        ("model.safetensors", "x", "not a whole safetensors file"),
        ("model.safetensors", None, "weights not found"),
        ("weights.csv", None, "not a saved AutoSelect"),
    ],
)  # fmt: skip
def test_damaged_model_folders_are_named(
    file: str, content: str | dict[str, Any] | None, message: str, sim_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder(sim_run, Choice(use="frozen")), folder)
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        read_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cohort": "death48"}, "cohort: got 'death48', need one of sim"),
        ({"cohort": "ward"}, "cohort: got"),
        ({"scores": {}}, "scores: got none"),
        ({"scores": {"frozen": {}}}, "scores.frozen: got {}, need finite auc_roc"),
        ({"percent": "x"}, "percent: got"),
        ({"labels": 3}, "labels: got 3"),
        ({"labels": {}}, "labels: got {}, need train and valid"),
        ({"mode": "best"}, "mode: got"),
        ({"name": "../other"}, "name: got '../other', need 'sim-first_order-100pct-seed0'"),
        ({"weights": {"r1": "high"}}, "weights.r1: got"),
    ],
    ids=str,
)
@pytest.mark.parametrize("verb", ["report", "predict"])
def test_damaged_rows_are_named(
    verb: str,
    change: dict[str, Any],
    message: str,
    sim_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sim_run, run)
    stage = run / "stages" / "sim-first_order-100pct-seed0.json"
    stage.write_text(json.dumps(json.loads(stage.read_text()) | change))
    words = [str(run), str(stage)] if verb == "predict" else [str(run)]
    assert (
        main(["meta-forecast", verb, *words, *(["--out", str(tmp_path / "p.csv")] if verb == "predict" else [])]) == 2
    )
    error = capsys.readouterr().err.strip()
    assert message in error and str(stage) in error and len(error.splitlines()) == 1, error


@pytest.mark.parametrize("how", ["torn", "absent", "other use", "not finite", "another length"])
def test_damaged_predictions_are_named(how: str, tmp_path: Path) -> None:
    path = tmp_path / "job" / "predictions.npz"
    path.parent.mkdir()
    label, score = np.array([True, False]), np.array([0.5, np.nan if how == "not finite" else 0.2])
    if how != "absent":
        arrays = {"finetuned" if how == "other use" else "frozen": score[: 1 if how == "another length" else 2]}
        np.savez(path, label=label, **arrays)  # type: ignore[arg-type]
    if how == "torn":
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match=r"job/predictions.npz: no whole predictions of 'frozen'"):
        Resampling(tmp_path).interval([("job", "frozen")], [("job", "frozen")])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (["nan"] + ["0.1"] * 15, "w.csv: w: got [nan, "),
        (["0"] * 16, "need finite numbers from 0, one of them > 0"),
        (["-1"] + ["0.1"] * 15, "w.csv: w: got [-1.0, "),
        (["1e39"] + ["0.1"] * 15, "w.csv: w: got [inf, "),
        (["high"] * 16, "w.csv: no weights of tasks, need columns task, weight, round"),
        ([], "w.csv: no weights of tasks, need columns task, weight, round (it is empty)"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value else "",
)
def test_damaged_weights_are_refused_before_there_is_a_run(
    weights: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{name},{weight},0" for name, weight in zip(PlantedForecast().features, weights, strict=False)]
    (tmp_path / "w.csv").write_text("\n".join(["task,weight,round", *lines]) + "\n")
    words = ["tiny", "--mode", "given_weights", "--transfer_from", str(tmp_path / "w.csv")]
    assert main(["meta-forecast", "train", *words, "--runs-dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "runs").exists()


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "unknown preset"),
        (["tiny", "--cohort", "death24"], "cohort"),
        (["tiny", "--mode", "autoselect"], "mode"),
        (["tiny", "--mode", "pretrain", "pretrain"], "mode: got"),
        (["tiny", "--seed", "-1"], "seed: got -1"),
        (["tiny", "--label_percent", "0"], "label-percent: got 0.0, need more than 0"),
        (["tiny", "--label-percent", "101"], "label-percent: got 101.0"),
        (["tiny", "--target", "death"], "target: got 'death'; sim has outcome"),
        (["tiny", "--simulated.rounds", "0"], "rounds: got 0, need at least 1"),
        (["tiny", "--simulated.inner-steps", "0"], "inner-steps: got 0, need at least 1"),
        (["tiny", "--simulated.normalization", "hard"], "normalization"),
        (["tiny", "--simulated.label-percent", "10"], "simulated.label_percent: got 10.0, need it as --label-percent"),
        (["tiny", "--simulated.hypergradient", "implicit"], "need it as --mode"),
        (["tiny", "--simulated.freeze-encoder", "True"], "need it as --use"),
        (["tiny", "--simulated.top-k", "17"], "sim: top_k: got 17, need 1..16"),
        (["tiny", "--simulated.init", "0.1"], "sim: init: got"),
        (["tiny", "--simulated.horizon", "11"], "sim: horizon: got 11, need 1..10"),
        (["tiny", "--simulated.state-size", "100000000"], "state-size: got 100000000, need at most 8192"),
        (["tiny", "--select.rounds", "10"], "select.rounds: no effect on cohort sim"),
        (["tiny", "--mode", "pretrain-subset"], "mode"),
        (["tiny", "--mode", "pretrain_subset"], "need select.include or select.exclude"),
        (["tiny", "--mode", "pretrain_subset", "--simulated.include", "r1", "--simulated.exclude", "r2"], "include, exclude: got"),
        (["tiny", "--mode", "pretrain_subset", "--simulated.include", "r9"], "sim: subset: got task 'r9'"),
        (["tiny", "--mode", "given_weights"], "--transfer-from: got None"),
        (["tiny", "--transfer-from", "runs"], "need it with mode given_weights"),
        (["tiny", "--mode", "given_weights", "--transfer_from", "absent"], "absent: no weights of tasks"),
        (["tiny", "--transfer-to", "long_stay"], "need a cohort with several outcomes"),
        (["death48", "--mode", "oracle_subset", "--transfer-to"], "need simulated cohorts"),
        (["death48", "--mode", "pretrain"], "--transfer-to: need mode first_order"),
        (["tiny", "--data.subjects", "30"], "labelled: got 60, need at most 30"),
        (["tiny", "--data.horizon", "0"], "horizon: got 0, need at least 1"),
        (["tiny", "--data.rules", "HR=max"], "rules: got 'HR=max', need NAME=mean"),
        (["tiny", "--data.events", "a=1x1", "a=2x2"], "need names that differ"),
        (["death48", "--target", "hospital_deth"], "target: got 'hospital_deth' (did you mean hospital_death?)"),
        (["death48", "--transfer-to", "cough"], "target: got 'cough'; death48 has"),
        (["death48", "--data.path", "absent"], "data.path: absent not found"),
        (["death48", "--data.path", "EMPTY"], "physionet2012_a.npz not found in"),
        (["mimic3", "--data.path", "EMPTY"], "table PATIENTS not found in"),
        (["mimic3"], "data.path: mimic-iii not found; pass --data.path, or train sim"),
        (["death48", "--cohort", "mimic3"], "path: got none, need it with cohort mimic3"),
        (["own", "--cohort", "meds", "--data.path", "EMPTY", "--data.events"], "events: got none, need NAME=SLOTSxHOURS"),
        (["own", "--cohort", "meds", "--data.path", "EMPTY"], "data.codes: need a JSON file"),
        (["own"], "data.path: measurements.csv not found"),
        (["death48", "--cohort", "files", "--data.path", "m.csv"], "outcomes: got none"),
        ([*OWN, "TABLES", "VALUE"], "m.csv row 3, column number: got 'HR', need a number"),
        ([*OWN, "TABLES", "LARGE"], "m.csv row 3, column number: got '1e300', need a finite number"),
        ([*OWN, "TABLES", "EMPTY"], "m.csv holds no measurement"),
        ([*OWN, "TABLES", "CLOCK"], "m.csv: nothing lies in the 9 steps before a trigger; are their times on one clock?"),
        ([*OWN, "TABLES", "FLAG"], "o.csv row 1, column sepsis_observed: need 0 or 1"),
        ([*OWN, "TABLES", "COLUMN"], "no column sepsis_hours"),
        ([*OWN, "TABLES", "NOBODY"], "target 'sepsis' needs both outcomes among its"),
        ([*OWN, "TABLES", "TRAIN"], "files: target 'sepsis' has 0 positives among"),
        ([*OWN, "TABLES", "FUTURE"], "no variable is observed in the future of any training subject"),
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
        arguments = ["own", *arguments[:place], *SMALL, "--data.path", str(tmp_path / "m.csv"),
                     "--data.outcomes", str(tmp_path / "o.csv")]  # fmt: skip
    assert main(["meta-forecast", "train", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "runs").exists()


def spoil(folder: Path, how: str) -> None:
    long_tables(folder)
    measured, outcomes = folder / "m.csv", folder / "o.csv"
    text = measured.read_text().splitlines()
    head, *rest = (line.split(",") for line in outcomes.read_text().splitlines())
    if how in ("VALUE", "LARGE"):
        text[3] = text[3].rsplit(",", 1)[0] + (",HR" if how == "VALUE" else ",1e300")
    elif how == "EMPTY":
        del text[1:]
    elif how == "CLOCK":
        text = [line.replace("2030-01-01", "2031-01-01") for line in text]
    elif how == "FUTURE":
        text = [line for line in text if not any(f"T0{hour}" in line for hour in (6, 7, 8))]
    elif how == "COLUMN":
        head[2] = "shock_hours"
    elif how == "FLAG":
        rest[0][3] = "2"
    elif how in ("NOBODY", "TRAIN"):
        part = "test" if how == "NOBODY" else "train"
        rest = [[*row[:2], "40", "0"] if part_of(row[0]) == part else row for row in rest]
    measured.write_text("\n".join(text) + "\n")
    outcomes.write_text("\n".join(",".join(row) for row in [head, *rest]) + "\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "absent", "x"], "no such run: absent"),
        (["predict", "EMPTY", "x"], "not a run folder"),
        (["predict", "RUN", "x", "--mode", "cotrain"], "RUN: no such model"),
        (["predict", "RUN", "x", "--cohort", "death48"], "RUN: no such model"),
        (["predict", "MODEL", "absent"], "patients: absent not found"),
        (["predict", "MODEL", "EMPTY"], "patients: got EMPTY, need a MEDS folder, PhysioNet files"),
        (["predict", "MODEL", "STAYS"], "holds data of death48, and the model is of cohort sim"),
        (["predict", "MODEL", "WARD"], "holds data of mimic3, and the model is of cohort sim"),
        (["predict", "MODEL", "other.csv"], "holds none of the model's variables before the prediction (r1, r2"),
        (["predict", "MODEL", "torn.csv"], "torn.csv row 2, column value: got 'high', need a number"),
        (["predict", "MODEL", "EMPTY", "--out", "p.xlsx"], "--out: got p.xlsx, need a .parquet or .csv file"),
        (["predict", "MODEL", "EMPTY", "--out", "no/p.csv"], "in a folder that exists"),
        (["predict", "MODEL", "MEDS", "--codes", "bad.json"], "bad.json: HR: need a list of codes"),
        (["predict", "MODEL", "other.csv", "--labels", "other.csv"], "--labels: no effect on other.csv, which is read as table"),
        (["predict", "MODEL", "MEDS", "--subjects", "other.csv"], "--subjects: no effect on MEDS"),
        (["predict", "MODEL", "STAYS", "--columns.time", "when"], "--columns.time: no effect on STAYS, which is read as physionet"),
        (["compare", "huge"], "preset: got 'huge'"),
        (["compare", "tiny", "--seeds", "0"], "--seeds: got 0"),
        (["transfer", "RUN"], "a simulated cohort has one outcome"),
        (["transfer", "ICU", "--target", "hospital_death"], "--target: the weights were learned for hospital_death"),
        (["transfer", "ICU", "--target", "cough"], "target: got 'cough'; death48 has"),
        (["transfer", "ICU", "--workers", "0"], "--workers: got 0"),
        (["transfer", "CUT"], "seed0 is not finished; tenfold meta-forecast train --resume"),
        (["report", "EMPTY"], "not a run folder"),
        (["report", "FRESH"], "no model of this run is finished yet"),
        (["report", "FOREIGN"], "is a run of afm, need one of meta-forecast"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)  # fmt: skip
def test_bad_words_are_one_line(
    words: list[str],
    message: str,
    sim_run: Path,
    icu_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("EMPTY", "STAYS", "WARD"):
        (tmp_path / folder).mkdir()
    (tmp_path / "STAYS" / "1.txt").write_text("Time,Parameter,Value\n")
    (tmp_path / "MEDS" / "data").mkdir(parents=True)
    (tmp_path / "MEDS" / "data" / "0.parquet").write_bytes(b"")
    (tmp_path / "WARD" / "ICUSTAYS.csv").write_text("SUBJECT_ID\n")
    (tmp_path / "other.csv").write_text("id,time,variable,value\na,0,Pulse,70\n")
    (tmp_path / "torn.csv").write_text("id,time,variable,value\na,0,r1,1\na,1,r1,high\n")
    (tmp_path / "bad.json").write_text('{"HR": 7}')
    (tmp_path / "RUN").symlink_to(sim_run)
    (tmp_path / "ICU").symlink_to(icu_run)
    (tmp_path / "MODEL").symlink_to(model_folder(sim_run))
    (tmp_path / "FRESH").symlink_to(Run.create("meta-forecast", "tiny", SIM, tmp_path / "made").path)
    (tmp_path / "FOREIGN").symlink_to(Run.create("afm", "tiny", {}, tmp_path / "made").path)
    unfinished = from_json(Config, Run.open(icu_run).config)
    (tmp_path / "CUT").symlink_to(Run.create("meta-forecast", "death48", unfinished, tmp_path / "made").path)
    assert main(["meta-forecast", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error


def test_an_outcome_that_no_file_can_bear_is_refused() -> None:
    data = replace(build_cohort("sim", SIM, 0).data, targets=("<b>ev</b>",))
    with pytest.raises(UserError, match=r"^target: got '<b>ev</b>'"):
        known_target("<b>ev</b>", Cohort("sim", data))


def test_an_event_is_an_outcome_within_its_grid(tmp_path: Path) -> None:
    long_tables(tmp_path)
    data = Data(path=tmp_path / "m.csv", outcomes=tmp_path / "o.csv", events=("sepsis=6x2",), history=6, horizon=3, columns=LongColumns("pid", "when", "what", "number", "at"))  # fmt: skip
    cohort = build_cohort("files", real("files", data=data), 0)
    rows = list(csv.DictReader((tmp_path / "o.csv").open()))
    within = [row["sepsis_observed"] == "1" and float(row["sepsis_hours"]) < 12 for row in rows]
    known = [row["sepsis_observed"] == "1" or float(row["sepsis_hours"]) >= 12 for row in rows]
    assert cohort.data.labels[:, 0].tolist() == within and cohort.data.eligible[:, 0].tolist() == known
    assert data.specs() == [EventSpec("sepsis", 2.0, 6)]
