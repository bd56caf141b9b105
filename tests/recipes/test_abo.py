"""The comparison end to end at a size of seconds, its claims, and every verb as a user types it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.cli import main
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.prompts.result import Result
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.word_model import WordModel
from tenfold.recipes.abo import EXPECTED, PRESETS, Config, check, train
from tenfold.recipes.abo.config import Data, Models, Probes, Search
from tenfold.recipes.abo.experiment import SELECTORS, one_stage, stage_names
from tenfold.recipes.abo.findings import Scores, noise_of, reflection_table
from tenfold.recipes.abo.option_names import in_options
from tenfold.recipes.abo.searches import METHODS, open_task, options

SMALL = Config(
    data=Data(tasks=("sim/navigate",), train=12, val=10, test=30),
    search=Search(calls=140, proposals=4, minibatch=6, keep=1, verify=3, abo_rounds=1),
    probes=Probes(reflections=12, betas=(0.0, 1.0), paraphrases=2),
    methods=("given", "apo", "abo"),
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    task = sim_task("object_counting", 4, (12, 10, 12))
    rows = [
        {"id": e.id, "question": e.input, "answer": e.target, "split": split}
        for split in ("train", "val", "test")
        for e in task.split(split)  # type: ignore[arg-type]
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def asked(table: Path, out: Path, *more: str) -> list[str]:
    return ["abo", "optimize", "--data", str(table), "--input-column", "question", "--target-column", "answer", "--target-model", "sim", "--start", "Answer.", "--calls", "200", "--minibatch", "6", "--proposals", "4", "--out", str(out), *more]  # fmt: skip


def test_end_to_end_compares_probes_and_reports(tmp_path: Path) -> None:
    config = replace(SMALL, seeds=(0, 1, 2), probes=replace(SMALL.probes, bandit=40))
    check(config)
    run = Run.create("abo", "tiny", config, tmp_path)
    result = train(config, run)
    names = {claim.name: claim for claim in result.claims}
    best = names["abo above the starting prompt on sim/navigate"]
    assert best.simulator and best.seeds == 3 and best.value > 0.9 > best.baseline
    assert {"abo above apo on sim/navigate", "prior bias tells β = 1 from β = 0 on sim/navigate"} <= set(names)
    assert all(claim.simulator and claim.holds is not None for claim in result.claims)
    assert len([name for name in names if "forty arms" in name]) == len(SELECTORS) - 1
    for figure in ("scores", "curves", "reflections"):
        assert (run.path / "figures" / f"{figure}.png").stat().st_size > 5000
    scores = json.loads((run.path / "tables" / "scores.json").read_text())["rows"]
    assert [row["method"] for row in scores] == ["given", "apo", "abo"] and all(
        row["target calls"] <= 140 for row in scores
    )
    page = (run.path / "report.html").read_text()
    assert "simulator" in page and (run.path / "searches" / "sim-navigate--abo--0" / "report.html").exists()
    # Nothing is done twice.
    assert stage_names(config) == [name for name in stage_names(config) if run.done(name)]


def test_a_local_target_with_scripted_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plumbing at a size of seconds: this model has learned nothing."""
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    config = replace(
        PRESETS["local"],
        models=Models("local", local=WordModel(dim=8, layers=1, heads=1, lessons=60, steps=3, rows=2)),
        data=Data(tasks=("words/rule",), train=6, val=5, test=8, max_tokens=6),
        search=Search(calls=30, proposals=2, minibatch=3, keep=1, verify=2, abo_rounds=1),
        probes=Probes(reflections=0, paraphrases=0),
        methods=("given", "random", "ape"),
        seeds=(0, 1, 2),
    )
    check(config)
    run = Run.create("abo", "local", config, tmp_path)
    result = train(config, run)
    names = {claim.name: claim for claim in result.claims}
    claim = names["ape above random on words/rule"]
    assert not claim.simulator and claim.seeds == 3 and "scripted optimizer" in claim.how and claim.paper is None
    scores = json.loads((run.path / "tables" / "scores.json").read_text())["rows"]
    assert [row["method"] for row in scores] == list(config.methods) and all(
        row["target calls"] <= 30 for row in scores
    )
    assert scores[0]["p against random"] is None and "Scripted optimizer." in (run.path / "report.html").read_text()
    rows = [run.load_stage(name) for name in stage_names(config)]
    assert len(set(Scores(config, rows).items("words/rule", "ape")[1])) == 24  # every seed has items of its own


def test_a_stage_is_the_same_in_a_run_of_its_own(tmp_path: Path) -> None:
    name = "search sim-navigate abo 0"
    rows = []
    for place in ("a", "b"):
        run = Run.create("abo", "tiny", SMALL, tmp_path / place)
        one_stage(SMALL, str(run.path), name)
        rows.append(Run.open(run.path).load_stage(name))
    assert rows[0] == rows[1] and rows[0]["target_calls"] <= 140


def test_every_preset_is_sound() -> None:
    assert set(EXPECTED) == set(PRESETS)
    for config in PRESETS.values():
        assert from_json(Config, to_json(config)) == config
        for method in config.methods:
            METHODS[method].settings_type(**options(method, config.search, sim_task("navigate", 0, (2, 10, 30))))
    check(PRESETS["tiny"])
    assert PRESETS["smollm2"].search.calls <= 200 and len(PRESETS["smollm2"].seeds) >= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("apo",)}, "need 'given' among them"),
        ({"methods": ("given", "apoo")}, "methods: got apoo"),
        ({"data": Data(tasks=("bbh/snarks",))}, "the simulator knows object_counting and navigate only"),
        ({"models": Models(target="m"), "workers": 2}, "workers: got 2, need 1 with a real model"),
        ({"seeds": (1, 1)}, "seeds: got"),
        ({"models": Models("local")}, "local and script know words/rule only"),
    ],
)
def test_a_bad_config_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("pair", [("sim", "local"), ("script", "sim")])
def test_the_local_model_only_answers_and_the_script_only_writes(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="can only answer"):
        Models(*pair)
    assert main(["abo", "plan", "--task", "words/rule", "--target-model", pair[0], "--optimizer-model", pair[1]]) == 2
    assert main(["abo", "plan", "--task", "sim/navigate", "--target-model", "local"]) == 2


def test_what_is_absent_is_told_before_there_is_a_run(data_dir: Path) -> None:
    with pytest.raises(UserError, match=r"search\.calls: got 20, need more than the 30"):
        check(replace(SMALL, search=replace(SMALL.search, calls=20)))
    real = replace(SMALL, models=Models(target="serve:no-such-model"), data=Data(tasks=("bbh/navigate",)))
    with pytest.raises(UserError, match="no-such-model"):
        check(real)
    assert open_task("bbh/navigate", real, 0).max_tokens == 256


def test_optimize_resume_diagnose_check(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(asked(table, run)) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("plan: abo, at most ")
        and "simulator: a simulated model took part" in said
        and "Step 1:" in said
    )
    first = (run / "result.json").read_bytes()
    assert main(["abo", "resume", str(run)]) == 0
    assert (run / "result.json").read_bytes() == first
    assert main(["abo", "diagnose", str(run), "--reflections", "9", "--paraphrases", "2", "--judged", "4", "--repeats", "2"]) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert (
        "prior bias" in said and "paraphrase sensitivity, std" in said and "say nothing about language models" in said
    )
    assert "judge: agrees on steps" in said and "2 times on" in said and "0 % of replies change" in said
    assert "paraphrase sensitivity" in (run / "report.html").read_text()
    assert (run / "result.json").read_bytes() == first
    assert main(["abo", "check", str(run)]) == 0
    assert "mine: " in capsys.readouterr().out
    assert main(["abo", "check", str(run), "--least", "1.0"]) in (0, 1)
    assert main(["abo", "check", str(run), "--target-model", "http://127.0.0.1:9/v1#m"]) == 2
    assert Result.open(run).test["looks"] == 1


def test_check_ends_with_one_where_the_model_got_worse(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    main(asked(table, run))
    monkeypatch.setattr("tenfold.prompts.simulator.P_DEMO", 0.0)
    monkeypatch.setattr("tenfold.prompts.simulator.SimTarget._done", lambda *_: [])
    assert main(["abo", "check", str(run)]) == 1
    assert "worse than it was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget-calls", "50"], "it may take"),
        (["--budget-usd", "0.000001", "--target-price", "1", "1"], "it may cost"),
        (["--calls", "40"], "no step fits: --calls is 40, need at least 80"),
        (["--scorer", "regex:("], "--scorer: got '('"),
        (["--method", "abbo"], "did you mean abo?"),
        (
            ["--input-column", "frage"],
            "has no column 'frage'; it has id, question, answer, split; map yours with --input-column NAME",
        ),
        (["--start", "@absent.txt"], "file not found: absent.txt"),
        (["--scorer", "fuzzy"], "--scorer: got 'fuzzy'"),
        (["--start", "a\0b"], "holds a null byte at character 1"),
        (["--likelihood", "5"], "likelihood: got 5 with method abo"),
        (["--target-model", "http://127.0.0.1:9/v1"], "need URL#MODEL"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(
    more: list[str], message: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = asked(table, tmp_path / "run")
    for option in [word for word in more if word.startswith("--")]:
        if option in base:
            del base[base.index(option) : base.index(option) + 2]
    assert main([*base, *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert not (tmp_path / "run").exists()


def test_plan_asks_nobody(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--input-column",
        "question",
        "--target-column",
        "answer",
        "--target-model",
        "m",
        "--base-url",
        "http://127.0.0.1:9/v1",
    ]
    assert main(["abo", "plan", "--data", str(table), *words, "--target-price", "0.5", "1.5", "--budget-usd", "1"]) == 0
    said = capsys.readouterr().out
    assert "US dollars" in said and "steps fit" in said


def test_compare_makes_a_run_of_its_own(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["abo", "compare", "sim/navigate", "--target-model", "sim", "--methods", "given", "abo", "--seeds", "2", "--calls", "120", "--test", "30", "--val", "8", "--train", "8", "--reflections", "0", "--paraphrases", "0", "--runs-dir", str(tmp_path)]  # fmt: skip
    assert main([*command, "--tokens", "20000"]) == 2 and not (tmp_path / "abo").exists()
    assert "search.tokens: got 20000, need " in capsys.readouterr().err
    assert main([*command, "--tokens", "400000"]) == 0
    said = capsys.readouterr().out
    assert "report: " in said and "abo" in said
    (run,) = (tmp_path / "abo").iterdir()
    assert json.loads((run / "result.json").read_text())["claims"]


def test_the_price_that_is_missing_is_named(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["abo", "plan", "--data", str(table), "--input-column", "question", "--target-column", "answer", "--target-model", "http://127.0.0.1:9/v1#m", "--start", "Answer."]  # fmt: skip
    two = [*base, "--optimizer-model", "http://127.0.0.1:9/v1#n", "--target-price", "1", "2"]
    assert main([*two, "--budget-usd", "1"]) == 0
    said = capsys.readouterr().out
    assert "it will not start: --budget-usd needs --optimizer-price IN OUT (of n)" in said
    assert "in dollars with --optimizer-price IN OUT (of n)" in said and "0.0000" not in said
    assert main(base) == 0
    assert "in dollars with --target-price IN OUT (of m)" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["ape", "opro"])
def test_where_a_step_is_said_to_fit_something_is_tried(method: str, table: Path, tmp_path: Path) -> None:
    """APE's number of prompts leaves room for both looks at test."""
    run = tmp_path / "run"
    assert main([*asked(table, run), "--method", method]) == 0
    result = Result.open(run)
    assert any(c.op != "init" and c.scores for c in result.candidates) and not result.warnings()


def test_a_run_that_is_not_finished_says_how_to_go_on(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(asked(table, run)) == 0
    (run / "result.json").unlink()
    for verb in ("check", "diagnose"):
        assert main(["abo", verb, str(run)]) == 2
        assert f"error: {run} is not finished; tenfold abo resume {run}" in capsys.readouterr().err


def test_diagnose_prints_its_plan_and_keeps_to_a_budget(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(asked(table, run)) == 0
    capsys.readouterr()
    command = ["abo", "diagnose", str(run), "--reflections", "3", "--paraphrases", "2", "--repeats", "2"]
    assert main([*command, "--budget-calls", "20"]) == 2
    told = capsys.readouterr()
    assert told.out.startswith("plan: diagnose, at most 52 calls to the target and 12 to the optimizer")
    assert "it may take 64 calls, --budget-calls is 20" in told.err and not (run / "probes").exists()
    assert main([*command, "--budget-calls", "64"]) == 0


def test_compare_plans_refuses_and_counts_seeds_honestly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["abo", "compare", "sim/navigate", "--target-model", "sim", "--methods", "given", "ape", "--seeds", "2", "--calls", "90", "--test", "30", "--val", "6", "--train", "6", "--reflections", "4", "--paraphrases", "2", "--runs-dir", str(tmp_path)]  # fmt: skip
    assert main([*command, "--budget-calls", "100"]) == 2
    told = capsys.readouterr()
    assert "at most " in told.out and "--budget-calls is 100; give more, or lower --calls" in told.err
    paid = [word if word != "sim" else "http://127.0.0.1:9/v1#m" for word in command]
    assert main([*paid, "--budget-usd", "1"]) == 2
    assert "--budget-usd needs a price of http://127.0.0.1:9/v1#m; give --target-price" in capsys.readouterr().err
    assert main([*paid, "--budget-usd", "0.0001", "--target-price", "1", "1"]) == 2
    assert "US dollars, --budget-usd is 0.0001" in capsys.readouterr().err
    assert main(["abo", "compare", "nosuch.csv", "--target-model", "m", "--runs-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == "error: file not found: nosuch.csv"
    assert not (tmp_path / "abo").exists()
    assert main(command) == 0
    said = capsys.readouterr().out
    most = [int(word) for word in re.findall(r"at most (\d+) calls to the target and (\d+)", said)[0]]
    (run,) = (tmp_path / "abo").iterdir()
    assert f"tenfold abo resume {run}" in said and "95 % of all items, seeds not counted" in said
    rows = [json.loads(file.read_text()) for file in (run / "stages").glob("search*.json")]
    assert (
        sum(row["target_calls"] for row in rows) <= most[0] and sum(row["optimizer_calls"] for row in rows) <= most[1]
    )
    claims = json.loads((run / "result.json").read_text())["claims"]
    assert claims and all("seeds are not counted" in claim["how"] for claim in claims)
    assert not any("recovered" in claim["name"] or "prior bias" in claim["name"] for claim in claims)
    before = (run / "tables" / "scores.json").read_bytes()
    next((run / "stages").glob("search*ape*.json")).unlink()
    assert main(["abo", "resume", str(run)]) == 0
    assert (run / "tables" / "scores.json").read_bytes() == before


def test_errors_name_options(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(asked(table, run)) == 0
    assert main([*asked(table, run), "--seed", "1"]) == 2
    assert "seed was 0, is 1; take another --out" in capsys.readouterr().err
    assert main(["abo", "serve", "sim", "--faults", "3"]) == 2
    assert "error: --faults: got 3.0, need at least 0, at most 1" in capsys.readouterr().err
    assert (
        in_options("budget: the next call could pass max_usd=1.0")
        == "budget: the next call could pass --budget-usd=1.0"
    )
    assert in_options("max_tokens: got 0, need at least 1") == "max_tokens: got 0, need at least 1"


def kill_and_resume(table: Path, folder: Path, kills: int) -> int:
    """Kill a search at random moments, then let it end; how many requests went beyond those of a run never killed."""
    command = [sys.executable, "-m", "tenfold", *asked(table, folder / "cut", "--method", "apo", "--keep", "1")]
    draw, env = random.Random(1), {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env) as process:
            deadline = time.monotonic() + 60
            while (
                process.poll() is None and not (folder / "cut" / "bill.jsonl").exists() and time.monotonic() < deadline
            ):
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 1.5))
            process.send_signal(signal.SIGKILL)
    subprocess.run(
        [sys.executable, "-m", "tenfold", "abo", "resume", str(folder / "cut")],
        check=True,
        stdout=subprocess.DEVNULL,
        env=env,
    )
    assert main(asked(table, folder / "whole", "--method", "apo", "--keep", "1")) == 0
    for name in ("result.json", "events.jsonl"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()
    from tenfold.prompts.bill import billed

    return int(billed(folder / "cut")["calls"] - billed(folder / "whole")["calls"])


@pytest.mark.slow
def test_twenty_kills_leave_the_same_result(table: Path, tmp_path: Path) -> None:
    assert kill_and_resume(table, tmp_path, 20) <= 20 * 16


def test_probes_that_read_nothing_are_rows_of_the_report() -> None:
    real = replace(SMALL, models=Models(target="serve:x"), data=Data(tasks=("bbh/navigate",)), seeds=(0, 1))
    rows: list[dict[str, Any]] = [
        {"kind": kind, "task": "bbh/navigate", "seed": seed, "beta": None, "nothing": "none could be read"}
        for kind in ("reflections", "paraphrases")
        for seed in (0, 1)
    ]
    (line,) = reflection_table(real, rows)
    assert line["reflections"] == 0 and line["blamed on errors"] == "none could be read"
    assert noise_of(rows, "bbh/navigate") is None
    found = {"kind": "reflections", "task": "bbh/navigate", "seed": 1, "beta": None, "n": 2, "prior_bias": 0.5}
    rows[1] = {**found, "real": {"a": 2}, "control": {"b": 1, "a": 1}}
    (line,) = reflection_table(real, rows)
    assert (line["reflections"], line["prior bias"]) == (2, "0.500")
    assert line["blamed on errors"] == "a 2; nothing could be read in 1 of 2"
