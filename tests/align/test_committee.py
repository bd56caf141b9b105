"""The committee: who answers, who teaches, who stays."""

from __future__ import annotations

import pytest

from tenfold.align.committee import (
    Member,
    RoundData,
    ask_committee,
    committee_preferences,
    distil,
    itec_round,
    next_committee,
)
from tenfold.align.judge import judge_by
from tenfold.align.verifiers import Task, toy_tasks, verify
from tenfold.text.chat import Message, Reply, Sampling, ScriptedChatModel, Usage
from tenfold.text.tokenizer import Tokenizer

TASKS = toy_tasks(0, 12)
ANSWERS = {task.messages[0].content: task for task in TASKS}


def expert(name: str, *kinds: str, algorithm: str = "sft", round: int = 0, score: float = 0.0) -> Member:
    """A member that is right on some kinds of tasks and says its own name else."""

    def says(messages: list[Message], sampling: Sampling, index: int) -> str:
        task = ANSWERS[messages[-1].content]
        return (task.answer or "") if task.kind in kinds else f"{name} {index}"

    return Member(name, algorithm, round, ScriptedChatModel(says, name), score)  # type: ignore[arg-type]


def kinds(count: int) -> tuple[str, ...]:
    return tuple(sorted({task.kind for task in TASKS}))[:count]


def accuracy(member: Member, tokenizer: Tokenizer) -> float:
    answers = ask_committee([member], tokenizer, TASKS, 1)
    return sum(score[0] for score in verify(TASKS, answers.responses)) / len(TASKS)


def test_every_member_answers_every_task(tokenizer: Tokenizer) -> None:
    answers = ask_committee([expert("a"), expert("b")], tokenizer, TASKS, 2)
    own = answers.only("b")
    assert own.members == ["b", "b"] and own.responses == [group[2:] for group in answers.responses]
    assert answers.members == ["a", "a", "b", "b"]
    assert [[response.text for response in group] for group in answers.responses] == [["a 0", "a 1", "b 0", "b 1"]] * 12
    for members in ([], [expert("a"), expert("a")]):
        with pytest.raises(ValueError, match="members: got"):
            ask_committee(members, tokenizer, TASKS, 1)


def test_members_that_are_the_same_model_draw_different_answers(tokenizer: Tokenizer) -> None:
    seeds: dict[str, set[int | None]] = {"a": set(), "b": set()}

    def member(name: str) -> Member:
        def says(messages: list[Message], sampling: Sampling, index: int) -> str:
            seeds[name].add(sampling.seed)
            return str(sampling.seed)

        return Member(name, "sft", 0, ScriptedChatModel(says, name), 0.0)  # type: ignore[arg-type]

    both = [member("a"), member("b")]
    first = ask_committee(both, tokenizer, TASKS, 1, Sampling(seed=3))
    assert len(seeds["a"]) == len(seeds["b"]) == 1 and seeds["a"] != seeds["b"]
    again = ask_committee(both[::-1], tokenizer, TASKS, 1, Sampling(seed=3))
    assert again.responses == [group[::-1] for group in first.responses]
    for each in seeds.values():
        each.clear()
    ask_committee(both, tokenizer, TASKS, 1, Sampling(seed=None))
    assert seeds == {"a": {None}, "b": {None}}


def test_prompt_level_teachers_are_as_good_as_the_best_single_one(tokenizer: Tokenizer) -> None:
    everything = kinds(99)
    half = len(everything) // 2
    answers = ask_committee(
        [expert("first", *everything[:half]), expert("second", *everything[half:])], tokenizer, TASKS, 2
    )
    whole = distil(answers, verify)
    single = [distil(answers, verify, teacher=name) for name in ("first", "second")]
    assert whole.scores == [1.0] * len(TASKS)
    assert max(sum(each.scores) for each in single) < len(TASKS)
    assert set(whole.teachers) == {"first", "second"}
    for task, teacher, sample in zip(TASKS, whole.teachers, whole.samples, strict=True):
        assert teacher == ("first" if task.kind in everything[:half] else "second")
        said = [id for id, on in zip(sample.ids, sample.learned, strict=True) if on]
        assert tokenizer.decode(said) == f"{task.answer}<|end|>"
    with pytest.raises(ValueError, match="teacher: got 'third', need one of first, second"):
        distil(answers, verify, teacher="third")


def test_a_response_that_was_cut_is_no_teacher(tokenizer: Tokenizer) -> None:
    cut = ScriptedChatModel(
        lambda messages, sampling, index: Reply(ANSWERS[messages[-1].content].answer or "", "length", Usage(1, 1)),
        "cut",
    )
    members = [Member("cut", "sft", 0, cut, 0.0), expert("whole")]
    found = distil(ask_committee(members, tokenizer, TASKS, 1), verify)
    assert found.teachers == ["whole"] * len(TASKS)
    assert distil(ask_committee(members[:1], tokenizer, TASKS, 1), verify).samples == []


def test_preferences_come_from_the_judge_and_draws_give_none(tokenizer: Tokenizer) -> None:
    some = kinds(3)
    answers = ask_committee([expert("good", *some), expert("bad")], tokenizer, TASKS, 1)
    found = committee_preferences(answers, judge_by(verify), seed=1)
    known = [task for task in TASKS if task.kind in some]
    assert [(each.prompt, each.chosen, each.rejected) for each in found] == [
        (task.messages, task.answer, "bad 0") for task in known
    ]
    assert {each.level for each in found} == {"significantly"}
    several = ask_committee([expert("good", *some), expert("bad")], tokenizer, TASKS, 3)
    assert len(committee_preferences(several, judge_by(verify), pairs=99)) == 3 * len(known)
    once = committee_preferences(several, judge_by(verify), pairs=1, seed=5)
    assert once == committee_preferences(several, judge_by(verify), pairs=1, seed=5)


def test_the_newest_of_every_algorithm_and_the_best_of_the_others_stay() -> None:
    old = [expert("sft-0", score=0.9), expert("dpo-1", algorithm="dpo", round=1, score=0.4)]
    new = [expert("sft-2", round=2, score=0.5), expert("dpo-2", algorithm="dpo", round=2, score=0.3)]
    names = [member.name for member in next_committee(old, new, keep=1)]
    assert names == ["sft-2", "dpo-2", "sft-0"]
    assert [member.name for member in next_committee(old, new[:1], keep=0)] == ["sft-2", "dpo-1"]


def test_a_round_from_answers_to_the_next_committee(tokenizer: Tokenizer) -> None:
    everything, seen = kinds(99), []
    committee = [
        expert("sft-0", *everything[:2], score=0.2),
        expert("rs-0", *everything[2:4], algorithm="rs", score=0.3),
    ]

    def train(data: RoundData) -> ScriptedChatModel:
        seen.append(data)
        return expert("new", *everything[:4]).model  # type: ignore[return-value]

    def evaluate(name: str, model: object) -> float:
        return accuracy(Member("x", "x", 0, model, 0.0), tokenizer)  # type: ignore[arg-type]

    refreshed: list[int] = []
    done = itec_round(
        1,
        committee,
        TASKS,
        tokenizer,
        judge=judge_by(verify),
        refresh=lambda preferences: refreshed.append(len(preferences)) or verify,  # type: ignore[func-returns-value]
        algorithms={"rs": train, "dpo": train},
        evaluate=evaluate,
        k=2,
        pairs=4,
    )
    assert refreshed == [len(done.data.preferences)]
    assert refreshed[0] > 0
    assert seen == [done.data, done.data]
    assert [member.name for member in done.trained] == ["rs-1", "dpo-1"]
    assert [member.name for member in done.committee] == ["sft-0", "rs-1", "dpo-1", "rs-0"]
    assert done.trained[0].score == pytest.approx(sum(done.data.distilled.scores) / len(TASKS))
    assert isinstance(TASKS[0], Task)
