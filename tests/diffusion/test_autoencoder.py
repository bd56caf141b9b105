"""The autoencoder of one's own pictures: it learns, it is what the codec reads, and it leaves torch's random state alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.diffusion.autoencoder import train_autoencoder
from tenfold.diffusion.codec import KLCodec
from tenfold.vision.shapes import render, sample_scene

PROMPT = {"include": [{"class": "square", "count": 1}]}


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([render(sample_scene(PROMPT, rng)) for _ in range(64)])).permute(0, 3, 1, 2)


def test_it_learns_and_the_codec_reads_it(pictures: Tensor, tmp_path: Path) -> None:
    losses: list[float] = []
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options: dict = {"rows": 8, "widths": (8, 16, 16), "lr": 5e-3}
    train_autoencoder(pictures, tmp_path / "a", steps=40, after_step=lambda _, loss: losses.append(loss), **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    codec = KLCodec(tmp_path / "a")
    assert (codec.channels, codec.factor) == (4, 4)
    latents = codec.encode(pictures.float() / 127.5 - 1)
    assert latents.shape == (64, 4, 8, 8)
    assert abs(float(latents.mean())) < 1e-2
    assert float(latents.std()) == pytest.approx(1, abs=1e-2)
    assert codec.decode(latents).shape == (64, 3, 32, 32)
    train_autoencoder(pictures, tmp_path / "b", steps=40, **options)
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bad_input(pictures: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pictures of 30 x 30 pixels, need multiples of 4"):
        train_autoencoder(pictures[..., :30, :30], tmp_path / "x", steps=1)
    with pytest.raises(UserError, match="lower the rate"):
        train_autoencoder(pictures, tmp_path / "x", steps=60, rows=2, lr=1e30, widths=(8, 8))
    assert not (tmp_path / "x").exists()
