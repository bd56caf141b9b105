"""Settings of an EC-DiT experiment, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from tenfold.core.config import need
from tenfold.diffusion.config import SIZES, ECDiTConfig

Rival = Literal[
    "dense", "dense-wide", "tc", "random", "race", "ec-2", "ec-4", "ec-16", "ec-group", "random-group"
]  # fmt: skip
TextKind = Literal["words", "minilm", "t5", "clip", "bert"]
GROUP = 4  # images that compete for experts under the group rivals
MOST_STEPS = 10**8  # of a training


@dataclass(frozen=True)
class Data:
    """Captioned pictures and how captions are read.

    Args:
        source: "shapes", drawn here, with a checker exact on renders; "emoji", 1906 names in two drawing styles (tenfold data get
            01-ec-dit); "files", the user's own.
        path: of "files": a folder of pictures with captions beside them or in metadata.jsonl, or a WebDataset .tar.
        per_prompt: of "shapes": pictures drawn for each of the 296 training prompts.
        text: "words", a small encoder trained with the model; "minilm", the frozen all-MiniLM-L6-v2 (tenfold models get
            minilm); "t5", "clip", "bert", a frozen encoder from text_folder.
        text_folder: of a frozen encoder: config.json, tokenizer files and safetensors.
        text_length: tokens a caption at most; longer ones are cut.
        codec_folder: a diffusers AutoencoderKL; none works on pixels.
        codec_steps: above 0, an autoencoder of 4 channels and sides four times shorter is trained on the pictures first,
            for so many steps.
        seed: of the pictures that are drawn, the same for every model.
    """

    source: Literal["shapes", "emoji", "files"] = "shapes"
    path: Path | None = None
    per_prompt: int = 64
    text: TextKind = "words"
    text_folder: Path | None = None
    text_length: int = 16
    codec_folder: Path | None = None
    codec_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.source == "files") != (self.path is not None):
            raise ValueError(f"path: got {self.path} with source {self.source!r}, need it with 'files' and only there")
        if (self.text in ("t5", "clip", "bert")) != (self.text_folder is not None):
            raise ValueError(
                f"text_folder: got {self.text_folder} with text {self.text!r}, need it with t5, clip, bert"
            )
        if self.codec_steps and self.codec_folder is not None:
            raise ValueError(
                f"codec_steps: got {self.codec_steps} with codec_folder {self.codec_folder}, need one of the two"
            )
        for name, most in (("per_prompt", 10_000), ("text_length", 4096)):
            need(name, getattr(self, name), 1, most)
        need("codec_steps", self.codec_steps, 0, MOST_STEPS)


@dataclass(frozen=True)
class Training:
    """How a model is trained.

    Args:
        steps: optimizer steps.
        rows: images a step, over all processes.
        optimizer: "adamw" with betas 0.9, 0.99, or "rmsprop" with momentum, as the paper.
        lr: peak rate.
        rates: tried with every kind of model on the first seed, `rate_steps` steps each; each kind takes its best.
            None: lr for all.
        rate_steps: see rates.
        weight_decay: of AdamW, on matrices.
        clip_norm: largest gradient norm.
        warmup: steps.
        final_fraction: last over peak rate, along a cosine.
        ema: decay of the averaged weights that are sampled and saved.
        t_dist: times of the flow: "logit_normal" or "uniform".
        t_mean, t_std: of the normal variable behind the logit-normal times; a mean above 0 trains more on noise.
        text_dropout: share of captions replaced by the empty one.
        mask_ratio: share of image tokens left out.
        precision: "fp32", or "bf16" for the forward and backward pass.
        log_every, save_every: steps between log rows, between checkpoints.
        curve_points: losses on held-out pictures over the training.
    """

    steps: int = 1000
    rows: int = 64
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    lr: float = 1e-3
    rates: tuple[float, ...] = ()
    rate_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    warmup: int = 200
    final_fraction: float = 0.1
    ema: float = 0.999
    t_dist: Literal["logit_normal", "uniform"] = "logit_normal"
    t_mean: float = 0.0
    t_std: float = 1.0
    text_dropout: float = 0.1
    mask_ratio: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    log_every: int = 20
    save_every: int = 500
    curve_points: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every", "curve_points"):
            need(name, getattr(self, name), 1, MOST_STEPS)
        need("rows", self.rows, 1, 2**20)
        need("rate_steps", self.rate_steps, 0, MOST_STEPS)
        for name in ("lr", "rates", "clip_norm"):
            need(name, getattr(self, name), 0, above=True)
        need("weight_decay", self.weight_decay, 0)
        for name in ("final_fraction", "text_dropout"):
            need(name, getattr(self, name), 0, 1)
        for name in ("ema", "mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need a number from 0, below 1")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup: got {self.warmup}, need 0..{self.steps} (steps)")
        if not (math.isfinite(self.t_mean) and 0 < self.t_std < math.inf):
            raise ValueError(f"t_mean, t_std: got {self.t_mean}, {self.t_std}, need a number and a number above 0")
        if bool(self.rates) != bool(self.rate_steps):
            raise ValueError(f"rates, rate_steps: got {self.rates}, {self.rate_steps}, need both or neither")


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn from a trained model.

    Args:
        steps: of the solver, 1..10000.
        guidance_scale: strength of guidance, 0..1000; 1 is none.
        guidance_sweep: scales for the figure of rate against scale; none leaves it out.
        shift: above 1 the steps are closer together near the noise.
        solver: "euler", "heun", "dpmpp2m" or, for the DDPM objective, "ddim".
        images_per_prompt: of the evaluation.
    """

    steps: int = 20
    guidance_scale: float = 3.0
    guidance_sweep: tuple[float, ...] = ()
    shift: float = 1.0
    solver: Literal["euler", "heun", "dpmpp2m", "ddim"] = "euler"
    images_per_prompt: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise ValueError(f"shift: got {self.shift}, need a number above 0")
        for name, least, most in (
            ("steps", 1, 10_000),
            ("images_per_prompt", 1, 1000),
            ("guidance_scale", 0, 1000),
            ("guidance_sweep", 0, 1000),
        ):
            need(name, getattr(self, name), least, most)


@dataclass(frozen=True)
class Config:
    """One model, the rivals it is compared with, and what they are trained and measured on.

    Args:
        model: the model of the run; rivals differ from it in what their names say.
        rivals: trained beside it on the same pictures, in the same order, with the same noise: "dense", "dense-wide", "tc",
            "random", "race" (other routers); "ec-2", "ec-4", "ec-16" (so many experts); "ec-group", "random-group"
            (experts choose among the tokens of four images).
        seeds: every model is trained once with each.
        workers: processes that train models side by side, each on one thread; 1 stays in this process, with all threads.
        measure: take the heat-map and the routing measures.
    """

    model: ECDiTConfig = field(default_factory=ECDiTConfig)
    data: Data = Data()
    training: Training = Training()
    sampling: Sampling = Sampling()
    rivals: tuple[Rival, ...] = ()
    seeds: tuple[int, ...] = (0,)
    workers: int = 1
    measure: bool = True

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or not all(0 <= s < 2**40 for s in self.seeds):
            raise ValueError(
                f"seeds: got {self.seeds}, need one or more, all different, 0 or more, below 2 to the 40th"
            )
        need("workers", self.workers, 1, 1024)
        if len(set(self.rivals)) != len(self.rivals):
            raise ValueError(f"rivals: got {self.rivals}, need each once")
        if self.model.router in self.rivals:
            raise ValueError(f"rivals: got {self.model.router!r}, which is the model itself")
        if (self.sampling.solver == "ddim") != (self.model.objective == "ddpm"):
            raise ValueError(
                f"solver: got {self.sampling.solver!r} for objective {self.model.objective!r}; ddim is for ddpm"
            )
        grouped = [name for name in self.rivals if name.endswith("-group")]
        if grouped and (self.data.source != "shapes" or self.training.rows % GROUP):
            raise ValueError(f"rivals: {grouped[0]} needs source 'shapes' and training.rows a multiple of {GROUP}")
        for name in self.models:
            self.variant(name)  # refuses what cannot be built

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models: the router of the run's own, then the rivals."""
        return (self.model.router, *self.rivals)

    def variant(self, name: str) -> ECDiTConfig:
        """The model settings behind a name of `models`."""
        if name in get_args(Rival) and "-" in name and name != "dense-wide":
            router, what = name.split("-")
            if what == "group":
                side = self.model.image_size // self.model.patch_size
                return replace(self.model, router=router, group_size=GROUP * side * side)  # type: ignore[arg-type]
            return replace(self.model, router=router, num_experts=int(what))  # type: ignore[arg-type]
        return replace(self.model, router=name)  # type: ignore[arg-type]


_FIVE: tuple[Rival, ...] = ("dense", "dense-wide", "tc", "random")
_PAPER = Training(
    steps=800_000, rows=4096, optimizer="rmsprop", lr=1e-4, warmup=20_000, final_fraction=1.0, ema=0.9999, precision="bf16",
    log_every=100, save_every=5000,
)  # fmt: skip


def _paper(name: str) -> Config:
    """One of the paper's sizes on the user's own latents; the encoders' folders are given on the command line."""
    return Config(
        model=SIZES[name],
        data=Data(source="files", path=Path("data"), text="t5", text_folder=Path("t5"), text_length=77, codec_folder=Path("vae")),
        training=_PAPER,
        sampling=Sampling(steps=50, guidance_scale=7.5),
        measure=False,
    )  # fmt: skip


# Latents, as in the paper: a token's noise must be small beside the model's width, since the velocity carries all of it.
# The long warm-up is for the text: its path starts with gradients near 0, which Adam makes large; at full rate it dies.
_LATENT = Config(
    model=ECDiTConfig(
        image_size=8, in_channels=4, patch_size=1, dim=64, num_layers=4, num_heads=2, text_dim=64, qk_norm=True
    ),
    data=Data(codec_steps=1000),
    training=Training(
        steps=1000, lr=6e-3, warmup=500, ema=0.995, t_mean=1.0, precision="bf16", log_every=50, save_every=250
    ),
    sampling=Sampling(guidance_scale=2.0, shift=2.0),
    rivals=_FIVE,
    seeds=(0, 1, 2),
    workers=2,
)
PRESETS: dict[str, Config] = {
    "tiny": replace(
        _LATENT,
        data=Data(per_prompt=16, codec_steps=200),
        training=replace(_LATENT.training, steps=250, rows=48, warmup=150, ema=0.98, log_every=20),
        sampling=replace(_LATENT.sampling, images_per_prompt=1),
        rivals=(),
        seeds=(0,),
        workers=1,
    ),
    "laptop": replace(
        _LATENT,
        training=replace(_LATENT.training, rates=(3e-3, 6e-3), rate_steps=250),
        sampling=replace(_LATENT.sampling, guidance_sweep=(1.0, 2.0, 3.0)),
    ),
    # Twice as wide, on one accelerator that all fifteen trainings share.
    "accelerator": replace(
        _LATENT,
        model=replace(_LATENT.model, dim=128, num_layers=6, num_heads=4, text_dim=128),
        data=replace(_LATENT.data, per_prompt=128),
        training=replace(_LATENT.training, steps=700, rows=512, lr=3e-3, curve_points=20),
        sampling=replace(_LATENT.sampling, guidance_sweep=(1.0, 1.5, 2.0, 3.0, 5.0)),
        workers=15,
    ),
    "emoji": replace(
        _LATENT,
        model=replace(_LATENT.model, text_dim=384),
        data=Data(source="emoji", text="minilm", codec_steps=1500),
        training=replace(_LATENT.training, steps=1500),
        sampling=replace(_LATENT.sampling, guidance_scale=3.0, images_per_prompt=2),
        rivals=(),
    ),
    "scaling": replace(
        _LATENT,
        training=replace(_LATENT.training, steps=800),
        rivals=("random", "ec-2", "ec-4", "ec-16", "ec-group", "random-group"),
    ),
    **{name: _paper(name) for name in ("xl", "xxl", "3xl", "m")},
}
PRESETS["paper"] = PRESETS["m"]
EXPECTED = {
    "tiny": "one small model on the shapes world, too short for more than coloured blobs, and where its experts go; one seed; 75 seconds on two cores",
    "laptop": "expert choice beside dense, twice as wide, token choice and a random router, with a sweep of learning rates and of guidance, three seeds; too short for shapes, so that rates stay near the floor; an hour on two cores",
    "accelerator": "the same five models twice as wide, 512 pictures a step, with a sweep of guidance; five minutes on an H100 with 16 cores and CUDA's MPS",
    "emoji": "pictures of 1906 names in two styles, some pairs of them never shown, captions read by MiniLM, three seeds; a quarter of an hour on two cores",
    "scaling": "2, 4, 8 and 16 experts, and pictures that compete for experts, three seeds; 50 minutes on two cores (an estimate)",
    "xl": "0.5e9 parameters dense, 5.1e9 with 32 experts, on your own latents; a cluster",
    "xxl": "12.3e9 parameters with 32 experts; a cluster",
    "3xl": "30.5e9 parameters with 32 experts; a cluster",
    "m": "95.1e9 parameters with 64 experts; a cluster",
    "paper": "the same as m",
}
