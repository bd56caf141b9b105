"""The lm-eval adapter without lm-eval's tasks: requests in, answers out, and the line when it is absent."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.core.errors import UserError
from tenfold.lm.harness import harness_model
from tenfold.lm.loglikelihood import loglikelihood, loglikelihood_rolling


class Bytes:
    bos_id, eos_id = 0, 1

    def encode(self, text: str) -> list[int]:
        return [b + 2 for b in text.encode()]

    def decode(self, ids: list[int]) -> str:
        return bytes(i - 2 for i in ids if i > 1).decode()


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(258, 258, generator=torch.Generator().manual_seed(0)))

    def forward(self, ids_BS: Tensor) -> Tensor:
        return self.table[ids_BS]


def request(*arguments: Any) -> SimpleNamespace:
    return SimpleNamespace(args=arguments)


def test_requests_are_scored_as_pairs_and_texts() -> None:
    model, tokenizer = Noise(), Bytes()
    adapter = harness_model(model, tokenizer)
    pairs = [("a b", " c"), ("", "word")]
    assert adapter.loglikelihood([request(*pair) for pair in pairs]) == loglikelihood(model, tokenizer, pairs)
    texts = ["some text", "more"]
    assert adapter.loglikelihood_rolling([request(t) for t in texts]) == loglikelihood_rolling(model, tokenizer, texts)


def test_options_reach_the_scoring() -> None:
    model, tokenizer = Noise(), Bytes()
    adapter = harness_model(model, tokenizer, max_len=4, prefix_id=1)
    expected = loglikelihood(model, tokenizer, [("", "abc"), ("abcdef", "gh")], max_len=4, prefix_id=1)
    assert adapter.loglikelihood([request("", "abc"), request("abcdef", "gh")]) == expected
    assert expected != loglikelihood(model, tokenizer, [("", "abc"), ("abcdef", "gh")])


def test_generation_groups_by_options_and_keeps_the_order() -> None:
    calls = []

    def generate(prompts: list[list[int]], max_new_tokens: int, stop: Any) -> list[list[int]]:
        calls.append((len(prompts), max_new_tokens))
        return [Bytes().encode(Bytes().decode(p).upper()) for p in prompts]

    adapter = harness_model(Noise(), Bytes(), max_new_tokens=10, generate=generate)
    requests = [
        request("ab. c", {"until": ["."], "max_gen_toks": 5}),
        request("x\ny", {"until": "\n"}),
        request("de", {"until": ["."], "max_gen_toks": 5, "do_sample": False, "temperature": 0.0}),
    ]
    assert adapter.generate_until(requests) == ["AB", "X", "DE"]
    assert calls[0] == (2, 5)


def test_sampling_is_refused() -> None:
    adapter = harness_model(Noise(), Bytes(), generate=lambda prompts, n, stop: [[] for _ in prompts])
    with pytest.raises(UserError, match="need do_sample false and temperature 0"):
        adapter.generate_until([request("a", {"do_sample": True, "temperature": 0.8})])


def test_absent_lm_eval_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(UserError) as caught:
        harness_model(Noise(), Bytes())
    assert str(caught.value) == 'lm-eval is not installed: pip install lm-eval (or "tenfold[eval]")'
