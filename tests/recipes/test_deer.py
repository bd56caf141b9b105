"""The recipe end to end: training with each learner, resume, report, and every verb as a user types it."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.cli import main
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.recipes.deer import PRESETS, Config, check, learners, train
from tenfold.recipes.deer.config import Candidates, Data, Ranking, Tuning
from tenfold.recipes.deer.findings import Scores, decisions_table
from tenfold.recipes.deer.learners import VOCABULARY, spelling
from tenfold.recipes.deer.world import UNSEEN, drawn, open_world, training_samples
from tenfold.text.chat import Message, Reply, Sampling, ScriptedChatModel, ToolCall, Usage
from tenfold.text.tokenizer import train_tokenizer
from tenfold.tools.calls import Call
from tenfold.tools.metrics import Prediction, evaluate_decisions
from tenfold.tools.render import RULES
from tenfold.tools.samples import Candidate, DecisionSample, read_samples
from tenfold.tools.trace import Trace

TOY = Data(source="toy", held_out=8, most=40, tools=40, unseen=16)
SMALL = Config(
    data=TOY,
    candidates=Candidates(k=3, n_clusters=4),
    ranking=Ranking(hidden=8, steps=60, batch=32),
    arms=("mix", "fixed", "call_only"),
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run.create("deer", "tiny", SMALL, tmp_path_factory.mktemp("runs"))
    train(SMALL, run)
    return run.path


@pytest.fixture
def tools_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_tools.py"
    path.write_text('def double(x: int) -> int:\n    """Double a number."""\n    return 2 * x\n\n\ndef _hidden() -> None:\n    """No."""\n')  # fmt: skip
    return path


def scripted(monkeypatch: pytest.MonkeyPatch, replies: Any) -> None:
    """Have every endpoint say this."""
    monkeypatch.setattr("tenfold.recipes.deer.verbs.EndpointChatModel", lambda *given: ScriptedChatModel(replies))


def test_a_run(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    names = [claim["name"] for claim in result["claims"]]
    assert "mix: unseen P_DC above the TF-IDF threshold" in names and "mix above fixed: unseen P_DC" in names
    assert all(claim["holds"] is None and claim["simulator"] for claim in result["claims"])
    html = (run_folder / "report.html").read_text()
    for heading in ("unseen tools", "retrievers", "training", "tools that are hardest", "decisions to look at"):
        assert heading in html
    assert {path.stem for path in (run_folder / "figures").glob("*.png")} == {"decisions", "confusion", "retrieval"}
    run = Run.open(run_folder)
    rows = [run.load_stage(f"seed0-{stage}") for stage in ("floors", *SMALL.arms)]
    scores = Scores(SMALL, rows)
    assert scores.of("always refuse", "unseen", "P_NoCall") == [1.0] and scores.of("always refuse", "unseen", "P_Call") == [0.0]  # fmt: skip
    assert scores.of("call_only", "unseen", "P_NoCall")[0] <= 0.1
    assert scores.of("mix", "unseen", "P_DC")[0] > 0.8


def test_a_killed_run_goes_on_and_ends_the_same(run_folder: Path, tmp_path: Path) -> None:
    run = Run.create("deer", "tiny", SMALL, tmp_path)
    for stage in ("floors", "mix"):
        run.save_stage(f"seed0-{stage}", Run.open(run_folder).load_stage(f"seed0-{stage}"))
    result = train(SMALL, run)
    whole = json.loads((run_folder / "result.json").read_text())["claims"]
    assert [claim.to_json() for claim in result.claims] == whole


def test_unseen_and_held_out_tools_are_never_shown_in_training() -> None:
    world = open_world(SMALL, 0)
    hidden = {entry.tool.name for entry in (*world.unseen, *world.held_out)}
    for arm in ("mix", "random", "intra_class", "inter_class", "fixed", "call_only"):
        samples, _, _ = training_samples(SMALL, world, arm, 0)  # type: ignore[arg-type]
        assert not hidden & {name for sample in samples for name in (*sample.names, sample.target)}
        kept = {query for entry in world.kept_back for query, _ in entry.examples}
        assert not kept & {sample.query for sample in samples} or arm  # a query may be worded alike for two tools
    shares = [sample.branch for sample in drawn(SMALL, world.unseen, (), 0)]
    assert shares.count("call") == int(0.6 * len(shares))


def test_one_set_of_candidates_a_tool() -> None:
    samples, _, _ = training_samples(SMALL, open_world(SMALL, 0), "fixed", 0)
    sets: dict[tuple, set] = {}
    for sample in samples:
        if sample.target:
            sets.setdefault((sample.target, sample.branch), set()).add(sample.names)
    assert all(len(found) == 1 for found in sets.values())


def test_arguments_stand_in_the_table_of_those_who_write_them() -> None:
    tool = Candidate("cat", "finds cats", "cat(n: int)")
    sample = DecisionSample("three cats", "call", (tool,), "cat", Call("cat", {"n": 3}))
    said = {"silent": Prediction(True, "cat"), "writes": Prediction(True, "cat", Call("cat", {"n": 4}))}
    sets = {name: {UNSEEN: evaluate_decisions([sample], [guess], bootstrap=10)} for name, guess in said.items()}
    rows = [{"stage": "floors", "seed": 0, "source": "deer", "sets": sets}]
    silent, writes = decisions_table(SMALL, rows, UNSEEN)
    assert (silent["arguments right"], writes["arguments right"], writes["arguments valid"]) == ("", "0.0", "100.0")
    del sets["writes"]
    assert "arguments right" not in decisions_table(SMALL, rows, UNSEEN)[0]


def test_names_of_trained_and_of_unseen_tools_are_spelt_alike() -> None:
    config = PRESETS["toy"]
    world = open_world(config, 0)
    samples = training_samples(config, world, "random", 0)[0]
    tokenizer = train_tokenizer(spelling(samples), VOCABULARY)
    pieces = [[len(tokenizer.encode(entry.tool.name)) for entry in tools] for tools in (world.train, world.unseen)]
    trained, unseen = map(statistics.fmean, pieces)
    assert 0.95 < trained / unseen < 1.05 and min(pieces[0]) > 1
    assert len(tokenizer.encode(RULES)) < len(RULES) / 3  # what all samples share is not spelt by letters


def test_a_decoder_from_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, learner="decoder", arms=("mix",), data=replace(TOY, most=6), tuning=Tuning(dim=16, layers=1, heads=2, ffn=16, steps=3, batch=4, samples=20))  # fmt: skip
    run = Run.create("deer", "toy", config, tmp_path)
    train(config, run)
    row = run.load_stage("seed0-mix")
    assert row["sets"]["mix"]["unseen"]["n"]["P_DC"] > 0 and row["learned_tokens"] > 2
    folder = run.path / "models" / "seed0-mix"
    # A pretrained model with adapters: this one stands for it.
    tuned = replace(config, learner="lora", tuning=replace(config.tuning, base=str(folder), demonstrations=2, steps=2))
    check(tuned)
    other = Run.create("deer", "smollm2", tuned, tmp_path)
    train(tuned, other)
    names = set(other.load_stage("seed0-floors")["sets"])
    assert {f"{folder}, 0 demonstrations", f"{folder}, 2 demonstrations", f"{folder}, marker token alone"} < names
    marker = other.load_stage("seed0-floors")["sets"][f"{folder}, marker token alone"]["unseen"]
    assert marker["P_Search"] == 1 and marker["P_NoCall"] == marker["P_NoSearch"] == 0
    assert (other.path / "models/seed0-mix/adapter_config.json").is_file()

    # Killed in the floors' last set: what a language model decided before is not decided again.
    whole = other.load_stage("seed0-floors")
    for part in ("seed0-floors", "seed0-mix"):
        other.stage(part).unlink()
    next(other.path.glob("stages/seed0-floors-*-marker-token-alone-unseen.json")).unlink()
    decided, timed = [], learners.timed

    def counted(decider: Any, samples: Any, **options: Any) -> Any:
        decided.append(type(decider).__name__)
        return timed(decider, samples, **options)

    monkeypatch.setattr(learners, "timed", counted)
    train(tuned, Run.open(other.path))
    assert decided.count("ChatDecider") == 1
    again = Run.open(other.path).load_stage("seed0-floors")["sets"]
    for name in (f"{folder}, 0 demonstrations", f"{folder}, 2 demonstrations"):
        assert again[name] == whole["sets"][name]


def test_configs_that_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for change, message in (({"arms": ("other",)}, "need some of"), ({"seeds": ()}, "need one or more"), ({"seeds": (-1,)}, "need 0 or more")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            replace(SMALL, **change)
    with pytest.raises(UserError, match="data not found"):
        check(replace(SMALL, data=replace(TOY, source="deer", root=tmp_path)))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        check(SMALL)
    assert all(preset in PRESETS for preset in ("tiny", "laptop", "toy", "smollm2", "paper"))


def test_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"api_name": f"f{i}", "description_for_human": f"does {i}", "api_function": f"f{i}(a: str)", "example": [{"query": f"q{i} {j}", "call": f"f{i}(a='x')" if j else "f("} for j in range(5)]} for i in range(12)]  # fmt: skip
    path, out, general = tmp_path / "t.jsonl", tmp_path / "s.jsonl", tmp_path / "g.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    general.write_text("hello\nwhy\n")
    assert main(["deer", "build", str(path), "--out", str(out), "--general", str(general), "--n-clusters", "3"]) == 0
    told = capsys.readouterr().out
    assert "50 samples: call 28, no_call 20, no_search 2" in told and "dropped: parse 12" in told
    assert len(read_samples(out)) == 50
    for format in ("tooldeer", "sharegpt", "openai"):
        assert main(["deer", "build", str(path), "--out", str(tmp_path / format), "--format", format, "--mode", "random"]) == 0  # fmt: skip
    assert main(["deer", "build", str(path), "--k", "50"]) == 2 and "k: got 50" in capsys.readouterr().err
    assert main(["deer", "build", str(tmp_path / "none.jsonl")]) == 2 and "file not found" in capsys.readouterr().err


def test_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        if not messages[0].content.startswith("Write"):
            return "yes"
        return (
            '{"signature": "f(a: str)"}\n{"query": "do x", "call": "f(a=\'x\')"}\n{"query": "do y", "call": "g(a=1)"}'
        )

    scripted(monkeypatch, script)
    tools, out = tmp_path / "tools.json", tmp_path / "out.jsonl"
    tools.write_text(json.dumps(["f(a: str)"]))
    command = ["deer", "generate", str(tools), "--model", "http://x/v1#m", "--out", str(out), "--folder", str(tmp_path / "kept")]  # fmt: skip
    assert main(command) == 0
    assert "1 pairs of 1 tools kept; dropped: name 1" in capsys.readouterr().out
    assert json.loads(out.read_text())["example"] == [{"query": "do x", "call": "f(a='x')"}]
    assert main(command) == 0 and "0 requests" in capsys.readouterr().out
    assert main(["deer", "build", str(out), "--k", "1", "--mode", "random", "--out", str(tmp_path / "s"), "--call-ratio", "1"]) == 0  # fmt: skip


def test_eval(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    samples = run_folder / "samples.jsonl"
    assert main(["deer", "eval", str(run_folder), "--decisions", str(samples), "--limit", "40"]) == 0
    assert "P_DC" in capsys.readouterr().out
    scripted(monkeypatch, lambda messages, sampling, index: "answer")
    assert (
        main(["deer", "eval", "http://x/v1#m", "--decisions", str(samples), "--demonstrations", "3", "--official"]) == 0
    )
    assert "P_Search       0.0 %" in capsys.readouterr().out
    scripted(monkeypatch, lambda messages, sampling, index: "I would rather not.")
    assert main(["deer", "eval", "http://x/v1#m", "--bfcl", "--limit", "2"]) == 0
    told = capsys.readouterr().out
    assert told.count("  0.0 %") == 4 and "irrelevance          100.0 %" in told
    assert main(["deer", "eval", str(tmp_path)]) == 2


def test_agent(tools_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "double", '{"x": 21}'),))
    trace, page = tmp_path / "t.json", tmp_path / "t.html"
    for extra in ((), ("--sandbox",)):
        scripted(monkeypatch, ["search", "double", call, "It is 42.\x1b[31m"])
        command = ["deer", "agent", "twice <b>21</b>?", "--tools", str(tools_file), "--model", "http://x/v1#m", "--trace", str(trace), "--html", str(page)]  # fmt: skip
        assert main([*command, *extra]) == 0
        told = capsys.readouterr().out
        assert "result    42" in told and "answer    It is 42. [31m" in told and "\x1b" not in told
    assert Trace.load(trace).answer == "It is 42.\x1b[31m"
    assert "&lt;b&gt;21" in page.read_text() and "<b>21" not in page.read_text()
    scripted(monkeypatch, ["nonsense"] * 9)
    assert main(command) == 2 and "ended without an answer" in capsys.readouterr().err


def test_agent_with_a_real_mcp_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "get_current_time", '{"timezone": "Asia/Tokyo"}'),))
    scripted(monkeypatch, ["search", "get_current_time", call, "Late."])
    server = f"mcp:{sys.executable} -m mcp_server_time --local-timezone UTC"
    assert main(["deer", "agent", "what time?", "--tools", server, "--model", "http://x/v1#m", "--trace", str(tmp_path / "t")]) == 0  # fmt: skip
    assert "Asia/Tokyo" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent", "q", "--tools", "nowhere.json"], "no file nowhere.json"),
        (["agent", "q", "--tools", "mcp:/no/such/server"], "mcp: "),
        (["agent", "q", "--tools", "http://127.0.0.1:1/openapi.json"], "--tools: http://127.0.0.1:1"),
        (["agent", "q"], "--tools: need a file of tools"),
        (["report", "nowhere"], "no such run"),
        (["eval", "nowhere", "--limit", "0"], "--limit: got 0"),
        (["eval", "nowhere", "--arguments"], "--arguments: need --decisions FILE"),
        (["eval", "nowhere", "--decisions", "empty.jsonl"], "empty.jsonl: has no samples"),
        (
            ["eval", "nowhere", "--decisions", "list.json", "--format", "sharegpt"],
            "list.json:1: got int, need an object",
        ),
        (["build", "--out", "."], "--out: . cannot be written"),
        (["build", "--out", "no/such/x.jsonl"], "--out: no/such/x.jsonl cannot be written"),
        (["agent", "q", "--tools", "mcp:"], "--tools: got mcp: alone"),
        (["agent", "q", "--tools", "syntax.py"], "--tools: syntax.py:2: SyntaxError"),
        (["agent", "q", "--tools", "raises.py"], "--tools: raises.py:3: ZeroDivisionError"),
        (["agent", "q", "--tools", "leaves.py"], "--tools: leaves.py:1: SystemExit: 7"),
        (
            ["agent", "q", "--tools", "list.json", "--trace", "no/such/t.json"],
            "--trace: no/such/t.json cannot be written",
        ),
        (["agent", "q", "--tools", "list.json", "--html", "."], "--html: . cannot be written"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"empty.jsonl": "", "list.json": "[1]", "syntax.py": "x = 1\ndef (:\n", "raises.py": "\n\n1 / 0\n", "leaves.py": "raise SystemExit(7)\n"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["deer", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_report_anew(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deer", "report", str(run_folder)]) == 0
    assert "report.html" in capsys.readouterr().out
