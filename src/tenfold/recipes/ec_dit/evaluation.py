"""What a trained model shows: its loss on pictures it never saw, and pictures of captions it never saw."""

# Shape legend: N pictures, P prompts, K pictures a prompt, H W sides

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.core.fit import forward_seed
from tenfold.diffusion.sampling import sample
from tenfold.recipes.ec_dit.config import Config, Sampling
from tenfold.recipes.ec_dit.network import SCHEDULE, TextToImage, make_loss
from tenfold.recipes.ec_dit.pictures import Corpus, open_codec, to_bytes
from tenfold.vision.emoji import Drawing, nearest_hits, read_emoji
from tenfold.vision.geneval import TASKS
from tenfold.vision.shapes import evaluate

BATCH = 128  # pictures drawn at once, a multiple of the pictures of a group
Callback = Callable[[int, float, Tensor], object]


@torch.no_grad()
def held_out_loss(model: nn.Module, corpus: Corpus, rows: int) -> float:
    """The training loss on held-out pictures, with times spread evenly over the whole path and noise that never changes."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    flow = model.config.objective == "flow"  # type: ignore[union-attr]
    loss = make_loss(corpus, "flow" if flow else "ddpm", 0.0)
    pictures, total = corpus.held_out, 0.0
    count = len(pictures)
    generator = torch.Generator().manual_seed(0)
    t = (torch.randperm(count, generator=generator) + 0.5) / count
    t = t if flow else (t * SCHEDULE.steps).long()
    noise = torch.randn(pictures.images.shape, generator=generator)
    for part in torch.arange(count).split(rows):
        columns = {"image": pictures.images, "caption": pictures.caption, "t": t, "noise": noise}
        batch = {name: column[part].to(device) for name, column in columns.items()}
        _, metrics = loss(model, {**batch, "key": torch.zeros((), dtype=torch.int64)})
        total += float(metrics["flow_loss" if flow else "ddpm_loss"]) * len(part)
    model.train(was_training)
    return total / count


def text_gain(model: nn.Module, corpus: Corpus, rows: int, own: float) -> float:
    """By how much the held-out loss rises with the captions of other pictures: 0 for a model that is deaf to its text.

    Args:
        own: the held-out loss with the right captions.
    """
    pictures = corpus.held_out
    others = replace(pictures, caption=pictures.caption.roll(len(pictures) // 2 + 1))
    return held_out_loss(model, replace(corpus, held_out=others), rows) - own


def draw_pictures(
    model: TextToImage,
    text: Tensor,
    mask: Tensor,
    null: tuple[Tensor, Tensor],
    shape: Sequence[int],
    sampling: Sampling,
    *,
    seed: int,
    guidance_scale: float | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Latents or pixels (N, c, H, W) for texts, every one with noise of its own.

    Args:
        model: in eval mode.
        text, mask: ids or states (N, L, ...), and bool (N, L).
        null: the same of the empty caption, without N.
        shape: (c, H, W).
        sampling: solver, steps, guidance.
        seed: of the noise; picture i of a call depends on (seed, i) alone.
        guidance_scale: in place of the sampling's.
        callback: as in `diffusion.sampling.sample`; only for calls of at most `BATCH` texts.
    """
    device = next(model.parameters()).device
    drawn = []
    with torch.no_grad():
        null_text, null_mask = model.states(null[0][None].to(device), null[1][None].to(device))[0], null[1].to(device)
        whole = competitors(model)
        for part in torch.arange(-(-len(text) // whole) * whole).split(BATCH):
            part = part % len(text)  # filled up, where a group of pictures would not be whole
            noise = torch.stack(
                [
                    torch.randn(tuple(shape), generator=torch.Generator().manual_seed(forward_seed(seed, int(i), 0, 0)))
                    for i in part
                ]
            )
            states = model.states(text[part].to(device), mask[part].to(device))
            drawn.append(
                sample(
                    model,
                    states,
                    null_text,
                    text_mask=mask[part].to(device),
                    null_mask=null_mask,
                    shape=shape,
                    steps=sampling.steps,
                    guidance_scale=sampling.guidance_scale if guidance_scale is None else guidance_scale,
                    solver=sampling.solver,
                    shift=sampling.shift,
                    schedule=SCHEDULE,
                    noise=noise.to(device),
                    callback=callback,
                )
            )
    return torch.cat(drawn)[: len(text)]


def competitors(model: TextToImage) -> int:
    """Pictures among whose tokens the experts choose together."""
    config = model.config
    return max(1, (config.group_size or 1) * config.patch_size**2 // config.image_size**2)


def draw_asked(
    config: Config, model: TextToImage, corpus: Corpus, seed: int, *, guidance_scale: float | None = None
) -> NDArray[np.uint8]:
    """Pictures of everything that is asked for, (P, K, H, W, 3)."""
    each = config.sampling.images_per_prompt
    rows = torch.tensor([corpus.number(row["prompt"]) for row in corpus.asked]).repeat_interleave(each)
    latents = draw_pictures(
        model,
        corpus.text[rows],
        corpus.text_mask[rows],
        (corpus.text[0], corpus.text_mask[0]),
        tuple(corpus.train.images.shape[1:]),
        config.sampling,
        seed=seed,
        guidance_scale=guidance_scale,
    )
    codec = open_codec(corpus.codec_folder)
    pictures = np.concatenate([to_bytes(codec.decode(part)) for part in latents.split(BATCH)])
    return pictures.reshape(len(corpus.asked), each, *pictures.shape[1:])


def shapes_rates(pictures: NDArray[np.uint8], asked: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Correct pictures of the shapes world by GenEval's tasks, as its checker judges, which is exact on renders.

    Args:
        pictures: (P, K, H, W, 3).
        asked: P prompts.
    Returns:
        "tasks": {task: [correct, pictures]}; "overall": the mean of the tasks' rates.
    """
    tasks: dict[str, list[int]] = {}
    for row, each in zip(asked, pictures, strict=True):
        counts = tasks.setdefault(row["tag"], [0, 0])
        counts[0] += sum(evaluate(picture, row).correct for picture in each)
        counts[1] += len(each)
    ordered = {task: tasks[task] for task in TASKS if task in tasks}
    return {"tasks": ordered, "overall": float(np.mean([right / n for right, n in ordered.values()]))}


def emoji_retrieval(pictures: NDArray[np.uint8], corpus: Corpus, seed: int) -> dict[str, Any]:
    """Whether a picture of a pair of style and name never trained on is nearest to its own drawing among 20 of its style.

    Returns:
        "hits" and "pictures"; chance is 1 in 20.
    """
    emoji = read_emoji()
    drawings = [Drawing(row["row"], row["style"]) for row in corpus.asked for _ in range(pictures.shape[1])]
    hits = nearest_hits(emoji, pictures.reshape(-1, *pictures.shape[2:]), drawings, np.random.default_rng(seed))
    return {"hits": int(hits.sum()), "pictures": len(hits)}
