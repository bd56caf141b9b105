"""Settings of a DEER experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tenfold.core.config import need, need_distinct, need_seeds

Learner = Literal["ranker", "decoder", "lora"]
ArmName = Literal["mix", "random", "intra_class", "inter_class", "fixed", "call_only"]
ARMS: dict[ArmName, str] = {
    "mix": "candidates drawn 2:1:2 at random, of one cluster, of several clusters",
    "random": "candidates drawn at random",
    "intra_class": "candidates of the tool's own cluster",
    "inter_class": "one candidate of each of several other clusters",
    "fixed": "one fixed set of candidates a tool",
    "call_only": "queries with their tool among the candidates alone: nothing teaches to refuse",
}


@dataclass(frozen=True)
class Data:
    """What is learned and decided about.

    Args:
        source: "deer" (ToolDEER's catalogue of real plugins), "toy" (a simulated world), or "auto": deer where its data are
            found, else toy.
        root: a folder with deer's files; none: as `tenfold data` finds them.
        held_out: tools of training that are set aside to calibrate the refusal on.
        most: samples of each evaluation at most; 0: all.
        tools, unseen: tools of the simulated world.
    """

    source: Literal["auto", "deer", "toy"] = "auto"
    root: Path | None = None
    held_out: int = 120
    most: int = 0
    tools: int = 400
    unseen: int = 100

    def __post_init__(self) -> None:
        for name in ("held_out", "tools", "unseen"):
            need(name, getattr(self, name), 1)
        need("most", self.most, 0)


@dataclass(frozen=True)
class Candidates:
    """How candidates are drawn.

    Args:
        k: of them.
        call_ratio: share of the queries whose tool is among them.
        ratio: shares of random, one cluster, several clusters in the mix.
        n_clusters: of k-means.
        draws: times that the samples are built, each with candidates drawn anew; with fixed ones all are alike.
        embed: what tools are clustered by: "tfidf-svd", or a sentence encoder's name or folder.
    """

    k: int = 5
    call_ratio: float = 0.6
    ratio: tuple[float, float, float] = (0.4, 0.2, 0.4)
    n_clusters: int = 30
    draws: int = 1
    embed: str = "tfidf-svd"

    def __post_init__(self) -> None:
        need("k", self.k, 1)
        need("call_ratio", self.call_ratio, 0, 1)
        need("n_clusters", self.n_clusters, 1)
        need("draws", self.draws, 1)


@dataclass(frozen=True)
class Ranking:
    """The small ranker.

    Args:
        hidden: units.
        steps: of training.
        batch: samples a step.
        lr: peak learning rate, AdamW.
        embed: also likeness by a sentence encoder (its name or folder); none: words alone.
    """

    hidden: int = 32
    steps: int = 500
    batch: int = 128
    lr: float = 1e-2
    embed: str | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch"):
            need(name, getattr(self, name), 1)
        need("lr", self.lr, 0, above=True)


@dataclass(frozen=True)
class Tuning:
    """A language model: a pretrained one with adapters, or a small decoder from scratch.

    Args:
        base: of learner "lora": a pretrained chat model, its name or folder.
        dim, layers, heads, ffn: of learner "decoder".
        samples: rows that are learned from; 0: all.
        steps: of training.
        batch: rows a step.
        lr: peak learning rate, AdamW.
        lora_rank, lora_alpha: of the adapters on q_proj and v_proj.
        max_length: tokens of a row.
        mask_environment: learn what the model says alone; the released code also learns candidates and responses.
        demonstrations: solved samples that the untuned model is shown, in one of its evaluations.
    """

    base: str = "smollm2-135m-instruct"
    dim: int = 64
    layers: int = 3
    heads: int = 4
    ffn: int = 192
    samples: int = 0
    steps: int = 1200
    batch: int = 32
    lr: float = 2e-3
    lora_rank: int = 8
    lora_alpha: float = 16.0
    max_length: int = 2048
    mask_environment: bool = True
    demonstrations: int = 6

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "heads", "ffn", "steps", "batch", "lora_rank", "max_length"):
            need(name, getattr(self, name), 1)
        need("samples", self.samples, 0)
        need("demonstrations", self.demonstrations, 0)
        need("lr", self.lr, 0, above=True)
        need("lora_alpha", self.lora_alpha, 0, above=True)
        if self.dim % (2 * self.heads):
            raise ValueError(f"heads: got {self.heads}, need a divisor of dim / 2 = {self.dim / 2:g}")


@dataclass(frozen=True)
class Config:
    """A model learns to decide from samples of each arm, and is measured on tools it never saw.

    Args:
        learner: "ranker", "decoder" (from scratch) or "lora" (a pretrained model).
        arms: ways to draw the candidates of training; the first is what the others are compared with.
        seeds: of draws, order and weights.
        workers: seeds that train side by side, each on one thread.
        precision: of training: "bf16" runs forward and backward in bfloat16.
        log_every: steps between log rows.
        save_every: steps between checkpoints.
    """

    data: Data = Data()
    candidates: Candidates = Candidates()
    learner: Learner = "ranker"
    ranking: Ranking = Ranking()
    tuning: Tuning = Tuning()
    arms: tuple[ArmName, ...] = ("mix", "call_only")
    seeds: tuple[int, ...] = (0,)
    workers: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 10
    save_every: int = 200

    def __post_init__(self) -> None:
        need_distinct("arms", self.arms)
        need_seeds(self.seeds)
        if unknown := set(self.arms) - set(get_args(ArmName)):
            raise ValueError(f"arms: got {', '.join(sorted(unknown))}, need some of {', '.join(ARMS)}")
        for name in ("workers", "log_every", "save_every"):
            need(name, getattr(self, name), 1)
