"""Tokenizers as GGUF metadata: given back exactly, and what an untrusted file may not do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from tenfold.core.errors import UserError
from tenfold.lm import gguf_tokenizer
from tenfold.lm.gguf_tokenizer import CUTS, WHOLE, tokenizer_from_fields, tokenizer_to_fields
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

TEXT = "It's the cat's   hat, 1234 of them:\n\n\tdef f(x):\n\t\treturn '𝄞é' <|end|> <0x0A>  \n"


def byte_fallback(texts: list[str] | None = None) -> Tokenizer:
    return train_tokenizer(texts or [TEXT] * 4, 340)


def byte_level(cut: str = "smollm", **options: Any) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|start|>", "<|stop|>", *alphabet, "he", "Ġt", "Ġthe", "12", "<think>"]
    merges = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("1", "2")]
    model = models.BPE({token: id for id, token in enumerate(tokens)}, merges, ignore_merges=cut == "llama-bpe")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = gguf_tokenizer._cutter(cut)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:2]])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    return Tokenizer(backend, **{"bos_token": "<|start|>", "eos_token": "<|stop|>", **options})


def same(one: Tokenizer, two: Tokenizer) -> bool:
    names = ("bos_token", "eos_token", "pad_token", "end_token", "chat_template", "bos_id", "eos_id", "end_id")
    named = all(getattr(one, name) == getattr(two, name) for name in names)
    return named and one.backend.to_str() == two.backend.to_str()


@pytest.mark.parametrize("rows", [340, 400])
def test_byte_fallback_comes_back_exactly(rows: int) -> None:
    tokenizer = byte_fallback()
    fields = tokenizer_to_fields(tokenizer, rows)
    again = tokenizer_from_fields(fields, "m.gguf")
    assert same(again, tokenizer)
    assert again.decode(again.encode(TEXT)) == TEXT
    assert fields["tokenizer.ggml.model"] == "gemma4"
    assert len(fields["tokenizer.ggml.tokens"]) == len(fields["tokenizer.ggml.token_type"]) == rows


@pytest.mark.parametrize("cut", CUTS)
def test_byte_level_comes_back_from_its_own_fields(cut: str) -> None:
    tokenizer = byte_level(cut, chat_template="{{ messages }}")
    fields = tokenizer_to_fields(tokenizer, tokenizer.vocab_size)
    assert WHOLE not in fields  # the vocabulary is not written twice
    assert fields["tokenizer.ggml.pre"] == ("gpt-2" if cut == "default" else cut)
    assert same(tokenizer_from_fields(fields, "m.gguf"), tokenizer)


def test_what_fields_cannot_say_is_kept_whole() -> None:
    tokenizer = byte_level("qwen2", end_token="<|start|>")
    tokenizer.backend.normalizer = normalizers.NFC()
    tokenizer.backend.add_tokens([AddedToken("<tool>", special=False, normalized=True)])
    fields = tokenizer_to_fields(tokenizer, tokenizer.vocab_size + 3)
    assert WHOLE in fields
    assert fields["tokenizer.ggml.token_type"][-5:] == [4, 4, 5, 5, 5]
    assert fields["tokenizer.ggml.eot_token_id"] == 0
    assert same(tokenizer_from_fields(fields, "m.gguf"), tokenizer)


def test_byte_fallback_fields_by_hand() -> None:
    """Spaces are marked, bytes and control tokens have their type, merges of blanks come last and end in a blank."""
    tokenizer = byte_fallback(["a  b a  b\n\nc\n\n  a"] * 9)
    fields = tokenizer_to_fields(tokenizer, tokenizer.vocab_size)
    tokens, types, merges = (fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "merges"))
    assert (tokens[0], types[0]) == ("<pad>", 3)
    assert (tokens[tokenizer.token_id("<0x0A>")], types[tokenizer.token_id("<0x0A>")]) == ("<0x0A>", 6)
    assert (tokens[tokenizer.token_id(" b")], types[tokenizer.token_id(" b")]) == ("▁b", 1)
    blanks = ["\n \n", "\n\n ▁"]
    assert {pair for pair in blanks if pair not in merges} == {"\n \n"}
    assert merges.index("▁ b") < merges.index("\n\n ▁") == len(merges) - 1
    ids = ("bos", "eos", "padding", "eot")
    assert [fields[f"tokenizer.ggml.{name}_token_id"] for name in ids] == [1, 2, 0, 7]
    added = ("add_bos_token", "add_eos_token", "add_space_prefix")
    assert not any(fields[f"tokenizer.ggml.{name}"] for name in added)


def test_texts_of_tokens_all_differ() -> None:
    """A token written with the mark of a space, a hole in the ids, and a token named as the filling is."""
    vocabulary = {"a": 0, "▁": 1, " ": 2, "[PAD1]": 4, **{f"<0x{byte:02X}>": 5 + byte for byte in range(256)}}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = Tokenizer(backend)
    fields = tokenizer_to_fields(tokenizer, 263)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(set(tokens)) == 263
    assert tokens[:5] == ["a", "[PAD1]]", "▁", "[PAD3]", "[PAD1]"]
    assert types[:5] == [1, 5, 1, 5, 1]
    assert same(tokenizer_from_fields(fields, "m.gguf"), tokenizer)


def test_refused_tokenizers() -> None:
    unigram = Tokenizer(tokenizers.Tokenizer(models.Unigram([("a", 0.0)])))
    odd = byte_level()
    odd.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    lower = byte_level()
    lower.backend.normalizer = normalizers.Lowercase()
    marked = byte_fallback()
    marked.backend.pre_tokenizer = pre_tokenizers.Metaspace()
    marked.backend.decoder = decoders.Metaspace()
    for tokenizer in (unigram, odd, lower, marked):
        with pytest.raises(UserError, match="GGUF files are written for byte-level BPE") as caught:
            tokenizer_to_fields(tokenizer, 400)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"highest token id is 262, but the model's embedding has 200 rows"):
        tokenizer_to_fields(byte_level(), 200)


SMALL = json.loads(byte_level().backend.to_str())
HUGE_ID = {**SMALL, "model": {**SMALL["model"], "vocab": {"a": 4_000_000_000}, "merges": []}, "added_tokens": []}
MANY = {**SMALL, "added_tokens": [*SMALL["added_tokens"], {**SMALL["added_tokens"][0], "id": 263, "content": "x" * 9}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "does not parse"),
        ("[]", "does not parse"),
        ("[" * 100_000, "does not parse"),
        ('{"version": "1.0"}', "does not parse"),
        ("{\n}", "does not parse"),
        (json.dumps(HUGE_ID), "got token id 4000000000, need ids below 263"),
        (json.dumps(MANY), "got token id 263, need ids below 263"),
        (" " * ((1 << 26) + 1), "got 67108865 characters, need at most 67108864"),
    ],
)
def test_malformed_whole_tokenizer(content: str, message: str) -> None:
    fields = tokenizer_to_fields(byte_level(), 263) | {WHOLE: content}
    with pytest.raises(UserError, match=message) as caught:
        tokenizer_from_fields(fields, "m.gguf")
    assert str(caught.value).startswith(f"m.gguf: {WHOLE}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_too_large_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tokenizer, "MOST_WHOLE", 1000)
    with pytest.raises(UserError, match="characters, need at most 1000"):
        tokenizer_to_fields(byte_fallback(), 340)


@pytest.mark.parametrize("id", [340, 10**9])
def test_ids_that_name_no_token(id: int) -> None:
    for tokenizer in (byte_fallback(), byte_level()):
        fields = tokenizer_to_fields(tokenizer, 340) | {"tokenizer.ggml.eot_token_id": id}
        with pytest.raises(ValueError, match=f"eot_token_id: got {id}, which names no token"):
            tokenizer_from_fields(fields, "m.gguf")
