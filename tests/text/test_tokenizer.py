"""The tokenizer is lossless on every string, keeps digits apart, and only a chat template makes control tokens."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tenfold.core.errors import UserError
from tenfold.text.tokenizer import BYTE_PIECES, SPECIAL_TOKENS, Tokenizer, train_tokenizer

TEXTS = [
    "The cat sat on the mat, and the dog ran after the cat 123 times.\n",
    "def add(x, y):\n    return x + y  # 2024\n",
    "Übung macht den Meister — naïve café.\n\n\tIndented\n",
] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


# Any character but surrogates, often whitespace, digits, marks and the literal texts of tokens.
pieces = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [*SPECIAL_TOKENS, *BYTE_PIECES, " ", "  ", "\t", "\n", "\r\n", "\u2581", "\u0301", "😀", "½", "٣", "\x00"]
    ),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=10).map("".join))
def test_lossless_and_free_of_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(id >= len(SPECIAL_TOKENS) for id in ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=10).map("".join))
def test_lossless_on_ten_thousand_strings(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_token_holds_a_digit_and_anything_else(tokenizer: Tokenizer) -> None:
    learnt = set(tokenizer.backend.get_vocab()) - set(SPECIAL_TOKENS) - set(BYTE_PIECES)
    assert all(len(token) == 1 for token in learnt if any(unicodedata.category(c)[0] == "N" for c in token))
    assert [tokenizer.decode([id]) for id in tokenizer.encode("2024")] == ["2", "0", "2", "4"]


def test_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size <= 400
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(8))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_id) == (0, 1, 2, 7)
    vocabulary = tokenizer.backend.get_vocab()
    assert all(piece in vocabulary for piece in BYTE_PIECES)
    added = {token["content"] for token in json.loads(tokenizer.backend.to_str())["added_tokens"]}
    assert added == set(SPECIAL_TOKENS)


def test_words_keep_the_space_in_front(tokenizer: Tokenizer) -> None:
    assert [tokenizer.decode([id]) for id in tokenizer.encode("x cat")] == ["x", " cat"]


def test_unicode_is_not_normalised(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("é") != tokenizer.encode("e\u0301")


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    # Many characters of equal count compete for the alphabet.
    texts = ["".join(map(chr, range(0x100, 0x180)))] * 3 + TEXTS
    trained = {train_tokenizer(iter(texts), 320).backend.to_str() for _ in range(5)}
    assert len(trained) == 1


def test_batches_equal_single_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS[:5]) == [tokenizer.encode(text) for text in TEXTS[:5]]


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = "A <|user|> cat <0x41> 12\n"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
    assert again.end_id == tokenizer.end_id
    messages = [{"role": "user", "content": "hi"}]
    assert again.apply_chat_template(messages, True) == tokenizer.apply_chat_template(messages, True)


def test_transformers_opens_the_folder(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:3]:
        assert theirs(text).input_ids == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 2 + 2?\n"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == expected
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2)


def test_chat_by_hand(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "cat"}, {"role": "assistant", "content": "dog"}]
    cat, dog = tokenizer.encode("cat"), tokenizer.encode("dog")
    assert tokenizer.apply_chat_template(messages) == [1, 4, *cat, 7, 5, *dog, 7]
    assert tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True) == [1, 4, *cat, 7, 5]
    assert tokenizer.render_chat(messages) == "<s><|user|>cat<|end|><|assistant|>dog<|end|>"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=6).map("".join))
def test_messages_cannot_make_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.apply_chat_template([{"role": "user", "content": text}])
    assert ids[:2] == [1, 4]
    assert ids[-1] == 7
    assert tokenizer.decode(ids[2:-1]) == text
    assert all(id >= 8 for id in ids[2:-1])


def test_chat_refuses(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="role: got robot, need system"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "x"}])
    with pytest.raises(UserError, match="messages: got an empty list"):
        tokenizer.apply_chat_template([])
    with pytest.raises(UserError, match="this tokenizer has none"):
        Tokenizer(tokenizer.backend).apply_chat_template([{"role": "user", "content": "x"}])


def test_faults(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size: got 200, need at least 272"):
        train_tokenizer(TEXTS, 200)
    with pytest.raises(UserError, match=r"tokenizer not found: .*tokenizer.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="no token '<nope>'"):
        Tokenizer(tokenizer.backend, bos_token="<nope>")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="does not parse"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match="does not parse"):
        Tokenizer.load(tmp_path)
