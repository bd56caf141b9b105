"""LLaVA of transformers with random weights: the same logits, the same greedy tokens, in and out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tenfold.core.errors import UserError
from tenfold.text.tokenizer import train_tokenizer
from tenfold.vision.document_tokens import with_image_token
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.llava_format import load_llava, save_llava
from tenfold.vision.multimodal_generate import generate
from tenfold.vision.multimodal_packing import PackedBatch

PIXELS = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def theirs(image_id: int, vocabulary: int) -> transformers.LlavaForConditionalGeneration:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=24, patch_size=8
    )
    text = transformers.LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=128,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def batch_of(ids: torch.Tensor, image_id: int) -> PackedBatch:
    places = (ids == image_id).nonzero().view(2, 9, 2)
    ones = torch.ones_like(ids)
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    return PackedBatch(ids, -100 * ones, ones, positions, PIXELS, places)


def test_logits_and_greedy_tokens_both_ways(tmp_path: Path) -> None:
    tokenizer = with_image_token(train_tokenizer(["red blue green"] * 3, 290))
    image_id = tokenizer.token_id("<image>")
    model = theirs(image_id, tokenizer.vocab_size)
    image = [image_id] * 9
    ids = torch.tensor([[1, *image, 20, 30, 40], [1, 50, 60, *image, 70]])
    with torch.no_grad():
        told = model(input_ids=ids, pixel_values=PIXELS).logits
    ours = load_llava(model.state_dict(), config=model.config.to_dict())
    assert ours.feature_layer == -2 and ours.image_id == image_id
    with torch.no_grad():
        torch.testing.assert_close(ours(batch_of(ids, image_id)), told, atol=1e-4, rtol=1e-4)

    model.save_pretrained(tmp_path / "theirs")
    again = load_llava(tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(again(batch_of(ids, image_id)), told, atol=1e-4, rtol=1e-4)

    ours.tokenizer, ours.processor = tokenizer, ImageProcessor(24, mean=(1, 1, 1), std=(0.5, 0.5, 0.5), tokens=9)
    save_llava(ours, tmp_path / "ours")
    back = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(back(input_ids=ids, pixel_values=PIXELS).logits, told, atol=1e-4, rtol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").convert_tokens_to_ids("<image>") == image_id
    read = load_llava(tmp_path / "ours").processor
    assert read is not None and (read.mean, read.std) == (ours.processor.mean, ours.processor.std)

    document = [{"image": {"scene": []}}, {"text": "red blue"}]
    answer = generate(ours, [document], 20)[0]
    prompt = torch.tensor([[tokenizer.bos_id, *image, *tokenizer.encode("red blue")]])
    pixels = ours.processor({"scene": []})
    made = model.generate(
        input_ids=prompt, pixel_values=pixels, max_new_tokens=20, do_sample=False, eos_token_id=tokenizer.eos_id
    )
    assert made[0, prompt.shape[1] :].tolist() == list(answer.tokens)


def test_what_those_classes_cannot_hold_is_said(tmp_path: Path) -> None:
    model = theirs(59, 60)
    config = model.config.to_dict()
    with pytest.raises(UserError, match="need llava"):
        load_llava(model.state_dict(), config=config | {"model_type": "mistral"})
    ours = load_llava(model.state_dict(), config=config)
    ours.connector = torch.nn.Identity()
    with pytest.raises(UserError, match="connector 'mlp'"):
        save_llava(ours, tmp_path)
