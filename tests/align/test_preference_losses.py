"""DPO and IPO against their formulas; the references they know; what they do to a model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tenfold.align.logprobs import sequence_logprobs
from tenfold.align.preference_data import Pair, collate_pairs
from tenfold.align.preference_losses import dpo_loss, ipo_loss


@pytest.fixture
def batch(samples) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    rows = samples(8)
    unknown = ((-100,) * 4, (-100,) * 4)
    return collate_pairs([Pair(a, b, 0, unknown) for a, b in zip(rows[::2], rows[1::2], strict=True)])


def margins(policy, reference, batch: dict[str, Tensor], per_token: bool = False) -> Tensor:  # type: ignore[no-untyped-def]
    sums, counts = sequence_logprobs(policy, batch)
    ratios = sums - sequence_logprobs(reference, batch)[0]
    first, second = (ratios / counts if per_token else ratios).chunk(2)
    return first - second


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_values_and_gradients_equal_the_formulas(decoder, batch, beta: float) -> None:  # type: ignore[no-untyped-def]
    policy, reference = decoder(0), decoder(1)
    h = margins(policy, reference, batch)
    mean = margins(policy, reference, batch, per_token=True)
    for loss, expected in (
        (dpo_loss(beta, reference=reference), torch.log1p((-beta * h).exp()).mean()),
        (ipo_loss(beta, reference=reference), ((h - 1 / (2 * beta)) ** 2).mean()),
        (ipo_loss(beta, reference=reference, per_token=True), ((mean - 1 / (2 * beta)) ** 2).mean()),
    ):
        value, metrics = loss(policy, batch)
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
        assert metrics["weight"] == 4
        gradients = (torch.autograd.grad(x, list(policy.parameters()), retain_graph=True) for x in (value, expected))
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)
    assert all(weight.grad is None for weight in reference.parameters())


def test_at_the_reference_dpo_is_ln_2(decoder, batch) -> None:  # type: ignore[no-untyped-def]
    value, metrics = dpo_loss(reference=decoder(0))(decoder(0), batch)
    assert value.item() == pytest.approx(math.log(2), rel=1e-9)
    assert abs(metrics["margin"]) < 1e-9
    assert ipo_loss(0.25, reference=decoder(0))(decoder(0), batch)[0].item() == pytest.approx(4)


def test_swapping_the_pair_mirrors_the_margin(decoder, batch) -> None:  # type: ignore[no-untyped-def]
    policy, reference = decoder(0), decoder(1)
    swapped = {name: torch.cat(value.chunk(2)[::-1]) if name != "level" else value for name, value in batch.items()}
    one, other = (dpo_loss(reference=reference)(policy, each)[1] for each in (batch, swapped))
    assert one["margin"].item() == pytest.approx(-other["margin"].item())
    assert one["accuracy"] + other["accuracy"] == 1
    assert one["chosen"].item() == pytest.approx(other["rejected"].item())


def test_kept_references_stand_for_the_model(decoder, batch) -> None:  # type: ignore[no-untyped-def]
    policy, reference = decoder(0), decoder(1)
    kept = {**batch, "ref_logprob": sequence_logprobs(reference, batch)[0].detach()}
    expected = dpo_loss(reference=reference)(policy, batch)[0]
    torch.testing.assert_close(dpo_loss()(policy, kept)[0], expected)
    with pytest.raises(ValueError, match="reference: got None"):
        dpo_loss()(policy, batch)


@pytest.mark.parametrize("make", [dpo_loss, ipo_loss])
def test_a_few_steps_turn_the_margins(decoder, batch, make) -> None:  # type: ignore[no-untyped-def]
    policy, loss = decoder(0), make(0.5, reference=decoder(0))
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    for _ in range(15):
        value, _ = loss(policy, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert loss(policy, batch)[1]["accuracy"] == 1


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_beta_is_positive(beta: float) -> None:
    for make in (dpo_loss, ipo_loss):
        with pytest.raises(ValueError, match=f"beta: got {beta}"):
            make(beta)
