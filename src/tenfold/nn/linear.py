"""A linear layer that draws its weights from a generator, not from the process's global random state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def init_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator that initial weights are drawn from.

    Args:
        generator: the caller's, returned as it is. None makes a fresh one and draws one number, its seed, from torch's
            random state: two models built under one `torch.manual_seed` are equal, two layers built after each other
            differ. On the meta device, where no weights are drawn, that state is left alone.
    """
    if generator is not None:
        return generator
    if torch.get_default_device().type == "meta":
        return torch.Generator()
    return torch.Generator().manual_seed(draw_seed())


def draw_seed() -> int:
    """One number from torch's random state on the CPU."""
    return int(torch.randint(2**63 - 1, (), device="cpu"))


@torch.no_grad()
def draw_normal(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    """Fill `tensor` with N(0, std²), drawn on the generator's device: one seed gives one model on every device."""
    if not tensor.is_meta:
        noise = torch.randn(tensor.shape, generator=generator, device=generator.device, dtype=tensor.dtype)
        tensor.copy_(noise.mul_(std))


class Linear(nn.Linear):
    """`nn.Linear` with weights N(0, 1/fan_in) and zero bias.

    Args:
        in_features, out_features: widths.
        bias: add a learned offset.
        generator: where the weights are drawn from (see `init_generator`).
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, *, generator: torch.Generator | None = None
    ) -> None:
        # nn.Linear's own constructor would draw from the global state first.
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None  # type: ignore[assignment]
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        draw_normal(self.weight, self.in_features**-0.5, init_generator(generator))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
