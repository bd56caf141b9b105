"""Leave-one-out advantages and the mirror-descent step: laws, gradients, switches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tenfold.align.logprobs import frozen_head, hidden_states, sequence_logprobs
from tenfold.align.policy_gradient import PolicyBatch, advantages, leave_one_out, mdloo_loss, policy_batch
from tenfold.align.samples import Sample, pad, rows

K = 4


@pytest.fixture
def iteration(decoder, samples):  # type: ignore[no-untyped-def]
    """A sampling policy and what it made of three prompts' responses."""

    def make(**options: object) -> PolicyBatch:
        rewards = torch.randn(3, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        given = {"reference": decoder(1), "beta": 0.1, **options}
        return policy_batch(decoder(0), samples(3 * K), rewards, **given)  # type: ignore[arg-type]

    return make


def moved(model, size: float = 0.05):  # type: ignore[no-untyped-def]
    """The policy some steps later."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(size * torch.randn(weight.shape, dtype=weight.dtype, generator=generator))
    return model


def test_leave_one_out_by_its_three_laws(generator: torch.Generator) -> None:
    rewards = torch.randn(50, 5, dtype=torch.float64, generator=generator)
    found = leave_one_out(rewards)
    others = torch.stack([rewards[:, [j for j in range(5) if j != i]].mean(1) for i in range(5)], dim=1)
    torch.testing.assert_close(found, rewards - others)
    torch.testing.assert_close(found.sum(1), torch.zeros(50, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out(rewards + 7), found)
    assert leave_one_out(torch.tensor([[1.0, 0.0]])).tolist() == [[1, -1]]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.zeros(3, 1), r"rewards: got shape \(3, 1\), need \(prompts, K\) with K of 2 or more"),
        (torch.zeros(3), r"rewards: got shape \(3,\)"),
        (torch.tensor([[0.0, math.nan, math.inf]]), "rewards: got 2 that are not finite"),
    ],
)
def test_rewards_that_have_no_advantage(rewards: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        leave_one_out(rewards)


def test_the_plain_baseline_is_the_mean_of_the_batch() -> None:
    assert advantages(torch.tensor([[0.0, 1.0], [3.0, 4.0]]), "mean").tolist() == [[-2, -1], [1, 2]]
    with pytest.raises(ValueError, match="baseline: got 'none'"):
        advantages(torch.zeros(1, 2), "none")  # type: ignore[arg-type]


def test_the_batch_holds_what_the_paper_says(decoder, samples, iteration) -> None:  # type: ignore[no-untyped-def]
    made, batch = iteration(rows_at_once=5), pad(samples(3 * K))
    rewards = torch.randn(3, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    old, reference = (sequence_logprobs(decoder(seed), batch)[0].detach() for seed in (0, 1))
    expected = leave_one_out(rewards - 0.1 * (old - reference).view(3, K)).flatten()
    torch.testing.assert_close(made.batch["old_logprob"], old)
    torch.testing.assert_close(made.batch["advantage"], expected)
    torch.testing.assert_close(made.batch["old_states"], hidden_states(decoder(0), batch).detach())
    assert made.metrics["reward"] == pytest.approx(float(rewards.mean()))
    assert made.metrics["reference_kl"] == pytest.approx(float((old - reference).mean()))
    assert "old_states" not in iteration(keep_states=False).batch
    assert iteration(reference=None, beta=0.0).metrics["reference_kl"] == 0


def test_at_the_sampling_policy_it_is_reinforce_with_leave_one_out(decoder, iteration) -> None:  # type: ignore[no-untyped-def]
    policy, made = decoder(0), iteration()
    value, metrics = mdloo_loss(0.7, old_head=made.old_head)(policy, made.batch)
    assert metrics["kl"].abs() < 1e-12
    assert metrics["ratio"].item() == pytest.approx(1, abs=1e-12)
    assert (metrics["weight"], metrics["capped"]) == (12, 0)
    reinforce = -(made.batch["advantage"] * sequence_logprobs(policy, made.batch)[0]).mean()
    gradients = (torch.autograd.grad(x, list(policy.parameters())) for x in (value, reinforce))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_exact_divergence_away_from_it(decoder, iteration, temperature: float) -> None:  # type: ignore[no-untyped-def]
    policy, made = moved(decoder(0), 0.01), iteration(temperature=temperature)
    batch, gamma = made.batch, 0.3
    value, metrics = mdloo_loss(gamma, old_head=made.old_head, temperature=temperature)(policy, batch)
    kept = batch["targets"] != -100
    log_p, log_q = ((model(batch["ids"]) / temperature).log_softmax(-1) for model in (policy, decoder(0)))
    kl = ((log_p.exp() * (log_p - log_q)).sum(-1) * kept).sum(1)
    sums = [
        (x.gather(-1, batch["targets"].where(kept, 0).unsqueeze(-1)).squeeze(-1) * kept).sum(1) for x in (log_p, log_q)
    ]
    expected = -((sums[0] - sums[1].detach()).exp() * batch["advantage"]).mean() + gamma * kl.mean()
    torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-10)
    assert kl.min() > 0
    torch.testing.assert_close(metrics["kl"], kl.mean().detach(), rtol=1e-8, atol=0)
    parameters = [weight for name, weight in policy.named_parameters()]
    for mine, theirs in zip(*(torch.autograd.grad(x, parameters) for x in (value, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-10)


def test_the_sampled_divergence_and_the_clip_need_no_states(decoder, iteration) -> None:  # type: ignore[no-untyped-def]
    policy, made = moved(decoder(0)), iteration(keep_states=False)
    batch = made.batch
    ratio = (sequence_logprobs(policy, batch)[0] - batch["old_logprob"]).exp().detach()
    sampled, metrics = mdloo_loss(0.3, kl="sampled")(policy, batch)
    kl = (ratio * ratio.log()).mean()
    torch.testing.assert_close(metrics["kl"], kl)
    torch.testing.assert_close(sampled.detach(), -(ratio * batch["advantage"]).mean() + 0.3 * kl)
    clipped, metrics = mdloo_loss(0.3, trust="clip", clip=0.1)(policy, batch)
    bounded = torch.minimum(ratio * batch["advantage"], ratio.clamp(0.9, 1.1) * batch["advantage"])
    torch.testing.assert_close(clipped.detach(), -bounded.mean())
    assert metrics["clipped"] == (bounded < ratio * batch["advantage"]).float().mean() > 0
    with pytest.raises(ValueError, match='no "old_states"'):
        mdloo_loss(old_head=made.old_head)(policy, batch)


def test_the_cap_acts_on_rare_responses_and_is_counted(decoder, iteration) -> None:  # type: ignore[no-untyped-def]
    policy, made = decoder(0), iteration()
    made.batch["old_logprob"][:3] -= 20
    value, metrics = mdloo_loss(0.0, old_head=made.old_head)(policy, made.batch)
    assert metrics["capped"] == 0.25
    kept = rows(made.batch, slice(3, None))
    expected = -(3 * math.exp(5) * made.batch["advantage"][:3].mean() + kept["advantage"].sum()) / 12
    assert value.item() == pytest.approx(expected.item())
    (gradient,) = torch.autograd.grad(value, policy.norm.weight)
    alone, _ = mdloo_loss(0.0, old_head=made.old_head)(policy, kept)
    torch.testing.assert_close(gradient, torch.autograd.grad(alone, policy.norm.weight)[0] * 9 / 12)


def test_minibatches_hold_every_row_once_a_pass(iteration) -> None:  # type: ignore[no-untyped-def]
    made = iteration()
    parts = [part["advantage"] for part in made.minibatches(5, passes=2, seed=3)]
    assert [len(part) for part in parts] == [5, 5, 2] * 2
    first, second = torch.cat(parts[:3]), torch.cat(parts[3:])
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(made.batch["advantage"].tolist())
    again = [part["advantage"] for part in made.minibatches(5, passes=2, seed=3)]
    assert all(map(torch.equal, parts, again))
    with pytest.raises(ValueError, match="size, passes: got 0, 1"):
        next(made.minibatches(0))


@pytest.mark.parametrize("options", [{}, {"trust": "clip"}])
def test_a_bandit_goes_to_the_better_arm(decoder, options: dict) -> None:  # type: ignore[no-untyped-def]
    """Responses of one token out of eight, of which one is worth 1."""
    policy, prompt = decoder(0, vocab_size=8), [1, 2, 3]
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for step in range(12):
        probabilities = policy(torch.tensor([prompt]))[0, -1].softmax(-1).detach()
        arms = torch.multinomial(probabilities, 32, replacement=True, generator=generator)
        samples = [Sample.of(prompt, [int(arm)]) for arm in arms]
        made = policy_batch(policy, samples, (arms == 5).double().view(4, 8), beta=0.0)
        loss = mdloo_loss(0.05, old_head=made.old_head, **options)
        for part in made.minibatches(16, passes=2, seed=step):
            value, _ = loss(policy, part)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    assert policy(torch.tensor([prompt]))[0, -1].softmax(-1)[5].item() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "old_head: got None"),
        ({"kl": "k3"}, "kl: got 'k3'"),
        ({"trust": "none"}, "trust: got 'none'"),
        ({"gamma": -1.0}, "gamma: got -1"),
        ({"log_ratio_cap": 0.0, "kl": "sampled"}, "log_ratio_cap, clip, temperature: got 0.0"),
        ({"temperature": 0.0, "kl": "sampled"}, "log_ratio_cap, clip, temperature: got 5.0, 0.2, 0.0"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mdloo_loss(**options)


def test_batches_that_cannot_be_made(decoder, samples) -> None:  # type: ignore[no-untyped-def]
    model, frozen = decoder(), decoder()
    for count, shape, options, message in (
        (3, (2, 2), {"beta": 0.0}, "samples: got 3 for 4 rewards"),
        (4, (2, 2), {}, "beta: got 0.01 and reference None"),
        (4, (2, 2), {"beta": -1.0, "reference": frozen}, "beta: got -1"),
        (4, (4, 1), {"beta": 0.0}, "K of 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            policy_batch(model, samples(count), torch.zeros(shape), **options)  # type: ignore[arg-type]


def test_a_frozen_head_outlives_the_step(decoder, iteration) -> None:  # type: ignore[no-untyped-def]
    """With tied embeddings the output layer itself learns; the divergence must be from what it was."""
    policy, made = decoder(0), iteration()
    head = frozen_head(policy)
    moved(policy)
    _, metrics = mdloo_loss(old_head=head)(policy, made.batch)
    assert metrics["kl"] > 1e-4
