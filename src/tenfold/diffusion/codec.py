"""Between pixels and the space that a diffusion model works in."""

# Shape legend: B batch, H W sides in pixels, c channels and h w sides of the model's space

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.diffusion.autoencoder import NAME, PatchAutoencoder
from tenfold.diffusion.pretrained import CLASS_NAME


class Codec(Protocol):
    """Images to what a diffusion model sees, and back.

    Attributes:
        channels: c of the model's space.
        factor: pixels a side of one of its cells.
    """

    channels: int
    factor: int

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to (B, c, H / factor, W / factor), of about unit variance."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, as near as it comes; not clamped."""
        ...


class PixelCodec:
    """The model works on pixels in [-1, 1] themselves."""

    channels = 3
    factor = 1

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class KLCodec:
    """A frozen variational autoencoder, as Stable Diffusion's: z = (mode of the posterior − shift) · scale.

    Args:
        folder: an AutoencoderKL as diffusers writes it, config.json and safetensors; no other format is opened.
        device: where it runs.
    Raises:
        UserError: diffusers is missing, or the folder holds no whole autoencoder of this kind.
    Source: Rombach et al. 2022, arXiv 2112.10752, Section 3.1; the shift: Esser et al. 2024, arXiv 2403.03206.
    """

    def __init__(self, folder: str | Path, *, device: torch.device | str | None = None) -> None:
        self._autoencoder = _autoencoder(Path(folder)).to(device)
        config = self._autoencoder.config
        if config.latents_mean is not None or config.latents_std is not None:
            raise UserError(f"{folder}: it scales channel by channel (latents_mean), which is not read; use another")
        self.channels: int = config.latent_channels
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self._scale: float = config.scaling_factor
        self._shift: float = config.shift_factor or 0.0

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to (B, c, H / factor, W / factor) in float32.

        Raises:
            ValueError: a side that is no multiple of the factor.
        """
        if images.ndim != 4 or any(side % self.factor for side in images.shape[2:]):
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, need (B, 3, H, W), sides multiples of {self.factor}"
            )
        mode = self._autoencoder.encode(self._placed(images)).latent_dist.mode()
        return (mode.float() - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, c, h, w) to images (B, 3, h · factor, w · factor) in float32, about [-1, 1]; not clamped."""
        return self._autoencoder.decode(self._placed(latents / self._scale + self._shift)).sample.float()

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self._autoencoder.device, self._autoencoder.dtype)


def open_codec(folder: str | Path, *, device: torch.device | str | None = None) -> Codec:
    """The autoencoder in a folder: one that `train_autoencoder` wrote, or an AutoencoderKL of diffusers.

    Raises:
        UserError: neither, or a damaged one.
    """
    folder = Path(folder)
    if (folder / CONFIG).is_file() and read_object(folder / CONFIG).get(CLASS_NAME) == NAME:
        return PatchAutoencoder.from_pretrained(folder).to(device)
    return KLCodec(folder, device=device)


def _autoencoder(folder: Path) -> Any:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise UserError("KLCodec needs the package diffusers: pip install 'tenfold[diffusion]'") from error
    if not (folder / "config.json").is_file():
        raise UserError(f"autoencoder not found: no config.json in {folder}; give the folder of an AutoencoderKL")
    try:
        model, info = AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # another library parses here: damage shows in any way
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{folder}: not read as an AutoencoderKL ({reason}); fetch it again, as safetensors") from error
    if wrong := [*info["missing_keys"], *info["unexpected_keys"]]:
        raise UserError(
            f"{folder}: {len(info['missing_keys'])} tensors missing, {len(info['unexpected_keys'])} unexpected: "
            f"{', '.join(wrong[:5])}; give an AutoencoderKL as diffusers writes it"
        )
    return model.requires_grad_(False).eval()
