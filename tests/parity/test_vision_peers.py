"""timm's stages, open_clip's losses, weights and position resizing: the same numbers.

Both packages want torchvision, which does not load beside a torch for CPUs, so they are no part of the tested set. Their numbers
on small inputs are kept in vision_peers.json and held against ours everywhere; where the packages are installed, the tests
below run them as well. `python tests/parity/test_vision_peers.py` writes the file anew (made with timm 1.0.31, open_clip 3.3.0).
"""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
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
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.append(library)
    except RuntimeError:
        pass  # they are there already
    return pytest.importorskip(name, reason=f"needs {name}, which is not installed", exc_type=ImportError)


GOLD = Path(__file__).with_name("vision_peers.json")
OPERATORS: list[Any] = []  # a library that is collected takes its operators along


def wave(shape: tuple[int, ...], phase: float, scale: float = 1.0) -> torch.Tensor:
    """Numbers that any version of torch makes alike."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(0.7 * index + phase + 0.01 * index * index)).float().view(shape)


TIMM_NAMES = {
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


def test_reg_stage_is_timms() -> None:
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
        for own, told in TIMM_NAMES.items():
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


def their_stage() -> list[float]:
    """A stage of timm with weights of `waves`."""
    peer("timm")
    regnet, layers = importlib.import_module("timm.models.regnet"), importlib.import_module("timm.layers")
    theirs = regnet.RegStage(
        depth=2, in_chs=4, out_chs=8, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=layers.LayerNorm2d
    )
    ours = reg_stage(2, 4, 8, torch.Generator())
    state = {timm_name(name): weight for name, weight in waves(ours).items()}
    theirs.load_state_dict(state)
    return list(theirs(wave((1, 4, 3, 4), 0.3)).flatten().tolist())


def timm_name(name: str) -> str:
    """timm's name of a weight of ours."""
    number, rest = name.split(".", 1)
    for own, told in TIMM_NAMES.items():
        if rest.startswith(own + ".") or rest == own:
            rest = told + rest.removeprefix(own)
            break
    return f"b{int(number) + 1}.{rest}"


def waves(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights for a module, each by its place among the names."""
    shapes = {name: tuple(weight.shape) for name, weight in module.state_dict().items()}
    return {name: wave(shapes[name], phase, 0.5) for phase, name in enumerate(sorted(shapes))}


def their_losses() -> list[float]:
    """CLIP's loss and SigLIP's of the same pairs."""
    losses = importlib.import_module(f"{peer('open_clip').__name__}.loss")
    u, v = (nn.functional.normalize(wave((5, 6), phase), dim=-1) for phase in (0.0, 1.0))
    clip, siglip = losses.ClipLoss(), losses.SigLipLoss()
    scale = torch.tensor(2.3)
    return [float(clip(u, v, scale.exp())), float(siglip(u, v, scale.exp(), torch.tensor(-4.0)))]


def their_positions() -> list[float]:
    """A table of 4 x 4 places and a class token, resized to 6 x 6."""
    peer("open_clip")
    model = importlib.import_module("open_clip.model")
    visual = type("Visual", (), {"grid_size": (6, 6)})
    state = {"visual.positional_embedding": wave((17, 2), 0.5)}
    model.resize_pos_embed(state, type("Model", (), {"visual": visual})(), antialias=True)
    return list(state["visual.positional_embedding"].flatten().tolist())


def their_clip() -> dict[str, Any]:
    """Both towers of open_clip with weights of `wave`: shapes by name, vectors of a picture and of a text."""
    peer("open_clip")
    model = importlib.import_module("open_clip.model")
    theirs = model.CLIP(
        6,
        model.CLIPVisionCfg(layers=2, width=64, head_width=64, patch_size=4, image_size=8, mlp_ratio=1.0),
        model.CLIPTextCfg(context_length=6, vocab_size=12, width=64, heads=1, layers=1),
        quick_gelu=True,
    ).eval()
    shapes = {name: list(weight.shape) for name, weight in theirs.named_parameters()}
    theirs.load_state_dict(clip_state(shapes), strict=False)
    with torch.no_grad():
        image = theirs.encode_image(wave((1, 3, 8, 8), 0.1), normalize=True)
        text = theirs.encode_text(CLIP_IDS, normalize=True)
    return {"shapes": shapes, "image": image[0].tolist(), "text": text[0].tolist()}


CLIP_IDS = torch.tensor([[10, 4, 5, 11, 0, 0]])


def clip_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights by name, as in `waves`."""
    return {name: wave(tuple(shapes[name]), phase, 0.3) for phase, name in enumerate(sorted(shapes))}


THEIRS = {"stage": their_stage, "losses": their_losses, "positions": their_positions, "clip": their_clip}


@pytest.fixture(scope="module")
def gold() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLD.read_text())
    return found


@pytest.mark.parametrize("case", list(THEIRS))
def test_the_kept_numbers_are_the_packages(case: str, gold: dict[str, Any]) -> None:
    told = THEIRS[case]()
    if isinstance(told, dict):
        assert told.pop("shapes") == gold[case]["shapes"]
        for name, values in told.items():
            assert values == pytest.approx(gold[case][name], abs=1e-5)
    else:
        assert told == pytest.approx(gold[case], abs=1e-5)


def test_stage_gives_timms_numbers(gold: dict[str, Any]) -> None:
    ours = reg_stage(2, 4, 8, torch.Generator())
    ours.load_state_dict(waves(ours))
    assert ours(wave((1, 4, 3, 4), 0.3)).flatten().tolist() == pytest.approx(gold["stage"], abs=1e-5)


def test_losses_give_open_clips_numbers(gold: dict[str, Any]) -> None:
    u, v = (nn.functional.normalize(wave((5, 6), phase), dim=-1) for phase in (0.0, 1.0))
    ours = [float(clip_loss(u, v, 2.3)[0]), float(siglip_loss(u, v, 2.3, -4.0)[0])]
    assert ours == pytest.approx(gold["losses"], abs=1e-6)


def test_positions_give_open_clips_numbers(gold: dict[str, Any]) -> None:
    ours = interpolate_pos_embed(wave((17, 2), 0.5), (4, 4), (6, 6), antialias=True)
    assert ours.flatten().tolist() == pytest.approx(gold["positions"], abs=1e-5)
    plain = interpolate_pos_embed(wave((17, 2), 0.5), (4, 4), (3, 3), antialias=True)
    assert (plain - interpolate_pos_embed(wave((17, 2), 0.5), (4, 4), (3, 3))).abs().max() > 1e-3


def test_weights_in_open_clips_layout_give_its_numbers(gold: dict[str, Any]) -> None:
    ours = load_clip(clip_state(gold["clip"]["shapes"]), act="quick_gelu", text_act="quick_gelu")
    with torch.no_grad():
        u, v = ours(wave((1, 3, 8, 8), 0.1), CLIP_IDS)
    assert u[0].tolist() == pytest.approx(gold["clip"]["image"], abs=1e-5)
    assert v[0].tolist() == pytest.approx(gold["clip"]["text"], abs=1e-5)


if __name__ == "__main__":
    GOLD.write_text(json.dumps({name: make() for name, make in THEIRS.items()}, indent=1) + "\n")
