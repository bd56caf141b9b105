"""What is trained: shape, text, stages, comparisons, and what follows pre-training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenfold.core.config import need_seeds
from tenfold.lm.decoder import DecoderConfig
from tenfold.lm.optim import OPTIMIZERS, OptimizerConfig
from tenfold.nn.attention import QKNormPosition
from tenfold.nn.rotary import RopeLayout
from tenfold.recipes.afm.post_config import Post
from tenfold.text.tokenizer import MOST_TOKENS

StageName = Literal["core", "prune", "distil", "continued", "context"]
Rival = Literal[
    "prune-magnitude",
    "prune-random",
    "healed",
    "healed-magnitude",
    "healed-random",
    "fresh",
    "fresh-top1",
    "fresh-kl",
    "context-same-base",
]
CORE = OPTIMIZERS["adastar"]  # of core pre-training: arXiv 2407.21075


@dataclass(frozen=True)
class Model:
    """Shape of the decoder that comes out; queries and keys are normed, embeddings tied.

    Args:
        dim: D, width of the residual stream.
        layers: blocks.
        heads: of queries, H.
        kv_heads: of keys and values, G, a divisor of heads.
        head_dim: width of a head, d, even.
        ffn: inner width of the feed-forward layers of the final model.
        wide_ffn: their width in core training, of which pruning keeps `ffn`; the wide model then teaches the pruned one.
            0: trained from scratch at `ffn`, without pruning and distillation.
        rope_base: wavelength base of the rotary positions up to the context stage.
        qk_norm_position: whether queries and keys are normed before the rotation, as in Qwen3 of `transformers`, or after
            it, as in the official code.
        rope_layout: pairs that are rotated: "half" as in `transformers`, "interleaved" as in the official code.
    """

    dim: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 352
    wide_ffn: int = 704
    rope_base: float = 5e5
    qk_norm_position: QKNormPosition = "pre_rope"
    rope_layout: RopeLayout = "half"

    def __post_init__(self) -> None:
        if self.wide_ffn and not 1 <= self.ffn <= self.wide_ffn:
            raise ValueError(f"ffn: got {self.ffn}, need 1..{self.wide_ffn} (wide_ffn, which it is pruned from)")
        self.decoder(vocabulary=1, length=1)  # refuses heads that do not divide, odd head widths and the like

    def decoder(self, vocabulary: int, length: int, *, ffn: int | None = None) -> DecoderConfig:
        """The decoder for sequences of `length` tokens; `ffn` takes the place of the final width."""
        return DecoderConfig(
            vocab_size=vocabulary,
            dim=self.dim,
            n_layers=self.layers,
            n_heads=self.heads,
            n_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            ffn_dim=self.ffn if ffn is None else ffn,
            rope_base=self.rope_base,
            qk_norm_position=self.qk_norm_position,
            rope_layout=self.rope_layout,
            max_len=length,
        )


@dataclass(frozen=True)
class Mix:
    """Shares of the sources in a stage; sources that are absent leave theirs to the others.

    Args:
        prose: novels and film reviews, or the user's files.
        code: source of the running Python's standard library.
        maths: questions and worked answers of GSM8K's training part.
    """

    prose: float = 0.8
    code: float = 0.15
    maths: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.prose, self.code, self.maths)
        if min(shares) < 0 or sum(shares) <= 0:
            raise ValueError(f"prose, code, maths: got {shares}, need shares of 0 or more, at least one above 0")


@dataclass(frozen=True)
class Data:
    """The training text.

    Args:
        source: "english" (novels, reviews, Python source and GSM8K: tenfold data get 02-afm), "stdlib" (Python source
            alone), "auto" (english where it is, else stdlib; the report says which), "files" (the user's alone).
        text: for source "files": UTF-8 .txt, .jsonl or .jsonl.gz files, or .bin files of token ids together with
            `tokenizer`; the last 5 % of each file is validation text.
        tokenizer: folder of the tokenizer to use; none: one is trained on the training text.
        vocabulary: size of the tokenizer that is trained.
        megabytes: most text of each source, spread evenly over it; 0 takes all.
        clean: run the cleaning chain over the training text (near-copies, quality, benchmarks); .bin files are taken as
            they are.
        validation_rows: rows of validation text of each source.
    """

    source: Literal["auto", "english", "stdlib", "files"] = "auto"
    text: tuple[Path, ...] = ()
    tokenizer: Path | None = None
    vocabulary: int = 2048
    megabytes: float = 0.0
    clean: bool = True
    validation_rows: int = 128

    def __post_init__(self) -> None:
        for name, value, least in (
            ("vocabulary", self.vocabulary, 272),
            ("megabytes", self.megabytes, 0),
            ("validation_rows", self.validation_rows, 1),
        ):
            if value < least:
                raise ValueError(f"{name}: got {value}, need at least {least}")
        if self.vocabulary > MOST_TOKENS:
            raise ValueError(f"vocabulary: got {self.vocabulary}, need at most {MOST_TOKENS}")
        if (self.source == "files") != bool(self.text):
            raise ValueError("text: name files with --data.source files, and only then")
        if self.tokens and (self.tokenizer is None or any(path.suffix != ".bin" for path in self.text)):
            raise ValueError("text: .bin files of token ids need --data.tokenizer, and no other files beside them")

    @property
    def tokens(self) -> bool:
        """Whether the text comes as files of token ids."""
        return any(path.suffix == ".bin" for path in self.text)


@dataclass(frozen=True)
class Stage:
    """One stage's schedule.

    Args:
        steps: optimizer steps.
        length: tokens a row, T.
        rows: rows a step.
        optimizer: which, its peak rate, warm-up and decay.
        mix: shares of the sources.
    """

    steps: int
    length: int
    rows: int
    optimizer: OptimizerConfig = CORE
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        for name in ("steps", "length", "rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.optimizer.warmup > self.steps:
            raise ValueError(f"steps: got {self.steps}, need at least optimizer.warmup = {self.optimizer.warmup}")

    @property
    def step_tokens(self) -> int:
        return self.length * self.rows


@dataclass(frozen=True)
class Stages:
    """The five stages in their order; `prune` and `distil` are left out where nothing is pruned.

    Args:
        core: the wide model, on the bulk of the text.
        prune: masks and weights of the wide model together, then the cut.
        distil: the pruned model, on the true tokens and the wide model's likeliest ones.
        continued: more maths and code, a longer row, without a teacher.
        context: rows several times as long, with the rotary base to match.
        targets: what the teacher gives: its likeliest token, as in the paper, or its whole distribution. A teacher that is
            seldom right, such as a small one, does harm with the first.
        teacher_weight: the teacher's share of the targets.
    """

    core: Stage
    prune: Stage
    distil: Stage
    continued: Stage
    context: Stage
    targets: Literal["top1", "kl"] = "top1"
    teacher_weight: float = 0.9

    def __post_init__(self) -> None:
        lengths = [self.core.length, self.prune.length, self.distil.length, self.continued.length, self.context.length]
        if lengths != sorted(lengths):
            raise ValueError(f"length: got {lengths} from stage to stage, need lengths that do not fall")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight: got {self.teacher_weight}, need 0..1")


@dataclass(frozen=True)
class OptimizerRace:
    """AdaStar against AdamW on Shakespeare by characters, each at its best learning rate.

    Args:
        steps: of each training; 0 leaves the comparison out.
        adastar: peak rates of AdaStar tried with the first seed; the other seeds take the best.
        adamw: the same of AdamW.
        rows: rows a step.
        length: characters a row.
        warmup: steps.
    """

    steps: int = 0

    adastar: tuple[float, ...] = (1.8e-3, 2.5e-3, 3.5e-3, 5e-3)
    adamw: tuple[float, ...] = (2.8e-3, 4e-3, 5.6e-3, 8e-3)
    rows: int = 12
    length: int = 64
    warmup: int = 300

    def __post_init__(self) -> None:
        if not self.adastar or not self.adamw or min(*self.adastar, *self.adamw) <= 0:
            raise ValueError(f"adastar, adamw: got {self.adastar}, {self.adamw}, need rates above 0, one each at least")


@dataclass(frozen=True)
class WidthSweep:
    """The best learning rate of several widths on Shakespeare, with muP-simple and without.

    Args:
        steps: of each training; 0 leaves the comparison out.
        widths: model widths, ascending; the first is the base, whose rate the others should share.
        rates: peak rates, each twice the one before.
        layers: blocks.
        rows: rows a step.
        length: characters a row.
        warmup: steps.
        validation_rows: rows to validate on, spread evenly.
    """

    steps: int = 0

    widths: tuple[int, ...] = (64, 128, 256)
    rates: tuple[float, ...] = (5e-3, 1e-2, 2e-2, 4e-2, 8e-2)
    layers: int = 2
    rows: int = 12
    length: int = 64
    warmup: int = 20
    validation_rows: int = 400

    def __post_init__(self) -> None:
        if len(self.rates) < 3 or list(self.rates) != sorted(self.rates) or self.rates[0] <= 0:
            raise ValueError(f"rates: got {self.rates}, need at least three above 0, ascending")
        if len(self.widths) < 2 or any(width < 1 or width % 32 for width in self.widths):
            raise ValueError(f"widths: got {self.widths}, need at least two multiples of 32")


@dataclass(frozen=True)
class Config:
    """One model through all stages, over seeds, and what each stage is compared with.

    Args:
        seeds: the whole chain runs once with each; the first one's models lie under their stage's name in models/.
        rivals: trainings that differ from a stage of the chain in one thing, same seed and steps. Named after the method
            of pruning (prune-magnitude, prune-random); after what the pruned model is trained on without a teacher
            (healed, healed-magnitude, healed-random); after how a model of the final width learns from random weights
            (fresh, fresh-top1, fresh-kl); context-same-base.
        race: AdaStar against AdamW.
        sweep: learning rates of several widths.
        post: what follows pre-training.
        workers: processes that train models side by side, each on one thread; 1 stays in this process, with all threads.
        precision: "fp32", or "bf16" for forward and backward in bfloat16; weights stay in float32.
        save_every: steps between checkpoints.
    """

    model: Model
    data: Data
    stages: Stages
    seeds: tuple[int, ...] = (0,)
    rivals: tuple[Rival, ...] = ()
    race: OptimizerRace = field(default_factory=OptimizerRace)
    sweep: WidthSweep = field(default_factory=WidthSweep)
    post: Post = field(default_factory=Post)
    workers: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every: int = 200

    def __post_init__(self) -> None:
        need_seeds(self.seeds)
        for name in ("workers", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if not self.model.wide_ffn and set(self.rivals) - {"context-same-base"}:
            raise ValueError("rivals: those of pruning and distillation need model.wide_ffn above 0")
