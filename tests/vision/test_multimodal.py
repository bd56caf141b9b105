"""Packed documents and the multimodal model: the laws of packing, of the loss, of generation; refusals."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.core.stream import Mixture
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.moe import moe_layers
from tenfold.nn.moe_config import MoEConfig
from tenfold.text.tokenizer import Tokenizer, train_tokenizer
from tenfold.vision.connectors import build_connector
from tenfold.vision.document_tokens import special_ids, with_image_token
from tenfold.vision.image_processor import ImageProcessor
from tenfold.vision.multimodal import MultimodalLM, mm_loss
from tenfold.vision.multimodal_folder import open_model, save_model
from tenfold.vision.multimodal_generate import fit_demos, generate
from tenfold.vision.multimodal_packing import (
    Collate,
    PackedBatch,
    pack_documents,
    packed_stream,
    unpack,
)
from tenfold.vision.scenes import random_scene
from tenfold.vision.vit import ViT, ViTConfig

WORDS = "red blue green circle square a photo of the and small large"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return with_image_token(train_tokenizer([WORDS] * 3, 300))


@pytest.fixture(scope="module")
def processor() -> ImageProcessor:
    return ImageProcessor(16, tokens=4)


def build(tokenizer: Tokenizer, processor: ImageProcessor, moe: bool = False, max_len: int = 512) -> MultimodalLM:
    generator = torch.Generator().manual_seed(0)
    experts = MoEConfig(24, 16, 4, dropless=True, z_weight=0.001) if moe else None
    lm = Decoder(DecoderConfig(tokenizer.vocab_size - 1, 24, 2, 2, 2, 12, 32, max_len=max_len, moe=experts), generator)
    vision = ViT(ViTConfig(image_size=16, dim=16, heads=2, mlp=16), generator)
    connector = build_connector("cabs", 16, 24, 4, 2, generator=generator, depth=1, hidden=8)
    return MultimodalLM(vision, connector, lm, tokenizer=tokenizer, processor=processor).eval()


def picture(rng: np.random.Generator) -> dict[str, Any]:
    return {"image": {"scene": random_scene(rng, 1)}}


def documents(count: int, seed: int = 0, most: int = 4) -> list[list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        document: list[dict[str, Any]] = []
        for _ in range(rng.integers(1, most + 1)):
            if rng.random() < 0.6:
                document.append(picture(rng))
            document.append({"text": " ".join(rng.choice(WORDS.split(), rng.integers(1, 6)))})
        found.append(document)
    return found


def test_nothing_is_lost_and_order_stays(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    docs = documents(60)
    batches = list(pack_documents(docs, tokenizer, processor, 64, 3, 8, batch_size=4))
    told = [d for batch in batches for d in unpack(batch, tokenizer)]
    tokens = sum(len(tokenizer.encode(s["text"])) for d in docs for s in d if "text" in s)
    control = set(special_ids(tokenizer))
    kept = sum(sum(id not in control for id in row) for b in batches for row in b.input_ids.tolist())
    assert kept == tokens
    assert sum(len(b.pixel_values) for b in batches) == sum("image" in s for d in docs for s in d)
    for batch in batches:
        for row in range(len(batch.input_ids)):
            assert int((batch.image_pos[:, 0, 0] == row).sum()) <= 3
    # Whole documents come back as they were; a row's are in the order in which they came.
    texts = ["".join(s["text"] for s in d if "text" in s) for d in docs]
    whole = [text for d in told if (text := "".join(s["text"] for s in d if "text" in s)) in texts]
    assert len(whole) > 40


def test_a_row_holds_what_its_documents_say(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    rng = np.random.default_rng(1)
    docs = [[picture(rng), {"text": "red"}], [{"text": "blue <image> </s>"}]]
    (batch,) = pack_documents(docs, tokenizer, processor, 64)
    special = special_ids(tokenizer)
    assert batch.segment_ids[0].unique_consecutive().tolist() == [1, 2, 0]
    first = batch.segment_ids[0] == 1
    assert batch.position_ids[0][first].tolist() == list(range(int(first.sum())))
    ids, labels = batch.input_ids[0], batch.labels[0]
    assert ids[:5].tolist() == [special.bos, *[special.image] * 4]
    assert (ids == special.image).sum() == 4, "the literal text <image> stays text"
    # The first text token is predicted from the picture's last place; <eos> is a target, <bos> and pictures are not.
    assert labels[:4].tolist() == [-100] * 4 and labels[4] == ids[5]
    end = int(first.sum()) - 1
    assert ids[end] == special.eos and labels[end - 1] == special.eos and labels[end] == -100
    assert unpack(batch, tokenizer)[1] == [{"text": "blue <image> </s>"}]


def test_a_packed_document_reads_as_if_alone(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    model = build(tokenizer, processor)
    docs = documents(6, most=2)
    (packed,) = pack_documents(docs, tokenizer, processor, 400, 16)
    together = model(packed)[0]
    for number, document in enumerate(docs, start=1):
        alone = model(next(pack_documents([document], tokenizer, processor, 400)))[0]
        place = packed.segment_ids[0] == number
        torch.testing.assert_close(together[place], alone[: int(place.sum())], atol=1e-5, rtol=1e-5)
    changed = PackedBatch(**vars(packed))
    changed.pixel_values = packed.pixel_values.clone()
    changed.pixel_values[0] += 1
    moved = (model(changed)[0] - together).abs().amax(1) > 1e-7
    owner = packed.segment_ids[0][packed.image_pos[0, 0, 1]]
    assert set(packed.segment_ids[0][moved].tolist()) == {int(owner)}


def test_attention_may_run_through_the_row(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    docs = documents(4, most=1)
    (batch,) = pack_documents(docs, tokenizer, processor, 100, cross_doc=True)
    assert set(batch.segment_ids[0].tolist()) == {0, 1}
    used = int((batch.segment_ids[0] == 1).sum())
    assert batch.position_ids[0][:used].tolist() == list(range(used))
    assert special_ids(tokenizer).bos not in batch.labels[0].tolist()


def test_the_loss_does_not_depend_on_padding_or_order(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    for moe in (False, True):
        model = build(tokenizer, processor, moe)
        docs = documents(5)
        values = [
            float(mm_loss(model, next(pack_documents(d, tokenizer, processor, T, 16, batch_size=9)))[0].detach())
            for d, T in ((docs, 150), (docs, 300), (docs[::-1], 150))
        ]
        assert values == pytest.approx([values[0]] * 3, abs=1e-5 if moe else 1e-6)


def test_masked_batches_and_experts(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    model = build(tokenizer, processor, moe=True)
    batch = next(pack_documents(documents(3), tokenizer, processor, 150))
    loss, metrics = mm_loss(model, batch)
    (layer,) = [layer for _, layer in moe_layers(model)]
    assert layer.last is not None
    aux = 0.01 * layer.last.lb_loss + 0.001 * layer.last.z_loss
    assert float((loss - metrics["ce"] - aux).detach()) == pytest.approx(0, abs=1e-6)
    dense = build(tokenizer, processor)
    batch.labels = torch.full_like(batch.labels, -100)
    loss, metrics = mm_loss(dense, batch)
    assert float(loss.detach()) == 0 and int(metrics["weight"]) == 0


def test_long_documents_are_cut_between_segments(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    rng = np.random.default_rng(0)
    document = [{"text": WORDS}, picture(rng), picture(rng), picture(rng), {"text": WORDS}]
    batches = list(pack_documents([document], tokenizer, processor, 20, 2))
    special = special_ids(tokenizer)
    parts = [b.input_ids[0][b.segment_ids[0] == n].tolist() for b in batches for n in range(1, int(b.segment_ids.max()) + 1)]  # fmt: skip
    assert all(part[0] == special.bos for part in parts)
    assert [special.eos in part for part in parts].count(True) == 1
    assert all(part.count(special.image) % 4 == 0 and part.count(special.image) <= 8 for part in parts)
    with pytest.raises(UserError, match="a picture has 4 tokens, a row takes 3"):
        list(pack_documents([[picture(rng)]], tokenizer, processor, 4))
    with pytest.raises(UserError, match="no segments"):
        list(pack_documents([[]], tokenizer, processor, 4))


def test_prompts_are_read_and_not_learnt_from(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    document = [{"text": "red blue", "loss": False}, {"text": " green"}]
    (batch,) = pack_documents([document], tokenizer, processor, 40)
    learnt = batch.labels[0][batch.labels[0] != -100].tolist()
    assert tokenizer.decode(learnt) == " green</s>"


def test_caption_rows_are_nearly_full(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    docs = documents(700, seed=3, most=2)
    batches = list(pack_documents(docs, tokenizer, processor, 1024, 400))[:-2]
    rows = [int((b.segment_ids != 0).sum()) for b in batches]
    assert len(rows) > 4
    assert np.mean(rows) / 1024 >= 0.95


def test_resuming_brings_the_same_batches_open_rows_included(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    def fresh() -> Any:
        docs = documents(40)
        mixed = Mixture([docs[:25], docs[25:]], [0.7, 0.3], seed=3)
        return packed_stream(mixed, tokenizer, processor, 64, 2, 4)

    collate = Collate(special_ids(tokenizer), processor)
    stream = fresh()
    iterator = iter(stream)
    for _ in range(7):
        next(iterator)
    state = stream.state_dict()
    assert state["open"], "a row is open"
    wanted = [next(iterator) for _ in range(5)]
    other = fresh()
    other.load_state_dict(state)
    got = [row for row, _ in zip(other, range(5), strict=False)]
    for a, b in zip(wanted, got, strict=True):
        first, second = collate([a]), collate([b])
        assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in vars(first))


def test_places_and_pictures_must_agree(tokenizer: Tokenizer, processor: ImageProcessor) -> None:
    model = build(tokenizer, processor)
    batch = next(pack_documents(documents(3), tokenizer, processor, 150))
    lost = PackedBatch(**vars(batch))
    lost.pixel_values, lost.image_pos = batch.pixel_values[1:], batch.image_pos[1:]
    count = len(batch.pixel_values) * 4
    with pytest.raises(ValueError, match=f"row 0: got {count} place-holder tokens and pictures for {count - 4}"):
        model(lost)
    blind = MultimodalLM(None, None, model.lm)
    with pytest.raises(ValueError, match="no picture encoder"):
        blind(batch)
    wide = build(tokenizer, processor)
    wide.connector = build_connector("avg", 16, 24, 1, 2)
    with pytest.raises(ValueError, match="makes 1 tokens of a crop, the rows hold 4"):
        wide(batch)


def test_generation_keeps_keys_encodes_once_and_equals_the_forward_pass(
    tokenizer: Tokenizer, processor: ImageProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(tokenizer, processor)
    rng = np.random.default_rng(5)
    shown = picture(rng)
    prompt = [shown, {"text": "red\n"}, shown, picture(rng), {"text": "a"}]
    encoded = []
    forward = model.vision.forward  # type: ignore[union-attr]
    monkeypatch.setattr(model.vision, "forward", lambda pixels, layer=-1: (encoded.append(len(pixels)), forward(pixels, layer))[1])  # fmt: skip
    short = [{"text": "blue circle"}]
    first, second = generate(model, [prompt, short], 8)
    assert encoded == [2], "equal pictures are encoded once"
    (batch,) = pack_documents([prompt], tokenizer, processor, 100)
    ids = batch.input_ids[0][: first.prompt].tolist()
    for token in first.tokens:
        row = torch.tensor([ids])
        alone = PackedBatch(row, torch.full_like(row, -100), torch.ones_like(row), torch.arange(len(ids))[None], batch.pixel_values, batch.image_pos)  # fmt: skip
        assert int(model(alone)[0, -1].argmax()) == token
        ids.append(token)
    assert generate(model, [short], 8)[0] == second, "an answer does not depend on its neighbours"
    assert model.generate(short, 8) == second.text
    text = second.text
    if len(text) > 2:
        assert model.generate(short, 8, stop=[text[1:3]]) == text[: text.index(text[1:3])]


def test_prompts_that_are_too_long_lose_their_oldest_demonstrations(
    tokenizer: Tokenizer, processor: ImageProcessor
) -> None:
    model = build(tokenizer, processor, max_len=24)
    with pytest.raises(UserError, match="the model reads at most 24"):
        model.generate([{"text": WORDS * 2}], 8)
    demos = [[{"text": name}] for name in "abcd"]
    with pytest.warns(UserWarning, match="2 oldest demonstrations"):
        kept = fit_demos(demos, [{"text": "q"}], 3, len)
    assert "".join(s["text"] for s in kept) == "cdq"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(fit_demos(demos, [{"text": "q"}], 5, len)) == 5


def test_a_saved_model_gives_the_same_logits(tokenizer: Tokenizer, processor: ImageProcessor, tmp_path: Path) -> None:
    model = build(tokenizer, processor, moe=True)
    save_model(model, tmp_path / "m")
    other = open_model(tmp_path / "m")
    batch = next(pack_documents(documents(3), tokenizer, processor, 150))
    assert torch.equal(model(batch), other(batch))
    assert other.processor is not None and other.processor.tokens == 4
    model.processor = ImageProcessor(processor.size, mean=(1, 1, 1), std=(0.5, 0.5, 0.5), tokens=4)
    save_model(model, tmp_path / "white")
    other = open_model(tmp_path / "white")
    assert other.processor is not None
    assert not other.processor({"scene": []}).any()
    config = json.loads((tmp_path / "white" / "config.json").read_text())
    config["processor"]["std"] = [0.5, 0, 0.5]
    (tmp_path / "white" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="mean, std: got"):
        open_model(tmp_path / "white")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(UserError, match="not a whole safetensors"):
        open_model(tmp_path / "m")
