"""Where the experts go: over the picture and the denoising steps, over pictures, over words."""

# Shape legend: B pictures, S image tokens, L text tokens, R sparse layers, N denoising steps, h w patches a side

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.diffusion.allocation import allocation_map
from tenfold.diffusion.flow import interpolate
from tenfold.recipes.ec_dit.config import GROUP, Config, Sampling
from tenfold.recipes.ec_dit.evaluation import draw_pictures
from tenfold.recipes.ec_dit.network import TextToImage
from tenfold.recipes.ec_dit.pictures import Corpus, open_codec, open_corpus, to_bytes, to_model
from tenfold.text.words import normalised_words
from tenfold.vision.frechet import SmallClassifier, frechet_distance, train_classifier
from tenfold.vision.shapes import detect
from tenfold.vision.shapes_world import BACKGROUND, KINDS, PALETTE

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the flow, at which held-out pictures are looked at
CLASSIFIED = 4096  # pictures that the classifier learns from, at most about
PICTURES = 44  # drawn for the heat-maps
CLASSIFIER = "classifier.safetensors"
CONTRAST = 80  # distance in RGB from which a pixel is no background


def take(config: Config, run: Run, name: str, seed: int, model: TextToImage, corpus: Corpus) -> dict[str, Any]:
    """All measures of a model that has experts; the maps go to heat/<name>.npz in the run.

    Returns:
        nothing but for the shapes world, whose objects and words are known: "heat": times of the steps, and experts of object and background tokens by step and layer; "words"; "complexity"
        where pictures compete.
    """
    if not model.config.sparse_layers:
        return {}
    prompts = [row["prompt"] for row in corpus.asked]
    captions = [prompts[i] for i in np.linspace(0, len(prompts) - 1, min(PICTURES, len(prompts))).astype(int)]
    maps = heat_maps(model, corpus, captions, config.sampling, seed)
    maps.save(run.path / "heat" / f"{name}.npz")
    if config.data.source != "shapes":
        return {}
    objects, background = maps.means()
    row: dict[str, Any] = {
        "heat": {"times": maps.times, "objects": objects.tolist(), "background": background.tolist()},
        "words": word_importance(model, corpus),
    }
    if model.config.group_size is not None:
        row["complexity"] = complexity(model, corpus)
    return row


@dataclass(frozen=True)
class HeatMaps:
    """Experts a token, while pictures are drawn.

    Args:
        times: of the steps, (N,), falling.
        experts: (N, R, B, h, w) counts.
        objects: (B, h, w), where the finished picture shows something; it means something in the shapes world only.
        pictures: the finished ones, (B, 3, H, W) in [-1, 1].
        captions: (B,).
    """

    times: list[float]
    experts: NDArray[np.int64]
    objects: NDArray[np.bool_]
    pictures: Tensor
    captions: list[str]

    def means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean experts of an object token and of a background token, (N, R) each; NaN where there is no such token."""
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing
            return self.experts[..., self.objects].mean(-1), self.experts[..., ~self.objects].mean(-1)

    def save(self, path: Path) -> None:
        """Keep all but the captions' text."""
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer, times=self.times, experts=self.experts.astype(np.uint8), objects=self.objects,
            pictures=to_bytes(self.pictures), captions=self.captions,
        )  # fmt: skip
        write_atomic(path, buffer.getvalue())


def heat_maps(model: TextToImage, corpus: Corpus, captions: Sequence[str], sampling: Sampling, seed: int) -> HeatMaps:
    """Draw pictures of captions and look at the routing after each step, with the caption and without guidance.

    Args:
        captions: of the corpus.
    """
    rows = torch.tensor([corpus.number(caption) for caption in captions])
    device = next(model.parameters()).device
    text, mask = corpus.text[rows].to(device), corpus.text_mask[rows].to(device)
    times: list[float] = []
    experts: list[Tensor] = []

    def look(step: int, t: float, x: Tensor) -> None:
        at = torch.full((len(x),), max(t, 0.0), device=x.device)  # DDIM calls clean pictures step -1
        filled = torch.arange(len(x), device=x.device) % len(states)  # as the pictures of a group are
        routed = allocation_map(model.denoiser, x, at, states[filled], mask[filled])
        experts.append(routed[:, : len(states)].cpu())
        times.append(t)

    with torch.no_grad():
        states = model.states(text, mask)
    latents = draw_pictures(
        model, text, mask, (corpus.text[0], corpus.text_mask[0]), tuple(corpus.train.images.shape[1:]), sampling,
        seed=seed, callback=look,
    )  # fmt: skip
    codec = open_codec(corpus.codec_folder)
    pictures = codec.decode(latents).cpu()
    objects = object_patches(pictures, model.config.patch_size * codec.factor)
    return HeatMaps(times, torch.stack(experts).numpy(), objects, pictures, list(captions))


def object_patches(pictures: Tensor, patch: int) -> NDArray[np.bool_]:
    """Patches (B, h, w) of pictures (B, 3, H, W) in [-1, 1] with a pixel that stands out from the shapes world's background."""
    background = torch.tensor(BACKGROUND).view(3, 1, 1) / 127.5 - 1
    distance = ((pictures - background) * 127.5).square().sum(1).sqrt()
    inside = distance.unfold(1, patch, patch).unfold(2, patch, patch) > CONTRAST
    result: NDArray[np.bool_] = inside.any(-1).any(-1).numpy()
    return result


def _noised(corpus: Corpus, picked: Tensor, t: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Held-out pictures at a time of the flow, with noise that is always the same, and the time of each."""
    x0 = to_model(corpus.held_out.images[picked])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    at = torch.full((len(x0),), t)
    return interpolate(x0, noise, at).to(device), at.to(device)


def object_counts(corpus: Corpus) -> NDArray[np.int64]:
    """Objects asked for by the caption of each held-out picture of the shapes world."""
    asked = {row["prompt"]: sum(clause["count"] for clause in row["include"]) for row in corpus.asked}
    return np.array([asked[corpus.captions[row]] for row in corpus.held_out.caption.tolist()])


@torch.no_grad()
def complexity(model: TextToImage, corpus: Corpus) -> dict[str, float]:
    """How many experts more a picture gets for each object more, where pictures compete for experts.

    Args:
        model: one whose experts choose in groups of `GROUP` pictures.
    Returns:
        "slope": experts a token for one object more, least squares over pictures; "correlation": Pearson's; means over
        times and layers.
    """
    count = len(corpus.held_out) // GROUP * GROUP
    objects = object_counts(corpus)[:count]
    picked, device = torch.arange(count), next(model.parameters()).device
    totals = np.zeros(count)
    for t in TIMES:
        x, at = _noised(corpus, picked, t, device)
        for part in picked.split(16 * GROUP):
            rows = corpus.held_out.caption[part]
            mask = corpus.text_mask[rows].to(device)
            states = model.states(corpus.text[rows].to(device), mask)
            experts = allocation_map(model.denoiser, x[part], at[part], states, mask)
            totals[part.numpy()] += experts.double().mean((0, 2, 3)).cpu().numpy() / len(TIMES)
    slope = float(np.polyfit(objects, totals, 1)[0])
    varies = totals.std() > 0
    return {"slope": slope, "correlation": float(np.corrcoef(objects, totals)[0, 1]) if varies else 0.0}


@torch.no_grad()
def word_importance(model: TextToImage, corpus: Corpus, pictures: int = 256) -> dict[str, float]:
    """Experts of the image tokens that attend to a word: kinds and colours beside all other words.

    An image token's experts are weighed by its cross-attention to the word in the same block.

    Returns:
        "content" and "function": means over words, times and sparse blocks, in experts a token.
    """
    picked = torch.arange(min(pictures, len(corpus.held_out)))
    rows = corpus.held_out.caption[picked]
    device = next(model.parameters()).device
    mask = corpus.text_mask[rows].to(device)
    states = model.states(corpus.text[rows].to(device), mask)
    content = torch.zeros(mask.shape, dtype=torch.bool)
    for i, row in enumerate(rows.tolist()):
        words = normalised_words(corpus.captions[row])
        content[i, : len(words)] = torch.tensor([_names_something(word) for word in words])
    content = content.to(device)
    sums = {True: 0.0, False: 0.0}
    for t in TIMES:
        x, at = _noised(corpus, picked, t, device)
        experts = allocation_map(model.denoiser, x, at, states, mask).flatten(2).double()  # R B S
        attention = model.denoiser.cross_attention_maps(x, at, states, mask)[list(model.config.sparse_layers)].double()
        per_word = torch.einsum("rbs,rbsl->rbl", experts, attention) / attention.sum(2).clamp(min=1e-12)
        for kind in sums:
            sums[kind] += float(per_word[:, mask & (content == kind)].mean()) / len(TIMES)
    return {"content": sums[True], "function": sums[False]}


def _names_something(word: str) -> bool:
    return word in PALETTE or any(word in (kind, kind + "s", kind + "es") for kind in KINDS)


def shape_labels(pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """(N, kinds · colours), 1 where the checker finds such a shape in a picture of the shapes world."""
    number = {(kind, color): i for i, (kind, color) in enumerate((k, c) for k in KINDS for c in PALETTE)}
    labels = torch.zeros(len(pictures), len(number))
    for i, picture in enumerate(pictures):
        for found in detect(picture):
            labels[i, number[found.kind, found.color]] = 1
    return labels


@torch.no_grad()
def as_seen(corpus: Corpus, images: Tensor) -> Tensor:
    """Stored pictures as (N, 3, H, W) in [-1, 1], behind the codec."""
    codec = open_codec(corpus.codec_folder)
    parts = (codec.decode(to_model(part).to(device_type())).clamp(-1, 1).cpu() for part in images.split(256))
    return torch.cat(list(parts))


def write_classifier(folder: Path, steps: int = 400) -> None:
    """Train the classifier behind the Fréchet distance on a corpus' training pictures, and keep it beside them."""
    corpus = open_corpus(folder)
    every = max(1, len(corpus.train) // CLASSIFIED)
    images = as_seen(corpus, corpus.train.images[::every])
    labels = shape_labels(list(to_bytes(images)))
    model = train_classifier(images.to(device_type()), labels, steps=steps)
    with replacing(folder / CLASSIFIER) as temporary:
        save_file(model.state_dict(), temporary)


@torch.no_grad()
def distance_to_held_out(folder: Path, corpus: Corpus, pictures: NDArray[np.uint8]) -> float:
    """Fréchet distance of pictures (N, H, W, 3) from held-out renders, by the features of that classifier."""
    tensors = load_file(folder / CLASSIFIER)
    model = SmallClassifier(len(tensors["head.bias"]), torch.Generator())
    model.load_state_dict(tensors)
    drawn = to_model(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    return frechet_distance(*(model.features(x).numpy() for x in (drawn, as_seen(corpus, corpus.held_out.images))))
