"""The inference network: what the series of a patient says about the latent state at each step."""

# Shape legend: B batch, T steps, F features, Z latent

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.clinical.history import History
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.nn.linear import Linear, draw_normal

JITTER = 1e-2


class Posterior(nn.Module):
    """q(z_t | x, u): mean and scale of every step, by recurrent networks over the history."""

    def __init__(self, config: StateSpaceConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        inputs = config.n_obs * (2 if config.feed_mask else 1) + config.n_interv + config.n_static
        kind = config.infer_model
        self.forward_rnn = lstm(inputs, config.z_dim, config.ds_nrl, generator) if kind != "r" else None
        backward = kind in ("r", "lr", "st")
        self.backward_rnn = lstm(inputs, config.z_dim, config.ds_nrl, generator) if backward else None
        full = config.cov == "tril" and kind in ("basic", "st")
        self.heads = nn.ModuleList(Gaussian(config.z_dim, full, generator) for _ in range(2 if kind == "lr" else 1))

    def forward(self, history: History) -> tuple[Tensor, Tensor]:
        """The posterior of each step; N(0, I), the prior, from a patient's length on.

        Returns:
            mean (B, T, Z); scale (B, T, Z), a standard deviation, or (B, T, Z, Z), a lower triangle.
        """
        config = self.config
        outputs = self._recur(history)
        if config.infer_model == "st":
            outputs = [outputs[0] + outputs[1]]
        gaussians = [head(output) for head, output in zip(self.heads, outputs, strict=True)]
        mu, scale = gaussians[0] if len(gaussians) == 1 else combine(*gaussians, rule=config.combine)
        if config.cov == "tril" and scale.ndim == 3:
            tiled = config.infer_model == "lr" and config.combine == "official"
            # The released code repeats the row of deviations, whose lower triangle then counts.
            scale = scale[..., None, :].expand(*scale.shape, scale.shape[-1]).tril() if tiled else scale.diag_embed()
        if config.use_jitter:
            scale = scale + (JITTER if scale.ndim == 3 else JITTER * torch.eye(config.z_dim).to(scale))
        valid = history.valid[..., None]
        if scale.ndim == 3:
            return torch.where(valid, mu, 0.0), torch.where(valid, scale, 1.0)
        return torch.where(valid, mu, 0.0), torch.where(valid[..., None], scale, torch.eye(config.z_dim).to(scale))

    def _recur(self, history: History) -> list[Tensor]:
        """(B, T, Z) of each LSTM."""
        config = self.config
        steps = history.x.shape[1]
        parts = (
            [torch.where(history.mask, history.x, 0.0), history.mask.to(history.x)] if config.feed_mask else [history.x]
        )
        parts += [history.u, history.static[:, None].expand(-1, steps, -1)]
        features = torch.cat(parts, -1)
        outputs = [] if self.forward_rnn is None else [self.forward_rnn(features)[0]]
        if self.backward_rnn is not None:
            output = self.backward_rnn(reverse(features, history.length))[0]
            outputs.append(reverse(output, history.length) if config.align_backward else output)
        return outputs


class Gaussian(nn.Module):
    """Mean and positive scale of a vector: two linear maps, softplus on the second.

    Args:
        z_dim: Z.
        full: the scale is the lower triangle of Z × Z positive numbers, else Z of them.
    """

    def __init__(self, z_dim: int, full: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.full = full
        self.mean = Linear(z_dim, z_dim, bias=True, generator=generator)
        self.spread = Linear(z_dim, z_dim**2 if full else z_dim, bias=True, generator=generator)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Args: h (..., Z). Returns: mean (..., Z); scale (..., Z) or (..., Z, Z)."""
        scale = F.softplus(self.spread(h))
        return self.mean(h), scale.unflatten(-1, (h.shape[-1], h.shape[-1])).tril() if self.full else scale


def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], *, rule: str) -> tuple[Tensor, Tensor]:
    """One Gaussian of two with diagonal scales.

    Args:
        left, right: mean and standard deviation.
        rule: "precision", the product of the densities; "official", each mean weighed by the other's deviation.
    """
    (mu_l, sigma_l), (mu_r, sigma_r) = left, right
    if rule == "official":
        total = sigma_l + sigma_r
        return (mu_l * sigma_r + mu_r * sigma_l) / total, sigma_l * sigma_r / total
    total = sigma_l.square() + sigma_r.square()
    return (mu_l * sigma_r.square() + mu_r * sigma_l.square()) / total, sigma_l * sigma_r / total.sqrt()


def reverse(x_BTF: Tensor, length_B: Tensor) -> Tensor:
    """Turn the first `length` steps of each row around; the others stay. Its own inverse."""
    t = torch.arange(x_BTF.shape[1], device=x_BTF.device)
    index = torch.where(t < length_B[:, None], length_B[:, None] - 1 - t, t)
    return x_BTF.gather(1, index[..., None].expand_as(x_BTF))


def lstm(inputs: int, width: int, layers: int, generator: torch.Generator) -> nn.LSTM:
    """An LSTM over (B, T, inputs), drawn from a generator; forget gates start at bias 1."""
    # By way of the meta device, where the constructor draws nothing from the global random state.
    rnn = nn.LSTM(inputs, width, layers, batch_first=True, device="meta").to_empty(device=torch.get_default_device())
    with torch.no_grad():
        for name, parameter in rnn.named_parameters():
            if name.startswith("weight"):
                draw_normal(parameter, parameter.shape[1] ** -0.5, generator)
            else:
                parameter.zero_()
                if name.startswith("bias_ih"):
                    parameter[width : 2 * width] = 1.0
    return rnn
