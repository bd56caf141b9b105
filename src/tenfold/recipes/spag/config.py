"""Settings of a SPAG experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tenfold.core.config import need, need_distinct, need_seeds
from tenfold.games.credit import Credit
from tenfold.games.losses import Divergence, Ratio
from tenfold.games.reasoning import Backend
from tenfold.games.referee import Rules, check_turns

ArmName = Literal["signed", "official", "official-matched", "signed-alone"]


@dataclass(frozen=True)
class Arm:
    """How the games of an epoch are learned from.

    Args:
        what: in words.
        credit: whose utterances count.
        matched: as many steps as the same games give under signed credit.
        sft: fine-tuning rows are mixed in.
    """

    what: str
    credit: Credit
    matched: bool = False
    sft: bool = True


ARMS: dict[ArmName, Arm] = {
    "signed": Arm("winner and loser, signed rewards", "zero_sum"),
    "official": Arm("the winner alone, as the paper's code", "winner"),
    "official-matched": Arm("the winner alone, as many steps as with signed rewards", "winner", matched=True),
    "signed-alone": Arm("signed rewards without fine-tuning rows", "zero_sum", sft=False),
}


@dataclass(frozen=True)
class Words:
    """What is played about.

    Args:
        lexicon: JSON Lines of {"word", "clues"}, from which the scripted teachers play; none: the one that comes with tenfold.
        targets: a list of words for the games of self-play, one a line, none of them held out; none: the lexicon's.
        top: the first so many of that list; the paper's is in order of frequency.
        held_out: words of the lexicon that no training game is about.
        sft: fine-tuning rows mixed into self-play: a file, or the name of a data set; none: dictionary rows of the lexicon.
        seed: which words are held out, the same for all trainings.
    """

    lexicon: Path | None = None
    targets: Path | None = None
    top: int | None = None
    held_out: int = 32
    sft: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        need("top", self.top, 1)
        need("held_out", self.held_out, 1)
        need("seed", self.seed, 0, 2**32 - 1)


@dataclass(frozen=True)
class Model:
    """Who plays.

    Args:
        base: a pretrained chat model: its name (tenfold models list) or a Hugging Face folder; none: a small decoder of the
            shape below over the lexicon's words, with random weights.
        lora_rank: learn low-rank adapters of this rank; none learns all weights.
        dim, layers, heads, ffn: of the small decoder.
        max_length: tokens of a row; longer ones lose their beginning.
    """

    base: str | None = None
    lora_rank: int | None = None
    dim: int = 64
    layers: int = 2
    heads: int = 4
    ffn: int = 128
    max_length: int = 128

    def __post_init__(self) -> None:
        for name in ("lora_rank", "dim", "layers", "heads", "ffn", "max_length"):
            need(name, getattr(self, name), 1)
        if self.dim % (2 * self.heads):
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim / 2 = {self.dim / 2:g}")


@dataclass(frozen=True)
class Table:
    """Where games are played.

    Args:
        max_turns: T0, utterances of each side.
        rules: of the referee.
        pack: the wording of the prompts: "short" for the small decoder, "brief" for small chat models, "default", or the path
            of a pack's JSON file.
        form: a "chat" with the rules as its system turn, or one "text", the paper's form.
        max_tokens: of an utterance.
        batch: utterances that are made at a time.
        precision: of the weights while playing; with float64 an interrupted epoch ends with the same games, with float32
            with the same but for close choices that fell otherwise.
    """

    max_turns: int = 5
    rules: Rules = "official"
    pack: str = "short"
    form: Literal["chat", "text"] = "text"
    max_tokens: int = 5
    batch: int = 256
    precision: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        check_turns(self.max_turns)
        need("max_tokens", self.max_tokens, 1)
        need("batch", self.batch, 1)


@dataclass(frozen=True)
class Imitation:
    """Learning to play from games of scripted teachers.

    Args:
        games: that the teachers play.
        slip: probability that the teaching attacker says the word.
        guess: probability that the teaching defender guesses.
        steps: of training.
        batch: rows a step.
        lr: peak learning rate, AdamW.
        beta: weight of the divergence from the base model; 0 for a decoder with random weights.
        dictionary: rows of the dictionary for every row of a game.
    """

    games: int = 6000
    slip: float = 0.03
    guess: float = 0.3
    steps: int = 700
    batch: int = 96
    lr: float = 4e-3
    beta: float = 0.0
    dictionary: float = 1.0

    def __post_init__(self) -> None:
        for name in ("games", "steps", "batch"):
            need(name, getattr(self, name), 1)
        for name in ("slip", "guess"):
            need(name, getattr(self, name), 0, 1)
        need("lr", self.lr, 0, above=True)
        need("beta", self.beta, 0)
        need("dictionary", self.dictionary, 0)


@dataclass(frozen=True)
class SelfPlay:
    """An epoch: the model plays itself, then learns from those games against itself as it played.

    Args:
        epochs: of them.
        games: of one epoch, spread evenly over the words.
        temperature, top_k: of the sampling.
        passes: over the rows of an epoch.
        batch: rows a step.
        lr: peak learning rate, AdamW.
        beta: weight of the divergence from the model that played.
        alpha: weight of the fine-tuning rows.
        clip: of the ratio to the model that played.
        gamma: how much less an earlier utterance earns than the next.
        ratio, kl: of the loss, see `tenfold.games.spag_loss`.
        sft: fine-tuning rows for every played row.
        tie_reward: what both sides of a tied game earn.
        max_weight: the most that a row may weigh; none: no bound.
    """

    epochs: int = 2
    games: int = 4000
    temperature: float = 1.2
    top_k: int = 50
    passes: float = 1.0
    batch: int = 96
    lr: float = 1e-3
    beta: float = 0.05
    alpha: float = 0.5
    clip: float = 0.2
    gamma: float = 0.8
    ratio: Ratio = "mean"
    kl: Divergence = "advantage"
    sft: float = 1.0
    tie_reward: float = 0.0
    max_weight: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "games", "top_k", "batch"):
            need(name, getattr(self, name), 1)
        for name in ("temperature", "passes", "lr", "clip", "max_weight"):
            need(name, getattr(self, name), 0, above=True)
        need("gamma", self.gamma, 0, 1, above=True)
        for name in ("beta", "alpha", "sft"):
            need(name, getattr(self, name), 0)
        need("tie_reward", self.tie_reward, -1, 1)
        if self.ratio == "token":
            raise ValueError("ratio: got 'token', need 'mean' or 'sequence': the reference is kept as one number a row")


@dataclass(frozen=True)
class Arena:
    """Who wins, after every stage.

    Args:
        repeats: games of a pairing on each word.
        temperature: of the players; 0 takes the likeliest utterance, and repeats are then all alike.
        words: of those trained on, so many are played beside the held-out ones; 0: none.
    """

    repeats: int = 12
    temperature: float = 1.0
    words: int = 32

    def __post_init__(self) -> None:
        need("repeats", self.repeats, 1)
        need("temperature", self.temperature, 0)
        need("words", self.words, 0)


@dataclass(frozen=True)
class Reasoning:
    """Reasoning tasks after every stage, without demonstrations.

    Args:
        tasks: names of data sets ("piqa", "arc_easy"), or "bbh_" and a task of BIG-Bench Hard; none: not scored.
        limit: the first so many rows of each.
        backend: "lm_eval" (extra eval), or "builtin".
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    backend: Backend = "builtin"

    def __post_init__(self) -> None:
        need("limit", self.limit, 1)


@dataclass(frozen=True)
class Config:
    """Imitation of scripted teachers, then epochs of self-play, with an arena after every stage.

    Args:
        arms: ways to learn from self-play, each from the same imitation: "signed", "official", "official-matched",
            "signed-alone". The first meets all its earlier stages in the arena, the others the imitation.
        seeds: of weights, order and games.
        workers: seeds that train side by side, each on one thread.
        precision: of training: "bf16" runs forward and backward in bfloat16; weights stay in float32.
        log_every: steps between log rows.
        save_every: steps between checkpoints.
    """

    words: Words = Words()
    model: Model = Model()
    table: Table = Table()
    imitation: Imitation = Imitation()
    self_play: SelfPlay = SelfPlay()
    arena: Arena = Arena()
    reasoning: Reasoning = Reasoning()
    arms: tuple[ArmName, ...] = ("signed",)
    seeds: tuple[int, ...] = (0,)
    workers: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 5
    save_every: int = 100

    def __post_init__(self) -> None:
        need_distinct("arms", self.arms)
        need_seeds(self.seeds)
        if unknown := set(self.arms) - set(get_args(ArmName)):
            raise ValueError(f"arms: got {', '.join(sorted(unknown))}, need some of {', '.join(ARMS)}")
        for name in ("workers", "log_every", "save_every"):
            need(name, getattr(self, name), 1)
        if self.model.base is None and self.model.lora_rank is not None:
            raise ValueError("model.lora_rank: got one without model.base, need a pretrained model to adapt")
        if self.model.base is None and (self.table.pack, self.table.form) != ("short", "text"):
            raise ValueError(
                f"table.pack, table.form: got {self.table.pack!r}, {self.table.form!r} without model.base, need 'short', 'text'"
            )
        if self.model.base is None and (self.words.targets or self.words.sft or self.reasoning.tasks):
            raise ValueError(
                "words.targets, words.sft, reasoning.tasks: need model.base: the small decoder knows its lexicon alone"
            )
        if self.arena.temperature == 0 and self.arena.repeats > 1:
            raise ValueError(
                f"arena.repeats: got {self.arena.repeats} at temperature 0, need 1: they would be all alike"
            )
