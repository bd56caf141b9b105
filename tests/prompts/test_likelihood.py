"""Prompts ranked by how likely they make the targets: the published way to score of APE, on a model that tells probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.prompts.examples import Example
from tenfold.prompts.plan import Tally
from tenfold.prompts.probes import probe_repeats
from tenfold.prompts.resampling import APE
from tenfold.prompts.session import UNREAD, Session
from tenfold.prompts.task import Task
from tenfold.text.budget import Budget, BudgetExceededError
from tenfold.text.chat import ContextLengthError, Message, Reply, Sampling, ScriptedChatModel, Usage, run_sync
from tenfold.text.tokenizer import train_tokenizer


def likely(messages: Sequence[Message], sampling: Sampling, index: int) -> Reply:
    """A target that finds answers the likelier the more often the prompt says good."""
    said = messages[-1].content
    if sampling.choices:
        assert sampling.logprobs
        (text,) = sampling.choices
        return Reply(text, "stop", Usage(10, 1), logprobs=(-5.0 + said.count("good"), -1.0))
    return Reply("answer: 0", "stop", Usage(10, 2))


def induced(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
    seed = sampling.seed or 0
    return f"<prompt>be {'good ' * (seed % 4)}{seed % 7}</prompt>"


def test_only_the_likeliest_are_tried(task: Task) -> None:
    search = APE(ScriptedChatModel(likely), ScriptedChatModel(induced), n_init=12, keep=2, likelihood=3)
    result = search.optimize(task, ["start"])
    made = [c for c in result.candidates if c.op == "induce"]
    tried = [c.text.count("good") for c in made if c.dropped is None]
    left = [c.text.count("good") for c in made if c.dropped == "less_likely"]
    assert len(tried) == 2 and left and min(tried) >= max(left)
    assert search.session is not None
    (event,) = search.session.journal.of("likelihoods")
    assert {id.split("-")[0] for id in event["examples"]} == {"train"} and len(event["examples"]) == 3
    assert all(mean == pytest.approx(-6.0 + text.count("good")) for text, mean in event["means"])


def test_its_requests_are_counted_and_capped(task: Task) -> None:
    options: dict[str, Any] = {"n_init": 4, "keep": 2, "likelihood": 2}
    search = APE(ScriptedChatModel(likely), ScriptedChatModel(induced), **options)
    tally = Tally(1, 1)
    search.tally(task, tally)
    assert (tally.new, tally.asks, tally.target) == (2, 4, 8)
    plan = search.plan(task, ["start"])
    result = search.optimize(task, ["start"])
    assert result.cost["target"]["calls"] <= plan.target_calls
    with pytest.raises(BudgetExceededError):
        APE(ScriptedChatModel(likely), ScriptedChatModel(induced), budget=Budget(max_calls=3), **options).optimize(task)


@pytest.mark.parametrize("silent", [Reply("4", "stop", Usage(1, 1)), Reply("4", "stop", Usage(1, 1), logprobs=())])
def test_a_model_without_probabilities_is_refused(silent: Reply, task: Task) -> None:
    search = APE(ScriptedChatModel(lambda *_: silent), ScriptedChatModel(induced), n_init=2, likelihood=1)
    with pytest.raises(UserError, match="tells no log-probabilities"):
        search.optimize(task, ["start"])


def test_a_prompt_that_cannot_be_read_comes_last(task: Task) -> None:
    def target(messages: Sequence[Message], sampling: Sampling, index: int) -> Reply:
        if "long" in messages[-1].content:
            raise ContextLengthError("too long")
        return likely(messages, sampling, index)

    session = Session(task, ScriptedChatModel(target), ScriptedChatModel([]))
    assert run_sync(session.likelihoods([("long", task.train[0]), ("x", task.train[0])])) == [UNREAD, -6.0]


def test_the_local_model_tells_what_a_forward_pass_says(task: Task) -> None:
    tokenizer = train_tokenizer(["Q: what is 1 + 1 A: answer 0 1 2 3 4 5 6 7 8 9"] * 9, 300)
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 2, 8, 16, max_len=256)
    model = Decoder(cfg, torch.Generator().manual_seed(0)).eval()
    example: Example = task.train[0]
    with LocalChatModel(model, tokenizer, compiled="off") as chat:
        session = Session(task, chat, chat)
        (found,) = run_sync(session.likelihoods([("sum", example)]))
        ids = chat.prompt(task.render("sum", example))
    end = tokenizer.eos_id if tokenizer.end_id is None else tokenizer.end_id
    assert end is not None
    answer = [*tokenizer.encode(example.target), end]
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *answer]]))[0].log_softmax(-1)
    by_hand = sum(float(logits[len(ids) - 1 + i, token]) for i, token in enumerate(answer))
    assert found == pytest.approx(by_hand, abs=1e-4) and math.isfinite(found)


def test_repeats_show_what_changes_by_itself(task: Task) -> None:
    calls = []

    def wavering(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        calls.append(messages[-1].content)
        right = task.val[0].input in calls[-1] and calls.count(calls[-1]) == 2
        return f"answer: {task.val[0].target if right else 'none'}"

    found = run_sync(probe_repeats(task, ScriptedChatModel(wavering), "p", repeats=3, limit=4))
    assert (found["n"], found["repeats"], found["changed"], found["worded"]) == (4, 3, 0.25, 0.25)
    assert found["std"] == pytest.approx(0.25 / math.sqrt(3)) and len(calls) == 12
    steady = run_sync(probe_repeats(task, ScriptedChatModel(lambda *_: "answer: 1"), "p", repeats=2))
    assert steady["std"] == 0 and steady["worded"] == 0
    with pytest.raises(BudgetExceededError):
        run_sync(probe_repeats(task, ScriptedChatModel(lambda *_: "1"), "p", repeats=3, limit=4, budget=Budget(max_calls=8)))  # fmt: skip
