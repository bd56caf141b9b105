"""Judges: checkers, reward models, and chat models asked both ways round."""

from __future__ import annotations

import pytest
import torch

from tenfold.align.judge import Comparison, chat_judge, judge_by, level_of, reward_scorer
from tenfold.align.reward_model import RewardModel
from tenfold.align.rollout import Response
from tenfold.align.samples import Sample
from tenfold.align.verifiers import toy_tasks, verify
from tenfold.text.chat import Message, Sampling, ScriptedChatModel

(TASK,) = toy_tasks(0, 1)


def said(text: str) -> Response:
    return Response(text, Sample.of([1, 2], [len(text) + 3]), True)


GOOD, BAD = said(TASK.answer or ""), said("x")


def test_a_checker_judges_by_the_difference_of_its_scores() -> None:
    judge = judge_by(verify)
    assert judge([Comparison(TASK, GOOD, BAD), Comparison(TASK, BAD, GOOD), Comparison(TASK, BAD, BAD)]) == [1, -1, 0]


def test_a_reward_model_scores_every_response(decoder) -> None:  # type: ignore[no-untyped-def]
    model = RewardModel(decoder(), torch.Generator().manual_seed(0))
    scores = reward_scorer(model)([TASK, TASK], [[GOOD, BAD], [BAD]])
    assert [len(group) for group in scores] == [2, 1]
    assert scores[0] == pytest.approx(model.scores([GOOD.sample, BAD.sample]))
    assert scores[1][0] == pytest.approx(scores[0][1])


def test_a_chat_model_sees_both_orders() -> None:
    def likes(messages: list[Message], sampling: Sampling, index: int) -> str:
        assert sampling.choices == ("A", "B")
        first = messages[1].content.index(GOOD.text) < messages[1].content.index("Response B:")
        return "A" if first else "B"

    judge = chat_judge(ScriptedChatModel(likes))  # type: ignore[arg-type]
    assert judge([Comparison(TASK, GOOD, BAD), Comparison(TASK, BAD, GOOD)]) == [0.5, -0.5]
    biased = chat_judge(ScriptedChatModel(lambda messages, sampling, index: "A"))
    nonsense = chat_judge(ScriptedChatModel(lambda messages, sampling, index: "neither"))
    assert biased([Comparison(TASK, GOOD, BAD)]) == nonsense([Comparison(TASK, GOOD, BAD)]) == [0]


def test_levels_by_the_size_of_a_verdict() -> None:
    assert [level_of(v) for v in (1.0, -3.0, 0.5, -0.3, 0.1)] == [
        "significantly",
        "significantly",
        "better",
        "slightly",
        "negligibly",
    ]
