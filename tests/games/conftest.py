"""A tokenizer and a tiny decoder that can chat, a handful of words with clues, and whole games by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tenfold.games.files import Clues
from tenfold.games.game import Episode, Turn, Verdict, episode_id
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

ROLES = ("attacker", "defender")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    text = "the attacker wants the defender to say a word unawares, I know the word! It is `apple`!\n"
    return train_tokenizer([text] * 20, 330)


@pytest.fixture
def decoder(tokenizer: Tokenizer) -> Callable[..., Decoder]:
    """A decoder in float64 from a seed."""

    def make(seed: int = 0, max_len: int = 96) -> Decoder:
        cfg = DecoderConfig(tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, max_len=max_len)
        return Decoder(cfg, torch.Generator().manual_seed(seed)).double()

    return make


@pytest.fixture(scope="session")
def lexicon() -> list[Clues]:
    return [
        Clues("apple", ("fruit", "tree", "red", "cider")),
        Clues("pear", ("fruit", "tree", "green")),
        Clues("horse", ("animal", "rider", "hoof")),
        Clues("saddle", ("leather", "rider", "seat")),
        Clues("cider", ("drink", "fruit", "barrel")),
        Clues("oak", ("tree", "acorn", "barrel")),
    ]


@pytest.fixture(scope="session")
def episode() -> Callable[..., Episode]:
    """A game of Adversarial Taboo from its utterances and its outcome."""

    def make(
        texts: list[str], outcome: str, length: int | None = None, word: str = "apple", repeat: int = 0
    ) -> Episode:
        setup = {"target_word": word, "max_turns": 5, "rules": "official"}
        turns = tuple(Turn(ROLES[i % 2], text) for i, text in enumerate(texts))
        verdict = Verdict(outcome, len(texts) if length is None else length, "by hand")
        names = dict.fromkeys(ROLES, "hand")
        id = episode_id("adversarial_taboo", setup, 0, repeat)
        return Episode(id, "adversarial_taboo", setup, 0, names, turns, verdict)

    return make
