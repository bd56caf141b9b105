"""timm's stages, open_clip's losses, weights and position resizing: the same numbers."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from tenfold.vision.c_abstractor import RegBlock, reg_stage
from tenfold.vision.clip_weights import load_clip
from tenfold.vision.contrastive import clip_loss, siglip_loss
from tenfold.vision.positions import interpolate_pos_embed


def peer(name: str) -> ModuleType:
    """A package that imports torchvision, whose operators a CPU-only torch lacks: they are named first."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.append(library)
    except RuntimeError:
        pass  # they are there already
    return pytest.importorskip(name, reason=f"needs {name}, which is not installed", exc_type=ImportError)


OPERATORS: list[Any] = []  # a library that is collected takes its operators along


@pytest.fixture
def timm_names() -> dict[str, str]:
    return {
        "conv1.weight": "conv1.conv.weight",
        "norm1": "conv1.bn",
        "conv2.weight": "conv2.conv.weight",
        "norm2": "conv2.bn",
        "gate.down": "se.fc1",
        "gate.up": "se.fc2",
        "conv3.weight": "conv3.conv.weight",
        "norm3": "conv3.bn",
        "shortcut.weight": "downsample.conv.weight",
        "shortcut_norm": "downsample.bn",
    }


def test_reg_stage_is_timms(timm_names: dict[str, str]) -> None:
    peer("timm")
    regnet = importlib.import_module("timm.models.regnet")
    layers = importlib.import_module("timm.layers")
    theirs = regnet.RegStage(
        depth=3, in_chs=12, out_chs=20, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=layers.LayerNorm2d
    )
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    ours = reg_stage(3, 12, 20, generator)
    state = {}
    for name in ours.state_dict():
        number, rest = name.split(".", 1)
        for own, told in timm_names.items():
            if rest.startswith(own + ".") or rest == own:
                rest = told + rest.removeprefix(own)
                break
        state[name] = theirs.state_dict()[f"b{int(number) + 1}.{rest}"]
    ours.load_state_dict(state)
    x = torch.randn(2, 12, 7, 5, generator=generator)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert isinstance(ours[1], RegBlock) and ours[1].shortcut is None


def unit(rows: int, seed: int) -> torch.Tensor:
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=-1)


def test_losses_are_open_clips() -> None:
    losses = importlib.import_module(f"{peer('open_clip').__name__}.loss")
    u, v = unit(6, 0), unit(6, 1)
    scale = torch.tensor(2.3)
    ours = clip_loss(u, v, scale)[0]
    assert ours == pytest.approx(float(losses.ClipLoss()(u, v, scale.exp())), abs=1e-6)
    ours = siglip_loss(u, v, scale, -4.0)[0]
    assert ours == pytest.approx(float(losses.SigLipLoss()(u, v, scale.exp(), torch.tensor(-4.0))), abs=1e-5)


def test_position_resizing_is_open_clips() -> None:
    peer("open_clip")
    model = importlib.import_module("open_clip.model")

    class Visual:
        grid_size = (6, 6)

    class Model:
        visual = Visual()

    old = torch.randn(17, 5, generator=torch.Generator().manual_seed(0))
    state = {"visual.positional_embedding": old.clone()}
    model.resize_pos_embed(state, Model(), antialias=True)
    ours = interpolate_pos_embed(old, (4, 4), (6, 6), antialias=True)
    torch.testing.assert_close(ours, state["visual.positional_embedding"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quick", [True, False])
def test_open_clip_weights_come_in(quick: bool) -> None:
    peer("open_clip")
    model = importlib.import_module("open_clip.model")
    theirs = model.CLIP(
        16,
        model.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=24, mlp_ratio=2.0),
        model.CLIPTextCfg(context_length=10, vocab_size=40, width=64, heads=1, layers=2),
        quick_gelu=quick,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    ours = load_clip(
        theirs.state_dict(), act="quick_gelu" if quick else "gelu", text_act="quick_gelu" if quick else "gelu"
    )
    pixels = torch.randn(2, 3, 24, 24, generator=generator)
    ids = torch.tensor([[38, 4, 5, 39, 0, 0, 0, 0, 0, 0], [38, 6, 39, 0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        u, v = ours(pixels, ids)
        torch.testing.assert_close(u, theirs.encode_image(pixels, normalize=True), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(v, theirs.encode_text(ids, normalize=True), atol=1e-5, rtol=1e-5)
