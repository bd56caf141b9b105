"""A small world of instructions: which of four words to say, and how often. A model can learn it from nothing in two minutes.

A question names an animal, a food, a tool and a garment. An instruction is a few short sentences. One may tell which of the four
is said, one how often; all others are idle talk. There are four wordings of each meaning, and a model is taught some of them: the
others it has met as idle talk only. So words that mean the right thing need not work, and only trying them tells. Where kind or
number is not told in words that it was taught, it follows a habit that depends on the question: errors are of all sorts.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from tenfold.prompts.behaviour import Behaviour, behaviour_prompt
from tenfold.prompts.examples import Example
from tenfold.prompts.scorers import ExactMatch
from tenfold.prompts.task import SPLITS, Cause, Task

NOUNS: Mapping[str, tuple[str, ...]] = {
    "animal": ("ant", "cow", "dog", "fox", "owl", "rat"),
    "food": ("bun", "egg", "fig", "jam", "nut", "pie"),
    "tool": ("axe", "fan", "key", "pan", "pen", "saw"),
    "garment": ("bag", "cap", "hat", "sock", "tie", "vest"),
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "animal": ("Name the animal.", "Say what lives.", "Pick the beast.", "Look for fur and wings."),
    "food": ("Name the food.", "Say what is eaten.", "Pick the snack.", "Look for a bite."),
    "tool": ("Name the tool.", "Say what is used.", "Pick the gadget.", "Look for hardware."),
    "garment": ("Name the garment.", "Say what is worn.", "Pick the outfit.", "Look for clothes."),
}
TIMES: Mapping[int, tuple[str, ...]] = {
    1: ("Write it once.", "Make no copies.", "Keep it single.", "Never repeat it."),
    2: ("Write it twice.", "Make a couple.", "Keep it double.", "Repeat it."),
    3: ("Write it three times.", "Make a trio.", "Keep it triple.", "Repeat it again and again."),
}
IDLE = (
    "Please.",
    "Think.",
    "Be careful.",
    "Work slowly.",
    "Answer the question.",
    "Stay calm.",
    "Do not rush.",
    "Check your work.",
    "Read well.",
    "Be brief.",
    "Take a breath.",
    "You can do this.",
)
PHRASES = tuple(phrase for own in (*KINDS.values(), *TIMES.values()) for phrase in own) + IDLE
DESCRIPTION = "Say words of the question as you are told."
CAUSES = (Cause("kind", r"\bwrong word\b"), Cause("number", r"\bhow often\b"))


@dataclass(frozen=True)
class Rule:
    """What is said: the word of one kind, so many times."""

    kind: str
    times: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.times not in TIMES:
            raise ValueError(
                f"rule: got {self.kind!r}, {self.times}, need one of {', '.join(KINDS)} and 1..{len(TIMES)}"
            )

    def answer(self, question: str) -> str:
        """What is to be said to a question."""
        return " ".join([kinds_in(question)[self.kind]] * self.times)


def kinds_in(question: str) -> dict[str, str]:
    """Kind to word, of a question of this world."""
    return {kind: word for word in question.split() for kind, words in NOUNS.items() if word in words}


def rule_of(seed: int) -> Rule:
    """The hidden rule of a seed's task; twelve seeds in a row have twelve different ones."""
    rules = [Rule(kind, times) for kind in KINDS for times in TIMES]
    random.Random("word rules").shuffle(rules)
    return rules[seed % len(rules)]


def taught(seed: int, each: int) -> frozenset[str]:
    """The wordings, so many of each meaning, that a model of this seed is taught."""
    draw = random.Random(f"taught {seed}")
    return frozenset(phrase for own in (*KINDS.values(), *TIMES.values()) for phrase in draw.sample(own, each))


def obeyed(instruction: str, question: str, known: Collection[str]) -> Rule:
    """What a model that was taught the `known` wordings is to do: as it is told in those, else by habit."""
    words = kinds_in(question)
    habit = (list(KINDS)[NOUNS["animal"].index(words["animal"]) % len(KINDS)], NOUNS["food"].index(words["food"]) % len(TIMES) + 1)  # fmt: skip
    heard = [phrase for phrase in known if phrase in instruction]
    kind = next((kind for kind, own in KINDS.items() if any(phrase in own for phrase in heard)), habit[0])
    times = next((times for times, own in TIMES.items() if any(phrase in own for phrase in heard)), habit[1])
    return Rule(kind, times)


def new_question(draw: random.Random) -> str:
    """A word of each kind, in any order."""
    return " ".join(draw.sample([draw.choice(words) for words in NOUNS.values()], len(NOUNS)))


def worked(rule: Rule, question: str) -> str:
    """Both steps carried out on a question, in the form that a behaviour demonstrates."""
    answer = rule.answer(question)
    return f"Step 1: {answer.split()[0]}\nStep 2: {answer}\nSo the answer is {answer}."


def word_task(seed: int = 0, sizes: tuple[int, int, int] = (50, 50, 50), max_tokens: int = 48) -> Task:
    """Questions answered by the seed's hidden rule.

    Args:
        seed: of rule and questions.
        sizes: of train, val and test; 1000 in all at most.
        max_tokens: of a reply; a run through both steps takes some thirty.
    """
    if not all(size >= 1 for size in sizes) or sum(sizes) > 1000:
        raise ValueError(f"sizes: got {sizes}, need three of at least 1, 1000 in all at most")
    rule, draw = rule_of(seed), random.Random(f"word task {seed}")
    asked: dict[str, None] = {}
    while len(asked) < sum(sizes):
        asked[new_question(draw)] = None
    rows = [Example(f"words-{i}", question, rule.answer(question)) for i, question in enumerate(asked)]
    train, val = sizes[0], sizes[0] + sizes[1]
    splits = (tuple(rows[:train]), tuple(rows[train:val]), tuple(rows[val:]))
    return Task("words/rule", *splits, ExactMatch(), description=DESCRIPTION, causes=CAUSES, max_tokens=max_tokens)


def lessons(seed: int, count: int, known: Collection[str], shown: float = 0.25) -> Iterator[tuple[str, str, str]]:
    """What a model is taught: (instruction, question, reply). What the rule of a task is, they do not tell.

    Args:
        seed: of all draws.
        count: lessons.
        known: the wordings that are taught.
        shown: share of lessons with two steps and a demonstration, whose reply runs through the steps in its form.
    """
    known, draw = sorted(known), random.Random(f"lessons {seed}")
    idle = (*IDLE, *(phrase for phrase in PHRASES if phrase not in known and phrase not in IDLE))
    for _ in range(count):
        question = new_question(draw)
        rule = Rule(draw.choice(list(KINDS)), draw.choice(list(TIMES)))
        if draw.random() < shown:
            steps = (draw.choice(KINDS[rule.kind]), draw.choice(TIMES[rule.times]))
            prompt = _shown(steps, rule, new_question(draw))
            yield prompt, question, worked(obeyed(" ".join(steps), question, known), question)
            continue
        said = draw.sample(idle, draw.randint(0, 3))
        for own in (KINDS[rule.kind], TIMES[rule.times]):
            if draw.random() < 0.7:
                said.append(draw.choice([phrase for phrase in own if phrase in known]))
        draw.shuffle(said)
        prompt = " ".join(said)
        yield prompt, question, f"The answer is {obeyed(prompt, question, known).answer(question)}."


def _shown(steps: tuple[str, ...], rule: Rule, question: str) -> str:
    """The prompt of a behaviour, as the search writes it, with a demonstration on another question."""
    train, val, test = ((Example(split, question if split == "train" else split, ""),) for split in SPLITS)
    task = Task("lesson", train, val, test, description=DESCRIPTION)
    return behaviour_prompt(task, Behaviour(steps, worked(rule, question), "train"))
