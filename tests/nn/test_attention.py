"""Attention against a loop over heads and positions, and its laws."""

from __future__ import annotations

import itertools

import pytest
import torch

from tenfold.nn.attention import Attention, causal_mask, document_attention, segment_mask, spelt_out_attention
from tenfold.nn.rotary import Rotary, apply_rotary

D, H, G, HEAD, S = 24, 4, 2, 6, 7


def make(**options: object) -> Attention:
    options = {"generator": torch.Generator().manual_seed(1), **options}
    attention = Attention(D, H, G, HEAD, **options).double()
    if attention.q_norm is not None:
        for i, norm in enumerate((attention.q_norm, attention.k_norm)):
            norm.weight.data = torch.linspace(0.5, 1.5 + i, HEAD, dtype=torch.float64)
    return attention


def sample(generator: torch.Generator, batch: int = 2, length: int = S) -> torch.Tensor:
    return torch.randn(batch, length, D, dtype=torch.float64, generator=generator)


def table(length: int = S) -> tuple[torch.Tensor, torch.Tensor]:
    return Rotary(HEAD, base=50.0).table(length, torch.device("cpu"), torch.float64)


def reference(attention: Attention, x: torch.Tensor, rope: tuple | None, allowed: torch.Tensor) -> torch.Tensor:
    """One query at a time; allowed[b, i, j]."""
    batch, length, _ = x.shape

    def heads(proj: torch.nn.Linear, norm: torch.nn.Module | None) -> torch.Tensor:
        z = (x @ proj.weight.T).view(batch, length, -1, HEAD).transpose(1, 2)

        def normed(z: torch.Tensor) -> torch.Tensor:
            return z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight

        if norm is not None and attention.qk_norm_position == "pre_rope":
            z = normed(z)
        if rope is not None and proj is not attention.v_proj:
            z = apply_rotary(z, *rope, attention.rope_layout)
        if norm is not None and attention.qk_norm_position == "post_rope":
            z = normed(z)
        return z

    q = heads(attention.q_proj, attention.q_norm)
    k, v = heads(attention.k_proj, attention.k_norm), heads(attention.v_proj, None)
    y = torch.zeros(batch, length, H, HEAD, dtype=x.dtype)
    for b, i, h in itertools.product(range(batch), range(length), range(H)):
        group = h * G // H
        keys = [j for j in range(length) if allowed[b, i, j]]
        weights = torch.stack([q[b, h, i] @ k[b, group, j] / HEAD**0.5 for j in keys]).softmax(0)
        y[b, i, h] = sum(w * v[b, group, j] for w, j in zip(weights, keys, strict=True))
    return y.flatten(2) @ attention.o_proj.weight.T


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": True},
        {"qk_norm": True, "qk_norm_position": "post_rope", "rope_layout": "interleaved"},
    ],
)
@pytest.mark.parametrize("causal", [True, False])
def test_equals_the_loop(options: dict, causal: bool, generator: torch.Generator) -> None:
    attention, x, rope = make(causal=causal, **options), sample(generator), table()
    allowed = torch.ones(2, S, S, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    torch.testing.assert_close(attention(x, rope=rope), reference(attention, x, rope, allowed), rtol=1e-10, atol=1e-10)


def test_masks_replace_causality(generator: torch.Generator) -> None:
    attention, x = make(), sample(generator)
    allowed = torch.rand(2, S, S, generator=generator) < 0.5
    allowed |= torch.eye(S, dtype=torch.bool)
    y = attention(x, mask=allowed.unsqueeze(1))
    torch.testing.assert_close(y, reference(attention, x, None, allowed), rtol=1e-10, atol=1e-10)
    additive = torch.zeros(2, 1, S, S, dtype=torch.float64).masked_fill(~allowed.unsqueeze(1), float("-inf"))
    torch.testing.assert_close(attention(x, mask=additive), y)


def test_without_a_mask_no_mask_is_made(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, mask, *args, **kwargs):
        seen.append(mask)
        return original(q, k, v, mask, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    make()(sample(generator), rope=table())
    assert seen == [None]


def test_later_tokens_change_nothing_before_them_bit_for_bit(generator: torch.Generator) -> None:
    attention, x = make(qk_norm=True).float(), sample(generator).float()
    rope = tuple(part.float() for part in table())
    changed = x.clone()
    changed[:, 4] += 1
    assert torch.equal(attention(x, rope=rope)[:, :4], attention(changed, rope=rope)[:, :4])
    assert not torch.equal(attention(x, rope=rope)[:, 4:], attention(changed, rope=rope)[:, 4:])


def test_norm_before_and_after_the_rotation_agree_iff_the_weights_are_constant(generator: torch.Generator) -> None:
    before, after = make(qk_norm=True), make(qk_norm=True, qk_norm_position="post_rope")
    x, rope = sample(generator), table()
    assert (before(x, rope=rope) - after(x, rope=rope)).abs().max() > 1e-3
    for attention in (before, after):
        for norm in (attention.q_norm, attention.k_norm):
            norm.weight.data.fill_(1.3)
    torch.testing.assert_close(before(x, rope=rope), after(x, rope=rope), rtol=1e-6, atol=1e-6)


def test_gradients(generator: torch.Generator) -> None:
    attention, rope = make(qk_norm=True), table(3)
    x = sample(generator, 1, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, rope=rope), (x,), rtol=1e-4)


def test_segments_are_apart(generator: torch.Generator) -> None:
    attention, x = make(), sample(generator, 1)
    packed = attention(x, mask=segment_mask(torch.tensor([[0, 0, 0, 1, 1, 1, 1]])))
    torch.testing.assert_close(packed[:, :3], attention(x[:, :3]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(packed[:, 3:], attention(x[:, 3:]), rtol=1e-10, atol=1e-10)


def test_segment_mask_by_hand() -> None:
    mask = segment_mask(torch.tensor([[5, 5, 2]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]


@pytest.mark.parametrize("norm", ["pre_rope", "post_rope"])
def test_documents_one_by_one_are_as_under_the_mask(norm: str, generator: torch.Generator) -> None:
    """Values and gradients, of the input and of every weight."""
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 0], [4, 5, 5, 5, 5, 5, 5]])
    attention = make(qk_norm=True, qk_norm_position=norm)
    ways = {"mask": {"mask": segment_mask(segments)}, "documents": {"documents": [3, 2, 2, 1, 6]}}
    x, found = sample(generator).requires_grad_(), {}
    for name, how in ways.items():
        y = attention(x, rope=table(), **how)
        weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found[name] = y, *torch.autograd.grad((y * weights).sum(), [x, *attention.parameters()])
    for a, b in zip(found["mask"], found["documents"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_packed_rows_are_attended_to_by_what_pays() -> None:
    long = torch.tensor([[1] * 300 + [2] * 600 + [0] * 124, [7] * 1024])
    assert document_attention(long, 512) == (None, [300, 600, 124, 1024])
    short = torch.arange(1, 65).repeat_interleave(2).unsqueeze(0)  # 64 documents of 2 tokens
    mask, lengths = document_attention(short, 512)
    assert lengths is None and mask is not None and torch.equal(mask, segment_mask(short))
    apart = torch.cat([long[:1], long[:1].where(long[:1] != 2, 1)])
    apart[0, -100:] = 1  # a document in two parts attends to both
    mask, lengths = document_attention(apart, 512)
    assert lengths is None and mask is not None and torch.equal(mask, segment_mask(apart))
    alone = torch.tensor([[1] * 5 + [0] * 3, [2] * 8])
    assert document_attention(alone, 512) == (None, None)
    for other in (alone.flip(1), torch.tensor([[1, 1, 0, 1]]), torch.tensor([[0, 0]])):
        assert document_attention(other, 512)[0] is not None
    with pytest.raises(ValueError, match="segment_ids: got shape"):
        document_attention(torch.tensor([0, 1]), 8)


class ListCache:
    def __init__(self) -> None:
        self.k: list[torch.Tensor] = []
        self.v: list[torch.Tensor] = []

    def append(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.k.append(k)
        self.v.append(v)
        return torch.cat(self.k, 2), torch.cat(self.v, 2)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1, 1), (3, 4), (4, 1, 2)])
def test_cache_equals_one_pass(cuts: tuple[int, ...], generator: torch.Generator) -> None:
    attention, x = make(qk_norm=True), sample(generator)
    cos, sin = table()
    cache, start, parts = ListCache(), 0, []
    for cut in cuts:
        part = slice(start, start + cut)
        parts.append(attention(x[:, part], rope=(cos[part], sin[part]), cache=cache))
        start += cut
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, rope=(cos, sin)), rtol=1e-10, atol=1e-10)


def test_causal_mask_is_aligned_to_the_end() -> None:
    assert causal_mask(2, 3, torch.device("cpu")).tolist() == [[True, True, False], [True, True, True]]


def test_dropout_only_in_training(generator: torch.Generator) -> None:
    attention, x = make(dropout=0.5), sample(generator)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((24, 4, 3), {}, "n_kv_heads: got 3, need a divisor of n_heads = 4"),
        ((24, 5), {}, "n_heads: got 5, need a divisor of dim = 24"),
        ((24, 4), {"qk_norm_position": "between"}, "qk_norm_position"),
        ((24, 4), {"dropout": -0.1}, "dropout"),
    ],
)
def test_refuses(arguments: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention(*arguments, **options)


def test_segment_mask_refuses_one_axis() -> None:
    with pytest.raises(ValueError, match="segment_ids: got shape"):
        segment_mask(torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_spelt_out_attention_equals_torchs(kind: str, groups: int, generator: torch.Generator) -> None:
    q, k, v = (
        torch.randn(2, heads, length, HEAD, dtype=torch.float64, generator=generator, requires_grad=True)
        for heads, length in ((4, 5), (groups, 7), (groups, 7))
    )
    mask = {"none": None, "bool": causal_mask(5, 7, q.device), "additive": torch.randn(1, 1, 5, 7).double()}[kind]
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    got = spelt_out_attention(q, k, v, mask)
    torch.testing.assert_close(got, want)
    probe = torch.randn(want.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad(y, (q, k, v), probe, retain_graph=True) for y in (want, got)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("causal", [True, False])
def test_training_in_16_bits_equals_float32_up_to_rounding(causal: bool, generator: torch.Generator) -> None:
    attention = Attention(D, H, G, HEAD, causal=causal, qk_norm=True, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, S, D, generator=generator)
    want = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = attention(x)
        with torch.no_grad():
            fused = attention(x)
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.02)
    torch.testing.assert_close(got, fused, rtol=0.05, atol=0.02)
    got.sum().backward()
    assert attention.q_proj.weight.grad is not None
