"""Scripted players of Adversarial Taboo: an attacker that drops clues, a defender that talks and guesses.

They play legal games from any list of words with clues, and are the teachers of models that cannot play yet. What they
say depends on the conversation and the seed of the sampling alone.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence

from tenfold.games.files import Clues
from tenfold.games.game import keyed_seed
from tenfold.games.prompts import GUESS
from tenfold.games.referee import official_finding, strict_finding
from tenfold.text.chat import ScriptedChatModel
from tenfold.text.messages import Message, Sampling

NOTHING_TO_SAY = "go on"

_TARGET = re.compile("`([^`\n]+)`")


def scripted_attacker(
    lexicon: Sequence[Clues], *, slip: float = 0.03, name: str = "scripted attacker"
) -> ScriptedChatModel:
    """An attacker that says one clue of its word after another, and now and then the word itself.

    Args:
        lexicon: words with clues; for a word that is not in it there is nothing to say.
        slip: probability of saying the word.
    """
    known = {entry.word: [clue for clue in entry.clues if not _says(clue, entry.word)] for entry in lexicon}

    def speak(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        draw = _draws(messages, sampling, index)
        targets = _TARGET.findall(messages[0].content)  # the last one: the rules quote a guess before it
        target = targets[-1] if targets else ""
        if target and draw.random() < slip:
            return target
        own = {message.content for message in messages if message.role == "assistant"}
        clues = known.get(target, [])
        return draw.choice([clue for clue in clues if clue not in own] or clues or [NOTHING_TO_SAY])

    return ScriptedChatModel(speak, name)


def scripted_defender(
    lexicon: Sequence[Clues],
    *,
    guess: float = 0.3,
    candid: float = 0.5,
    sharpness: float = 2.0,
    name: str = "scripted defender",
) -> ScriptedChatModel:
    """A defender that believes a word the more, the more clues of it were said.

    Args:
        lexicon: words with clues that it knows.
        guess: probability of guessing, with a word drawn from its belief.
        candid: where it talks, the probability of naming such a word instead of another of its clues.
        sharpness: a word weighs e to this times the clues of it that were said.
    """
    words = [entry.word for entry in lexicon]
    clues_of = {entry.word: entry.clues for entry in lexicon}
    holders: dict[str, list[str]] = {}
    for entry in lexicon:
        for clue in entry.clues:
            holders.setdefault(clue, []).append(entry.word)

    def speak(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        draw = _draws(messages, sampling, index)
        heard = [message.content for message in messages if message.role == "user"]
        matches = Counter(word for clue in dict.fromkeys(heard) for word in holders.get(clue, ()))
        candidates = list(matches) or words
        believed = draw.choices(candidates, [math.exp(sharpness * matches[word]) for word in candidates])[0]
        if draw.random() < guess:
            return GUESS.replace("{word}", believed)
        return believed if draw.random() < candid else draw.choice(clues_of[believed])

    return ScriptedChatModel(speak, name)


def spelling_clues(words: Sequence[str]) -> list[Clues]:
    """Clues that any word has: its length, its first and last letter, how many vowels; for lists without meanings."""
    return [
        Clues(
            word,
            (
                f"{len(word)} letters",
                f"{word[0]} first",
                f"{word[-1]} last",
                f"{sum(letter in 'aeiou' for letter in word)} vowels",
                f"{word[len(word) // 2]} in the middle",
            ),
        )
        for word in words
        if word
    ]


def _says(text: str, word: str) -> bool:
    return official_finding(text, word).mention is not None or strict_finding(text, word).mention is not None


def _draws(messages: Sequence[Message], sampling: Sampling, index: int) -> random.Random:
    return random.Random(keyed_seed(sampling.seed, index, len(messages), messages[-1].content))
