"""What is trained: sizes, families, budget and data; every preset states what it should reach and how long it takes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenfold.core.config import need
from tenfold.lm.decoder import DecoderConfig
from tenfold.nn.moe import MoEConfig

_LARGE = 1 << 24  # of anything counted in tokens, rows or columns


@dataclass(frozen=True)
class Family:
    """One way to spend parameters over a dense backbone; the same for every size.

    Args:
        ffn: width of the dense feed-forward layers, as a multiple of the backbone's.
        experts: experts of a sparse layer; 0 is a dense family.
        top_k: experts a token goes to.
        expert_width: hidden width of one expert, as a multiple of the backbone's dense width.
        every: every how many layers one is sparse.
        note: what the comparison with the dense backbone holds equal.
    """

    label: str
    ffn: float = 1.0
    experts: int = 0
    top_k: int = 2
    expert_width: float = 1.0
    every: int = 2
    note: str = ""

    @property
    def same_active(self) -> bool:
        """Whether a token meets as many feed-forward weights as in the dense backbone."""
        return self.ffn == 1 and self.experts > 0 and self.top_k * self.expert_width == 1


FAMILIES = {
    "dense": Family("dense", note="the backbone"),
    "dense-wide": Family("dense, 2x FFN", ffn=2.0, note="compute of top-2 full-width experts in every layer"),
    "moe-half": Family(
        "MoE 8 half-width, top-2", experts=8, expert_width=0.5, note="active parameters of the backbone"
    ),
    "moe-full": Family("MoE 8 full-width, top-2", experts=8, note="twice the active FFN in sparse layers"),
    "moe-top1": Family("MoE 16 full-width, top-1", experts=16, top_k=1, note="active parameters of the backbone"),
    "moe-256": Family(
        "MoE 256 full-width, top-2", experts=256, every=4, note="the paper's: 256 experts, every 4th layer"
    ),
}


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis of the 3D sharding; the product is torchrun's number of processes."""

    data: int = 1
    expert: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        for name in ("data", "expert", "model"):
            need(name, getattr(self, name), 1, 1 << 20)

    @property
    def size(self) -> int:
        return self.data * self.expert * self.model


@dataclass(frozen=True)
class Data:
    """The training text.

    Args:
        source: "english" (novels and film reviews: tenfold data get 02-afm/text), "stdlib" (source of the running Python's standard
            library), "auto" (english where it is, else stdlib; the report says which), "files".
        text: UTF-8 .txt, .jsonl or .jsonl.gz files for source "files"; the last 5 % of each file is validation text.
        vocabulary: size of the byte-pair vocabulary trained on the training text.
        sequence: tokens a row.
        rows: rows a step.
        validation_rows: rows of validation text, spread evenly over it.
    """

    source: Literal["auto", "english", "stdlib", "files"] = "auto"
    text: tuple[Path, ...] = ()
    vocabulary: int = 1024
    sequence: int = 128
    rows: int = 8
    validation_rows: int = 256

    def __post_init__(self) -> None:
        need("vocabulary", self.vocabulary, 272, _LARGE)  # control tokens, bytes, a few characters
        for name in ("sequence", "rows", "validation_rows"):
            need(name, getattr(self, name), 1, _LARGE)
        if (self.source == "files") != bool(self.text):
            raise ValueError("text: name files with --data.source files, and only then")

    @property
    def step_tokens(self) -> int:
        return self.sequence * self.rows


@dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up and cosine decay.

    Args:
        learning_rate: peak at `reference_width`; a model of width M takes learning_rate * min(1, reference_width / M).
        reference_width: see learning_rate (the muP-style rule of the official configurations, there with 768).
        weight_decay: decoupled, times the learning rate; matrices only.
        warmup: share of the steps.
        final: last learning rate as a share of the peak.
        clip_norm: bound on the norm of the gradient.
    """

    learning_rate: float = 1.4e-2
    reference_width: int = 32
    weight_decay: float = 0.1
    warmup: float = 0.05
    final: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        need("learning_rate", self.learning_rate, 0, 100, above=True)
        need("reference_width", self.reference_width, 1, _LARGE)
        need("weight_decay", self.weight_decay, 0, 100)
        need("warmup", self.warmup, 0, 1)
        need("final", self.final, 0, 1)
        need("clip_norm", self.clip_norm, 0, above=True)


@dataclass(frozen=True)
class Budget:
    """How long each model trains (Chinchilla rule on the dense model of the same size, in seconds).

    Args:
        tokens_per_param: tokens per parameter of the dense reference; 20 is Chinchilla's optimum.
        timing_steps: interleaved timed steps behind each step time.
        tolerance: relative miss of the budget above which a model is timed and trained again.
        repeats: how often at most.
        clock: "process" (CPU seconds of one thread: steady on a loaded machine) or "wall".
    """

    tokens_per_param: float = 20.0
    timing_steps: int = 50
    tolerance: float = 0.03
    repeats: int = 1
    clock: Literal["process", "wall"] = "process"

    def __post_init__(self) -> None:
        need("tokens_per_param", self.tokens_per_param, 0, 1_000_000, above=True)
        need("timing_steps", self.timing_steps, 1, 1_000_000)
        need("tolerance", self.tolerance, 0)
        need("repeats", self.repeats, 0, 100)


@dataclass(frozen=True)
class Config:
    """One experiment: every family at every size, over seeds, at equal seconds and at equal tokens.

    Args:
        widths: model width of each size, ascending.
        layers: decoder layers, one number for every size or one a size.
        ffn: hidden width of the dense feed-forward layer of each size; empty: 8/3 of the width, rounded up to a multiple of 8.
        head_dim: width of one attention head, one number for every size or one a size.
        families: names from FAMILIES; "dense" must be among them.
        seeds: one training run of every model each; the same order of the text for all families of a seed.
        protocols: "seconds" (each model trains for the dense model's seconds), "tokens" (for its tokens; only families with
            the backbone's active parameters, the comparison that the paper finds wanting).
        eval_items: items of each evaluation task, at the largest width; 0 leaves the tasks out.
        workers: processes that train models side by side, each on one thread; one model at a time with a mesh.
        tie_embeddings: the output layer is the embedding matrix.
        precision: "fp32", or "bf16" for forward and backward in bfloat16.
        load_balance: weight of the load-balance loss.
        capacity: capacity factor of the experts; 0 is dropless.
        backend: how the experts are computed.
        save_every: steps between checkpoints.
        profile: steps to trace of the longest training, into profiles/ in the run folder (open it in Perfetto); 0: none.
    """

    widths: tuple[int, ...] = (32,)
    layers: tuple[int, ...] = (4,)
    ffn: tuple[int, ...] = ()
    head_dim: tuple[int, ...] = (16,)
    families: tuple[str, ...] = ("dense", "dense-wide", "moe-half", "moe-full", "moe-top1")
    seeds: tuple[int, ...] = (0, 1, 2)
    protocols: tuple[Literal["seconds", "tokens"], ...] = ("seconds", "tokens")
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    budget: Budget = field(default_factory=Budget)
    mesh: Mesh = field(default_factory=Mesh)
    eval_items: int = 100
    workers: int = 2
    tie_embeddings: bool = True
    precision: Literal["fp32", "bf16"] = "fp32"
    load_balance: float = 0.01
    capacity: float = 0.0
    backend: Literal["auto", "grouped", "padded", "loop", "einsum"] = "auto"
    save_every: int = 200
    profile: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown:
            raise ValueError(f"families: unknown {', '.join(unknown)}; known: {', '.join(FAMILIES)}")
        if "dense" not in self.families:
            raise ValueError("families: need dense, whose seconds are the budget of the others")
        for name in ("widths", "head_dim", "layers", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name}: got none, need one or more")
        for name in ("families", "seeds", "protocols"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name}: got {getattr(self, name)}, need all different")
        for name in ("widths", "head_dim", "ffn"):
            need(name, getattr(self, name), 1, _LARGE)
        need("layers", self.layers, 1, 10_000)
        need("seeds", self.seeds, 0, (1 << 32) - 1)
        if any(a >= b for a, b in itertools.pairwise(self.widths)):
            raise ValueError(f"widths: got {self.widths}, need ascending, all different")
        for name in ("head_dim", "layers"):
            if len(getattr(self, name)) not in (1, len(self.widths)):
                raise ValueError(f"{name}: got {getattr(self, name)}, need one number, or one for each of widths")
        if any(width % self._head_dim(width) for width in self.widths):
            raise ValueError(f"widths: got {self.widths}, need multiples of head_dim {self.head_dim}")
        if "seconds" not in self.protocols:
            raise ValueError("protocols: need seconds, the comparison this experiment is for")
        if self.ffn and len(self.ffn) != len(self.widths):
            raise ValueError(f"ffn: got {self.ffn}, need none, or one for each of widths")
        need("workers", self.workers, 1, 1024)
        need("save_every", self.save_every, 1)
        for name in ("eval_items", "profile", "load_balance", "capacity"):
            need(name, getattr(self, name), 0, _LARGE)

    def _head_dim(self, width: int) -> int:
        return self.head_dim[self.widths.index(width) % len(self.head_dim)]

    @property
    def side_by_side(self) -> int:
        """Models that train at a time: one where its mesh takes several processes."""
        return 1 if self.mesh.size > 1 else self.workers

    def decoder(self, family_name: str, width: int, vocabulary: int) -> DecoderConfig:
        """The decoder of one family at one width: RoPE, SwiGLU, RMSNorm; the first layer is always dense."""
        family = FAMILIES[family_name]
        size = self.widths.index(width)
        ffn = self.ffn[size] if self.ffn else -(-8 * width // 24) * 8
        moe = None
        if family.experts:
            moe = MoEConfig(
                dim=width,
                hidden=round(ffn * family.expert_width / 4) * 4,
                num_experts=family.experts,
                top_k=family.top_k,
                router="top1" if family.top_k == 1 else "top2",
                capacity_factor=self.capacity or "auto",
                dropless=not self.capacity,
                lb_weight=self.load_balance,
                causal=True,
                backend=self.backend,
            )
        return DecoderConfig(
            vocab_size=vocabulary,
            dim=width,
            n_layers=self.layers[size % len(self.layers)],
            n_heads=width // self._head_dim(width),
            n_kv_heads=width // self._head_dim(width),
            head_dim=self._head_dim(width),
            ffn_dim=round(ffn * family.ffn),
            rope_base=1e4,
            qk_norm=False,
            tie_embeddings=self.tie_embeddings,
            max_len=max(256, self.data.sequence),
            moe=moe,
            moe_every=family.every,
            moe_offset=family.every - 1,
        )


PRESETS: dict[str, Config] = {
    "tiny": Config(
        widths=(32,),
        families=("dense", "moe-full"),
        seeds=(0,),
        protocols=("seconds",),
        budget=Budget(tokens_per_param=8.0, timing_steps=20, repeats=0),
        eval_items=20,
    ),
    "laptop": Config(widths=(16, 24, 32), head_dim=(16, 24, 16), eval_items=200),
    # 2048 tokens a step: below that, dispatch costs half-width experts more than their smaller matrices save.
    "full": Config(
        widths=(32, 48, 64), families=("dense", "moe-half"), protocols=("seconds",), data=Data(rows=16), eval_items=670
    ),
    # The paper's own setting: dense 6.4B, 12.6B and 29.6B, MoE every 4th layer with 256 experts, top-2.
    "paper": Config(
        widths=(4096, 5120, 6656),
        layers=(30, 39, 54),
        ffn=(11008, 13696, 17920),
        head_dim=(128,),
        families=("dense", "moe-256"),
        tie_embeddings=False,
        data=Data(vocabulary=32768, sequence=4096, rows=2048),
        optimizer=Optimizer(learning_rate=1e-2, reference_width=768, weight_decay=1e-4, warmup=0.02, final=0.005),
        workers=1,
        precision="bf16",
        capacity=2.0,
        mesh=Mesh(data=16, expert=16, model=4),
    ),
}
EXPECTED = {
    "tiny": "shows that both families learn; one seed, no claim; 75 seconds on two cores",
    "laptop": "5 families, 3 sizes, 3 seeds at 20 tokens a parameter: at equal seconds dense ahead by 0.03 nats at width 32, at equal tokens MoE "
    "by 0.06; 25 minutes on two cores",
    "full": "dense against its best mixture at twice the width, equal seconds: the mixture ahead by 0.02 nats at width 48 and 0.04 at 64, "
    "behind by 0.03 at 32; half an hour on two idle cores, an hour on busy ones",
    "paper": "the paper's three scales; a cluster",
}
