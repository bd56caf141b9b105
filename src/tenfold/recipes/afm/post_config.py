"""After pre-training: what every method of alignment and compression is given, as the verbs and the chain take it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from tenfold.align.policy_gradient import Baseline, Trust
from tenfold.align.reward_losses import Ranking
from tenfold.align.toy_instructions import CHECKERS
from tenfold.compress.palettize import PaletteConfig
from tenfold.core.config import need

Algorithm = Literal["rs", "dpo", "mdloo"]
MdlooRival = Literal["clip", "mean"]


def at_least(settings: object, least: float, *names: str) -> None:
    """Raises ValueError: a field that is less."""
    for name in names:
        need(name, getattr(settings, name), least)


@dataclass(frozen=True)
class Tuning:
    """How weights are tuned: Adam without weight decay, a warm-up, then a rate that stays or falls.

    Args:
        steps: optimizer steps.
        rows: rows a step; pairs where pairs are learned from.
        length: tokens a row at most.
        lr: peak learning rate.
        warmup: steps; no more than there are.
        final_fraction: last over peak rate; 1 keeps it.
        save_every: steps between checkpoints.
    """

    steps: int = 200
    rows: int = 8
    length: int = 256
    lr: float = 2e-5
    warmup: int = 10
    final_fraction: float = 1.0
    save_every: int = 100

    def __post_init__(self) -> None:
        at_least(self, 1, "steps", "rows", "save_every")
        at_least(self, 2, "length")
        at_least(self, 0, "warmup")
        need("lr", self.lr, 0, 1, above=True)
        need("final_fraction", self.final_fraction, 0, 1)


@dataclass(frozen=True)
class SFT(Tuning):
    """Supervised fine-tuning; the defaults are the paper's for the device model: 2e-5, constant, dropout 0.1.

    Args:
        dropout: share of activations that a training step leaves out.
    """

    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, need 0 or more, below 1")


@dataclass(frozen=True)
class Reward(Tuning):
    """A reward model.

    Args:
        ranking: labels that are soft by the preference's level, as in the paper; or plain Bradley-Terry; or a margin by
            level.
        grade_weight: of the four grades beside the ranking.
    """

    ranking: Ranking = "soft"
    grade_weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, "grade_weight")


@dataclass(frozen=True)
class DPO(Tuning):
    """Preference optimization.

    Args:
        objective: DPO's or IPO's.
        beta: weight of staying near the reference.
        prompts, k, pairs: where there are tasks and no preferences: k answers of the model itself to so many tasks are
            judged, and at most so many pairs a task are learned from.
    """

    lr: float = 1e-5
    objective: Literal["dpo", "ipo"] = "dpo"
    beta: float = 0.1
    prompts: int = 256
    k: int = 8
    pairs: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "prompts", "pairs")
        at_least(self, 2, "k")
        need("beta", self.beta, 0, above=True)


@dataclass(frozen=True)
class Sampled:
    """How answers are drawn.

    Args:
        temperature: of the draws; they are learned from at it, too.
        max_tokens: of an answer.
    """

    temperature: float = 1.0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        at_least(self, 1, "max_tokens")
        need("temperature", self.temperature, 0, 100, above=True)


@dataclass(frozen=True)
class MDLOO(Sampled):
    """Online reinforcement learning: every iteration answers new prompts and learns from the rewards of these answers.

    Args:
        iterations: how many.
        prompts: of an iteration, n.
        k: answers a prompt, K.
        passes: over the answers of an iteration.
        rows: answers a step.
        lr: learning rate.
        beta: of the reward's penalty on leaving the start model.
        gamma: of the divergence from the policy that gave the answers.
        baseline: leave-one-out, or the plain mean over the iteration.
        trust: that divergence, or PPO's clip.
        save_every: iterations between checkpoints.
    """

    iterations: int = 100
    prompts: int = 32
    k: int = 8
    passes: int = 2
    rows: int = 64
    lr: float = 1e-5
    beta: float = 0.01
    gamma: float = 0.05
    baseline: Baseline = "loo"
    trust: Trust = "kl"
    save_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "iterations", "prompts", "passes", "rows", "save_every")
        at_least(self, 2, "k")
        at_least(self, 0, "beta", "gamma")
        need("lr", self.lr, 0, 1, above=True)


@dataclass(frozen=True)
class ITeC(Sampled):
    """Rounds of the iterative teaching committee.

    Args:
        rounds: how many.
        prompts: of a round.
        k: answers of a member to each.
        pairs: judged a prompt.
        keep: earlier members, the best, that stay beside the newest of every algorithm.
        algorithms: that train a new model in every round.
        rs: supervised training on the committee's best answers.
        dpo, mdloo, reward: of those; their prompts are the round's.
    """

    rounds: int = 2
    prompts: int = 256
    k: int = 4
    pairs: int = 2
    keep: int = 1
    algorithms: tuple[Algorithm, ...] = get_args(Algorithm)
    rs: SFT = field(default_factory=SFT)
    dpo: DPO = field(default_factory=DPO)
    mdloo: MDLOO = field(default_factory=MDLOO)
    reward: Reward = field(default_factory=Reward)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rounds", "prompts", "pairs")
        at_least(self, 2, "k")
        at_least(self, 0, "keep")
        if not self.algorithms or len(set(self.algorithms)) < len(self.algorithms):
            raise ValueError(f"algorithms: got {self.algorithms}, need one or more, all different")


@dataclass(frozen=True)
class LoRA(Tuning):
    """Training of an adapter on a frozen model.

    Args:
        rank: of the adapter; the paper's devices take 16.
    """

    steps: int = 100
    rows: int = 4
    lr: float = 2e-4
    rank: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank")


@dataclass(frozen=True)
class Compression:
    """Palettes, and an adapter that recovers what they cost.

    Args:
        palettes: bits, groups, scales, target; with a target the matrices that bear it best go to 2 bits.
        importance: whether an error counts by the mean square of the input that meets it.
        calibration: tokens of text on which these squares, and the loss of a matrix at 2 bits, are measured.
        recovery: of the adapter.
        recover: whether there is one.
    """

    palettes: PaletteConfig = field(default_factory=lambda: PaletteConfig(bins=4096))
    importance: bool = True
    calibration: int = 2048
    recovery: LoRA = field(default_factory=LoRA)
    recover: bool = True

    def __post_init__(self) -> None:
        at_least(self, 2, "calibration")


@dataclass(frozen=True)
class Toy:
    """Made-up instructions with an exact check.

    Args:
        kinds: of instructions.
        learned: written by the program, with right answers, to fine-tune on.
        chatty: share of the answers to fine-tune on that begin with words which the check does not accept: what people
            write is not always what was asked for, and rewards can tell.
        held_out: that no training sees, to measure on.
        draws: answers to each of these.
    """

    kinds: tuple[str, ...] = tuple(CHECKERS)
    learned: int = 4000
    chatty: float = 0.0
    held_out: int = 200
    draws: int = 4

    def __post_init__(self) -> None:
        at_least(self, 1, "learned", "draws")
        at_least(self, 2, "held_out")
        need("chatty", self.chatty, 0, 1)
        if not self.kinds or not set(self.kinds) <= set(CHECKERS):
            raise ValueError(f"kinds: got {', '.join(self.kinds)}, need some of {', '.join(CHECKERS)}")


@dataclass(frozen=True)
class Safety:
    """Requests to refuse and look-alikes to answer, made from the categories.

    Args:
        categories: JSON file of them; none: the one that comes with tenfold.
        learned: such rows in fine-tuning.
        share: of the prompts whose answers are judged, by rejection sampling, DPO, MDLOO and the committee.
        held_out: requests to measure every model on; 0: none.
        max_tokens: of an answer that is measured.
    """

    categories: str | None = None
    learned: int = 0
    share: float = 0.0
    held_out: int = 0
    max_tokens: int = 24

    def __post_init__(self) -> None:
        at_least(self, 0, "learned", "held_out")
        at_least(self, 1, "max_tokens")
        if not 0 <= self.share < 1:
            raise ValueError(f"share: got {self.share}, need 0 or more, below 1")


@dataclass(frozen=True)
class Post:
    """What the chain does after pre-training, on toy instructions: align, compress, adapt.

    Args:
        seeds: with so many of the config's seeds, or all where there are fewer; 0 ends with pre-training.
        toy: the instructions.
        safety: what stands beside them at every stage.
        sft: of the pre-trained model.
        replay: rows of running text for each row of instructions in it, so that the model does not forget what it knows.
        answers: how answers are drawn, to learn from and to measure.
        reward: trained on preferences between the fine-tuned model's own answers.
        rs: training on the best of its k answers, by the reward model; k and prompts as in `dpo`.
        dpo: on the same answers.
        mdloo: from the fine-tuned model, too.
        rivals: MDLOO with one thing changed: PPO's clip in place of the divergence, the plain mean as baseline.
        committee: whether there are rounds of iTeC.
        itec: of these.
        compression: of the best aligned model.
        chance: choices of the 2-bit matrices at random, beside the one by what they cost.
        adapter: of one kind of instruction each, from the recovery adapter.
        adapters: how many of these.
    """

    seeds: int = 0
    toy: Toy = field(default_factory=Toy)
    safety: Safety = field(default_factory=Safety)
    replay: float = 0.5
    sft: SFT = field(default_factory=SFT)
    answers: Sampled = field(default_factory=Sampled)
    reward: Reward = field(default_factory=Reward)
    rs: SFT = field(default_factory=SFT)
    dpo: DPO = field(default_factory=DPO)
    mdloo: MDLOO = field(default_factory=MDLOO)
    rivals: tuple[MdlooRival, ...] = ()
    committee: bool = True
    itec: ITeC = field(default_factory=ITeC)
    compression: Compression = field(default_factory=Compression)
    chance: int = 3
    adapter: LoRA = field(default_factory=LoRA)
    adapters: int = 2

    def __post_init__(self) -> None:
        at_least(self, 0, "seeds", "adapters", "replay", "chance")
