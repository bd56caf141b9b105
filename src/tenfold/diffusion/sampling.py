"""Images from text: classifier-free guidance around a model, and a solver along a grid of times."""

# Shape legend: B batch, c channels, H W sides, L text tokens, D text width

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenfold.diffusion.ddpm import LINEAR, Schedule
from tenfold.diffusion.flow import lengthened, time_dtype, without_variance
from tenfold.diffusion.solvers import FLOW_SOLVERS, Field, Grid, ddim, flow_times, schedule_times
from tenfold.nn.moe import dropless

Model = Callable[..., Tensor]
SOLVERS = (*FLOW_SOLVERS, "ddim")


@torch.no_grad()
def sample(
    model: Model,
    text: Tensor,
    null_text: Tensor | None = None,
    *,
    text_mask: Tensor | None = None,
    null_mask: Tensor | None = None,
    shape: Sequence[int],
    steps: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float = 7.5,
    solver: str = "euler",
    grid: Grid = "uniform",
    shift: float = 1.0,
    schedule: Schedule = LINEAR,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    callback: Callable[[int, float, Tensor], object] | None = None,
) -> Tensor:
    """Draw images.

    Args:
        model: called as `model(x, t, text, text_mask)`; a module runs in eval mode, its token-choice experts without
            dropping tokens, and use its averaged weights (EMA).
        text: states of the captions (B, L, D), in the model's type.
        null_text: states of the empty caption that stood in for dropped ones in training, (L', D) or (B, L', D).
        text_mask, null_mask: bool, (B, L) and as null_text without D; None is all True.
        shape: of the images in the model's space, (c, H, W) or (B, c, H, W).
        steps: of the solver, 50 by default; "heun" calls the model twice in each but the last.
        num_inference_steps: the same under diffusers' name.
        guidance_scale: w in u + w·(c − u) of the conditional c and the unconditional u; 1 and 0 need only one of them.
        solver: "euler", "heun" or "dpmpp2m" for flows, "ddim" for models that predict noise.
        grid, shift: of the times, as in `solvers.flow_times`; "ddim" as in `solvers.schedule_times`, without a shift.
        schedule: of the noise, read by "ddim" only.
        generator: of the first noise.
        noise: the first noise itself, (B, c, H, W).
        callback: called after each step with its number from 0, the time reached and the images then.
    Returns:
        (B, c, H, W), float32 or wider, not clamped.
    Raises:
        ValueError: an unknown choice (the known ones listed), a setting out of range, guidance without a null text.
    Source: Ho and Salimans 2022, arXiv 2207.12598, Eq. 6, with w counted from the unconditional prediction.
    """
    steps = _steps(steps, num_inference_steps)
    _check_solver(model, solver, shift)
    x = _first_point(text, shape, generator, noise)
    field = guided(model, text, null_text, text_mask=text_mask, null_mask=null_mask, guidance_scale=guidance_scale)
    if solver == "ddim":
        indices = schedule_times(steps, grid, total=schedule.steps)
        times: Sequence[float] = indices
        points = ddim(field, x, indices, schedule)
    else:
        times = flow_times(steps, grid, shift)
        points = FLOW_SOLVERS[solver](field, x, times)
    with _inference(model):
        for step, x in enumerate(points):
            if callback is not None:
                callback(step, times[step + 1], x)
    return x


def guided(
    model: Model,
    text: Tensor,
    null_text: Tensor | None = None,
    *,
    text_mask: Tensor | None = None,
    null_mask: Tensor | None = None,
    guidance_scale: float,
) -> Field:
    """The field u + w·(c − u) of a model's conditional and unconditional predictions.

    Both halves run as one batch, unless experts choose tokens in groups that could span them: then apart, so that an
    image's experts do not depend on which captions stand beside it.

    Args: as in `sample`.
    Returns:
        a function of images (B, c, H, W) and one time.
    Raises:
        ValueError: a null text that is missing or does not fit, guidance_scale not finite.
    """
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale: got {guidance_scale}, need a finite number")

    def predict(x: Tensor, t: float, text: Tensor, mask: Tensor | None) -> Tensor:
        out = model(x.to(text.dtype), x.new_full(x.shape[:1], t), text, mask)
        return without_variance(out, x.shape[1]).to(x.dtype)

    if guidance_scale == 1:
        return lambda x, t: predict(x, t, text, text_mask)
    if null_text is None:
        raise ValueError(f"null_text: got none, need one with guidance_scale {guidance_scale:g} (only 1 does without)")
    if null_text.ndim == 2:
        null_text = null_text.expand(len(text), -1, -1)
        null_mask = None if null_mask is None else null_mask.expand(len(text), -1)
    if null_text.shape[::2] != text.shape[::2]:
        raise ValueError(
            f"null_text: got shape {tuple(null_text.shape)}, need {len(text)} texts of width {text.shape[2]}"
        )
    null = null_text.to(text)
    if guidance_scale == 0:
        return lambda x, t: predict(x, t, null, null_mask)
    length = max(text.shape[1], null.shape[1])
    halves = [lengthened(null, null_mask, length), lengthened(text, text_mask, length)]
    if _grouped(model):

        def predict_both(x: Tensor, t: float) -> list[Tensor]:
            return [predict(x, t, *half) for half in halves]
    else:
        both, both_mask = (torch.cat(parts) for parts in zip(*halves, strict=True))

        def predict_both(x: Tensor, t: float) -> list[Tensor]:
            return list(predict(torch.cat([x, x]), t, both, both_mask).chunk(2))

    def field(x: Tensor, t: float) -> Tensor:
        unconditional, conditional = predict_both(x, t)
        return unconditional + guidance_scale * (conditional - unconditional)

    return field


def _steps(steps: int | None, alias: int | None) -> int:
    if steps is not None and alias is not None and steps != alias:
        raise ValueError(f"steps, num_inference_steps: got {steps} and {alias}, need one of the two")
    return steps if steps is not None else 50 if alias is None else alias


def _check_solver(model: Model, solver: str, shift: float) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, need one of {', '.join(SOLVERS)}")
    objective = getattr(getattr(model, "config", None), "objective", None)
    if objective is not None and (objective == "ddpm") != (solver == "ddim"):
        need = "ddim" if objective == "ddpm" else ", ".join(FLOW_SOLVERS)
        raise ValueError(f"solver: got {solver!r}, need {need} (the model's objective is {objective})")
    if solver == "ddim" and shift != 1:
        raise ValueError(f"shift: got {shift}, need 1 with ddim, whose schedule has none")


def _first_point(text: Tensor, shape: Sequence[int], generator: torch.Generator | None, noise: Tensor | None) -> Tensor:
    batch = len(text)
    whole = (batch, *shape) if len(shape) == 3 else tuple(shape)
    if len(whole) != 4 or whole[0] != batch:
        raise ValueError(f"shape: got {tuple(shape)}, need (c, H, W) or ({batch}, c, H, W) for {batch} texts")
    wide = time_dtype(text)
    if noise is not None:
        if noise.shape != whole:
            raise ValueError(f"noise: got shape {tuple(noise.shape)}, need {whole}")
        return noise.to(text.device, wide)
    if generator is None:
        raise ValueError("generator: got none, need one, or the noise itself")
    return torch.randn(whole, generator=generator, device=generator.device, dtype=wide).to(text.device)


def _grouped(model: Model) -> bool:
    """Whether experts choose within groups of tokens that may span images."""
    config = getattr(model, "config", None)
    return any(getattr(config, name, None) is not None for name in ("group_size", "eval_group_size"))


@contextmanager
def _inference(model: Model) -> Iterator[None]:
    """Eval mode, and experts that drop no token: with their capacity an image would depend on the others."""
    if not isinstance(model, nn.Module):
        yield
        return
    was_training = model.training
    model.eval()
    try:
        with dropless(model):
            yield
    finally:
        model.train(was_training)
