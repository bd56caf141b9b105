"""What a model reads of each patient: series up to a length, checked and cleared of what must not be read."""

# Shape legend: B batch, T steps, D observations, U interventions, G static

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class History:
    """A checked batch of series; whatever stood behind a patient's length is 0 and unobserved.

    Args:
        x: (B, T, D).
        mask: (B, T, D) bool, True where observed.
        u: (B, T, U).
        static: (B, G).
        length: (B,) int64 in 0..T.
        valid: (B, T) bool, True below the length.
    """

    x: Tensor
    mask: Tensor
    u: Tensor
    static: Tensor
    length: Tensor
    valid: Tensor

    @staticmethod
    def check(
        x: Tensor,
        mask: Tensor,
        u: Tensor | None,
        length: Tensor,
        static: Tensor | None = None,
        *,
        n_obs: int,
        n_interv: int,
        n_static: int = 0,
    ) -> History:
        """Args: as the fields; mask may be of numbers, u and static None where the model has none of them.

        Raises:
            ValueError: shapes that do not fit each other or the model; a length outside 0..T.
        """
        if x.ndim != 3 or x.shape[2] != n_obs:
            raise ValueError(f"x: got shape {tuple(x.shape)}, need (B, T, {n_obs}) (n_obs)")
        batch, steps, _ = x.shape
        if not steps:
            raise ValueError(f"x: got shape {tuple(x.shape)}, need at least one step (a patient's length may be 0)")
        u = _columns("u", u, (batch, steps, n_interv), x)
        static = _columns("static", static, (batch, n_static), x)
        for name, tensor, shape in (("mask", mask, tuple(x.shape)), ("length", length, (batch,))):
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, need {shape} beside x {tuple(x.shape)}")
        if batch and not 0 <= int(length.min()) <= int(length.max()) <= steps:
            raise ValueError(f"length: got {int(length.min())}..{int(length.max())}, need 0..{steps} (steps of x)")
        valid = torch.arange(steps, device=x.device) < length[:, None]
        inside = valid[..., None]
        zero = x.new_zeros(())
        return History(
            torch.where(inside, x, zero), mask.bool() & inside, torch.where(inside, u, zero), static, length, valid
        )

    def first(self, steps: int) -> History:
        """The first steps alone."""
        x, mask, u, valid = (t[:, :steps] for t in (self.x, self.mask, self.u, self.valid))
        return History(x, mask, u, self.static, self.length.clamp(max=steps), valid)


def read_history(batch: Mapping[str, Tensor], n_obs: int, n_interv: int, n_static: int = 0) -> History:
    """The series of a batch: x, mask, u, length and static, the last three columns of which a model may not need.

    Raises:
        ValueError: a column that is missing or does not fit.
    """
    for name in ("x", "mask", "length"):
        if name not in batch:
            raise ValueError(f"batch: got {', '.join(batch) or 'no columns'}, need {name!r} too")
    sizes = {"n_obs": n_obs, "n_interv": n_interv, "n_static": n_static}
    return History.check(batch["x"], batch["mask"], batch.get("u"), batch["length"], batch.get("static"), **sizes)


def _columns(name: str, given: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The columns that the model reads; none of them where it reads none."""
    if not shape[-1]:
        if name == "u" and given is not None and given.shape[-1]:
            raise ValueError(f"u: got shape {tuple(given.shape)}, need no columns (n_interv = 0)")
        return like.new_zeros(shape)
    if given is None:
        raise ValueError(
            f"{name}: got None, need shape {shape}: the model was built with n_{_SIZES[name]} = {shape[-1]}"
        )
    if tuple(given.shape) != shape:
        raise ValueError(f"{name}: got shape {tuple(given.shape)}, need {shape} beside x {tuple(like.shape)}")
    return given.to(like.dtype)


_SIZES = {"u": "interv", "static": "static"}
