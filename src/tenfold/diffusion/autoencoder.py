"""A small autoencoder of one's own pictures, for those who have no pretrained one: latents that a diffusion model works on."""

# Shape legend: N pictures, B of a step, H W sides, p patch, c latent channels, h w sides of the latents

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import forward_seed
from tenfold.core.model_folder import CONFIG, write_folder
from tenfold.core.optim import Schedule
from tenfold.diffusion.pretrained import CLASS_NAME, check_tensors, read_folder

NAME = "PatchAutoencoder"


@dataclass(frozen=True)
class PatchAutoencoderConfig:
    """Shape of a `PatchAutoencoder`.

    Args:
        patch_size: p, pixels a side of what one latent cell stands for.
        latent_channels: c.
        width: of the hidden layers, a multiple of 8.
        blocks: residual blocks of the decoder.
    """

    patch_size: int = 4
    latent_channels: int = 4
    width: int = 64
    blocks: int = 4

    def __post_init__(self) -> None:
        for name in ("patch_size", "latent_channels", "width", "blocks"):
            if not 1 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name}: got {getattr(self, name)}, need 1..4096")
        if self.width % 8:
            raise ValueError(f"width: got {self.width}, need a multiple of 8")


class PatchAutoencoder(nn.Module):
    """Each patch by itself to a few numbers of mean 0 and variance 1, and back by convolutions over its neighbours.

    The encoder sees one patch, so what is in a cell is what lies there: background has the same latent everywhere. The
    decoder sees the neighbours; trained on noisy latents, it mends what a diffusion model leaves imprecise.
    It is a `codec.Codec`.

    Args:
        config: its shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: PatchAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.channels, self.factor = config.latent_channels, config.patch_size
        width, numbers = config.width, 3 * config.patch_size**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.patch_size),
            *(nn.Conv2d(numbers, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, 2 * width, 1), nn.GELU()),
            nn.Conv2d(2 * width, config.latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, width, 3, padding=1),
            *(_Residual(width) for _ in range(config.blocks)),
            *(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, numbers, 3, padding=1)),
            nn.PixelShuffle(config.patch_size),
        )
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((config.latent_channels, 1, 1), value))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, c, H / p, W / p).

        Raises:
            ValueError: a side that is no multiple of p.
        """
        if images.ndim != 4 or any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, need (B, 3, H, W), sides multiples of {self.factor}"
            )
        return (self.encoder(images) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) to images (B, 3, h · p, w · p), about [-1, 1]; not clamped."""
        return self.decoder(latents)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        write_folder(folder, {CLASS_NAME: NAME, **to_json(self.config)}, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> PatchAutoencoder:
        """Read what `save_pretrained` wrote, frozen and in eval mode.

        Raises:
            UserError: missing or damaged files, tensors that do not fit.
        """
        content, tensors = read_folder(folder)
        if content.pop(CLASS_NAME, None) != NAME:
            raise UserError(f"{folder / CONFIG}: {CLASS_NAME}: need {NAME!r}")
        config = from_json(PatchAutoencoderConfig, content, where=str(folder / CONFIG))
        with torch.device("meta"):
            model = cls(config)
        check_tensors(model.state_dict(), tensors, str(folder))
        model.load_state_dict(tensors, assign=True)
        return model.requires_grad_(False).eval()


class _Residual(nn.Module):
    """x + conv(SiLU(conv(SiLU(norm x)))), which starts as x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def train_autoencoder(
    images: Tensor,
    folder: Path,
    *,
    steps: int,
    rows: int = 64,
    lr: float = 3e-3,
    config: PatchAutoencoderConfig | None = None,
    noise: float = 0.4,
    seed: int = 0,
    bf16: bool = True,
    device: torch.device | str = "cpu",
    after_step: Callable[[int, float], object] | None = None,
) -> None:
    """Train a `PatchAutoencoder` on pictures and write its folder.

    Args:
        images: bytes (N, 3, H, W).
        folder: for config.json and safetensors.
        steps: optimizer steps.
        rows: B.
        lr: peak rate of AdamW.
        config: its shape.
        noise: standard deviation of what is added to the latents, in theirs.
        seed: of weights, order and noise.
        bf16: forward and backward in bfloat16; weights stay in float32.
        device: where it is trained.
        after_step: called with the step, from 1, and its loss.
    Raises:
        UserError: sides that do not divide, a loss that is not finite.
    Source: Rombach et al. 2022, arXiv 2112.10752, Section 3.1; a fixed noise in place of the learnt variance.
    """
    config = config or PatchAutoencoderConfig()
    if any(side % config.patch_size for side in images.shape[2:]):
        sides = f"{images.shape[2]} x {images.shape[3]}"
        raise UserError(f"codec: pictures of {sides} pixels, need multiples of {config.patch_size}")
    with torch.random.fork_rng(devices=[]):  # torch's layers draw their weights from its own state
        torch.manual_seed(seed)
        model = PatchAutoencoder(config)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs know tensors only
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    schedule = Schedule(min(100, steps), steps, 0.01)
    for step in range(1, steps + 1):
        generator = torch.Generator().manual_seed(forward_seed(seed, step, 0, 0))
        x = _floats(images[torch.randint(len(images), (rows,), generator=generator)].to(device))
        optimizer.param_groups[0]["lr"] = lr * schedule(step)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            z = F.batch_norm(model.encoder(x), None, None, training=True)
            y = model.decode(z + noise * torch.randn(z.shape, generator=generator).to(device))
        loss = F.mse_loss(y.float(), x)
        if not bool(torch.isfinite(loss)):
            raise UserError(f"codec: the loss is {loss.item()} at step {step} (learning rate {lr:g}); lower the rate")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if after_step is not None:
            after_step(step, float(loss.detach()))
    latents = _latents(model, images[:: max(1, len(images) // 4096)])
    model.mean.copy_(latents.mean((0, 2, 3))[:, None, None])
    model.std.copy_(latents.std((0, 2, 3)).clamp(min=1e-3)[:, None, None])
    model.save_pretrained(folder)


@torch.no_grad()
def _latents(model: PatchAutoencoder, images: Tensor) -> Tensor:
    device = model.mean.device
    return torch.cat([model.encoder(_floats(part.to(device))) for part in images.split(64)])


def _floats(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).to(memory_format=torch.channels_last)
