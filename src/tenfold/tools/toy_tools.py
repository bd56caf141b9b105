"""A simulated world of tools: made-up names, generated descriptions, and queries that need them or do not.

A tool does one thing to one sort of object; a query that needs it says both, in other words around them. So whether a tool
fits can be told from its description alone, also for a tool that was never seen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tenfold.tools.samples import ToolExamples
from tenfold.tools.signatures import parse_signature
from tenfold.tools.tool import Tool

ACTIONS = ("sort", "weigh", "paint", "count", "send", "copy", "rent", "trace", "scan", "mend", "cool", "heat", "fold", "rank", "sell", "map", "wrap", "tune", "test", "move", "clean", "lock", "print", "store", "dry")  # fmt: skip
OBJECTS = ("maps", "boats", "songs", "stones", "letters", "shoes", "lamps", "horses", "coins", "trees", "clocks", "pears", "doors", "rugs", "tents", "bells", "kites", "pots", "flags", "rings", "wheels", "books", "chairs", "birds", "bricks")  # fmt: skip
SYLLABLES = ("ba", "ko", "ri", "tu", "ze", "mo", "pla", "dri", "sna", "vo", "quu", "lin", "gar", "wex", "hib", "jat")
PLACES = ("paris", "oslo", "rome", "lima", "cairo")
_ASKS = ("please {action} the {object} in {place}", "can you {action} my {object} from {place}", "i want to {action} {object} near {place}")  # fmt: skip
_GENERAL = ("tell me a joke about {object}", "why do people like {object}", "write a poem on {object} and {place}", "what is the word for {object}")  # fmt: skip


@dataclass(frozen=True)
class ToyWorld:
    """Tools of training, tools never seen, and queries that need none (of training, for the test)."""

    train: tuple[ToolExamples, ...]
    unseen: tuple[ToolExamples, ...]
    general: tuple[str, ...]
    general_unseen: tuple[str, ...]


def toy_world(seed: int = 0, *, train: int = 400, unseen: int = 100, examples: int = 8) -> ToyWorld:
    """A world of so many tools.

    Args:
        seed: of everything.
        train, unseen: tools, together at most 625; each has its own pair of action and object.
        examples: queries of a tool.
    """
    most = len(ACTIONS) * len(OBJECTS)
    if train < 1 or unseen < 1 or train + unseen > most:
        raise ValueError(f"train, unseen: got {train}, {unseen}, need at least 1 each, together at most {most}")
    draw = random.Random(f"toy tools {seed}")
    pairs = draw.sample([(action, thing) for action in ACTIONS for thing in OBJECTS], train + unseen)
    names = draw.sample([a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES], train + unseen)
    tools = []
    for name, (action, thing) in zip(names, pairs, strict=True):
        asked = tuple(_pair(name, action, thing, draw) for _ in range(examples))
        signature = parse_signature(f"{name}(place: str)")
        tool = Tool(name=name, description=f"{action} {thing}", parameters=signature.parameters, source="toy", extra={"api_function": f"{name}(place: str)"})  # fmt: skip
        tools.append(ToolExamples(tool, asked))
    general = [draw.choice(_GENERAL).format(object=draw.choice(OBJECTS), place=draw.choice(PLACES)) for _ in range(2 * (train + unseen) // 2)]  # fmt: skip
    return ToyWorld(tuple(tools[:train]), tuple(tools[train:]), tuple(general[:train]), tuple(general[train:]))


def _pair(name: str, action: str, thing: str, draw: random.Random) -> tuple[str, str]:
    place = draw.choice(PLACES)
    return draw.choice(_ASKS).format(action=action, object=thing, place=place), f"{name}(place='{place}')"
