"""The frame of all optimizers: laws that hold for each, on the simulator and on scripted models."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.prompts import roles
from tenfold.prompts.behaviour import ABO, Behaviour, behaviour_prompt, demonstration_faults, steps_shown
from tenfold.prompts.candidates import Proposal, reason_to_drop
from tenfold.prompts.evaluation import evaluate
from tenfold.prompts.history import OPRO
from tenfold.prompts.journal import read_journal
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.random_search import RandomSearch
from tenfold.prompts.reflection import APO, PE2, APOSum
from tenfold.prompts.resampling import APE, IterativeAPE
from tenfold.prompts.roles import parse_tags, role_of
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.prompts.task import SPLITS, Task
from tenfold.text.chat import Budget, BudgetExceededError, ContextLengthError, Reply, ScriptedChatModel, Usage

from .conftest import adder

START = "Answer the question."
SMALL: dict[type[PromptOptimizer], dict[str, Any]] = {
    PromptOptimizer: {"rounds": 0},
    RandomSearch: {"rounds": 2, "proposals": 3},
    APE: {"n_init": 6},
    IterativeAPE: {"n_init": 4, "rounds": 2, "per_parent": 1},
    APO: {
        "rounds": 2,
        "keep": 1,
        "minibatch": 10,
        "n_gradients": 2,
        "mc_samples_per_step": 1,
        "max_expansion_factor": 4,
    },
    APOSum: {"rounds": 1, "keep": 1, "minibatch": 10, "n_gradients": 2, "mc_samples_per_step": 1},
    PE2: {"rounds": 2, "keep": 2, "minibatch": 10, "proposals": 2},
    OPRO: {"rounds": 3, "per_step": 3, "train": 10, "keep": 2},
    ABO: {"rounds": 1, "minibatch": 12, "verify": 6},
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, which takes longer than such a search; see test_report.py."""
    monkeypatch.setattr("tenfold.prompts.result.Result.report_html", lambda *_: None)


@pytest.fixture(scope="module")
def counting() -> Task:
    return sim_task("object_counting", 1, (20, 20, 20))


def search(kind: type[PromptOptimizer], run_dir: Path | None = None, **more: Any) -> PromptOptimizer:
    return kind(SimTarget(1), SimOptimizer(0.5, 1), seed=3, run_dir=run_dir, **{**SMALL[kind], **more})


@pytest.mark.parametrize("kind", list(SMALL), ids=lambda kind: kind.method)
def test_every_method_keeps_the_laws(kind: type[PromptOptimizer], counting: Task, tmp_path: Path) -> None:
    plan = search(kind).plan(counting, [START])
    first = search(kind, tmp_path / "a").optimize(counting, [START])
    # What was predicted is never exceeded.
    assert (
        first.cost["target"]["calls"] <= plan.target_calls and first.cost["optimizer"]["calls"] <= plan.optimizer_calls
    )
    assert first.test["looks"] == 1 and first.test["best"]["n"] == 20
    # The same seed gives the same file to the last byte, from a new folder and from the warm one.
    for folder in ("b", "a"):
        search(kind, tmp_path / folder).optimize(counting, [START])
    texts = {(tmp_path / folder / "result.json").read_bytes() for folder in ("a", "b")}
    assert len(texts) == 1
    # Parents are kept: the best on val never gets worse.
    best = [row["best_val"] for row in first.curve if row["best_val"] is not None]
    assert best == sorted(best)
    # No example of val or test in anything the optimizer was asked; training examples do occur.
    asked = [
        message[1] for event in read_journal(tmp_path / "a") if event["kind"] == "ask" for message in event["messages"]
    ]
    hidden = [example.input for split in ("val", "test") for example in counting.split(split)]  # type: ignore[arg-type]
    assert not any(question in text for text in asked for question in hidden)
    assert not asked or kind is OPRO or any(e.input in text for text in asked for e in counting.train)
    # The tree is whole.
    for candidate in first.candidates:
        assert candidate.parent is None or candidate.parent < candidate.id
        assert candidate.dropped is not None or candidate.scores
    read_back = json.loads((tmp_path / "a" / "result.json").read_text())
    assert type(first).from_json(read_back).to_json() == json.loads(json.dumps(first.to_json()))


def test_the_plan_is_exact_where_every_proposal_counts(counting: Task) -> None:
    for kind, more in ((APE, {"n_init": 5}), (RandomSearch, {"rounds": 3}), (PromptOptimizer, {})):
        made = search(kind, **more)
        plan, result = made.plan(counting, [START]), made.optimize(counting, [START])
        assert not result.diagnostics["dropped"]
        assert result.cost["target"]["calls"] == plan.target_calls - (20 if result.best.id == result.baseline.id else 0)
        assert result.cost["optimizer"]["calls"] == plan.optimizer_calls


def test_hash_seed_does_not_matter() -> None:
    code = (
        "import json\n"
        "from tenfold.prompts import APO, SimTarget, SimOptimizer, sim_task\n"
        "search = APO(SimTarget(1), SimOptimizer(0.5), rounds=1, keep=1, minibatch=6)\n"
        "print(json.dumps(search.optimize(sim_task('navigate', 0, (8, 8, 8)), ['Answer.']).to_json()))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "123")
    }
    assert len(told) == 1


@pytest.mark.parametrize("width", [1, 4, 64])
def test_the_score_matrix_does_not_depend_on_concurrency(width: int, task: Task) -> None:
    from tenfold.text.concurrency import Gate

    inner, gate, order = adder(lambda prompt, i: (i * len(prompt)) % 3 != 0), Gate(width), random.Random(width)

    class Jumbled:
        name = "jumbled"

        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> list[Reply]:
            import asyncio

            async with gate:
                await asyncio.sleep(order.random() / 500)
                return await inner.complete(messages, sampling, n)

    found = evaluate(["a", "ab", "abc"], task, "val", Jumbled(), limit=15)
    plain = evaluate(["a", "ab", "abc"], task, "val", inner, limit=15)
    assert (found.scores == plain.scores).all() and found.predictions == plain.predictions
    assert found.scores.shape == (3, 15) and 0 < found.means[0] < 1


def test_a_budget_is_never_passed_and_the_search_ends_with_what_it_has(counting: Task) -> None:
    calls = 0

    class Counting(SimTarget):
        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> list[Reply]:
            nonlocal calls
            calls += 1
            return await super().complete(messages)

    for cap in (75, 110, 160):
        calls = 0
        made = APO(Counting(1), SimOptimizer(0.5, 1), budget=Budget(max_calls=cap), **{**SMALL[APO], "rounds": 50})
        result = made.optimize(counting, [START])
        asked = result.cost["optimizer"]["calls"]
        assert calls + asked <= cap and result.ended == "the next step could pass the cap on calls"
        assert result.test["best"]["n"] == 20
    tokens = APO(
        SimTarget(1),
        SimOptimizer(0.5, 1),
        budget=Budget(max_tokens=60_000),
        **{**SMALL[APO], "rounds": 50, "max_prompt_chars": 200},
    )
    result = tokens.optimize(counting, [START])
    assert (
        result.ended.endswith("tokens")
        and result.cost["target"]["prompt_tokens"] + result.cost["optimizer"]["prompt_tokens"] < 60_000
    )
    with pytest.raises(BudgetExceededError, match="leaves no room"):
        APO(SimTarget(1), SimOptimizer(), budget=Budget(max_calls=30)).optimize(counting, [START])
    with pytest.raises(UserError, match="no price for simulator: target"):
        APO(SimTarget(1), SimOptimizer(), budget=Budget(max_usd=1)).optimize(counting, [START])


def test_money_is_kept_count_of_over_processes(counting: Task, tmp_path: Path) -> None:
    from tenfold.prompts.bill import billed

    prices = {"simulator: target": (1000.0, 1000.0), "simulator: optimizer": (0.0, 0.0)}
    made = search(APE, tmp_path, budget=Budget(max_usd=50.0, prices=prices))
    result = made.optimize(counting, [START])
    assert 0 < result.cost["usd"] <= 50 and billed(tmp_path)["usd"] == pytest.approx(result.cost["usd"])
    again = search(APE, tmp_path, budget=Budget(max_usd=50.0, prices=prices))
    again.optimize(counting, [START])
    assert billed(tmp_path)["usd"] == pytest.approx(result.cost["usd"])  # the second time all came from the store
    assert again.session is not None and again.session.guard.max_usd == pytest.approx(50 - result.cost["usd"])


def test_the_test_split_is_looked_at_once(counting: Task) -> None:
    made = search(PromptOptimizer)
    result = made.optimize(counting, [START])
    session = made.session
    assert session is not None
    from tenfold.text.chat import run_sync

    with pytest.raises(UserError, match="looked at already; a second look needs allow_peek=True"):
        run_sync(session.look_at_test([result.best]))
    session.allow_peek = True
    run_sync(session.look_at_test([result.best]))
    assert session.looks == 2


def test_a_folder_of_another_run_is_refused_with_the_first_difference(counting: Task, tmp_path: Path) -> None:
    search(APE, tmp_path).optimize(counting, [START])
    with pytest.raises(UserError, match=r"settings.n_init was 6, is 7; take another run_dir"):
        search(APE, tmp_path, n_init=7).optimize(counting, [START])
    with pytest.raises(UserError, match=r"task\.fingerprint was"):
        search(APE, tmp_path).optimize(sim_task("object_counting", 2, (20, 20, 20)), [START])
    with pytest.raises(UserError, match="init_prompts was"):
        search(APE, tmp_path).optimize(counting, ["Other."])


def test_an_unknown_option_never_falls_back() -> None:
    with pytest.raises(ValueError, match=r"APO: unknown option 'minibach' \(did you mean minibatch\?\)"):
        APO(SimTarget(), SimOptimizer(), minibach=3)
    with pytest.raises(ValueError, match="n_gradients: got 0, need at least 1"):
        APO(SimTarget(), SimOptimizer(), n_gradients=0)


def test_a_torn_last_line_is_accepted_and_a_run_cut_anywhere_goes_on_the_same(counting: Task, tmp_path: Path) -> None:
    whole = search(APO, tmp_path / "whole").optimize(counting, [START])
    expected = (tmp_path / "whole" / "result.json").read_bytes()
    events = (tmp_path / "whole" / "events.jsonl").read_bytes()
    assert whole.best.text

    class Stop(Exception):
        pass

    class Dying(SimTarget):
        left = 0

        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> list[Reply]:
            Dying.left -= 1
            if Dying.left < 0:
                raise Stop
            return await super().complete(messages)

    draw = random.Random(0)
    cut = tmp_path / "cut"
    for _ in range(6):
        Dying.left = draw.randint(0, 60)
        dying = APO(Dying(1), SimOptimizer(0.5, 1), seed=3, run_dir=cut, **SMALL[APO])
        try:
            dying.optimize(counting, [START])
        except Stop:
            with (cut / "events.jsonl").open("ab") as file:
                file.write(b'{"kind": "torn')
    search(APO, cut).optimize(counting, [START])
    assert (cut / "result.json").read_bytes() == expected and (cut / "events.jsonl").read_bytes() == events


# Proposals that are none.


def scripted(say: Any) -> ScriptedChatModel:
    """An optimizer; `say(role, text)` gives its reply."""
    return ScriptedChatModel(lambda messages, sampling, index: say(role_of(messages), messages[-1].content), "writer")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("no tags here", "no_tags"),
        ("<prompt>unterminated", "no_tags"),
        ("<prompt>  </prompt>", "empty"),
        ("<prompt>" + "long " * 2000 + "</prompt>", "too_long"),
        ("<prompt>a\0b</prompt>", "null_byte"),
        ("<prompt>The answer to: What is 3 plus 100? is 103</prompt>", "answer_pasted"),
        ("<prompt>add</prompt>", "seen"),
        ("<prompt>  ADD </prompt>", "seen"),
    ],
)
def test_proposals_are_dropped_with_their_reason_and_the_search_stalls(reply: str, reason: str, task: Task) -> None:
    made = APE(adder(lambda prompt, i: i % 2 == 0), scripted(lambda role, text: reply), rounds=9, n_init=2)
    result = made.optimize(task, ["add"])
    assert {c.dropped for c in result.candidates[1:]} == {reason}
    assert result.best.text == "add" and result.ended == "3 steps in a row brought no candidate"
    assert result.diagnostics["dropped"] == {reason: 6}


def test_replies_that_were_cut_short_are_discarded(task: Task) -> None:
    cut = Reply("<prompt>half a pro</prompt>", "length", Usage(1, 1))
    made = APE(adder(lambda prompt, i: True), ScriptedChatModel(lambda *_: cut), n_init=2)
    result = made.optimize(task, ["add"])
    assert [c.dropped for c in result.candidates] == [None, "cut_short", "cut_short"]


def test_a_prompt_that_is_the_parents_is_dropped() -> None:
    assert reason_to_drop(Proposal("Add  them.", "edit", 0), {}, "add them.", [], 100) == "same"
    assert reason_to_drop(Proposal("Add 2.", "edit", 0), {}, None, [], 100, no_digits=True) == "digits"
    assert reason_to_drop(Proposal("put INS here", "history"), {}, None, [], 100, forbid=("INS",)) == "placeholder"


def test_an_empty_list_of_errors_is_never_sent(task: Task) -> None:
    def say(role: str, text: str) -> str:
        assert role == "paraphrase", role
        return "<prompt>sum</prompt>"

    result = APO(adder(lambda prompt, i: True), scripted(say), rounds=1, keep=1).optimize(task, ["add"])
    assert result.best.scores["val"]["mean"] == 1.0


def test_a_conversation_that_is_too_long_is_shortened_once_or_dropped(task: Task) -> None:
    sizes: list[int] = []

    def say(role: str, text: str) -> str:
        if role == "reflect":
            sizes.append(text.count("<input>"))
            if sizes[-1] > 2:
                raise ContextLengthError("too long", status=400)
            return "<reason>because</reason>"
        if role == "edit":
            raise ContextLengthError("too long", status=400)
        return "<prompt>plus</prompt>"

    made = APO(
        adder(lambda prompt, i: i % 4 == 0), scripted(say), rounds=1, keep=1, n_gradients=1, mc_samples_per_step=0
    )
    result = made.optimize(task, ["add"])
    assert sizes == [4, 2] and [c.dropped for c in result.candidates[1:]] == ["cut_short"]


def test_a_prompt_that_the_target_cannot_read_is_dropped(task: Task) -> None:
    inner = adder(lambda prompt, i: i % 2 == 0)

    class Short:
        name = "short"

        async def complete(self, messages: Any, sampling: Any = None, n: int = 1) -> list[Reply]:
            if len(messages[-1].content) > 200:
                raise ContextLengthError("too long", status=400)
            return await inner.complete(messages, sampling, n)

    made = APE(Short(), scripted(lambda role, text: f"<prompt>{'very ' * 60}long</prompt>"), n_init=1)
    result = made.optimize(task, ["add"])
    assert result.candidates[1].dropped == "context_length" and result.best.text == "add"


def test_a_failing_scorer_is_excluded_and_counted_until_it_fails_too_often(task: Task) -> None:
    def grade(example: Any, reply: str, fail: tuple[str, ...]) -> float:
        if example.id in fail:
            raise KeyError("broken")
        return math.nan if example.id == "val-7" and fail else 1.0

    def graded(*fail: str) -> Task:
        return Task("sums", task.train, task.val, task.test, lambda e, r: grade(e, r, fail))

    found = evaluate(["add"], graded("val-3"), "val", adder(lambda p, i: True))
    assert math.isnan(found.scores[0, 3]) and math.isnan(found.scores[0, 7]) and found.means[0] == 1.0
    assert found.errors[0][3] == "scorer: KeyError: 'broken'"
    with pytest.raises(UserError, match=r"scorer: failed on 4 of 40 replies"):
        evaluate(["add"], graded("val-1", "val-2", "val-3"), "val", adder(lambda p, i: True))


def test_feedback_of_a_metric_reaches_the_reflection(task: Task) -> None:
    seen: list[str] = []

    def metric(example: Any, reply: str) -> dict[str, Any]:
        return {"score": 0.5, "feedback": f"off by one in {example.id}"}

    def say(role: str, text: str) -> str:
        seen.extend(parse_tags(text, "feedback") if role == "reflect" else [])
        return "<reason>r</reason>" if role == "reflect" else "<prompt>plus</prompt>"

    from tenfold.prompts.scorers import FunctionScorer

    graded = Task("sums", task.train, task.val, task.test, FunctionScorer(metric))
    APO(adder(lambda p, i: True), scripted(say), rounds=1, keep=1, n_gradients=1).optimize(graded, ["add"])
    assert seen and all(text.startswith("off by one in train-") for text in seen)


def test_opro_shows_scores_ascending_and_skips_what_it_must(task: Task) -> None:
    seen: list[list[int]] = []

    def say(role: str, text: str) -> str:
        seen.append([int(score) for score in parse_tags(text, "score")])
        return f"<prompt>{'INS' if len(seen) == 1 else 'x' * len(seen)}</prompt>"

    made = OPRO(adder(lambda prompt, i: i % 8 < len(prompt)), scripted(say), rounds=4, per_step=1, train=16)
    result = made.optimize(task, ["add"])
    assert result.candidates[1].dropped == "placeholder"
    assert all(scores == sorted(scores) for scores in seen) and len(seen[-1]) > len(seen[0]) > 0
    by_val = {c.text: c.scores["val"]["mean"] for c in result.candidates if c.scores.get("val")}
    assert max(by_val, key=lambda text: by_val[text]) == "xxxx" and by_val["xxxx"] == 0.5
    assert result.best.text == "add"  # five more of forty are no difference by McNemar's test: the shorter one


def test_tags() -> None:
    text = "Sure! <prompt>one</prompt> and <PROMPT>\n two </PROMPT> <prompt>three <prompt>four</prompt> <prompt>open"
    assert parse_tags(text, "prompt") == ["one", "two", "four"]
    assert role_of(roles.paraphrase("x")) == "paraphrase" and role_of([]) is None


# Behaviour.


def test_steps_are_read_off_a_transcript() -> None:
    assert steps_shown("Step 1: a\n**Step 2** b\nstep 4: d", 4) == [True, True, False, True]
    assert demonstration_faults("Step 1: x\nSo the answer is 7.", ["a", "b"], "7") == ["step 2"]
    assert demonstration_faults("Step 1: x\nthe end", ["a"], "7") == ["answer"]


def test_behaviour_rewrites_the_form_where_a_step_is_left_out_and_the_step_where_it_goes_wrong(task: Task) -> None:
    """The point of the method: content is only blamed where the step was carried out."""
    for left_out, wanted in ((True, "form"), (False, "refine")):
        asked: list[str] = []

        def say(role: str, text: str, asked: list[str] = asked) -> str:
            asked.append(role)
            if role == "decompose":
                return "<step>Read.</step><step>Add.</step>"
            if role == "diagnose":
                return "<step>2</step><followed>yes</followed><cause>adds wrongly</cause>"
            if role == "refine-step":
                return "<step>Add the tens.</step><step>Add the ones.</step>"
            target = parse_tags(text, "output")[-1]
            lines = [f"Step {i}: done" for i in range(1, text.partition("</steps>")[0].count("\n"))]
            return f"<demonstration>{chr(10).join(lines)}\nSo the answer is {target}.</demonstration>"

        def target(messages: Any, sampling: Any, index: int, left_out: bool = left_out) -> str:
            asked = messages[-1].content
            first, second = (int(part) for part in asked.rpartition("What is ")[2].partition("?")[0].split(" plus "))
            # Right on val and only with the steps, so that the behaviour is chosen; wrong on train, so that there are errors.
            right = "Steps:" in asked and second == 200
            return (
                "Step 1: a\n"
                + ("" if left_out else "Step 2: b\n")
                + f"So the answer is {first + second if right else 0}."
            )

        made = ABO(ScriptedChatModel(target), scripted(say), rounds=1, minibatch=4, verify=0, proposals=1)
        result = made.optimize(task, ["add"])
        assert wanted in {c.op for c in result.candidates} and ("refine-step" in asked) == (not left_out)
        assert ("diagnose" in asked) == (not left_out)  # a missing step is seen without asking anybody


def test_a_proposal_that_is_not_followed_is_dropped(task: Task) -> None:
    def say(role: str, text: str) -> str:
        if role == "decompose":
            return "<step>Add.</step>"
        return f"<demonstration>Step 1: done\nSo the answer is {parse_tags(text, 'output')[-1]}.</demonstration>"

    made = ABO(adder(lambda p, i: True), scripted(say), rounds=1, verify=4, retries=1)
    result = made.optimize(task, ["add"])
    assert next(c.dropped for c in result.candidates if c.op == "decompose") == "not_followed"
    assert result.best.text == "add"


def test_the_demonstration_is_a_training_example(counting: Task) -> None:
    result = search(ABO).optimize(counting, [START])
    shown = [c.extra["behaviour"]["example"] for c in result.candidates if c.extra]
    assert shown and set(shown) <= {e.id for e in counting.train}
    text = behaviour_prompt(counting, Behaviour(("a", "b"), "Step 1: x", counting.train[0].id))
    assert "1. a\n2. b" in text and counting.train[0].input in text
    assert "Example" not in behaviour_prompt(counting, Behaviour(("a",)))


def test_it_works_inside_a_running_event_loop(counting: Task) -> None:
    import asyncio

    async def notebook() -> float:
        return float(search(PromptOptimizer).optimize(counting, [START]).test["best"]["mean"])

    assert 0 <= asyncio.run(notebook()) <= 1
    assert all(len(counting.split(split)) == 20 for split in SPLITS)
