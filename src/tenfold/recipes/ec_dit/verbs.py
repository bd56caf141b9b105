"""What a user does with a trained model: draw, score, look at where the compute goes; and reports of any size."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tenfold.core.atomic import replacing
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError, is_disk_full
from tenfold.core.run import Run
from tenfold.core.statistics import Interval
from tenfold.diffusion.allocation import allocation_map, save_heatmaps
from tenfold.diffusion.config import Router, paper_config
from tenfold.diffusion.reports import flop_report, param_report
from tenfold.recipes.ec_dit.config import PRESETS, Config, Sampling
from tenfold.recipes.ec_dit.evaluation import draw_pictures
from tenfold.recipes.ec_dit.experiment import check, train
from tenfold.recipes.ec_dit.folder import Pipeline, open_model
from tenfold.recipes.ec_dit.pictures import shapes_floor, to_bytes
from tenfold.vision.geneval import read_metadata, score_folder, write_layout
from tenfold.vision.shapes import evaluate
from tenfold.vision.shapes_world import conditions

MOST = 4096  # pictures of one call
LARGEST = 256  # pixels a side that small pictures are enlarged to


def sample(
    model: Path,
    prompt: tuple[str, ...],
    /,
    out: Path = Path("sample.png"),
    count: int = 4,
    guidance_scale: float | None = None,
    steps: int | None = None,
    solver: Literal["euler", "heun", "dpmpp2m", "ddim"] | None = None,
    seed: int = 0,
    allow_unk: bool = False,
) -> None:
    """Draw pictures of captions and write them as one PNG, a row a caption.

    Args:
        model: a run folder, or a model folder of one.
        prompt: captions.
        out: the PNG file; small pictures are enlarged without smoothing.
        count: pictures a caption.
        guidance_scale: strength of guidance; none takes the model's own.
        steps: of the solver; none takes the model's own.
        solver: none takes the model's own.
        seed: of the noise.
        allow_unk: read words that the model does not know as one unknown word.
    """
    check_asked(prompt, "--count", count, seed)
    pipeline = open_model(model, allow_unk=allow_unk or None)
    sampling = sampling_of(pipeline, guidance_scale, steps, solver)
    _check_out(out)
    pictures = draw(pipeline, prompt, count, sampling, seed)
    write_grid(out, pictures)
    print(
        f"{out}: {len(prompt)} x {count} pictures of {pictures.shape[2]} x {pictures.shape[3]}, {sampling.steps} steps"
    )


def eval_(
    model: Path,
    /,
    out: Path = Path("pictures"),
    prompts: Path | None = None,
    images_per_prompt: int = 4,
    guidance_scale: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    allow_unk: bool = False,
    judge: bool = True,
) -> None:
    """Draw pictures of prompts in GenEval's form and layout, and score them with the checker of the shapes world.

    The checker is exact on renders; a blurred shape counts as the nearest template.

    Args:
        model: a run folder, or a model folder of one.
        out: a new folder for the pictures, and results.jsonl where they are judged.
        prompts: JSON Lines with tag, include, prompt; none takes the shapes world's prompts never trained on.
        images_per_prompt: pictures of each.
        guidance_scale: strength of guidance; none takes the model's own.
        steps: of the solver; none takes the model's own.
        seed: of the noise.
        allow_unk: read words that the model does not know as one unknown word.
        judge: score by the shapes world's checker; without, the folder is for GenEval's own scorer.
    """
    rows = read_metadata(data_path("shapes_val") if prompts is None else prompts)
    if judge:
        for number, row in enumerate(rows, 1):
            try:
                conditions(row)
            except ValueError as error:
                raise UserError(f"{prompts or 'prompts'}:{number}: {error}; --no-judge draws without scoring") from None
    check_asked([row["prompt"] for row in rows], "--images-per-prompt", images_per_prompt, seed)
    pipeline = open_model(model, allow_unk=allow_unk or None)
    if prompts is None and pipeline.data.source != "shapes":
        raise UserError("--prompts: got none; the model was not trained on the shapes world, name a file of prompts")
    sampling = sampling_of(pipeline, guidance_scale, steps, None)
    if not out.parent.is_dir():
        raise UserError(f"--out: got {out}, need a new folder inside one that exists")
    if out.exists():
        raise UserError(f"--out: {out} exists already; name a new folder")
    _check_writable(out)
    pictures = draw(pipeline, [row["prompt"] for row in rows], images_per_prompt, sampling, seed)
    if not judge:
        write_layout(out, rows, pictures)
        print(f"{out}: {len(rows)} x {images_per_prompt} pictures in GenEval's layout")
        return
    floor = shapes_floor(rows)["overall"]
    staging = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    try:  # the folder appears with its results or not at all
        scores = score_folder(write_layout(staging, rows, pictures), evaluate, final=out)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for task, score in scores.tasks.items():
        print(f"{task:<14} {_percent(score.rate)}  {score.correct} of {score.images}")
    print(f"{'overall':<14} {scores.overall:7.1%}  mean of the tasks; pictures of other prompts: {floor:.1%}")
    print(f"{out / 'results.jsonl'}")


def heatmap(
    model: Path,
    prompt: tuple[str, ...],
    /,
    out: Path = Path("heatmap.png"),
    step: int = -1,
    guidance_scale: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    allow_unk: bool = False,
) -> None:
    """Draw pictures of captions and show how many experts each of their tokens got.

    Args:
        model: a run folder, or a model folder of one, with experts.
        prompt: captions.
        out: the PNG file.
        step: denoising step after which the maps are taken, from 0; -1 is the last.
        guidance_scale: strength of guidance; none takes the model's own.
        steps: of the solver; none takes the model's own.
        seed: of the noise.
        allow_unk: read words that the model does not know as one unknown word.
    """
    check_asked(prompt, "--count", 1, seed)
    pipeline = open_model(model, allow_unk=allow_unk or None)
    layers = pipeline.model.config.sparse_layers
    if not layers:
        raise UserError(f"{model}: its router is {pipeline.model.config.router!r}; heat-maps need a model with experts")
    sampling = sampling_of(pipeline, guidance_scale, steps, None)
    _check_out(out)
    pictures, maps = draw_with_maps(pipeline, prompt, sampling, seed, step)
    save_heatmaps(maps, out, images=as_images(pictures), captions=prompt, layers=layers)
    print(
        f"{out}: {len(prompt)} caption{'s' * (len(prompt) > 1)}, {len(layers)} sparse blocks, step {step % sampling.steps + 1} of {sampling.steps}"
    )


def draw_with_maps(
    pipeline: Pipeline,
    prompts: Sequence[str],
    sampling: Sampling,
    seed: int,
    step: int = -1,
    watch: Callable[[int], None] = lambda number: None,
) -> tuple[NDArray[np.uint8], Tensor]:
    """One picture of each caption, and where its experts went.

    Args:
        pipeline: with experts.
        prompts: captions.
        sampling: how they are drawn.
        seed: of the noise.
        step: denoising step after which the maps are taken, from 0; -1 is the last.
        watch: called after every step with its number; it may raise.
    Returns:
        pictures (P, 1, H, W, 3); experts of each patch, int64 (sparse layers, P, h, w).
    Raises:
        UserError: a step that there is not, words that the model does not know.
    """
    if not -sampling.steps <= step < sampling.steps:
        raise UserError(f"--step: got {step}, need {-sampling.steps}..{sampling.steps - 1}")
    wanted, maps = step % sampling.steps, []
    states, mask = pipeline.states(prompts)

    def look(number: int, t: float, x: Tensor) -> None:
        watch(number)
        if number == wanted:
            at = torch.full((len(x),), max(float(t), 0.0), device=x.device)  # DDIM calls clean pictures step -1
            rows = torch.arange(len(x), device=x.device) % len(states)  # filled up as the pictures of a group are
            routed = allocation_map(pipeline.model.denoiser, x.to(states.dtype), at, states[rows], mask[rows])
            maps.append(routed[:, : len(states)].cpu())

    pictures = draw(pipeline, prompts, 1, sampling, seed, callback=look)
    return pictures, maps[0]


def as_images(pictures: NDArray[np.uint8]) -> Tensor:
    """The first picture of each caption, (P, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pictures[:, 0]).permute(0, 3, 1, 2) / 127.5 - 1


def compare(
    preset: Literal["tiny", "laptop", "accelerator", "scaling"] = "laptop",
    /,
    seeds: tuple[int, ...] = (),
    steps: int = 0,
    workers: int = 0,
    runs_dir: Path | None = None,
) -> None:
    """Train a model beside its rivals (dense, twice as wide, token choice, random router) and write what differs.

    Args:
        preset: whose settings; tiny gets the rivals of laptop.
        seeds: instead of the preset's.
        steps: of every training, instead of the preset's.
        workers: processes, instead of the preset's.
        runs_dir: where the run folder goes.
    """
    config = comparison(preset, seeds, steps, workers)
    check(config)
    run = Run.create("ec-dit", preset, config, runs_dir, title="EC-DiT beside its rivals")
    print(f"run: {run.path}", flush=True)
    for claim in train(config, run).claims:
        print(f"{claim.name}: {claim.value:.4g} beside {claim.baseline:.4g} ({claim.verdict})")
    print(f"report: {run.path / 'report.html'}")


def comparison(preset: str, seeds: tuple[int, ...] = (), steps: int = 0, workers: int = 0) -> Config:
    """A preset with rivals."""
    config = PRESETS[preset]
    try:
        training = config.training
        if steps:
            training = replace(training, steps=steps, warmup=min(training.warmup, steps))
        return replace(
            config,
            rivals=config.rivals or PRESETS["laptop"].rivals,
            seeds=seeds or config.seeds,
            workers=workers or config.workers,
            training=training,
        )
    except ValueError as error:
        raise _as_option(error) from None


def report(
    size: Literal["tiny", "small", "xl", "xxl", "3xl", "m"] = "xl",
    /,
    router: Router = "ec",
    num_experts: int = 0,
    image_size: int = 0,
) -> None:
    """Parameters and operations of a size, part by part, beside the paper's; no memory is taken.

    Args:
        size: the paper's xl, xxl, 3xl, m; tiny and small are sizes for tests, not the presets of `train`.
        router: what stands in the sparse blocks.
        num_experts: instead of the size's; not with the dense routers.
        image_size: side in pixels or latent cells, instead of the size's.
    """
    if num_experts and router.startswith("dense"):
        raise UserError(f"--num-experts: got {num_experts} with router {router}, which has none; leave it out")
    try:
        config = replace(paper_config(size), router=router)
        if num_experts:
            config = replace(config, num_experts=num_experts)
        flops = flop_report(config, image_size or None)
    except ValueError as error:
        raise _as_option(error) from None
    experts = f"{config.num_experts} experts" if config.sparse_layers else "no experts"
    print(f"{size}, router {router}, {experts}\n\n{param_report(config)}\n\n{flops}")


def draw(
    pipeline: Pipeline, prompts: Sequence[str], count: int, sampling: Sampling, seed: int, callback: Any = None
) -> NDArray[np.uint8]:
    """Pictures of captions, (P, count, H, W, 3).

    Raises:
        UserError: words that the model does not know.
    """
    model, codec = pipeline.model, pipeline.codec
    states, mask = pipeline.states(prompts)
    null, null_mask = pipeline.states([""])
    config = model.config
    latents = draw_pictures(
        model,
        states.repeat_interleave(count, 0),
        mask.repeat_interleave(count, 0),
        (null[0], null_mask[0]),
        (config.in_channels, config.image_size, config.image_size),
        sampling,
        seed=seed,
        callback=callback,
    )
    pictures = np.concatenate([to_bytes(codec.decode(part)) for part in latents.split(64)])
    return pictures.reshape(len(prompts), count, *pictures.shape[1:])


def write_grid(out: Path, pictures: NDArray[np.uint8]) -> None:
    """All pictures (P, K, H, W, 3) as one PNG, a row a caption, atomically."""
    with replacing(out) as temporary:
        Image.fromarray(grid_of(pictures)).save(temporary, format="PNG")


def grid_of(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All pictures (P, K, H, W, 3) in one (H', W', 3), a row a caption; small ones are enlarged without smoothing."""
    prompts, count, height, width, _ = pictures.shape
    scale = max(1, LARGEST // max(height, width))
    large = pictures.repeat(scale, 2).repeat(scale, 3)
    framed = np.pad(large, ((0, 0), (0, 0), (0, 4), (0, 4), (0, 0)), constant_values=255)
    return framed.transpose(0, 2, 1, 3, 4).reshape(prompts * framed.shape[2], count * framed.shape[3], 3)


def sampling_of(pipeline: Pipeline, guidance_scale: float | None, steps: int | None, solver: Any) -> Sampling:
    """The model's own settings with what is given in their place.

    Raises:
        UserError: a value out of range, a solver that does not fit the model's objective.
    """
    own = pipeline.sampling
    try:
        chosen = Sampling(
            steps=own.steps if steps is None else steps,
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
            shift=own.shift,
            solver=own.solver if solver is None else solver,
        )
    except ValueError as error:
        raise _as_option(error) from None
    if (chosen.solver == "ddim") != (pipeline.model.config.objective == "ddpm"):
        raise UserError(
            f"--solver: {chosen.solver} does not fit the model's objective {pipeline.model.config.objective}"
        )
    return chosen


def _as_option(error: ValueError) -> UserError:
    """`guidance_scale: got …` as the option that was typed."""
    field, colon, rest = str(error).partition(": ")
    return UserError(f"--{field.replace('_', '-')}{colon}{rest}" if field.isidentifier() else str(error))


def check_asked(prompts: Sequence[str], option: str, count: int, seed: int) -> None:
    """UserError for no captions, too many pictures (`option` is how many of each), or a seed out of range."""
    if not prompts:
        raise UserError("PROMPT: got none, need at least one caption")
    if not 1 <= count * len(prompts) <= MOST:
        captions = f"{len(prompts)} caption{'s' * (len(prompts) > 1)}"
        raise UserError(f"{option}: got {count} for {captions}, need 1 or more, at most {MOST} pictures in all")
    if not 0 <= seed < 2**40:
        raise UserError(f"--seed: got {seed}, need 0 or more, below 2 to the 40th")


def _check_out(out: Path) -> None:
    if out.suffix.lower() != ".png" or not out.parent.is_dir() or out.is_dir():
        raise UserError(f"--out: got {out}, need a .png file in a folder that exists")
    _check_writable(out)


def _check_writable(out: Path) -> None:
    """UserError, before anything is drawn, where nothing can be written beside `out`."""
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"--out: got {out}, need a folder that files can be written to") from None


def _percent(rate: Interval) -> str:
    return f"{rate.value:7.1%} ({rate.low:.1%} to {rate.high:.1%})"


VERBS = {"sample": sample, "eval": eval_, "compare": compare, "heatmap": heatmap, "report": report}
