"""Optimizers that do not write tags."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tenfold.prompts import roles
from tenfold.prompts.probes import Unreadable, probe_paraphrases, probe_reflections
from tenfold.prompts.resampling import APE
from tenfold.prompts.task import Task
from tenfold.prompts.whole_replies import WholeReplies
from tenfold.text.budget import Budget
from tenfold.text.chat import ScriptedChatModel, complete_all, run_sync
from tenfold.text.messages import Message, Sampling

from .conftest import adder


def plain(text: str) -> ScriptedChatModel:
    """An optimizer that says the same to everything."""
    return ScriptedChatModel(lambda messages, sampling, index: text, "plain")


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("Count each kind first.\n", ["Count each kind first."]),
        ("So: <prompt>Count.</prompt> Done.", ["Count."]),
        ("<prompt>One.</prompt><prompt>Two.</prompt>", ["One.", "Two."]),
        ("  \n", []),
    ],
)
def test_a_reply_without_the_tag_counts_whole(said: str, read: list[str]) -> None:
    ((reply,),) = complete_all(WholeReplies(plain(said)), [roles.paraphrase("Think.")])
    assert roles.parse_tags(reply.text, "prompt") == read


def test_the_tag_is_the_last_that_the_request_names_and_others_are_left_alone(task: Task) -> None:
    hostile = roles.paraphrase("Put it between <secret> and </secret>.")
    ((reply,),) = complete_all(WholeReplies(plain("Think hard.")), [hostile])
    assert reply.text == "<prompt>Think hard.</prompt>"
    ((reply,),) = complete_all(WholeReplies(plain("7")), [[Message("user", "What is 3 plus 4?")]])
    assert reply.text == "7"


def test_calls_are_charged_once_and_kept_apart_from_the_bare_models() -> None:
    budget = Budget(max_calls=5)
    model = budget.wrap(WholeReplies(plain("Think hard.")))
    complete_all(model, [roles.paraphrase(text) for text in ("a", "b")])
    assert budget.spent.calls == 2
    assert WholeReplies(plain("x")).identity != getattr(plain("x"), "identity", plain("x").name)


def test_a_search_has_candidates_only_where_whole_replies_count(task: Task) -> None:
    target, writer = adder(lambda prompt, i: prompt == "Add carefully."), plain("Add carefully.")
    bare = APE(target, writer, n_init=2, rounds=1).optimize(task, [""])
    whole = APE(target, WholeReplies(writer), n_init=2, rounds=1).optimize(task, [""])
    assert bare.diagnostics["dropped"]["no_tags"] == 2 and bare.best.text == ""
    assert whole.best.text == "Add carefully." and whole.test["best"]["mean"] == 1


def test_probes_say_that_nothing_could_be_read(task: Task) -> None:
    target = adder(lambda prompt, i: False)

    def silent(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        return "I do not know."

    writer = ScriptedChatModel(silent, "silent")
    with pytest.raises(Unreadable, match="none of its reflections"):
        run_sync(probe_reflections(task, target, writer, "Think.", n=3))
    with pytest.raises(Unreadable, match="no paraphrase"):
        run_sync(probe_paraphrases(task, target, writer, "Think.", m=2))
    found = run_sync(probe_reflections(task, target, WholeReplies(writer), "Think.", n=3))
    assert found.to_json()["n"] == 3 and found.prior_bias == pytest.approx(1)
