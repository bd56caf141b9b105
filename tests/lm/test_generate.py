"""Cached generation equals uncached; rows of unequal length equal themselves alone; sampling is what it says."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.generate import generate
from tenfold.lm.kv_cache import KVCache
from tenfold.lm.sampling import filter_logits
from tenfold.nn.moe import MoEConfig

CFG = DecoderConfig(vocab_size=50, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=32, max_len=40)
SPARSE = dataclasses.replace(CFG, moe=MoEConfig(24, 16, num_experts=4))


def decoder(cfg: DecoderConfig = CFG) -> Decoder:
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    model.embed_tokens.weight.data *= 4  # peaked enough that greedy choices are clear
    return model


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 50, (length,), generator=generator).tolist() for length in lengths]


def uncached_greedy(model: Decoder, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 1, 1, 1, 1, 1, 1, 1], [4, 3, 5]])
def test_cached_logits_equal_uncached_at_every_step(cuts: list[int]) -> None:
    model, ids = decoder(), torch.tensor(prompts(12, 12))
    cache, start, parts = KVCache(CFG, 2, 12), 0, []
    for cut in cuts:
        parts.append(model(ids[:, start : start + cut], cache=cache))
        start += cut
    assert (torch.cat(parts, 1) - model(ids)).abs().max() <= 1e-5
    assert cache.lengths.tolist() == [12, 12]


@pytest.mark.parametrize("cuts", [[1, 1, 1], [3]])
def test_rows_of_unequal_length_continue_as_if_alone(cuts: list[int]) -> None:
    model = decoder()
    rows = prompts(9, 4, 6)
    more = torch.tensor(prompts(3, 3, 3))
    padded = torch.tensor([row + [0] * (9 - len(row)) for row in rows])
    cache = KVCache(CFG, 3, 12)
    model(padded, cache=cache)
    cache.set_lengths([9, 4, 6])
    start, parts = 0, []
    for cut in cuts:
        parts.append(model(more[:, start : start + cut], cache=cache))
        start += cut
    logits = torch.cat(parts, 1)
    for i, row in enumerate(rows):
        alone = model(torch.tensor([row + more[i].tolist()]))[0, len(row) :]
        assert (logits[i] - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("cfg", [CFG, SPARSE], ids=["dense", "sparse"])
def test_greedy_equals_uncached_and_batches_equal_rows_alone(cfg: DecoderConfig) -> None:
    model, rows = decoder(cfg), prompts(3, 11, 7)
    together = generate(model, rows, max_new_tokens=10, temperature=0, logprobs=True)
    assert together.logprobs is not None
    for row, tokens, logs in zip(rows, together.ids, together.logprobs, strict=True):
        alone = generate(model, [row], max_new_tokens=10, temperature=0, logprobs=True)
        assert tokens == alone.ids[0]
        assert alone.logprobs is not None
        torch.testing.assert_close(torch.tensor(logs), torch.tensor(alone.logprobs[0]), rtol=1e-5, atol=1e-5)
        if cfg.moe is None:
            assert tokens == uncached_greedy(model, row, 10)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_tensors_equal_lists(side: str) -> None:
    model, rows = decoder(), prompts(3, 8)
    pad = [0] * 5
    padded = torch.tensor([pad + rows[0] if side == "left" else rows[0] + pad, rows[1]])
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0] = torch.tensor([False] * 5 + [True] * 3 if side == "left" else [True] * 3 + [False] * 5)
    expected = generate(model, rows, max_new_tokens=6, temperature=0).ids
    assert generate(model, padded, max_new_tokens=6, temperature=0, mask=mask).ids == expected


def test_samples_follow_the_seed_and_not_the_neighbours() -> None:
    model, rows = decoder().double(), prompts(5, 9)
    one = generate(model, rows, max_new_tokens=8, seed=3).ids
    assert one == generate(model, rows, max_new_tokens=8, seed=3).ids
    assert one != generate(model, rows, max_new_tokens=8, seed=4).ids
    assert one[0] == generate(model, rows[:1], max_new_tokens=8, seed=3).ids[0]
    stopped = generate(model, rows, max_new_tokens=8, seed=3, stop=[one[0][2]])
    cut = one[0].index(one[0][2]) + 1
    assert stopped.ids[0] == one[0][:cut]
    assert stopped.finished[0]
    if one[0][2] not in one[1]:
        assert stopped.ids[1] == one[1]
        assert not stopped.finished[1]


def test_generation_leaves_torchs_random_state_and_the_mode_alone() -> None:
    model = decoder()
    before = torch.get_rng_state()
    generate(model, prompts(4), max_new_tokens=3, seed=0)
    generate(model, prompts(4), max_new_tokens=3, temperature=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_without_a_seed_torchs_random_state_decides() -> None:
    model, rows = decoder(), prompts(4)

    def draws() -> list[list[list[int]]]:
        torch.manual_seed(5)
        return [generate(model, rows, max_new_tokens=12).ids for _ in range(2)]

    one, two = draws()
    assert one != two
    assert draws() == [one, two]


def test_draws_follow_the_distribution() -> None:
    model = decoder()
    prompt = prompts(4)[0]
    probs = (model(torch.tensor([prompt]))[0, -1] / 2).softmax(-1)
    draws = [row[0] for row in generate(model, [prompt] * 4000, max_new_tokens=1, temperature=2.0, seed=0).ids]
    counts = torch.bincount(torch.tensor(draws), minlength=50)
    expected = 4000 * probs.detach()
    likely = expected > 5
    chi_square = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi_square < likely.sum() + 5 * (2 * likely.sum()) ** 0.5


def test_until_ends_a_row_at_the_first_token_that_it_accepts() -> None:
    model, both = decoder(), prompts(5, 3)
    whole = generate(model, both, max_new_tokens=8, temperature=0.0).ids
    seen: list[list[int]] = []

    def until(new: list[int]) -> bool:
        seen.append(list(new))
        return new == whole[0][:3]

    made = generate(model, both, max_new_tokens=8, temperature=0.0, until=until)
    assert made.ids == [whole[0][:3], whole[1]]
    assert made.finished == [True, False]
    assert len(seen) == 3 + 8  # asked once a token and row


def test_log_probabilities_are_those_of_the_model() -> None:
    model, rows = decoder(), prompts(4, 6)
    made = generate(model, rows, max_new_tokens=5, temperature=0.7, top_k=5, seed=1, logprobs=True)
    assert made.logprobs is not None
    for row, new, logs in zip(rows, made.ids, made.logprobs, strict=True):
        logits = model(torch.tensor([row + new]))[0, len(row) - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, torch.tensor(new).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(logs), expected.detach(), rtol=1e-4, atol=1e-4)


def test_filters_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert torch.isinf(filter_logits(logits, 1.0, 2, None)).tolist() == [[False, False, True, True]]
    assert torch.isinf(filter_logits(logits, 1.0, None, 0.6)).tolist() == [[False, False, True, True]]
    assert torch.isinf(filter_logits(logits, 1.0, None, 0.4)).tolist() == [[False, True, True, True]]
    torch.testing.assert_close(filter_logits(logits, 2.0, None, None), logits / 2)


@pytest.mark.parametrize("top_k", [1, 2, 5, 7, 8])
def test_exactly_k_tokens_are_kept_and_ties_go_to_the_lowest(top_k: int) -> None:
    equal = filter_logits(torch.zeros(1, 8), 1.0, top_k, None)
    assert torch.isfinite(equal).tolist() == [[i < top_k for i in range(8)]]
    logits = torch.randint(0, 4, (50, 8), generator=torch.Generator().manual_seed(0)).float()
    first = logits.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    expected = torch.full_like(logits, float("-inf")).scatter(1, first, logits.gather(1, first))
    assert torch.equal(filter_logits(logits, 1.0, top_k, None), expected)


def test_the_last_token_fits_exactly() -> None:
    model = decoder()
    assert len(generate(model, prompts(30), max_new_tokens=10, temperature=0).ids[0]) == 10
    with pytest.raises(ValueError, match=r"got 30 \+ 11 = 41 tokens, the model takes at most max_len = 40"):
        generate(model, prompts(30), max_new_tokens=11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"ids": [[1], []]}, "empty prompt"),
        ({"ids": []}, "empty prompt"),
        ({"ids": torch.zeros(1, 3, dtype=torch.int64), "mask": torch.ones(1, 2)}, "mask: got shape"),
        ({"ids": [[1]], "mask": torch.ones(1, 1)}, "mask: got one with ids as lists"),
    ],
)
def test_refuses(options: dict, message: str) -> None:
    options = {"ids": [[1, 2]], "max_new_tokens": 2, **options}
    with pytest.raises(ValueError, match=message):
        generate(decoder(), options.pop("ids"), **options)


def test_cache_refuses() -> None:
    with pytest.raises(ValueError, match=r"max_len: got 41, need 1..40"):
        KVCache(CFG, 1, 41)
    with pytest.raises(ValueError, match="batch: got 0"):
        KVCache(CFG, 0, 4)
    cache = KVCache(CFG, 1, 4)
    with pytest.raises(ValueError, match="cache: got 5 tokens, it holds at most 4"):
        decoder()(torch.zeros(1, 5, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="lengths"):
        cache.set_lengths([2])
