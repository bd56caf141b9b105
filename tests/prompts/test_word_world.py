"""The word world's rule, what its model is taught, the writer that must not know the rule, and the store of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import UserError
from tenfold.prompts import roles, word_model, word_world, word_writer
from tenfold.prompts.behaviour import demonstration_faults
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.simulator import numbered_steps
from tenfold.prompts.task import Task
from tenfold.prompts.word_model import WordModel, open_word_model, train_word_model
from tenfold.prompts.word_world import (  # fmt: skip
    KINDS,
    NOUNS,
    PHRASES,
    TIMES,
    Rule,
    kinds_in,
    lessons,
    obeyed,
    rule_of,
    taught,
    word_task,
    worked,
)
from tenfold.prompts.word_writer import MEANING, WORDINGS, WordWriter, meant
from tenfold.recipes.abo.config import Search
from tenfold.recipes.abo.searches import make_search
from tenfold.text.chat import ScriptedChatModel, complete_all
from tenfold.text.messages import Message, Sampling

START = "Answer the question."
SMALL = WordModel(dim=8, layers=1, heads=1, lessons=60, steps=3, rows=2)
KNOWN = taught(0, 1)


def obedient(known: frozenset[str]) -> ScriptedChatModel:
    """What a model that learned everything would say; it stands in for one in tests of seconds."""

    def reply(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        prompt, _, asked = messages[-1].content.rpartition("Q: ")
        question = asked.removesuffix("\nA:")
        head = prompt.partition("\nExample\n")[0]
        rule = obeyed(head, question, known)
        return worked(rule, question) if "Step N" in head else f"The answer is {rule.answer(question)}."

    return ScriptedChatModel(reply, "obedient")


def test_a_rule_by_hand() -> None:
    assert kinds_in("hat pie rat saw") == {"garment": "hat", "food": "pie", "animal": "rat", "tool": "saw"}
    assert Rule("food", 2).answer("hat pie rat saw") == "pie pie"
    assert worked(Rule("tool", 3), "hat pie rat saw").splitlines() == [
        "Step 1: saw",
        "Step 2: saw saw saw",
        "So the answer is saw saw saw.",
    ]
    with pytest.raises(ValueError, match="rule: got 'plant', 1"):
        Rule("plant", 1)
    assert len({rule_of(seed) for seed in range(12)}) == 12


def test_what_is_obeyed() -> None:
    question = "hat pie rat saw"  # rat is the sixth animal, pie the sixth food: habit is the second kind, three times
    assert obeyed("Think.", question, PHRASES) == Rule("food", 3)
    assert obeyed("Name the tool. Write it once.", question, PHRASES) == Rule("tool", 1)
    assert obeyed("Name the tool. Write it once.", question, ["Write it once."]) == Rule("food", 1)
    known = taught(3, 2)
    assert len(known) == 2 * (len(KINDS) + len(TIMES)) and all(
        sum(phrase in known for phrase in own) == 2 for own in (*KINDS.values(), *TIMES.values())
    )
    # No sentence hides in another one, so that an instruction is read one way only.
    assert not [(a, b) for a in PHRASES for b in PHRASES if a != b and a in b]


def test_a_task_is_scored_by_its_rule() -> None:
    for seed in range(4):
        task, rule = word_task(seed, (9, 8, 7)), rule_of(seed)
        assert (len(task.train), len(task.val), len(task.test)) == (9, 8, 7)
        example = task.test[0]
        assert example.target == rule.answer(example.input) and sorted(kinds_in(example.input)) == sorted(NOUNS)
        assert task.scorer is not None
        said = (f"The answer is {example.target}.", worked(rule, example.input), f"The answer is {example.target} ant.")
        assert [float(task.scorer(example, reply)) for reply in said] == [1, 1, 0]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sizes: got"):
        word_task(0, (0, 1, 1))


def test_lessons_teach_the_known_wordings_and_no_task() -> None:
    taught_rules = set()
    rows = list(lessons(0, 400, KNOWN))
    for prompt, question, reply in rows:
        head = prompt.partition("\nExample\n")[0]
        rule = obeyed(head, question, KNOWN)
        assert reply == (worked(rule, question) if "Step N" in prompt else f"The answer is {rule.answer(question)}.")
        taught_rules.add((rule.kind, rule.times))
    assert len(taught_rules) == len(KINDS) * len(TIMES)
    shown = sum("Step N" in prompt for prompt, *_ in rows)
    assert 60 < shown < 140 and any(phrase in prompt for prompt, *_ in rows for phrase in set(MEANING) - KNOWN)
    assert rows == list(lessons(0, 400, KNOWN)) != list(lessons(1, 400, KNOWN))


def ask(messages: Sequence[Message], seed: int = 0) -> str:
    return complete_all(WordWriter(), [messages], Sampling(seed=seed))[0][0].text


def test_the_writer_reads_a_rule_off_examples_and_nothing_else() -> None:
    """The same questions with other outputs give the other rule, whatever the seed of the task was."""
    questions = [example.input for example in word_task(0).train[:4]]
    for rule in (Rule("animal", 1), Rule("tool", 3)):
        demos = [word_world.Example(str(i), asked, rule.answer(asked)) for i, asked in enumerate(questions)]
        number = {1: "once", 3: "three times"}[rule.times]
        wanted = {("kind", rule.kind), ("number", number)}
        for seed in range(6):
            (prompt,) = parse_tags(ask(roles.induce(demos), seed), "prompt")
            assert {MEANING[phrase] for phrase in meant(prompt)} == wanted
            (prompt,) = parse_tags(ask(roles.history([(START, 5)], demos, "before_q"), seed), "prompt")
            assert {MEANING[phrase] for phrase in meant(prompt)} == wanted
            steps = parse_tags(ask(roles.decompose("Say it.", demos), seed), "step")
            assert [MEANING[step] for step in steps] == [("kind", rule.kind), ("number", number)]
        demo = parse_tags(ask(roles.demonstrate(steps, demos[0])), "demonstration")[0]
        assert demo == worked(rule, questions[0]) and not demonstration_faults(demo, steps, demos[0].target)


def test_the_writer_keeps_what_scored_and_tries_what_was_not_tried() -> None:
    example = word_world.Example("0", "hat pie rat saw", "saw saw")
    kind, number = WORDINGS["kind", "tool"], WORDINGS["number", "twice"]
    past = [(phrase, 10) for phrase in kind[1:]] + [(kind[0], 35)] + [(phrase, 5) for phrase in number[1:]]
    found = {tuple(meant(parse_tags(ask(roles.history(past, [example], "before_q"), seed), "prompt")[0])) for seed in range(20)}  # fmt: skip
    said = {phrase for each in found for phrase in each}
    assert kind[0] in said and not said & set(kind[1:])  # all were tried: the best stays
    assert number[0] in said  # one was not tried


def test_the_writer_mends_what_the_errors_show() -> None:
    question = word_world.Example("0", "hat pie rat saw", "saw saw")
    one = Mistake(question, "The answer is hat hat.")
    (reason,) = parse_tags(ask(roles.reflect("Keep it double.", [one])), "reason")
    assert "wrong word" in reason and reason.endswith("be tool.")
    (edit,) = parse_tags(ask(roles.edit("Pick the gadget. Keep it double.", [one], reason)), "prompt")
    assert "Keep it double." in edit and "Pick the gadget." not in edit
    assert {MEANING[phrase] for phrase in meant(edit)} == {("kind", "tool"), ("number", "twice")}
    often = Mistake(question, "The answer is saw.")
    (reason,) = parse_tags(ask(roles.reflect("Keep it double.", [often])), "reason")
    assert "how often" in reason and reason.endswith("be twice.")
    right = Mistake(question, "The answer is saw saw.")
    assert "Nothing in the reply" in ask(roles.reflect("Keep it double.", [right]))
    # Steps: the first line that is not what the answer makes it.
    steps = ("Pick the gadget.", "Keep it double.")
    for reply, step, followed in (
        ("Step 1: hat\nStep 2: hat hat\nSo the answer is hat hat.", "1", "yes"),
        ("Step 1: saw\nStep 2: saw\nSo the answer is saw.", "2", "yes"),
        ("Step 2: saw saw\nSo the answer is saw.", "1", "no"),
    ):
        said = ask(roles.diagnose(steps, Mistake(question, reply)))
        assert (parse_tags(said, "step"), parse_tags(said, "followed")) == ([step], [followed])
    mended = parse_tags(ask(roles.refine_step(steps, 2, [], [often])), "step")
    assert mended != ["Keep it double."] and MEANING[mended[0]] == ("number", "twice")
    assert numbered_steps("1. Pick the gadget.") and set(WORDINGS[MEANING["Pick the gadget."]]) == set(KINDS["tool"])
    with pytest.raises(UserError, match="does not play the role 'judge'"):
        ask(roles.judge_step(1, steps[0], "Step 1: saw"))


SIZE = Search(calls=800, proposals=4, minibatch=10, abo_rounds=20, verify=6)


def searched(method: str, model: Any, task: Task, seed: int) -> list[float]:
    """Test scores, item by item."""
    search = make_search(method, model, WordWriter(), SIZE, task, seed=seed, run_dir=None)
    result = search.optimize(task, [START])
    assert search.session is not None and result.cost["target"]["calls"] <= SIZE.calls
    known = search.session.known(result.best, "test")
    return [known[example.id].value for example in task.test]


@pytest.mark.parametrize("method", ["random", "ape", "apo", "apo-sum", "pe2", "opro", "abo"])
def test_every_search_works_without_the_rule(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the hidden rule and what is taught out of reach, methods that look at something still find what is right."""
    task, target = word_task(1, (20, 20, 30)), obedient(taught(0, 2))

    def hidden(*args: object) -> None:
        raise AssertionError("a search asked for what is hidden")

    assert not {"rule_of", "taught", "obeyed", "Rule", "word_task"} & set(vars(word_writer))
    for name in ("rule_of", "taught", "obeyed"):
        monkeypatch.setattr(word_world, name, hidden)
    score = float(np.mean(searched(method, target, task, 0)))
    assert score < 0.7 if method == "random" else score > 0.9


def test_weights_are_kept_by_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    folder = train_word_model(SMALL)
    first = (folder / "model.safetensors").read_bytes()
    trained = word_model._trained
    monkeypatch.setattr(word_model, "_trained", lambda settings: pytest.fail("trained twice"))
    assert train_word_model(SMALL) == folder
    asked = [[Message("user", "Think.\n\nQ: hat pie rat saw\nA:")]]
    with open_word_model(SMALL) as one, open_word_model(SMALL) as two:
        cold = Sampling(temperature=0.0, max_tokens=5)
        assert one.name == folder.name
        assert complete_all(one, asked, cold)[0][0].text == complete_all(two, asked * 9, cold)[4][0].text
    # What was cut off while it was written is no model; made again it is the same to the last byte.
    monkeypatch.setattr(word_model, "_trained", trained)
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    train_word_model(SMALL)
    assert (folder / "model.safetensors").read_bytes() == first
    (folder / "model.safetensors").write_bytes(first[:100])
    with pytest.raises(UserError, match="safetensors"):
        open_word_model(SMALL)
    assert len({WordModel(seed=s, wordings=w, steps=n).key for s in (0, 1) for w in (1, 2) for n in (3, 4)}) == 8


@pytest.mark.parametrize(
    ("field", "value"), [("wordings", 5), ("dim", 12), ("steps", 0), ("length", 20), ("shown", 1.5), ("lr", 0.0)]
)
def test_settings_are_checked(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field}: got {value}"):
        WordModel(**{field: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_looking_beats_drawing_blindly_on_a_model_that_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three seeds pooled, equal calls: each method against random search on test, McNemar."""
    import time

    from tenfold.cli import main
    from tenfold.prompts.result import mcnemar_p

    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    start = time.process_time()
    train_word_model(WordModel())
    assert time.process_time() - start < 120
    scores: dict[str, list[float]] = {}
    with open_word_model() as model:
        assert sum(p.numel() for p in model.engine.model.parameters()) < 2e6
        for seed in range(3):
            task = word_task(seed, (20, 20, 50))
            for method in ("given", "random", "ape", "apo", "opro", "abo"):
                scores.setdefault(method, []).extend(searched(method, model, task, seed))
    assert np.mean(scores["given"]) <= 0.4
    for method in ("ape", "apo", "opro", "abo"):
        p = mcnemar_p(np.array(scores[method]), np.array(scores["random"]))
        assert np.mean(scores[method]) > np.mean(scores["random"]) and p is not None and p < 0.05
    command = ["abo", "optimize", "--task", "words/rule", "--target-model", "local", "--calls", "300", "--out"]
    assert main([*command, str(tmp_path / "run")]) == 0
    assert "Step 1:" in capsys.readouterr().out
