"""Streamed text is the whole text, in pieces that never break a character or show the start of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from tenfold.text.text_stream import TextStream
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

OURS = train_tokenizer(["the cat sat on the mat, déjà vu 😀 12", "über die Brücke"] * 20, 300)
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def byte_level() -> Tokenizer:
    """As GPT-2's and SmolLM2's: every byte is a character of its own alphabet."""
    backend = Backend(models.BPE({letter: id for id, letter in enumerate(sorted(ALPHABET))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


BYTES = byte_level()
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def pieces(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(tokenizer, stop)
    said = [stream.push(id) for id in tokenizer.encode(text)]
    return [*said, stream.finish()], stream


@settings(max_examples=300, deadline=None)
@given(TEXT)
@pytest.mark.parametrize("tokenizer", [OURS, BYTES], ids=["byte fallback", "byte level"])
def test_joined_pieces_are_the_text_and_no_piece_is_torn(tokenizer: Tokenizer, text: str) -> None:
    said, _ = pieces(tokenizer, text)
    assert "".join(said) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in said)


@settings(max_examples=300, deadline=None)
@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_nothing_of_a_stop_string_is_shown(text: str, stop: list[str]) -> None:
    said, stream = pieces(BYTES, text, tuple(stop))
    # A character is a token here: the first of them that completes a stop string ends the text.
    begun = next((text[:n] for n in range(len(text) + 1) if any(mark in text[:n] for mark in stop)), None)
    whole = text if begun is None else begun[: min(begun.find(mark) for mark in stop if mark in begun)]
    assert "".join(said) == whole
    assert (stream.stopped is not None) == (begun is not None)


def test_text_comes_as_soon_as_it_is_certain() -> None:
    said, stream = pieces(BYTES, "é, END of it", ("END",))
    assert said[:4] == ["", "é", ",", " "]
    assert stream.stopped == "END"
    assert "".join(said) == "é, "
    said, _ = pieces(BYTES, "an ENemy", ("END",))
    assert said == ["a", "n", " ", "", "", "ENe", "m", "y", ""]


def test_torn_bytes_come_out_at_the_end() -> None:
    stream = TextStream(BYTES)
    ids = BYTES.encode("a😀")
    assert [stream.push(id) for id in ids[:-1]] == ["a", "", "", ""]
    assert stream.finish() == "\ufffd"


def test_control_tokens_give_no_text() -> None:
    stream = TextStream(OURS)
    ids = [*OURS.encode("ab"), OURS.token_id("<|end|>"), *OURS.encode(" c")]
    assert "".join(stream.push(id) for id in ids) + stream.finish() == "ab c"


def test_ids_behind_the_vocabulary_give_no_text() -> None:
    stream = TextStream(OURS)
    assert "".join(stream.push(id) for id in [*OURS.encode("ab"), OURS.vocab_size, *OURS.encode("c")]) == "abc"


def test_refuses_an_empty_stop_string() -> None:
    with pytest.raises(ValueError, match="stop"):
        TextStream(OURS, ("",))
