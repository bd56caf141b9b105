"""Two small tasks of daily work with a check: orders into JSON, messages into one sentence. What task adapters are shown on.

Messages are made up of sentences in several wordings around a few facts; the answer is known, so a program can judge.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from tenfold.align.verifiers import Task
from tenfold.text.messages import Message

Part = Literal["learned", "held_out"]


def _listed(words: str, mark: str = " ") -> list[str]:
    return words.split(mark)


LONGEST_SUMMARY = 20  # words; a longer one scores 0
# Of each list the words at even places are learned from, those at odd places measured on.
NAMES = _listed(
    "Anna Boris Clara David Emma Felix Greta Hugo Ida Jonas Karin Leo Maria Nils Olga Paul Rosa Simon Tina Victor"
)
THINGS = _listed(
    "lamps chairs books boxes clocks shirts plates bottles candles pencils mirrors baskets towels cups radios tables"
)
CITIES = _listed("Berlin Oslo Madrid Vienna Dublin Lisbon Prague Rome Athens Warsaw Zurich Helsinki")
EVENTS = _listed("meeting lunch training workshop interview rehearsal inspection lecture delivery excursion")
DAYS = _listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
REASONS = _listed(
    "the room is taken|the train is late|the boss is ill|the heating is broken|the road is closed|the guests come later|"
    "the papers are missing|the power is off",
    "|",
)
CHATTER = _listed(
    "I hope you are well.|The weather is lovely today.|Thank you for the quick answer last time.|We talked about the garden, too.|"
    "My phone was off this morning.|The coffee here is terrible.|Greetings to everyone in the office.|I read your letter twice.",
    "|",
)
ORDERS = (
    "This is {name}. Please send {count} {thing} to {city} by {day}.",
    "{name} here. We need {count} {thing} in {city}, no later than {day}.",
    "Could you deliver {count} {thing} to our shop in {city} on {day}? Yours, {name}.",
    "On {day} our house in {city} expects {count} {thing}. Signed, {name}.",
)
MOVES = (
    "{name} has decided something. The {event} will be on {day}. The reason: {reason}.",
    "Because {reason}, {name} had to act. So now the {event} takes place on {day}.",
    "I spoke with {name} about the {event}. It is moved to {day}, since {reason}.",
)


def extraction_tasks(seed: int, count: int, part: Part = "held_out") -> list[Task]:
    """Orders to be written as a JSON object with name, count, item, city and day.

    A response scores the share of the fields that are right; fields that were not asked for count as wrong. Text around
    the object does not count.
    """
    return [_extraction(random.Random(f"extract/{seed}/{index}"), part) for index in range(count)]


def summary_tasks(seed: int, count: int, part: Part = "held_out") -> list[Task]:
    """Messages to be told in one sentence of at most 20 words.

    A response scores the share of the facts that it names: who, what, when and why; a longer one scores 0.
    """
    return [_summary(random.Random(f"summarize/{seed}/{index}"), part) for index in range(count)]


TASK_SETS: dict[str, Callable[[int, int, Part], list[Task]]] = {
    "extract": extraction_tasks,
    "summarize": summary_tasks,
}


def _extraction(draw: random.Random, part: Part) -> Task:
    facts = {
        "name": _pick(draw, NAMES, part),
        "count": draw.randint(2, 60),
        "item": _pick(draw, THINGS, part),
        "city": _pick(draw, CITIES, part),
        "day": draw.choice(DAYS),
    }
    order = draw.choice(ORDERS).format(thing=facts["item"], **facts)
    prompt = f"Extract the order as JSON with the fields name, count, item, city, day.\n\n{_among_chatter(draw, order)}"
    return Task((Message("user", prompt),), partial(fields_right, facts), json.dumps(facts), "extract")


def _summary(draw: random.Random, part: Part) -> Task:
    facts = {
        "name": _pick(draw, NAMES, part),
        "event": _pick(draw, EVENTS, part),
        "day": draw.choice(DAYS),
        "reason": _pick(draw, REASONS, part),
    }
    told = _among_chatter(draw, draw.choice(MOVES).format(**facts))
    prompt = f"Summarize in one sentence of at most {LONGEST_SUMMARY} words: who moves what to when, and why.\n\n{told}"
    answer = "{name} moves the {event} to {day} because {reason}.".format(**facts)
    return Task((Message("user", prompt),), partial(facts_told, tuple(facts.values())), answer, "summarize")


def fields_right(facts: Mapping[str, object], text: str) -> float:
    """The share of an object's fields that the first JSON object in a text has right, of the fields of the larger one."""
    start = text.find("{")
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:]) if start >= 0 else ({}, 0)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(found, dict):
        return 0.0
    right = sum(str(found.get(name)) == str(value) for name, value in facts.items())
    return right / max(len(facts), len(found))


def facts_told(facts: Sequence[str], text: str) -> float:
    """The share of facts that a text names, in any case; 0 where it has more than 20 words."""
    if len(text.split()) > LONGEST_SUMMARY:
        return 0.0
    said = " ".join(text.casefold().split())
    return sum(fact.casefold() in said for fact in facts) / len(facts)


def _pick(draw: random.Random, words: Sequence[str], part: Part) -> str:
    return draw.choice(words[::2] if part == "learned" else words[1::2])


def _among_chatter(draw: random.Random, told: str) -> str:
    before, after = draw.sample(CHATTER, 2)
    return draw.choice((f"{before} {told}", f"{told} {after}", f"{before} {told} {after}"))
