"""CLIP and SigLIP of transformers with random weights: the same features, the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tenfold.core.errors import UserError
from tenfold.vision.clip_weights import load_clip, load_vit

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = SHAPE | {"image_size": 24, "patch_size": 8}
TEXT = SHAPE | {"vocab_size": 50, "max_position_embeddings": 12}
PIXELS = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(1))
IDS = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 7, 8, 9, 10, 2]])


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every tensor random, so that none may be forgotten."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


def their_clip(act: str = "quick_gelu") -> transformers.CLIPModel:
    config = transformers.CLIPConfig(
        text_config=TEXT | {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "hidden_act": act},
        vision_config=VISION | {"hidden_act": act},
        projection_dim=16,
    )
    # Id 2 makes transformers look for the largest id; say it in a way that both read alike.
    config.text_config.eos_token_id = 3
    return shaken(transformers.CLIPModel(config))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip_towers_give_the_same_numbers(act: str) -> None:
    theirs = their_clip(act)
    ids = IDS.where(IDS != 2, 3)
    ours = load_clip(theirs.state_dict(), config=theirs.config.to_dict())
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=PIXELS)
        u, v = ours(PIXELS, ids)
        hidden = theirs.vision_model(PIXELS, output_hidden_states=True).hidden_states
        for layer in (-1, -2, 0, 2):
            torch.testing.assert_close(ours.vision(PIXELS, layer), hidden[layer][:, 1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours.text.states(ids), theirs.text_model(input_ids=ids).last_hidden_state, atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(u, out.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(v, out.text_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.log_scale.exp() * u @ v.T, out.logits_per_image, atol=1e-4, rtol=1e-5)


def test_exact_gelu_is_not_quick_gelu() -> None:
    theirs = their_clip("gelu")
    wrong = load_clip(theirs.state_dict(), config=theirs.config.to_dict(), act="quick_gelu")
    right = load_clip(theirs.state_dict(), config=theirs.config.to_dict())
    assert (wrong.vision(PIXELS) - right.vision(PIXELS)).abs().max() > 1e-3


def test_siglip_towers_give_the_same_numbers() -> None:
    config = transformers.SiglipConfig(text_config=TEXT | {"projection_size": 32}, vision_config=VISION)
    theirs = shaken(transformers.SiglipModel(config))
    ours = load_clip(theirs.state_dict(), config=theirs.config.to_dict())
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 8, 9]])
    with torch.no_grad():
        out = theirs(input_ids=ids, pixel_values=PIXELS)
        u, v = ours(PIXELS, ids)
        hidden = theirs.vision_model(PIXELS, output_hidden_states=True)
        torch.testing.assert_close(
            ours.vision.post_norm(ours.vision(PIXELS)), hidden.last_hidden_state, atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(u, out.image_embeds, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(v, out.text_embeds, atol=1e-5, rtol=1e-5)
    assert ours.bias is not None
    torch.testing.assert_close(ours.log_scale.exp() * u @ v.T + ours.bias, out.logits_per_image, atol=1e-4, rtol=1e-5)


def test_vision_folder_with_and_without_the_prefix(tmp_path: Path) -> None:
    theirs = their_clip()
    theirs.save_pretrained(tmp_path / "whole")
    bare = {
        name.removeprefix("vision_model."): tensor
        for name, tensor in theirs.state_dict().items()
        if name.startswith("vision_model.")
    }
    whole = load_clip(tmp_path / "whole")
    alone = load_vit(bare, config=theirs.config.vision_config.to_dict())
    assert torch.equal(whole.vision(PIXELS), alone(PIXELS))


def test_another_grid_is_interpolated_with_a_warning_or_refused() -> None:
    theirs = their_clip()
    tensors, config = theirs.state_dict(), theirs.config.to_dict()
    with pytest.warns(UserWarning, match=r"interpolated from a grid of \(3, 3\) to \(5, 5\)"):
        ours = load_clip(tensors, config=config, image_size=40)
    pixels = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        told = theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    torch.testing.assert_close(ours.vision(pixels), told, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="strict"):
        load_clip(tensors, config=config, image_size=40, strict=True)


def test_weights_of_another_model_are_named() -> None:
    with pytest.raises(UserError, match="need a CLIP or SigLIP model"):
        load_clip({"transformer.h.0.attn.weight": torch.zeros(1)})
    tensors = their_clip().state_dict()
    del tensors["vision_model.encoder.layers.1.mlp.fc2.bias"]
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj\.bias"):
        load_clip(tensors, config=their_clip().config.to_dict())
