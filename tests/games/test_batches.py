"""Rows in tokens, their batches, and a stream that resumes exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from tenfold.align.samples import Sample
from tenfold.core.errors import UserError
from tenfold.games.batches import GameBatches, TokenRow, collate_rows, token_rows, with_reference
from tenfold.games.credit import GameRow
from tenfold.lm.decoder import Decoder
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer


def rows(count: int) -> list[TokenRow]:
    return [TokenRow(Sample.of([i], [i + 1, 1]), i / 10, 1.0, i % 4 == 0) for i in range(count)]


def test_text_rows_are_query_target_and_end(tokenizer: Tokenizer) -> None:
    row = GameRow("the attacker", "a word", 0.5, "defender", 2.0)
    (made,) = token_rows([row], tokenizer)
    asked, said = tokenizer.encode("the attacker"), tokenizer.encode("a word")
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert made.sample == Sample.of([*begin, *asked], [*said, tokenizer.eos_id])
    assert (made.reward, made.weight, made.role, made.sft) == (0.5, 2.0, 1, False)
    bare = Tokenizer(tokenizer.backend, eos_token=tokenizer.eos_token)
    assert token_rows([row], bare)[0].sample == Sample.of(asked, [*said, tokenizer.eos_id])
    assert token_rows([GameRow("q", "a", sft=True)], bare)[0].role == -1


def test_long_rows_lose_their_beginning(tokenizer: Tokenizer) -> None:
    row = GameRow("the attacker wants " * 20, "a word")
    (whole,), (short,) = (token_rows([row], tokenizer, length) for length in (2048, 12))
    assert len(short.sample.ids) == 12
    assert short.sample.ids == whole.sample.ids[-12:]


def test_chat_rows_learn_the_answer_alone(tokenizer: Tokenizer) -> None:
    told = (Message("system", "the word"), Message("user", "say a word"))
    (made,) = token_rows([GameRow(told, "apple", 1.0, "attacker")], tokenizer)
    learned = [id for id, on in zip(made.sample.ids, made.sample.learned, strict=True) if on]
    assert learned == [*tokenizer.encode("apple"), tokenizer.end_id]
    prompt = tokenizer.apply_chat_template(
        [{"role": message.role, "content": message.content} for message in told], add_generation_prompt=True
    )
    assert list(made.sample.ids[: len(prompt)]) == prompt


def test_a_tokenizer_needs_an_end(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="it has no end-of-text token"):
        token_rows([GameRow("a", "b")], Tokenizer(tokenizer.backend))


def test_columns_of_a_batch(decoder: Callable[..., Decoder]) -> None:
    batch = collate_rows(rows(5))
    assert {name: tuple(column.shape) for name, column in batch.items()} == {
        "ids": (5, 3), "targets": (5, 3), "mask": (5, 3), "rewards": (5,), "weights": (5,), "sft_mask": (5,), "roles": (5,),
    }  # fmt: skip
    known = with_reference(rows(5), decoder())
    assert collate_rows(known)["ref_logprob"].tolist() == pytest.approx([row.ref_logprob for row in known])
    assert "ref_logprob" not in collate_rows([*known[:4], *rows(1)])


def test_micro_batches_carry_the_shares_of_their_batch() -> None:
    stream = iter(GameBatches(rows(16), 8, 4, seed=3))
    for batch in (list(itertools.islice(stream, 4)) for _ in range(6)):
        fine = sum(int(part["sft_mask"].sum()) for part in batch)
        assert {len(part["ids"]) for part in batch} == {2}
        assert {float(part["sft_share"]) for part in batch} == {fine / 8}
        assert {float(part["rl_share"]) for part in batch} == {1 - fine / 8}


def test_ranks_share_a_batch() -> None:
    whole = next(iter(GameBatches(rows(16), 8, seed=3)))
    parts = [
        list(itertools.islice(iter(GameBatches(rows(16), 8, 2, seed=3, rank=rank, world=2)), 2)) for rank in (0, 1)
    ]
    found = torch.cat([part["ids"] for both in zip(*parts, strict=True) for part in both])
    assert torch.equal(found, whole["ids"])


@pytest.mark.parametrize("stop", [0, 1, 5])
def test_a_resumed_stream_goes_on(stop: int) -> None:
    whole = list(itertools.islice(iter(GameBatches(rows(10), 4, 2, seed=1)), 2 * stop + 8))
    first = GameBatches(rows(10), 4, 2, seed=1)
    list(itertools.islice(iter(first), 2 * stop))
    resumed = GameBatches(rows(10), 4, 2, seed=1)
    resumed.load_state_dict(first.state_dict())
    for expected, batch in zip(whole[2 * stop :], itertools.islice(iter(resumed), 8), strict=True):
        assert all(torch.equal(expected[name], batch[name]) for name in expected)


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match="rows: got none"):
        GameBatches([], 4)
    for size, accumulate in ((0, 1), (4, 3), (4, 0)):
        with pytest.raises(ValueError, match=f"batch_size, accumulate: got {size}, {accumulate}"):
            GameBatches(rows(4), size, accumulate)
