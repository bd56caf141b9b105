"""GGUF files of ours as transformers reads them: logits, token ids, chat template; and where its `generate` stops."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.gguf import convert, read_gguf_tokenizer
from tenfold.lm.gguf_tokenizer import CUTS, _cutter
from tenfold.lm.gguf_write import write_gguf
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

pytest.importorskip("gguf", reason="needs the package gguf: pip install 'tenfold[models]'")

TEXT = "The cat sat on the mat, and the rat ran. It's 1234!\n    the rat's line;  the mat.\nThe end é😀\n"
QWEN3 = DecoderConfig(440, 64, 2, 4, 2, 12, 96, rope_base=1e4, norm_eps=1e-6, max_len=64)
LLAMA = dataclasses.replace(QWEN3, qk_norm=False)
CONFIGS = {
    "qwen3": QWEN3,
    "qwen3 untied": dataclasses.replace(QWEN3, tie_embeddings=False),
    "qwen3 interleaved": dataclasses.replace(QWEN3, rope_layout="interleaved"),
    "llama": LLAMA,
    "llama untied": dataclasses.replace(LLAMA, tie_embeddings=False),
    "llama interleaved": dataclasses.replace(LLAMA, rope_layout="interleaved"),
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT] * 4, 420)


def decoder(cfg: DecoderConfig) -> Decoder:
    """Norm weights away from 1, other weights large enough that the layers matter."""
    generator = torch.Generator().manual_seed(0)
    model = Decoder(cfg, generator)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.3 * noise if "norm" in name else 0.15 * noise
    return model.eval()


def theirs(path: Path) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def difference(ours: Decoder, other: PreTrainedModel) -> float:
    ids = torch.randint(0, ours.cfg.vocab_size, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (ours(ids) - other(ids).logits).abs().max().item()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ours, path = decoder(CONFIGS[name]), tmp_path / "m.gguf"
    write_gguf(ours, tokenizer, path)
    assert difference(ours, theirs(path)) <= 2e-5


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_logits_of_rounded_weights(name: str, dtype: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Both readers see the same rounded weights; these are near the exact ones, and not equal to them."""
    exact, path = decoder(CONFIGS[name]), tmp_path / "m.gguf"
    write_gguf(exact, tokenizer, path, dtype=dtype)  # type: ignore[arg-type]
    other = theirs(path)
    assert difference(Decoder.from_pretrained(path).eval(), other) <= 2e-5
    assert 1e-4 < difference(exact, other) < (0.05 if dtype == "f16" else 0.5)


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_byte_fallback_tokenizer(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Words, digits, bytes, single blanks and indented lines fall into the same tokens; every text comes back."""
    write_gguf(decoder(CONFIGS[name]), tokenizer, tmp_path / "m.gguf")
    other = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in (TEXT, "A mat:\n\nthe cat", "the  cat   sat 2024年 'the' ", "", " "):
        assert other(text).input_ids == tokenizer.encode(text)
    for text in ("\n\n\n  the", "\t\tthe \n \n 1"):
        assert other.decode(other(text).input_ids) == text
    messages = [{"role": "user", "content": "The rat"}, {"role": "assistant", "content": "ran."}]
    chat = other.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert chat == tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert (other.bos_token_id, other.eos_token_id, other.pad_token_id) == (1, 2, 0)


@pytest.mark.parametrize("cut", CUTS)
def test_byte_level_tokenizers(cut: str, tmp_path: Path) -> None:
    """Trained with the way to cut in place, so that digits merge only where they may."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=cut == "llama-bpe"))
    backend.pre_tokenizer = _cutter(cut)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    text = TEXT + "IT'S THE CAT'S 12345 mats;\r\n\n\n\t\tthe 'the' (the)\n   the"
    backend.train_from_iterator([text] * 4, trainer)
    ours = Tokenizer(backend, eos_token="<|im_end|>", chat_template="{{ messages[0].content }}<|im_end|>")
    write_gguf(decoder(LLAMA), ours, tmp_path / "m.gguf")
    other = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert other(text).input_ids == ours.encode(text) == read_gguf_tokenizer(tmp_path / "m.gguf").encode(text)
    assert other.chat_template == ours.chat_template
    assert other.eos_token_id == ours.eos_id


def test_generate_stops_at_the_end_of_a_turn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = decoder(dataclasses.replace(LLAMA, tie_embeddings=False))
    prompt = torch.tensor([tokenizer.encode("The cat")])
    model.save_pretrained(tmp_path)
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    free = other.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert len(free) == 8
    third = next(id for id in free if id != free[0] and tokenizer.backend.id_to_token(id) is not None)
    ends = tokenizer.backend.id_to_token(third)
    Tokenizer(tokenizer.backend, bos_token="<s>", eos_token="</s>", end_token=ends).save(tmp_path)
    other = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert sorted(other.generation_config.eos_token_id) == sorted({2, third})
    assert other.generation_config.bos_token_id == 1
    stopped = other.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :].tolist()
    assert stopped == free[: free.index(third) + 1]


@pytest.mark.slow
def test_smollm2(smollm2_file: Path, tmp_path: Path) -> None:
    convert(smollm2_file, tmp_path / "folder")
    ours, tokenizer = Decoder.from_pretrained(tmp_path / "folder").eval(), Tokenizer.load(tmp_path / "folder")
    write_gguf(ours, tokenizer, tmp_path / "m.gguf", dtype="f32")
    other = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    original = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    again = read_gguf_tokenizer(tmp_path / "m.gguf")
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert other.chat_template == tokenizer.chat_template == original.chat_template
    text = "The capital of France is Paris: 1234 people, isn't it?\n\n  def f(x):\n\treturn x + 10 😀 "
    assert other(text).input_ids == tokenizer.encode(text) == original(text).input_ids
    ids = torch.tensor([tokenizer.encode(text)])
    model = theirs(tmp_path / "m.gguf")
    with torch.no_grad():
        logits = ours(ids)
        assert (model(ids).logits - logits).abs().max() <= 2e-4  # logits reach 30 and more
        del model
        (tmp_path / "m.gguf").unlink()
        write_gguf(ours, tokenizer, tmp_path / "q8.gguf", dtype="q8_0")
        rounded = Decoder.from_pretrained(tmp_path / "q8.gguf").eval()(ids)
    assert (rounded.argmax(-1) == logits.argmax(-1)).float().mean() >= 0.9
