"""Greedy answers: stop strings, rounds, truncation, equality with plain greedy decoding."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tenfold.lm.answers import cut_at, greedy_answers
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loglikelihood import TextEncoder
from tenfold.lm.tasks import NotAvailable

LETTERS = "\0\1abcdefghijklmnopqrstuvwxyz .\n"


class Letters:
    """A token a character; id 0 is bos, 1 is eos."""

    bos_id, eos_id = 0, 1

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(c) for c in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[i] for i in ids)


ENCODER = TextEncoder(Letters())


class Script:
    """Greedy generation that goes through the alphabet from the prompt's last letter, and ends after `last`."""

    def __init__(self, last: str = "z") -> None:
        self.last, self.calls = last, []

    def __call__(self, prompts: list[list[int]], max_new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
        self.calls.append((len(prompts), max_new_tokens))
        return [([*range(prompt[-1] + 1, LETTERS.index(self.last) + 1), *stop])[:max_new_tokens] for prompt in prompts]


def test_cut_at_the_first_of_the_stop_strings() -> None:
    assert cut_at("one. two, three", (",", ".")) == "one"
    assert cut_at("one", (",",)) == "one"
    assert cut_at("one", ("", "n")) == "o"


def test_stop_strings_and_eos_end_an_answer() -> None:
    run = Script("h")
    answers = greedy_answers(nn.Linear(1, 1), ENCODER, ["a", "g", "f"], max_new_tokens=64, stop=("de",), generate=run)
    assert answers == ["bc", "h", "gh"]
    assert run.calls == [(3, 32)]  # all ended in the first round


def test_rounds_grow_and_finished_prompts_leave() -> None:
    alphabet = Script("z")
    answers = greedy_answers(nn.Linear(1, 1), ENCODER, ["a", "v"], max_new_tokens=20, stop=(), generate=alphabet)
    assert answers == ["bcdefghijklmnopqrstu", "wxyz"]  # the first is cut by its length
    endless: list[tuple[int, int]] = []

    def repeat(prompts: list[list[int]], max_new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
        endless.append((len(prompts), max_new_tokens))
        return [[prompt[-1]] * max_new_tokens if prompt[-1] == 2 else [*stop] for prompt in prompts]

    answers = greedy_answers(nn.Linear(1, 1), ENCODER, ["a", "b"], max_new_tokens=100, stop=(), generate=repeat)
    assert answers == ["a" * 100, ""]
    assert endless == [(2, 32), (1, 64), (1, 4)]


def test_a_stop_string_across_two_rounds_is_seen() -> None:
    def run(prompts: list[list[int]], max_new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
        # x thirty-one times, then "stop here": the first round ends inside "stop".
        text = "x" * 31 + "stop here"
        return [Letters().encode(text[len(p) - 1 :][:max_new_tokens]) for p in prompts]

    (answer,) = greedy_answers(nn.Linear(1, 1), ENCODER, ["a"], max_new_tokens=64, stop=("stop",), generate=run)
    assert answer == "x" * 31


def test_long_prompts_lose_tokens_on_the_left() -> None:
    seen: list[list[int]] = []

    def run(prompts: list[list[int]], max_new_tokens: int, stop: Sequence[int]) -> list[list[int]]:
        seen.extend(prompts)
        return [[*stop] for _ in prompts]

    greedy_answers(nn.Linear(1, 1), ENCODER, ["abcdefgh", ""], max_new_tokens=6, stop=(), max_len=10, generate=run)
    assert sorted(seen) == [[0], Letters().encode("efgh")]


def decoder() -> Decoder:
    cfg = DecoderConfig(
        vocab_size=len(LETTERS), dim=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=32, max_len=96
    )
    return Decoder(cfg, torch.Generator().manual_seed(3)).double()


def test_our_decoder_answers_as_plain_greedy_decoding() -> None:
    model, prompts = decoder(), ["abc", "hello there", "z"]
    with torch.no_grad():
        expected = []
        for prompt in prompts:
            ids = Letters().encode(prompt)
            for _ in range(50):
                ids.append(int(model.eval()(torch.tensor([ids]))[0, -1].argmax()))
                if ids[-1] == 1:
                    break
            expected.append(Letters().decode(ids[len(prompt) :]).split("\1")[0])
    assert greedy_answers(model, ENCODER, prompts, max_new_tokens=50, stop=()) == expected
    alone = [greedy_answers(model, ENCODER, [p], max_new_tokens=50, stop=(), batch=1)[0] for p in prompts]
    assert alone == expected
    stop = next(answer for answer in expected if len(answer) > 5)[2:4]
    cut = [answer.split(stop)[0] for answer in expected]
    assert greedy_answers(model, ENCODER, prompts, max_new_tokens=50, stop=(stop,)) == cut
    assert cut != expected


def test_faults() -> None:
    with pytest.raises(NotAvailable, match="model: Linear has no generation here"):
        greedy_answers(nn.Linear(1, 1), ENCODER, ["a"], max_new_tokens=4, stop=())
    with pytest.raises(ValueError, match="max_new_tokens: got 0"):
        greedy_answers(decoder(), ENCODER, ["a"], max_new_tokens=0, stop=())
    with pytest.raises(ValueError, match=r"max_new_tokens: got 96, need fewer than the model's length \(96\)"):
        greedy_answers(decoder(), ENCODER, ["a"], max_new_tokens=96, stop=())
