"""KLCodec beside the AutoencoderKL it wraps, on a tiny one with random weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from tenfold.core.errors import UserError
from tenfold.diffusion.codec import KLCodec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        ).save_pretrained(tmp_path)
    return tmp_path


def images(side: int = 16) -> torch.Tensor:
    return 2 * torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) - 1


def change(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


@pytest.mark.parametrize(("scale", "shift"), [(1.5305, 0.0609), (0.18215, None)])
def test_equals_the_autoencoder(folder: Path, scale: float, shift: float | None) -> None:
    change(folder, scaling_factor=scale, shift_factor=shift)
    codec, theirs = KLCodec(folder), AutoencoderKL.from_pretrained(folder).eval()
    assert (codec.channels, codec.factor) == (4, 4)
    with torch.no_grad():
        mode = theirs.encode(images()).latent_dist.mode()
        decoded = theirs.decode(mode).sample
    latents = codec.encode(images())
    assert latents.shape == (2, 4, 4, 4)
    torch.testing.assert_close(latents, (mode - (shift or 0)) * scale, rtol=0, atol=1e-6)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=0, atol=1e-5)
    assert not latents.requires_grad


def test_sides_must_fit(folder: Path) -> None:
    codec = KLCodec(folder)
    with pytest.raises(ValueError, match=r"images: got shape \(2, 3, 18, 18\), need .* multiples of 4"):
        codec.encode(images(18))


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.conv_in.weight"]
    save_file(tensors, folder / WEIGHTS)


def with_one_more(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"more": torch.zeros(1)}, folder / WEIGHTS)


def with_one_of_another_shape(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"encoder.conv_in.weight": torch.zeros(1)}, folder / WEIGHTS)


def as_a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "autoencoder not found: no config.json in"),
        (lambda folder: (folder / "config.json").write_text("{"), "not read as an AutoencoderKL"),
        (lambda folder: os.truncate(folder / WEIGHTS, 1000), "not read as an AutoencoderKL"),
        (lambda folder: (folder / WEIGHTS).unlink(), "not read as an AutoencoderKL"),
        (as_a_pickle, "not read as an AutoencoderKL"),
        (without_a_tensor, "1 tensors missing, 0 unexpected: encoder.conv_in.weight"),
        (with_one_more, "0 tensors missing, 1 unexpected: more"),
        (with_one_of_another_shape, "not read as an AutoencoderKL .*encoder.conv_in.weight"),
        (lambda folder: change(folder, latents_mean=[0.0] * 4, latents_std=[1.0] * 4), "latents_mean"),
    ],
)
def test_folders_that_are_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        KLCodec(folder)
    assert "\n" not in str(caught.value)
