"""The dense model against diffusers' PixArt transformer: outputs, gradients, weights in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor, nn

from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.pixart import pixart_config, save_pixart, to_pixart
from tenfold.diffusion.transformer import ECDiT


def pixart(**options: Any) -> PixArtTransformer2DModel:
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 32,
        "sample_size": 8,
        "patch_size": 2,
        "caption_channels": 24,
        "use_additional_conditions": False,
        **options,
    }
    model = PixArtTransformer2DModel(**settings).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def inputs(height: int = 8, width: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, steps, text, and a mask with padding in every row but the first."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 4, height, width, generator=generator)
    text = torch.randn(3, 7, 24, generator=generator)
    return x, torch.tensor([0.0, 500.0, 999.0]), text, torch.arange(7) < torch.tensor([[7], [1], [4]])


def theirs(model: PixArtTransformer2DModel, x: Tensor, t: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
    flags = None if mask is None else mask.float()
    return model(x, encoder_hidden_states=text, timestep=t, encoder_attention_mask=flags).sample


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("options", "height", "width"),
    [
        ({}, 8, 8),
        ({}, 12, 6),
        ({"out_channels": 4, "interpolation_scale": 2}, 8, 8),
        ({"sample_size": 128, "patch_size": 4}, 16, 8),
    ],
)
def test_outputs(options: dict[str, Any], height: int, width: int, masked: bool) -> None:
    peer = pixart(**options)
    model = ECDiT.from_pixart(peer.state_dict(), config=peer.config)
    x, t, text, mask = inputs(height, width)
    with torch.no_grad():
        want = theirs(peer, x, t, text, mask if masked else None)
        got = model(x, t, text, mask if masked else None)
    assert isinstance(got, Tensor)
    assert got.shape == (3, options.get("out_channels", 8), height, width)
    assert want.abs().max() > 1
    assert (got - want).abs().max() <= 2e-5


def test_gradients() -> None:
    peer = pixart()
    model = ECDiT.from_pixart(peer.state_dict(), config=peer.config)
    x, t, text, mask = inputs()
    theirs(peer, x, t, text, mask).square().mean().backward()
    got = model(x, t, text, mask)
    assert isinstance(got, Tensor)
    got.square().mean().backward()
    want = {name: parameter.grad for name, parameter in peer.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    for name, gradient in to_pixart(model).items():
        grad = want[name]
        assert grad is not None
        assert (gradient - grad).abs().max() <= 1e-5 * max(1.0, float(grad.abs().max())), name


def test_weights_go_back() -> None:
    peer = pixart()
    model = ECDiT.from_pixart(peer.state_dict(), config=peer.config)
    back = to_pixart(model)
    assert back.keys() == peer.state_dict().keys()
    for name, tensor in peer.state_dict().items():
        assert torch.equal(tensor, back[name]), name


def test_folders_open_on_either_side(tmp_path: Path) -> None:
    peer = pixart()
    peer.save_pretrained(tmp_path / "theirs" / "transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs" / "transformer").glob("*.safetensors"))) > 1
    x, t, text, mask = inputs()
    with torch.no_grad():
        want = theirs(peer, x, t, text, mask)
        for folder in (tmp_path / "theirs", tmp_path / "theirs" / "transformer"):
            assert (ECDiT.from_pixart(folder)(x, t, text, mask) - want).abs().max() <= 2e-5
        own = ECDiT(
            ECDiTConfig(dim=32, num_heads=2, num_layers=2, text_dim=24, router="dense", image_size=8, in_channels=4),
            generator=torch.Generator().manual_seed(0),
        )
        nn.init.normal_(own.final_proj.weight, generator=torch.Generator().manual_seed(1))
        save_pixart(own, tmp_path / "ours")
        opened = PixArtTransformer2DModel.from_pretrained(tmp_path / "ours").eval()
        flow = torch.tensor([0.0, 0.25, 1.0])
        got = theirs(opened, x, 1000 * flow, text, mask)
        assert got.abs().max() > 0.1
        assert (own(x, flow, text, mask) - got).abs().max() <= 2e-5


def test_the_config_they_read_is_complete() -> None:
    config = pixart_config(ECDiTConfig(router="dense", out_channels=6))
    made = PixArtTransformer2DModel.from_config(config)
    assert made.config["out_channels"] == 6
    assert ECDiT.from_pixart(made.state_dict(), config=made.config).config == ECDiTConfig(
        router="dense", out_channels=6, objective="ddpm"
    )


def test_size_conditions_are_refused() -> None:
    peer = pixart(use_additional_conditions=True, attention_head_dim=24, cross_attention_dim=48)
    with pytest.raises(
        ValueError, match=r"unexpected adaln_single\.emb\.resolution_embedder\.linear_1\.weight, .* and 3 more"
    ):
        ECDiT.from_pixart(peer.state_dict(), config=peer.config)
