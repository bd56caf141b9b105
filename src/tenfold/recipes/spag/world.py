"""The words, the small decoder's tokenizer, the dictionary it learns them from, and short wordings of the game."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.games.credit import GameRow
from tenfold.games.files import Clues, load_lexicon, load_sft, load_target_words
from tenfold.games.prompts import DEFAULT_PACK, GUESS, PLAIN_TEMPLATE, PromptPack
from tenfold.games.referee import ROLES
from tenfold.games.taboo import AdversarialTaboo
from tenfold.recipes.spag.config import Table, Words
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer

LEXICON = "07-spag/lexicon.jsonl"
CONTROL = ("<pad>", "<s>", "</s>")
CLUES_SHOWN = 3  # of a word that the dictionary asks for

# All that the small decoder is told: the talk so far, its role, and the attacker its word.
SHORT_PACK = PromptPack(
    rules=("",),
    start="begin",
    history_header="begin",
    line=" {role} {content}",
    instruction={"attacker": "attack `{target_word}`", "defender": "defend"},
    cue="",
    heading=" ",
)
_OPENING = GUESS.partition("{word}")[0]
# For small chat models, whose time on a laptop goes into reading the rules.
BRIEF_PACK = PromptPack(
    rules=(
        "Word game for two. The attacker has a secret word and gives hints, but must not say it. The defender loses by "
        f'saying the word, except in the one guess "{GUESS.format(word="target word")}". A wrong guess loses too. '
        "After {max_turns} turns it is a tie.",
    ),
    start="The game begins.",
    history_header="\nSo far:",
    line="\n{role}: {content}",
    instruction={
        "attacker": "You are the attacker. The secret word is `{target_word}`. Say one short hint, not the word itself.",
        "defender": "You are the defender. Answer with a word or two, or guess.",
    },
    cue="\nAnswer:",
)
_PACKS = {"short": SHORT_PACK, "brief": BRIEF_PACK, "default": DEFAULT_PACK}


@dataclass(frozen=True)
class World:
    """What is played about.

    Args:
        lexicon: words with clues.
        held_out: words of the lexicon for the arena alone.
        trained: its other words.
        targets: words of the games of self-play, none held out.
    """

    lexicon: tuple[Clues, ...]
    held_out: tuple[str, ...]
    trained: tuple[str, ...]
    targets: tuple[str, ...]


def open_world(words: Words) -> World:
    """Read the word lists and hold some out.

    Raises:
        UserError: absent or damaged files, or no word left to train on.
    """
    lexicon = load_lexicon(words.lexicon or data_path(LEXICON))
    order = random.Random(words.seed).sample([entry.word for entry in lexicon], len(lexicon))
    if words.held_out >= len(order):
        raise UserError(f"words.held_out: got {words.held_out} of {len(order)} words, need some left to train on")
    held_out, trained = order[: words.held_out], order[words.held_out :]
    listed = trained if words.targets is None else load_target_words(words.targets, words.top)
    hidden = set(held_out)
    targets = [word for word in listed if word not in hidden]
    if not targets:
        raise UserError(f"words.targets: all {len(listed)} words are held out, need others")
    return World(tuple(lexicon), tuple(held_out), tuple(trained), tuple(targets))


def open_pack(name: str) -> PromptPack:
    """A wording by its name, or from a file."""
    return _PACKS[name] if name in _PACKS else PromptPack.load(name)


def make_game(table: Table, pack: PromptPack | None = None) -> AdversarialTaboo:
    """The game as the settings have it."""
    return AdversarialTaboo(table.max_turns, table.rules, pack or open_pack(table.pack), table.form)


def word_tokenizer(lexicon: Sequence[Clues]) -> Tokenizer:
    """A token for every word of the lexicon and of the short wording, and two for the fixed phrase of a guess."""
    texts = [text for entry in lexicon for text in (entry.word, *entry.clues)]
    texts += ["begin attack defend", *ROLES]
    words = sorted({word for text in texts for word in _clean().normalize_str(text).split()})
    phrase = GUESS.split("{word}")
    pieces = ["<unk>", *CONTROL, *phrase, *(f"▁{word}" for word in words)]
    backend = tokenizers.Tokenizer(models.WordLevel({piece: id for id, piece in enumerate(pieces)}, "<unk>"))
    backend.normalizer, backend.pre_tokenizer, backend.decoder = (
        _clean(),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROL])
    backend.add_tokens([AddedToken(part, normalized=False) for part in phrase])
    return Tokenizer(backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=PLAIN_TEMPLATE)


def _clean() -> normalizers.Normalizer:
    """Words in lower case with one blank between them, whatever punctuation a person types."""
    return normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w'-]+"), " "),
            normalizers.Strip(),
        ]
    )


def dictionary(lexicon: Sequence[Clues], count: int, seed: int, *, chat: bool = False) -> list[GameRow]:
    """What the small decoder learns the words from: a clue of a word, and the word of several clues, in turn.

    Questions end as those of the game do, so that what is learned of words that no game is about serves there too.

    Args:
        count: rows.
        seed: of the draws.
        chat: questions are a user's turn, otherwise bare text.
    """
    draw = random.Random(f"dictionary {seed}")
    rows = []
    for index in range(count):
        entry = draw.choice(lexicon)
        question, answer = (
            (asked(entry, draw), entry.word) if index % 2 else (f"attack {entry.word}", draw.choice(entry.clues))
        )
        rows.append(GameRow((Message("user", question),) if chat else question, answer, sft=True))
    return rows


def asked(entry: Clues, draw: random.Random) -> str:
    """The question of the dictionary for the word of some clues."""
    clues = draw.sample(entry.clues, min(CLUES_SHOWN, len(entry.clues)))
    return " ".join([*(f"attacker {clue}" for clue in clues), "defend", _OPENING])


def fine_tuning(words: Words, lexicon: Sequence[Clues], count: int, seed: int, *, chat: bool) -> list[GameRow]:
    """So many fine-tuning rows: of the user's file as often as needed, or of the dictionary."""
    if words.sft is None:
        return dictionary(lexicon, count, seed, chat=chat)
    rows = load_sft(sft_path(words.sft), chat=chat)
    order = random.Random(f"fine-tuning {seed}")
    found: list[GameRow] = []
    while len(found) < count:
        found += order.sample(rows, len(rows))
    return found[:count]


def sft_path(name: str) -> Path:
    """A file of fine-tuning rows, or a data set of that name."""
    return Path(name) if Path(name).is_file() else data_path(name)
