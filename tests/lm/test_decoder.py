"""The decoder's laws: an independent forward, causality, packing, masks, counts, faults."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.lm.decoder import Decoder, DecoderConfig, attention_mask, segment_positions
from tenfold.lm.kv_cache import KVCache
from tenfold.nn import attention
from tenfold.nn.ffn import FeedForward
from tenfold.nn.moe import MoE, MoEConfig

SMALL = DecoderConfig(vocab_size=61, dim=24, n_layers=3, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=40, max_len=32)
SPARSE = dataclasses.replace(SMALL, moe=MoEConfig(24, 20, num_experts=4, router="topk", dropless=True))


def decoder(cfg: DecoderConfig = SMALL, seed: int = 0, **changes: object) -> Decoder:
    model = Decoder(dataclasses.replace(cfg, **changes), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 0.5 + torch.rand(weight.shape, generator=generator)
    return model


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def numpy_forward(model: Decoder, ids: np.ndarray) -> np.ndarray:
    """Logits of one row, in float64, written from the equations."""
    cfg = model.cfg
    w = {name: weight.detach().double().numpy() for name, weight in model.named_parameters()}

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.norm_eps) * weight

    def rotate(x: np.ndarray) -> np.ndarray:
        pairs = cfg.head_dim // 2
        angle = np.arange(len(x))[:, None] * cfg.rope_base ** -(np.arange(pairs) / pairs)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        if cfg.rope_layout == "half":
            a, b = x[..., :pairs], x[..., pairs:]
            return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
        out = np.empty_like(x)
        a, b = x[..., ::2], x[..., 1::2]
        out[..., ::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        return out

    def heads(x: np.ndarray, prefix: str, which: str) -> np.ndarray:
        z = (x @ w[f"{prefix}.{which}_proj.weight"].T).reshape(len(x), -1, cfg.head_dim)
        if which == "v":
            return z
        steps = [rotate]
        if cfg.qk_norm:
            weight = w[f"{prefix}.{which}_norm.weight"]
            steps.insert(0 if cfg.qk_norm_position == "pre_rope" else 1, lambda z: norm(z, weight))
        for step in steps:
            z = step(z)
        return z

    x = w["embed_tokens.weight"][ids]
    for i in range(cfg.n_layers):
        p = f"layers.{i}"
        normed = norm(x, w[f"{p}.input_layernorm.weight"])
        q, k, v = (heads(normed, f"{p}.self_attn", which) for which in "qkv")
        y = np.empty_like(q)
        for h in range(cfg.n_heads):
            g = h * cfg.n_kv_heads // cfg.n_heads
            scores = q[:, h] @ k[:, g].T / np.sqrt(cfg.head_dim)
            scores[np.triu_indices(len(ids), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            y[:, h] = weights / weights.sum(-1, keepdims=True) @ v[:, g]
        x = x + y.reshape(len(ids), -1) @ w[f"{p}.self_attn.o_proj.weight"].T
        normed = norm(x, w[f"{p}.post_attention_layernorm.weight"])
        gate, up = (normed @ w[f"{p}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{p}.mlp.down_proj.weight"].T
    x = norm(x, w["norm.weight"])
    return x @ w["embed_tokens.weight" if cfg.tie_embeddings else "lm_head.weight"].T


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"qk_norm": False, "tie_embeddings": False},
        {"qk_norm_position": "post_rope", "rope_layout": "interleaved"},
    ],
)
def test_float64_equals_the_equations(changes: dict) -> None:
    model, ids = decoder(**changes).double(), tokens(1, 20)
    expected = numpy_forward(model, ids[0].numpy())
    assert np.abs(model(ids)[0].detach().numpy() - expected).max() <= 1e-10


@pytest.mark.parametrize("cfg", [SMALL, SPARSE], ids=["dense", "sparse"])
def test_a_token_changes_nothing_before_it_bit_for_bit(cfg: DecoderConfig) -> None:
    model, ids = decoder(cfg), tokens(2, 16)
    changed = ids.clone()
    changed[:, 9] = (changed[:, 9] + 1) % cfg.vocab_size
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


def test_packed_documents_are_independent() -> None:
    model, ids = decoder(), tokens(1, 15)
    cut = (0, 4, 9, 15)
    segments = torch.tensor([[1] * 4 + [2] * 5 + [3] * 6])
    packed = model(ids, segments=segments)
    for start, end in itertools.pairwise(cut):
        torch.testing.assert_close(packed[:, start:end], model(ids[:, start:end]), rtol=1e-5, atol=1e-5)
    assert (packed - model(ids)).abs().max() > 1e-3


@pytest.mark.parametrize("cfg", [SMALL, SPARSE], ids=["dense", "sparse"])
def test_packed_rows_give_the_same_gradients_by_documents_and_by_mask(
    cfg: DecoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = decoder(cfg), tokens(2, 15)
    segments = torch.tensor([[1] * 4 + [2] * 5 + [3] * 6, [1] * 9 + [2] * 4 + [0] * 2])
    found = []
    for cost, documents in ((10**9, False), (0, True)):
        monkeypatch.setattr(attention, "DOCUMENT_COST", cost)
        assert (attention.document_attention(segments, 8)[1] is not None) is documents
        logits = model(ids, segments=segments)
        model.zero_grad()
        logits[segments != 0].square().mean().backward()
        found.append([logits.detach(), *(weight.grad.clone() for weight in model.parameters())])
    for by_mask, by_documents in zip(*found, strict=True):
        torch.testing.assert_close(by_documents, by_mask, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cfg", [SMALL, SPARSE], ids=["dense", "sparse"])
def test_padding_behind_one_document_a_row_needs_no_mask(cfg: DecoderConfig) -> None:
    model, ids = decoder(cfg), tokens(2, 9)
    segments = torch.tensor([[1] * 6 + [0] * 3, [2] * 9])
    assert attention.document_attention(segments, 8) == (None, None)
    logits = model(ids, segments=segments)
    torch.testing.assert_close(logits[:1, :6], model(ids[:1, :6]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1:], model(ids[1:]), rtol=1e-5, atol=1e-5)


def test_segment_positions_restart() -> None:
    segments = torch.tensor([[3, 3, 3, 7, 7, 3], [1, 2, 2, 2, 2, 2]])
    assert segment_positions(segments).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize("cfg", [SMALL, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(cfg: DecoderConfig, side: str) -> None:
    model, ids = decoder(cfg), tokens(2, 10)
    mask = torch.ones(2, 10, dtype=torch.bool)
    real = slice(4, None) if side == "left" else slice(None, 6)
    mask[1] = False
    mask[1, real] = True
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, positions=positions, mask=mask)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], model(ids[:1])[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[1, real], model(ids[1:, real])[0], rtol=1e-5, atol=1e-5)


def test_padding_has_no_part_in_the_balance_of_the_experts() -> None:
    model, ids = decoder(SPARSE), tokens(1, 10)
    model(ids[:, :6])
    alone = model.layers[1].mlp.last.aux_loss
    mask = torch.arange(10).unsqueeze(0) < 6
    model(ids, mask=mask)
    torch.testing.assert_close(model.layers[1].mlp.last.aux_loss, alone)
    model(ids)
    assert (model.layers[1].mlp.last.aux_loss - alone).abs() > 1e-5


def test_segment_zero_is_padding_to_the_experts() -> None:
    limited = dataclasses.replace(SMALL, moe=MoEConfig(24, 20, num_experts=4, capacity_factor=0.7))
    model = decoder(limited)
    documents, padding = tokens(1, 12), tokens(1, 6, seed=1)
    segments = torch.tensor([[1] * 5 + [2] * 7])

    def aux() -> torch.Tensor:
        return model.layers[1].mlp.last.aux_loss

    model(documents, segments=segments)
    balance = aux()
    padded = torch.cat([documents, padding], 1), torch.cat([segments, torch.zeros(1, 6, dtype=torch.int64)], 1)
    logits = model(padded[0], segments=padded[1])
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(aux(), balance)
    other = torch.cat([documents, tokens(1, 6, seed=2)], 1)
    torch.testing.assert_close(model(other, segments=padded[1])[:, :12], logits[:, :12])
    # A real document in its place takes places at the experts.
    model(padded[0], segments=padded[1] + (padded[1] == 0) * 3)
    assert (aux() - balance).abs() > 1e-5


def test_explicit_positions_make_a_small_table() -> None:
    model, ids = decoder(max_len=1 << 21), tokens(1, 4)
    positions = torch.tensor([0, 1, 2, 200])
    logits = model(ids, positions=positions)
    model(ids, segments=torch.tensor([[1, 1, 2, 2]]))
    cache = KVCache(model.cfg, 2, 8)
    model(tokens(2, 4), cache=cache)
    cache.set_lengths([4, 2])
    model(tokens(2, 1), cache=cache)
    assert {cos.shape[0] for cos, _ in model.rotary._tables.values()} == {256}
    torch.testing.assert_close(logits, decoder(max_len=256)(ids, positions=positions))


def test_padding_queries_keep_themselves() -> None:
    mask = torch.tensor([[False, False, True, True]])
    allowed = attention_mask(mask, 1, 4, None, mask.device)
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert allowed is not None
    assert allowed[0, 0].int().tolist() == expected


def test_full_masks_of_three_and_four_axes() -> None:
    model, ids = decoder(), tokens(2, 6)
    allowed = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(model(ids, mask=allowed), model(ids))
    torch.testing.assert_close(model(ids, mask=allowed.unsqueeze(1)), model(ids))
    everything = model(ids, mask=torch.ones_like(allowed))
    assert (everything[:, 0] - model(ids)[:, 0]).abs().max() > 1e-3


def test_embeds_take_the_place_of_ids() -> None:
    model, ids = decoder(), tokens(2, 6)
    assert torch.equal(model(embeds=model.embed_tokens(ids)), model(ids))


def test_positions_shift_nothing_but_say_where() -> None:
    model, ids = decoder().double(), tokens(1, 6)
    positions = torch.arange(6)
    torch.testing.assert_close(model(ids, positions=positions), model(ids))
    torch.testing.assert_close(model(ids, positions=positions + 9), model(ids), rtol=1e-9, atol=1e-9)  # relative only
    assert (model(ids, positions=positions * 2) - model(ids)).abs().max() > 1e-3


def test_dropout_only_in_training() -> None:
    model, ids = decoder(dropout=0.3), tokens(1, 6)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_parameters_of_the_three_billion_shape() -> None:
    with torch.device("meta"):
        model = Decoder(DecoderConfig(49_152, 3072, 26, 24, 8, 128, 8064))
    assert model.num_params() == 2_586_744_320
    assert model.num_params(embedding=True) - model.num_params() == 150_994_944
    assert model.num_active_params() == model.num_params()


def test_active_parameters_by_hand() -> None:
    model = decoder(SPARSE)  # one sparse layer of three: 4 experts, 2 of them used, 3 matrices of 24 x 20
    assert [isinstance(block.mlp, MoE) for block in model.layers] == [False, True, False]
    assert model.num_params() - model.num_active_params() == 2 * 3 * 24 * 20
    untied = decoder(tie_embeddings=False)
    assert untied.num_params() == decoder().num_params()
    assert untied.num_params(embedding=True) == decoder().num_params(embedding=True) + 61 * 24


def test_flops_by_hand() -> None:
    attention = 24 * (32 + 16 + 16) + 32 * 24
    dense = 3 * 24 * 40
    per_layer_scores = 2 * 10 * 4 * 8  # q·k and p·v over 10/2 keys on average
    assert decoder().flops_per_token(10) == 2 * (3 * (attention + dense) + 61 * 24) + 3 * per_layer_scores
    sparse = 24 * 4 + 2 * 3 * 24 * 20
    expected = 2 * (3 * attention + 2 * dense + sparse + 61 * 24) + 3 * per_layer_scores
    assert decoder(SPARSE).flops_per_token(10) == expected


def test_initial_weights() -> None:
    cfg = DecoderConfig(500, 64, 2, 4, 4, 16, 256, moe=MoEConfig(64, 256, num_experts=4))
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    spread = {name: weight.std().item() for name, weight in model.state_dict().items()}
    assert abs(spread["embed_tokens.weight"] * 64**0.5 - 1) < 0.05
    assert abs(spread["layers.0.mlp.down_proj.weight"] * 256**0.5 - 1) < 0.05
    assert abs(spread["layers.0.self_attn.q_proj.weight"] * 64**0.5 - 1) < 0.05
    assert abs(spread["layers.1.mlp.w2"] * 256**0.5 - 1) < 0.05
    assert spread["norm.weight"] == 0


def test_weights_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two = decoder(SPARSE, seed=5), decoder(SPARSE, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_models_of_one_seed_are_equal_and_layers_built_in_turn_differ() -> None:
    def build() -> list[nn.Module]:
        torch.manual_seed(3)
        return [FeedForward(4, 8), FeedForward(4, 8), Decoder(SMALL), Decoder(SMALL)]

    def weights(module: nn.Module) -> torch.Tensor:
        return torch.cat([weight.flatten() for weight in module.parameters()])

    one, two = build(), build()
    assert all(torch.equal(weights(a), weights(b)) for a, b in zip(one, two, strict=True))
    assert not torch.equal(weights(one[0]), weights(one[1]))
    assert not torch.equal(weights(one[2]), weights(one[3]))
    before = torch.get_rng_state()
    with torch.device("meta"):
        Decoder(SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_compiled_forward_agrees() -> None:
    model, ids = decoder(n_layers=1), tokens(2, 8)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), model(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size: got 0"),
        ({"n_kv_heads": 3}, "n_kv_heads: got 3, need a divisor of n_heads = 4"),
        ({"head_dim": 7}, "head_dim: got 7, need an even number"),
        ({"rope_base": 1.0}, "rope_base"),
        ({"norm_eps": -1e-5}, "norm_eps"),
        ({"qk_norm_position": "mid"}, "qk_norm_position"),
        ({"rope_layout": "full"}, "rope_layout"),
        ({"dropout": 1.0}, "dropout"),
        ({"moe_every": 2, "moe_offset": 2}, "moe_offset: got 2, need 0..1"),
        ({"moe": MoEConfig(32, 8)}, "moe.dim: got 32, need dim = 24"),
        ({"moe": MoEConfig(24, 8, router="expert_choice")}, "causal"),
    ],
)
def test_config_refuses(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "ids, embeds: need exactly one"),
        ({"ids": tokens(1, 3), "embeds": torch.zeros(1, 3, 24)}, "ids, embeds: need exactly one"),
        ({"ids": torch.tensor([[0, 61]])}, "ids: got token 61, need 0..60"),
        ({"ids": torch.tensor([[-1, 5]])}, "ids: got token -1, need 0..60"),
        ({"ids": tokens(1, 33)}, "got 33 tokens, the model takes at most max_len = 32"),
        ({"ids": tokens(4)}, "need \\(batch, sequence\\)"),
        ({"ids": tokens(1, 3), "positions": torch.tensor([0, 1, 32])}, "positions: got 0..32, need 0..31"),
        ({"ids": tokens(1, 3), "mask": torch.ones(1, 4, dtype=torch.bool)}, "mask: got"),
        (
            {"ids": tokens(1, 3), "segments": torch.zeros(1, 3), "mask": torch.ones(1, 3, dtype=torch.bool)},
            "segments: got them together",
        ),
    ],
)
def test_forward_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder()(**arguments)


def test_a_cache_of_another_batch_is_refused() -> None:
    for rows, cached in ((1, 2), (2, 1)):
        with pytest.raises(ValueError, match=f"cache: got batch {rows}, need {cached}"):
            decoder()(tokens(rows, 3), cache=KVCache(SMALL, cached, 8))
