"""Models that play: built, kept as folders, opened again, and seated at a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import forward_seed
from tenfold.core.mesh import device_type
from tenfold.games.prompts import PromptPack
from tenfold.games.taboo import AdversarialTaboo
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.pretrained import find
from tenfold.nn import lora
from tenfold.recipes.spag.config import Model, Table
from tenfold.recipes.spag.world import World, make_game, open_pack, word_tokenizer
from tenfold.text.tokenizer import Tokenizer

CARD = "player.json"
CHAT_TABLE = Table(pack="brief", form="chat", max_tokens=24, batch=32, precision="float32")
RULES = 384  # tokens that the rules may take
PREFILL = 2048  # tokens of prompts read between two steps: a game is many short prompts


@dataclass(frozen=True)
class Card:
    """What a model folder says beside its weights.

    Args:
        table: where it learned to play.
        pack: the wording that it knows.
        base: of an adapter, the model that it belongs to; None for whole models.
    """

    table: Table
    pack: PromptPack
    base: str | None = None


@dataclass(frozen=True)
class Player:
    """A model that is open."""

    model: Decoder
    tokenizer: Tokenizer
    card: Card
    name: str

    @property
    def game(self) -> AdversarialTaboo:
        """The game in the wording that it knows."""
        return make_game(self.card.table, self.card.pack)

    def seat(self, name: str | None = None) -> LocalChatModel:
        """A chat model for games; close it. The weights are cast to the table's precision, in place."""
        table = self.card.table
        model = self.model.to(device_type(), dtype=getattr(torch, table.precision))
        room = min(model.cfg.max_len, RULES + 2 * table.max_turns * (table.max_tokens + 8))
        return LocalChatModel(
            model,
            self.tokenizer,
            name or self.name,
            max_batch=table.batch,
            max_batch_tokens=table.batch * room,
            max_waiting=1 << 16,
            prefill_chunk=PREFILL,
            compiled="off",  # games are many rows; compiling loops for a single one takes longer than a short run of them
        )


def new_player(model: Model, table: Table, world: World, seed: int) -> Player:
    """The pretrained model, or a small decoder whose weights follow from the seed."""
    card = Card(table, open_pack(table.pack))
    if model.base is not None:
        place = find(model.base)
        return Player(Decoder.from_pretrained(place, dtype=torch.float32), Tokenizer.load(place), card, place.name)
    tokenizer = word_tokenizer(world.lexicon)
    cfg = DecoderConfig(
        tokenizer.vocab_size,
        model.dim,
        model.layers,
        model.heads,
        model.heads,
        model.dim // model.heads,
        model.ffn,
        qk_norm=False,
        max_len=model.max_length,
    )
    generator = torch.Generator().manual_seed(forward_seed(seed, 0, 0, 0))
    return Player(Decoder(cfg, generator), tokenizer, card, "decoder")


def ready_to_learn(player: Player, model: Model, seed: int) -> Decoder:
    """The player's model in float32 with what is to be learned: all weights, or an adapter."""
    decoder = player.model.float()
    if model.lora_rank is None:
        return decoder.requires_grad_(True)
    generator = torch.Generator().manual_seed(forward_seed(seed, 0, 1, 0))
    return lora.add_lora(decoder, model.lora_rank, generator=generator)


def save_player(player: Player, model: Model, folder: Path) -> None:
    """Keep a trained player: whole, or its adapter and the name of its base."""
    if model.lora_rank is None:
        player.model.save_pretrained(folder)
        player.tokenizer.save(folder)
    else:
        lora.save(player.model, folder)
    card = Card(player.card.table, player.card.pack, model.base if model.lora_rank is not None else None)
    write_atomic(folder / CARD, json.dumps(to_json(card), indent=1, ensure_ascii=False) + "\n")


def open_player(folder: Path, *, adapted: bool = False) -> Player:
    """A player from its folder, or a pretrained model of that name or folder, which has no card and plays at `CHAT_TABLE`.

    Args:
        folder: of `save_player`, or what `lm.pretrained.find` finds.
        adapted: leave an adapter beside the weights, so that it learns on, instead of inside them.
    Raises:
        UserError: no model there, or damaged files.
    """
    if (folder / CARD).is_file():
        card = from_json(Card, read_object(folder / CARD), where=str(folder / CARD))
    else:
        card = Card(CHAT_TABLE, open_pack(CHAT_TABLE.pack))
    place = find(card.base if card.base is not None else folder)
    if not (place / "tokenizer.json").is_file():
        raise UserError(f"{place}: no tokenizer.json; need a Hugging Face folder with its tokenizer")
    model = Decoder.from_pretrained(place, dtype=torch.float32)
    if card.base is not None:
        lora.load(model, folder)
        model = model if adapted else lora.merge(model)
    return Player(model, Tokenizer.load(place), card, folder.name)
