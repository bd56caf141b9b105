"""Verdicts of a judge on a finished search: shares, agreement with what the transcripts show, nothing asked twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tenfold.prompts.behaviour import ABO
from tenfold.prompts.journal import read_journal
from tenfold.prompts.judging import judge_run
from tenfold.prompts.reflection import APO
from tenfold.prompts.result import Result
from tenfold.prompts.roles import judge_reason, judge_step, role_of
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.prompts.task import Task, subset
from tenfold.text.chat import Message, Sampling, ScriptedChatModel, run_sync


class Silent(SimTarget):
    """A target that must not be asked."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling = Sampling(), n: int = 1) -> Any:
        raise AssertionError("the search's own replies were not used")


@pytest.fixture(scope="module")
def task() -> Task:
    return subset(sim_task("object_counting", 0), 20, 10, 10)


@pytest.fixture(scope="module")
def searched(task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Result]]:
    found = {}
    for kind, options in ((APO, {"minibatch": 12}), (ABO, {"minibatch": 12, "rounds": 1, "verify": 4})):
        folder = tmp_path_factory.mktemp(kind.method)
        search = kind(SimTarget(0), SimOptimizer(0.5), run_dir=folder, max_target_calls=250, **options)  # type: ignore[arg-type]
        found[kind.method] = folder, search.optimize(task, ["Answer the question."])
    return found


def judged(task: Task, run: tuple[Path, Result], judge: Any, folder: Path, n: int = 200) -> dict[str, Any]:
    return run_sync(judge_run(task, Silent(0), judge, run[1].candidates, read_journal(run[0]), n=n, folder=folder, replies_of=run[0]))  # fmt: skip


def test_an_honest_judge_finds_what_the_simulator_knows(
    task: Task, searched: dict[str, tuple[Path, Result]], tmp_path: Path
) -> None:
    found = judged(task, searched["apo"], SimOptimizer(0.0), tmp_path)
    truth = searched["apo"][1].diagnostics["reflection_correctness"]
    assert 0 < truth < 1 and found["judge_validity"] == pytest.approx(truth)
    assert found["judge_agreement"] is None and found["judge_unreadable"] == 0
    own = searched["apo"][1].diagnostics["one_step_success"]
    assert found["one_step_success"]["n"] <= own["n"] and found["one_step_success"]["n_valid"] <= own["n_valid"]


def test_steps_are_held_against_the_headings(
    task: Task, searched: dict[str, tuple[Path, Result]], tmp_path: Path
) -> None:
    found = judged(task, searched["abo"], SimOptimizer(0.0), tmp_path, 12)
    assert found["judge_agreement"] == 1.0 and found["judged"]["steps"] == 12
    shares = {}
    for label in ("carried out", "left out"):
        judge = ScriptedChatModel(lambda messages, *_, label=label: f"I say <label>{label.title()}.</label>", name=label)  # fmt: skip
        shares[label] = judged(task, searched["abo"], judge, tmp_path / label, 12)["judge_agreement"]
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("reply", ["", "valid", "<label>perhaps</label>", "<label>valid"])
def test_a_judge_that_says_neither_is_counted_apart(
    reply: str, task: Task, searched: dict[str, tuple[Path, Result]], tmp_path: Path
) -> None:
    found = judged(task, searched["apo"], ScriptedChatModel(lambda *_: reply), tmp_path, 5)
    assert found["judge_validity"] is None and found["judge_unreadable"] == 5 and found["judged"]["reflections"] == 0
    assert found["one_step_success"]["n"] == 0


def test_what_a_judge_sees() -> None:
    assert role_of(judge_reason("p", [], "r")) == role_of(judge_step(3, "count", "x")) == "judge"
    assert "3. count" in judge_step(3, "count", "x")[1].content
    assert "</label>" not in judge_step(1, "count", "y" * 5000 + "the end")[1].content.partition("</reply>")[0]
