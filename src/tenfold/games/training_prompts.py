"""Prompts to learn from: the playing prompt in many wordings and layouts, so that none of them is what is learned."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tenfold.games.game import Episode, Game, keyed_seed
from tenfold.games.prompts import DEFAULT_PACK, PromptPack
from tenfold.text.messages import Message

_PREFIXES = ("\n\n - ", "\n\n### ", "\n\n## ", "\n\n# ", "\n\n *** ", "\n\n **", "\n\n\n")
_NAMES = (None, ("Assistant", "Human"), ("Answer", "Question"), ("Response", "Query"), ("A", "Q"))  # None: the roles
_LAYOUTS = ("chat", "chat_inverse", "alpaca")
_LABELS = ("Rules", "Game Rule", "System")


@dataclass(frozen=True)
class RandomisedPrompts:
    """The prompt of an utterance of Adversarial Taboo as text, in a wording drawn by (seed, episode, ply).

    Args:
        pack: its rules and instructions.
        seed: of the draws.
    Source: the training prompts of Cheng et al. 2024.
    """

    pack: PromptPack = DEFAULT_PACK
    seed: int = 0

    def __call__(self, episode: Episode, ply: int) -> str:
        draw = random.Random(keyed_seed(self.seed, episode.id, ply))
        turns, role = episode.turns[:ply], episode.turns[ply].role
        prefix, label, layout = draw.choice(_PREFIXES), draw.choice(_LABELS), draw.choice(_LAYOUTS)
        other = "defender" if role == "attacker" else "attacker"
        own_name, other_name = draw.choice(_NAMES) or (role, other)
        rules = self.pack.rule(episode.setup["max_turns"], draw.randrange(len(self.pack.rules)))
        asked = self.pack.asked(role, episode.setup["target_word"])
        said = "".join(f"{prefix}{own_name if t.role == role else other_name}: {t.text}" for t in turns)
        opening = f"{prefix}{own_name}: "
        if layout == "alpaca":
            named = f"{label}: {rules}" if draw.random() < 0.2 else rules
            ending = f"{asked[:-1]}: " if draw.random() < 0.2 else f"{asked}{opening}"
            return f"{named}{prefix}Game History:{said}{prefix}{ending}"
        system = f"{prefix}{label}: {rules}\n\n{asked}"
        return (f"{system}{said}" if layout == "chat" else f"{said}{system}") + opening


@dataclass(frozen=True)
class PlayedPrompts:
    """The prompt that the player was given when it played; for every game and for models with a chat template."""

    game: Game

    def __call__(self, episode: Episode, ply: int) -> tuple[Message, ...]:
        return tuple(self.game.observe(episode.state(ply), episode.turns[ply].role))
