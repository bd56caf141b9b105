"""The autoencoder of one's own pictures: it learns, mends noise, sees one patch a latent, and is kept as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.diffusion.autoencoder import PatchAutoencoder, PatchAutoencoderConfig, train_autoencoder
from tenfold.diffusion.codec import open_codec
from tenfold.vision.shapes import render, sample_scene

PROMPT = {"include": [{"class": "square", "count": 1}]}
SMALL = PatchAutoencoderConfig(width=32, blocks=1)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(np.stack([render(sample_scene(PROMPT, rng)) for _ in range(64)])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def trained(pictures: Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder, losses = tmp_path_factory.mktemp("codec"), []
    train_autoencoder(
        pictures, folder, steps=150, rows=16, lr=1e-2, config=SMALL, after_step=lambda _, loss: losses.append(loss)
    )
    return folder, losses


def test_it_learns_and_is_a_codec(pictures: Tensor, trained: tuple[Path, list[float]]) -> None:
    folder, losses = trained
    assert len(losses) == 150
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
    codec = open_codec(folder)
    assert (codec.channels, codec.factor) == (4, 4)
    x = pictures.float() / 127.5 - 1
    latents = codec.encode(x)
    assert latents.shape == (64, 4, 8, 8)
    assert not latents.requires_grad
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    assert codec.decode(latents).shape == (64, 3, 32, 32)
    assert float((codec.decode(latents) - x).square().mean()) < 0.5 * float((x - x.mean()).square().mean())


def test_a_latent_is_of_its_own_patch(trained: tuple[Path, list[float]], pictures: Tensor) -> None:
    codec = open_codec(trained[0])
    x = pictures[:1].float() / 127.5 - 1
    changed = x.clone()
    changed[..., 8:12, 4:8] += 0.5
    moved = (codec.encode(changed) - codec.encode(x)).abs().amax((0, 1)) > 1e-6
    assert moved.nonzero().tolist() == [[2, 1]]


def test_noise_in_training_is_mended_in_decoding(pictures: Tensor, tmp_path: Path) -> None:
    errors = {}
    for noise in (0.0, 1.0):
        folder = tmp_path / str(noise)
        train_autoencoder(pictures, folder, steps=200, rows=16, lr=1e-2, config=SMALL, noise=noise)
        codec, x = open_codec(folder), pictures.float() / 127.5 - 1
        latents = codec.encode(x)
        noisy = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
        errors[noise] = float((codec.decode(noisy) - x).square().mean())
    assert errors[1.0] < 0.7 * errors[0.0]


def test_same_seed_same_bytes_and_no_trace_in_random_state(pictures: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_autoencoder(pictures, tmp_path / name, steps=3, rows=4, config=SMALL, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def _without_a_tensor(folder: Path) -> None:
    PatchAutoencoder(PatchAutoencoderConfig(width=32, blocks=2)).save_pretrained(folder)
    _config(folder, blocks=1)


def _config(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _config(folder, width=12), "width: got 12, need a multiple of 8"),
        (lambda folder: _config(folder, blocks=10**9), "blocks: got 1000000000, need 1..4096"),
        (lambda folder: _config(folder, latent_channels=8), "wrong shape mean"),
        (_without_a_tensor, "unexpected decoder"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights not found"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04"), "not a whole safetensors file"),
        (lambda folder: (folder / "config.json").write_text("[]"), "need a JSON object"),
    ],
)
def test_damaged_folders(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    PatchAutoencoder(SMALL).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        open_codec(tmp_path)


def test_bad_input(pictures: Tensor, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pictures of 30 x 30 pixels, need multiples of 4"):
        train_autoencoder(pictures[..., :30, :30], tmp_path / "x", steps=1)
    with pytest.raises(UserError, match="lower the rate"):
        train_autoencoder(pictures, tmp_path / "x", steps=60, rows=2, lr=1e30, config=SMALL)
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match=r"need \(B, 3, H, W\), sides multiples of 4"):
        PatchAutoencoder(SMALL).encode(torch.zeros(1, 3, 30, 32))
