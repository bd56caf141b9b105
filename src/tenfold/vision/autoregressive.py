"""AIM: a picture encoder is trained to foretell the next patch of a picture from those before it, without texts."""

# Shape legend: B pictures, S side, p side of a patch, n patches, N tokens (n, and a class token where there is one), D width

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.ffn import FeedForward
from tenfold.nn.linear import Linear, init_generator
from tenfold.vision.vit import ViT, ViTConfig

TARGET_EPS = 1e-6  # under the root of a patch's variance


class AIMModel(nn.Module):
    """An encoder and a head of residual feed-forward layers, each patch read alone, that draws the next patch.

    Args:
        cfg: of the encoder.
        depth: layers of the head (the paper's has 12); it is left behind when the encoder is used.
        generator: where the weights are drawn from; None draws a seed from torch's random state.
    Source: El-Nouby et al. 2024, arXiv 2401.08541, Section 3.
    """

    def __init__(self, cfg: ViTConfig, depth: int = 2, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if depth < 0:
            raise ValueError(f"depth: got {depth}, need 0 or more")
        if cfg.patches < 2:
            raise ValueError(f"patches: got {cfg.patches}, need at least 2: the first is never foretold")
        generator = init_generator(generator)
        self.vision = ViT(cfg, generator)
        self.norms = nn.ModuleList(nn.LayerNorm(cfg.dim, cfg.norm_eps) for _ in range(depth))
        self.layers = nn.ModuleList(
            FeedForward(cfg.dim, cfg.mlp, activation=cfg.act, bias=True, generator=generator) for _ in range(depth)
        )
        self.out = Linear(cfg.dim, 3 * cfg.patch_size**2, bias=True, generator=generator)

    def forward(self, pixels: Tensor, prefix: Tensor) -> Tensor:
        """What follows each patch.

        Args:
            pixels: (B, 3, S, S), normalised.
            prefix: int64 (B,), patches at the start that see each other, 1..n-1; the others see what stands before them.
        Returns:
            (B, n, 3 p²), at patch i the foretold patch i + 1, normalised as in `patch_targets`.
        """
        cfg = self.vision.cfg
        mask = prefix_mask(prefix, cfg.patches, class_token=self.vision.class_embedding is not None)
        x_BnD = self.vision.post_norm(self.vision(pixels, mask=mask))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x_BnD = x_BnD + layer(norm(x_BnD))
        return self.out(x_BnD)


def prefix_mask(prefix: Tensor, patches: int, *, class_token: bool = False) -> Tensor:
    """Attention that is whole inside a prefix and causal after it.

    Args:
        prefix: int64 (B,), patches of the prefix, 0..n.
        patches: n, in raster order.
        class_token: it stands first, sees the prefix alone, since all patches see it, and is seen by all.
    Returns:
        bool (B, 1, N, N), True where attention is allowed.
    """
    if prefix.ndim != 1 or bool(((prefix < 0) | (prefix > patches)).any()):
        raise ValueError(f"prefix: got {prefix.tolist()}, need one of 0..{patches} for each picture")
    extra = int(class_token)
    place = torch.arange(-extra, patches, device=prefix.device)
    mask = (place[None, :] <= place[:, None]) | (place[None, None, :] < prefix[:, None, None])
    return mask.unsqueeze(1)


def patch_targets(pixels: Tensor, patch: int) -> Tensor:
    """Patches in raster order, each with mean 0 and variance 1.

    Args:
        pixels: (B, 3, H, W), sides that are multiples of the patch.
        patch: p.
    Returns:
        (B, n, 3 p²).
    Source: He et al. 2022, arXiv 2111.06377, Section 3 (normalised targets), as in AIM.
    """
    x_Bn = F.unfold(pixels, patch, stride=patch).transpose(1, 2)
    return (x_Bn - x_Bn.mean(-1, keepdim=True)) / (x_Bn.var(-1, unbiased=False, keepdim=True) + TARGET_EPS).sqrt()


def draw_prefix(count: int, patches: int, generator: torch.Generator | None = None) -> Tensor:
    """Lengths of prefixes, uniform over 1..n-1; int64 (count,).

    Args:
        generator: None draws from torch's random state, which the training loop sets for each step.
    """
    return torch.randint(1, patches, (count,), generator=generator)


def aim_loss(model: nn.Module, pixels: Tensor, prefix: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error of the patches behind the prefix.

    Args:
        model: an `AIMModel`, sharded or not.
        pixels: (B, 3, S, S), normalised.
        prefix: int64 (B,) in 1..n-1, see `draw_prefix`.
    Returns:
        the loss, and "weight", the number of foretold patches. Foretelling grey, the mean of all targets, costs 1.
    Source: El-Nouby et al. 2024, arXiv 2401.08541, Equation 4 and Section 3.1.
    """
    foretold = model(pixels, prefix)
    patch = round((foretold.shape[-1] / 3) ** 0.5)
    errors_Bn = (foretold[:, :-1] - patch_targets(pixels, patch)[:, 1:]).square().mean(-1)
    # Patch k is foretold at place k - 1: the first one behind the prefix at the prefix's last place.
    learnt = torch.arange(1, foretold.shape[1], device=prefix.device) >= prefix.unsqueeze(1)
    weight = learnt.sum()
    return (errors_Bn * learnt).sum() / weight.clamp(min=1), {"weight": weight}
