"""Two tasks that a program solves exactly, step by step: what the simulated target works on. Questions have BIG-Bench Hard's form.

A simulator's world: what is found in it says nothing about language models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import dataclass

from tenfold.prompts.examples import Example
from tenfold.prompts.task import Cause, Task

_NUMBERS = ["a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_VALUE = {word: i + 1 for i, word in enumerate(_NUMBERS)} | {"an": 1, "one": 1}
_KINDS = {
    "fruits": "apple banana blackberry/blackberries grape nectarine orange peach/peaches plum raspberry/raspberries strawberry/strawberries",
    "vegetables": "cabbage carrot cauliflower garlic head~of~broccoli/heads~of~broccoli lettuce~head onion potato/potatoes stalk~of~celery/stalks~of~celery yam",
    "animals": "bear cat chicken cow dog donkey duck fish/fish frog goat mouse/mice pig rabbit snail snake",
    "musical instruments": "accordion clarinet drum flute piano trombone trumpet violin",
    "household things": "bed car chair couch/couches fridge lamp microwave oven stove table toaster",
}


def _lexicon() -> dict[str, tuple[str, str]]:
    """Every word, singular or plural, to (plural, kind)."""
    found: dict[str, tuple[str, str]] = {}
    for kind, words in _KINDS.items():
        for word in words.split():
            one, _, many = word.replace("~", " ").partition("/")
            many = many or one + "s"
            found |= {one: (many, kind), many: (many, kind)}
    return found


LEXICON = _lexicon()


@dataclass(frozen=True)
class Skill:
    """One part of a program.

    Args:
        name: also the cause of errors where it is left out.
        label: opens its line in a transcript.
        pattern: finds it in a prompt.
        hint: names it in an instruction.
        step: names it as a step.
        blame: a reflection that names it as the cause.
    """

    name: str
    label: str
    pattern: str
    hint: str
    step: str
    blame: str

    def named_in(self, text: str) -> bool:
        return re.search(self.pattern, text, re.IGNORECASE) is not None


@dataclass(frozen=True)
class World:
    """A task with its program of three skills.

    Args:
        name: of the task.
        description: one sentence.
        question: finds a question in a text.
        skills: in the order in which they are carried out.
        starts: instructions that name no skill.
    """

    name: str
    description: str
    question: str
    skills: tuple[Skill, ...]
    starts: tuple[str, ...]

    @property
    def causes(self) -> tuple[Cause, ...]:
        return tuple(Cause(skill.name, rf"\b{skill.name}\b|{skill.pattern}") for skill in self.skills)

    def solve(self, question: str, done: Collection[str], draw: random.Random) -> tuple[dict[str, str], str]:
        """What each carried-out skill writes, and the answer: right where all are carried out, else plausible."""
        return (_count if self.name == "object_counting" else _walk)(self, question, done, draw)

    def make(self, draw: random.Random) -> tuple[str, str]:
        """A question and its answer."""
        return (_new_count if self.name == "object_counting" else _new_walk)(draw)


COUNTING = World(
    "object_counting",
    "Count how many things of the asked kind are listed.",
    r"I have (?:(?!I have ).)*\. How many [a-z ]+ do I have\?",
    (
        Skill("quantities", "Quantities", r"quantit", "Write down the quantity of each thing.", "List the quantity of each thing that is named.", "The reply never lists the quantities of the things."),
        Skill("kind", "Kept", r"keep only|leave out", "Keep only the things that count.", "Keep only the things of the asked kind.", "The reply does not sort things by kind before it counts."),
        Skill("sum", "Sum", r"\badd\b|\bsum\b", "Add the numbers one by one.", "Add up the numbers that are left.", "The reply makes an error in the sum."),
    ),
    ("Answer the question.", "Count the things and give their number.", "How many are there? Give a number.", "Think before you answer with a number."),
)  # fmt: skip
NAVIGATE = World(
    "navigate",
    "Decide whether following the instructions returns to the starting point.",
    r"If you follow these instructions, do you return to the starting point\?(?:(?!If you follow).)*?- No",
    (
        Skill("facing", "Facing", r"\bfacing\b", "Note which way you are facing after every turn.", "Write down the facing after every instruction.", "The reply does not track the facing after turns."),
        Skill("coordinates", "Coordinates", r"coordinates", "Note the coordinates after every move.", "Write down the coordinates after every instruction.", "The reply does not track the coordinates."),
        Skill("origin", "Origin", r"\borigin\b", "Hold the end against the origin.", "Compare where you end with the origin.", "The reply never compares the end with the origin."),
    ),
    ("Answer the question.", "Follow the moves and answer Yes or No.", "Do you come back? Answer Yes or No.", "Think before you answer Yes or No."),
)  # fmt: skip
WORLDS = {world.name: world for world in (COUNTING, NAVIGATE)}


def world_of(text: str) -> World | None:
    """The world whose question or description stands last in a text."""
    found = []
    for world in WORLDS.values():
        ends = [m.end() for m in re.finditer(world.question, text, re.DOTALL)] + [text.rfind(world.description)]
        if max(ends) >= 0:
            found.append((max(ends), world))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def sim_task(name: str, seed: int = 0, sizes: tuple[int, int, int] = (50, 50, 50)) -> Task:
    """A generated task of a world: "object_counting" or "navigate"."""
    if name not in WORLDS:
        raise ValueError(f"name: got {name!r}, need one of {', '.join(WORLDS)}")
    world, draw = WORLDS[name], random.Random(f"sim task {name} {seed}")
    rows: dict[str, str] = {}
    while len(rows) < sum(sizes):
        rows.setdefault(*world.make(draw))
    examples = [Example(f"{name}-{i}", asked, answer) for i, (asked, answer) in enumerate(rows.items())]
    ends = (sizes[0], sizes[0] + sizes[1])
    splits = (tuple(examples[: ends[0]]), tuple(examples[ends[0] : ends[1]]), tuple(examples[ends[1] :]))
    return Task(f"sim/{name}", *splits, description=world.description, causes=world.causes)


# Counting.


def listed_things(question: str) -> tuple[list[tuple[str, int]], str]:
    """(plural, quantity) of each thing, and the kind that is asked for."""
    match = re.search(r"I have (.*)\. How many ([a-z ]+) do I have\?", question, re.DOTALL)
    if match is None:
        raise ValueError(f"question: {question[:60]!r} is none of this world")
    things = []
    for part in re.split(r", and |, | and ", match[1]):
        count, _, thing = part.strip().partition(" ")
        known = LEXICON.get(thing) or LEXICON.get(part.strip())
        if known is None:
            raise ValueError(f"question: {part!r} is unknown in this world")
        things.append((known[0], _VALUE.get(count, 1)))
    return things, match[2]


def _count(world: World, question: str, done: Collection[str], draw: random.Random) -> tuple[dict[str, str], str]:
    things, kind = listed_things(question)
    right = sum(count for thing, count in things if kind == "objects" or LEXICON[thing][1] == kind)
    used = things if "quantities" in done else [(thing, 1) for thing, _ in things]
    kept = (
        [(thing, count) for thing, count in used if kind == "objects" or LEXICON[thing][1] == kind]
        if "kind" in done
        else used
    )
    total = sum(count for _, count in kept)
    lines = {
        "quantities": ", ".join(f"{thing} {count}" for thing, count in used),
        "kind": ", ".join(f"{thing} {count}" for thing, count in kept),
        "sum": " + ".join(str(count) for _, count in kept) + f" = {total}",
    }
    if "sum" not in done:
        total = max(0, total + draw.choice((-2, -1, 1, 2)))
    if len(done) < len(world.skills) and total == right:
        total += draw.choice((1, 2))  # a slip that happens to come out right would be no error
    return {name: line for name, line in lines.items() if name in done}, str(total)


def _new_count(draw: random.Random) -> tuple[str, str]:
    kind = draw.choice([*_KINDS, "objects"])
    own = list(dict.fromkeys(many for many, k in LEXICON.values() if kind in ("objects", k)))
    other = list(dict.fromkeys(many for many, k in LEXICON.values() if k not in (kind, "household things")))
    chosen = draw.sample(own, draw.randint(4, 7)) + (
        [] if kind == "objects" else draw.sample(other, draw.randint(1, 3))
    )
    draw.shuffle(chosen)
    singular = {many: one for one, (many, _) in reversed(LEXICON.items()) if one != many}
    parts, right = [], 0
    for many in chosen:
        count = draw.choice((1, 1, 1, 2, 2, 3, 4))
        one = singular.get(many, many)
        article = "an" if one[0] in "aeiou" else "a"
        parts.append(f"{article} {one}" if count == 1 else f"{_NUMBERS[count - 1]} {many}")
        right += count * (kind == "objects" or LEXICON[many][1] == kind)
    return f"I have {', '.join(parts[:-1])}, and {parts[-1]}. How many {kind} do I have?", str(right)


# Navigation.

_COMPASS = ((0, 1), (1, 0), (0, -1), (-1, 0))
_TURNS = {"left": -1, "right": 1, "around": 2}
_SIDES = {"": 0, "forward": 0, "right": 1, "backward": 2, "left": 3}


def walked(question: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Facing (0 north, 1 east, …) and place after each instruction."""
    body = question.partition("starting point?")[2].partition("\nOptions")[0]
    facing, x, y = 0, 0, 0
    faced, places = [], []
    for part in re.findall(r"Turn (left|right|around)|Take (\d+) steps?(?: (left|right|forward|backward))?", body):
        turn, steps, side = part
        if turn:
            facing = (facing + _TURNS[turn]) % 4
        else:
            dx, dy = _COMPASS[(facing + _SIDES[side]) % 4]
            x, y = x + dx * int(steps), y + dy * int(steps)
        faced.append(facing)
        places.append((x, y))
    return faced, places


def _walk(world: World, question: str, done: Collection[str], draw: random.Random) -> tuple[dict[str, str], str]:
    faced, places = walked(question)
    end = places[-1] if places else (0, 0)
    right = "Yes" if end == (0, 0) else "No"
    lines = {
        "facing": " ".join("NESW"[f] for f in faced),
        "coordinates": " ".join(f"({x},{y})" for x, y in places),
        "origin": f"the end is{'' if right == 'Yes' else ' not'} (0,0)",
    }
    answer = right if len(done) == len(world.skills) else draw.choice(("Yes", "No"))
    return {name: line for name, line in lines.items() if name in done}, answer


def _new_walk(draw: random.Random) -> tuple[str, str]:
    forward = draw.random() < 0.5
    parts: list[str] = []
    for _ in range(draw.randint(2, 5)):
        count = draw.randint(1, 10)
        steps = f"Take {count} step{'s' if count > 1 else ''}"
        parts.append(f"{steps} {draw.choice(('left', 'right', 'forward', 'backward'))}" if forward else steps)
        if not forward and draw.random() < 0.6:
            parts.append(f"Turn {draw.choice(('left', 'right', 'around'))}")
    if draw.random() < 0.6:  # back the way it came
        parts += _way_back(parts, forward)
    head = "If you follow these instructions, do you return to the starting point? "
    body = ("Always face forward. " if forward else "") + ". ".join(parts) + "."
    question = f"{head}{body}\nOptions:\n- Yes\n- No"
    places = walked(question)[1]
    return question, "Yes" if places[-1] == (0, 0) else "No"


def _way_back(parts: list[str], forward: bool) -> list[str]:
    if not forward:
        steps = [part for part in parts if part.startswith("Take")]
        turns = {"left": "right", "right": "left", "around": "around"}
        back = [part if part.startswith("Take") else f"Turn {turns[part.split()[1]]}" for part in reversed(parts)]
        return ["Turn around", *back] if steps else []
    opposite = {"left": "right", "right": "left", "forward": "backward", "backward": "forward"}
    return [f"{part.rsplit(' ', 1)[0]} {opposite[part.rsplit(' ', 1)[1]]}" for part in reversed(parts)]
