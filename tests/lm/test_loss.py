"""The language-model loss against torch's own pieces."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss, token_losses
from tenfold.nn.moe import MoEConfig, collect_aux


def model(moe: MoEConfig | None = None) -> Decoder:
    return Decoder(DecoderConfig(40, 16, 2, 2, 1, 8, 24, max_len=16, moe=moe), torch.Generator().manual_seed(0))


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    rows = torch.randint(0, 40, (3, 9), generator=torch.Generator().manual_seed(seed))
    targets = rows[:, 1:].clone()
    targets[0, :5] = -100
    return {"ids": rows[:, :-1], "targets": targets}


@pytest.mark.parametrize(("rows", "vocabulary"), [(50, 30), (70, 5000), (1, 3)])
def test_values_and_gradients_equal_torchs(rows: int, vocabulary: int, generator: torch.Generator) -> None:
    logits = (4 * torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator)).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[::3] = -100
    up_ce, up_z = torch.randn(2, rows, dtype=torch.float64, generator=generator)
    ce, lse = token_losses(logits, targets)
    gradient = torch.autograd.grad((ce * up_ce + lse.square() * up_z).sum(), logits)[0]
    expected_ce = F.cross_entropy(logits, targets, reduction="none")
    expected_lse = logits.logsumexp(-1) * (targets != -100)
    expected = torch.autograd.grad((expected_ce * up_ce + expected_lse.square() * up_z).sum(), logits)[0]
    torch.testing.assert_close(ce, expected_ce, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_bfloat16_logits_are_reduced_in_float32(generator: torch.Generator) -> None:
    logits = torch.randn(20, 300, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(0, 300, (20,), generator=generator)
    ce, _ = token_losses(logits, targets)
    expected = F.cross_entropy(logits.float(), targets, reduction="none")
    assert ce.dtype == torch.float32
    torch.testing.assert_close(ce, expected)
    gradient = torch.autograd.grad(ce.sum(), logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), logits)[0], rtol=1e-2, atol=1e-3)


def test_huge_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    ce, _ = token_losses(logits, torch.tensor([1]))
    ce.sum().backward()
    assert ce.item() == 2e4
    assert torch.equal(logits.grad, torch.tensor([[1.0, -1.0, 0.0]]))


def test_mean_over_targets_and_z_loss_over_the_same() -> None:
    decoder, rows = model(), batch()
    total, metrics = lm_loss(z_loss=0.1)(decoder, rows)
    kept = rows["targets"] != -100
    logits = decoder(rows["ids"])[kept]
    ce = F.cross_entropy(logits, rows["targets"][kept])
    z = logits.logsumexp(-1).square().mean()
    assert metrics["weight"] == 19
    torch.testing.assert_close(metrics["ce"], ce.detach())
    torch.testing.assert_close(metrics["z"], z.detach())
    torch.testing.assert_close(total, ce + 0.1 * z)


def test_the_default_weight_is_afms() -> None:
    decoder, rows = model().double(), batch()
    total, metrics = lm_loss()(decoder, rows)
    torch.testing.assert_close(total.detach() - metrics["ce"], 1e-6 * metrics["z"], rtol=1e-6, atol=0)
    assert "z" not in lm_loss(z_loss=0.0)(decoder, rows)[1]


def test_weighted_micro_batches_add_up_to_the_whole() -> None:
    decoder, rows, loss = model(), batch(), lm_loss(z_loss=1e-2)
    whole, metrics = loss(decoder, rows)
    parts = [loss(decoder, {name: value[i : i + 1] for name, value in rows.items()}) for i in range(3)]
    joined = sum(value * part["weight"] for value, part in parts) / metrics["weight"]
    torch.testing.assert_close(joined, whole)


def test_a_batch_without_targets_is_zero_with_zero_gradient() -> None:
    decoder, rows = model(), batch()
    rows["targets"] = torch.full_like(rows["targets"], -100)
    total, metrics = lm_loss(1e-3)(decoder, rows)
    total.backward()
    assert total.item() == 0
    assert metrics["weight"] == 0
    assert all(torch.equal(weight.grad, torch.zeros_like(weight)) for weight in decoder.parameters())


def test_auxiliary_losses_of_the_experts_are_added() -> None:
    decoder, rows = model(MoEConfig(16, 12, num_experts=4, z_weight=1e-3)), batch()
    total, metrics = lm_loss(z_loss=0.0)(decoder, rows)
    decoder(rows["ids"])
    aux, _ = collect_aux(decoder)
    assert aux.item() > 0
    torch.testing.assert_close(metrics["aux"], aux.detach())
    torch.testing.assert_close(total.detach(), metrics["ce"] + aux.detach())
    total.backward()
    assert decoder.layers[1].mlp.gate_weight.grad.abs().sum() > 0


def test_packed_rows_have_the_loss_of_their_documents() -> None:
    decoder, loss = model(), lm_loss()
    rows = torch.randint(0, 40, (1, 10), generator=torch.Generator().manual_seed(4))
    targets = rows.roll(-1, 1)
    targets[0, [3, 9]] = -100
    packed, metrics = loss(decoder, {"ids": rows, "targets": targets, "segments": torch.tensor([[1] * 4 + [2] * 6])})
    parts = [loss(decoder, {"ids": rows[:, part], "targets": targets[:, part]}) for part in (slice(4), slice(4, None))]
    expected = sum(value * part["weight"] for value, part in parts) / metrics["weight"]
    torch.testing.assert_close(packed, expected, rtol=1e-6, atol=1e-6)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="z_loss: got -1"):
        lm_loss(-1.0)
    with pytest.raises(ValueError, match="batch: no targets; got ids"):
        lm_loss()(model(), {"ids": torch.zeros(1, 2, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"targets: got 7, need 0..4"):
        token_losses(torch.zeros(2, 5), torch.tensor([1, 7]))
    with pytest.raises(ValueError, match="targets: got -5"):
        token_losses(torch.zeros(2, 5), torch.tensor([-100, -5]))
