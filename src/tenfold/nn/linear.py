"""A linear layer that draws its weights from a generator, not from the process's global random state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Multiplications from which on oneDNN's product is ahead of the default one on a CPU, by a fifth in the forward pass and a
# tenth in the gradient of the input (benchmarks/training_lm.py); the gradient of the weight is not. Below, calls cost more.
WORTH_ONEDNN = 1 << 26


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

    def forward(self, x: Tensor) -> Tensor:
        """Args: x of shape (..., in_features). Returns: (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        draw_normal(self.weight, self.in_features**-0.5, init_generator(generator))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + b, by the faster of two libraries on a CPU.

    Args:
        x: (..., inputs).
        weight: (outputs, inputs).
        bias: (outputs,).
    Returns:
        (..., outputs).
    """
    if x.numel() * weight.shape[0] >= WORTH_ONEDNN and _for_onednn(x, weight, bias):
        return _Product.apply(x, weight)
    return F.linear(x, weight, bias)


def cast_once(x: Tensor) -> Tensor:
    """Under autocast x in its type, else x: for an input that several products share, each of which would cast it anew."""
    if x.dtype == torch.float32 and torch.is_autocast_enabled(x.device.type):
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _for_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Plain float32 tensors on a CPU that has the kernels, outside of compilers, autocast, vmap and sharding."""
    return bool(
        x.is_cpu
        and x.dtype == weight.dtype == torch.float32
        and bias is None
        and type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _product(x: Tensor, weight: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    y = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return y.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """x Wᵀ by oneDNN, and so the gradient of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x.detach(), weight.detach())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        grad_x = grad_weight = None
        if for_x:  # a second derivative goes through torch's own product
            grad_x = grad @ weight if torch.is_grad_enabled() else _product(grad, weight.t())
        if for_weight:
            grad_weight = grad.flatten(0, -2).t() @ x.flatten(0, -2)
        return grad_x, grad_weight
