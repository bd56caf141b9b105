"""The recipe end to end: training with each learner, resume, report, and every verb as a user types it."""

from __future__ import annotations

import json
import signal
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
from tenfold.tools.trace import Error, Trace

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


def test_samples_are_built_again_with_other_candidates() -> None:
    world = open_world(SMALL, 0)
    once = training_samples(SMALL, world, "mix", 0)[0]
    config = replace(SMALL, candidates=replace(SMALL.candidates, draws=3))
    samples, report, _ = training_samples(config, world, "mix", 0)
    assert samples[: len(once)] == once and len(samples) == 3 * len(once) == sum(report.kept.values())
    shown: dict[str, set[tuple[str, ...]]] = {}
    for sample in samples:
        if sample.branch != "no_search":
            shown.setdefault(sample.query, set()).add(sample.names)
    assert sum(len(sets) > 1 for sets in shown.values()) > 0.9 * len(shown)
    fixed = training_samples(config, world, "fixed", 0)[0]
    sets = {(sample.target, sample.branch, sample.names) for sample in fixed if sample.branch != "no_search"}
    assert len(sets) == len({(target, branch) for target, branch, _ in sets})


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
    assert "signature" not in told
    assert "50 samples: call 28, no_call 20, no_search 2" in told and "dropped: parse 12" in told
    assert len(read_samples(out)) == 50
    for format in ("tooldeer", "sharegpt", "openai"):
        assert main(["deer", "build", str(path), "--out", str(tmp_path / format), "--format", format, "--mode", "random"]) == 0  # fmt: skip
    assert main(["deer", "build", str(path), "--k", "50"]) == 2 and "k: got 50" in capsys.readouterr().err
    unfit = tmp_path / "u.jsonl"
    unfit.write_text(path.read_text().replace("a='x'", "b='x'"))
    assert main(["deer", "build", str(unfit), "--out", str(out), "--mode", "random"]) == 0
    assert "do not fit the tool's signature: unknown_arg 48" in capsys.readouterr().out
    before = path.read_bytes()
    (tmp_path / "link.jsonl").hardlink_to(path)
    for place in (path, tmp_path / "x" / ".." / "t.jsonl", tmp_path / "link.jsonl"):
        (tmp_path / "x").mkdir(exist_ok=True)
        assert main(["deer", "build", str(path), "--out", str(place)]) == 2
        assert "would be lost" in capsys.readouterr().err and path.read_bytes() == before
    assert main(["deer", "build", str(path), "--general", str(general), "--out", str(general)]) == 2
    assert main(["deer", "generate", str(path), "--model", "http://x/v1#m", "--out", str(path)]) == 2
    assert path.read_bytes() == before and general.read_text() == "hello\nwhy\n"
    capsys.readouterr()
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
    assert main(["deer", "eval", str(run_folder), "--decisions", str(samples), "--arguments"]) == 2
    assert "a ranker decides but cannot write calls" in capsys.readouterr().err
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


@pytest.mark.parametrize(
    ("mark", "extra", "runs"),
    [
        ("", (), True),
        ("", ("--approve", "never"), False),
        ("", ("--approve", "never", "--allow", "double"), True),
        ("double.side_effects = False\n", ("--approve", "never"), True),
        ("double.side_effects = True\n", (), False),  # nobody is at the terminal
        ("double.side_effects = True\n", ("--approve", "always"), True),
    ],
)
def test_what_runs_unasked(
    mark: str,
    extra: tuple[str, ...],
    runs: bool,
    tools_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tools_file.write_text(tools_file.read_text() + mark)
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "double", '{"x": 21}'),))
    scripted(monkeypatch, ["search", "double", call, *(() if runs else ("none",)), "Done."])
    assert main(["deer", "agent", "twice 21?", "--tools", str(tools_file), "--model", "http://x/v1#m", *extra]) == 0
    told = capsys.readouterr().out
    assert ("result    42" in told) == runs and ("failed    refused" in told) != runs


def test_a_tool_that_loops_is_left_and_one_that_says_much_is_cut(
    tools_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools_file.write_text(
        'import time\n\n\ndef stuck() -> None:\n    """Stuck."""\n    time.sleep(5)\n\n\n'
        'def long() -> str:\n    """Long."""\n    return "x" * 5000\n'
    )
    calls = [Reply("", "tool_calls", Usage(1, 1), (ToolCall(name, name, "{}"),)) for name in ("stuck", "long")]
    scripted(monkeypatch, ["search", "stuck", calls[0], "long", calls[1], "Done."])
    trace = tmp_path / "t.json"
    command = ["deer", "agent", "stuck, then long", "--tools", str(tools_file), "--model", "http://x/v1#m", "--trace", str(trace)]  # fmt: skip
    assert main([*command, "--tool-timeout", "0.3"]) == 0
    told = capsys.readouterr().out
    assert "failed    no result after 0.3 s" in told and "answer    Done." in told
    assert max(map(len, told.splitlines())) < 500 and "(5000 characters; all of it: --trace" in told
    assert "x" * 5000 in trace.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_agent_keeps_its_trace(
    number: signal.Signals,
    tools_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tools_file.write_text(
        f'import os\nimport time\n\n\ndef stuck() -> None:\n    """Stuck."""\n    os.kill(os.getpid(), {int(number)})\n'
        "    time.sleep(2)\n"
    )
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "stuck", "{}"),))
    scripted(monkeypatch, ["search", "stuck", call, "Done."])
    trace, page = tmp_path / "t.json", tmp_path / "t.html"
    command = ["deer", "agent", "stuck", "--tools", str(tools_file), "--model", "http://x/v1#m", "--trace", str(trace), "--html", str(page)]  # fmt: skip
    assert main(command) == 130
    told = capsys.readouterr()
    assert "call      stuck" in told.out and told.err == "interrupted\n"
    assert Trace.load(trace).of(Error)[-1].type == "Interrupted" and "Interrupted" in page.read_text()


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
        (["build", "."], ". is a folder, need a file"),
        (["build", "none.jsonl", "--k", "0"], "--k: got 0, need at least 1"),
        (["build", "none.jsonl", "--n-clusters", "0"], "--n-clusters: got 0, need at least 1"),
        (["build", "none.jsonl", "--call-ratio", "2"], "--call-ratio: got 2.0, need at least 0, at most 1"),
        (["build", "empty.jsonl"], "empty.jsonl: no tools"),
        (["build", "three.jsonl"], "--k: got 5: three.jsonl: 3 tools; use --k 2 or fewer"),
        (
            ["build", "three.jsonl", "--k", "4", "--call-ratio", "1"],
            "--k: got 4: three.jsonl: 3 tools; use --k 3 or fewer",
        ),
        (["build", "one.jsonl", "--k", "1"], "--k: got 1: one.jsonl: 1 tool; give two or more"),
        (["build", "twice.jsonl"], "twice.jsonl: two tools are named 'f0'"),
        (["build", "escape.jsonl"], "escape.jsonl:1: tool 'a\\x1b[31m': got the control character U+001B"),
        (["build", "latin.jsonl"], "latin.jsonl is not UTF-8 at line 2"),
        (["build", "three.jsonl", "--k", "2", "--general", "latin.jsonl"], "latin.jsonl is not UTF-8 at line 2"),
        (["build", "three.jsonl", "--k", "2", "--general", "."], "--general: . is a folder"),
        (["agent", "q", "--tools", "list.json", "--k", "0"], "--k: got 0"),
        (["agent", "q", "--tools", "list.json", "--tool-timeout", "0"], "--tool-timeout: got 0"),
        (["agent", "q", "--tools", "list.json", "--trace", "list.json"], "--trace: list.json is another file"),
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
    rows = [{"api_name": name, "description_for_human": "d", "api_function": f"f{i}()", "example": []} for i, name in enumerate(["a\x1b[31m", "b", "c", "d"])]  # fmt: skip
    lines = [json.dumps(row) + "\n" for row in rows]
    files |= {"three.jsonl": "".join(lines[1:]), "one.jsonl": lines[1], "escape.jsonl": lines[0], "twice.jsonl": lines[2] + lines[2].replace("f2", "f0") + lines[3].replace("f3", "f0")}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.jsonl").write_bytes(lines[1].encode() + b'{"api_name": "\xff"}\n')
    assert main(["deer", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_report_anew(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deer", "report", str(run_folder)]) == 0
    assert "report.html" in capsys.readouterr().out
