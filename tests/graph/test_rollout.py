"""A rollout says what was done, with the probabilities it had."""

from __future__ import annotations

import pytest
import torch

from tenfold.graph.environment import State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy
from tenfold.graph.ragged import lengths_to_ptr, segment_log_softmax
from tenfold.graph.rollout import Rollout, drop_actions, rollout


@pytest.fixture(scope="module")
def world() -> tuple[WalkEnv, State, MinervaPolicy]:
    triples = torch.randint(0, 12, (60, 3), generator=torch.Generator().manual_seed(0))
    triples[:, 1] %= 3
    kg = KnowledgeGraph.from_triples(triples)
    env = WalkEnv(kg, 3, known=kg.answers("train"))
    torch.manual_seed(0)
    policy = MinervaPolicy(kg, dim=4, hidden=4, use_entity=True)
    s, r, t = triples[:20].T
    return env, env.reset(s, r, t, rollouts=5), policy


def run(world: tuple[WalkEnv, State, MinervaPolicy], seed: int = 0, **options: object) -> Rollout:
    env, state, policy = world
    return rollout(policy, env, state, generator=torch.Generator().manual_seed(seed), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sample", ["inverse_cdf", "gumbel"])
def test_the_record_is_true(world: tuple[WalkEnv, State, MinervaPolicy], sample: str) -> None:
    env, state, policy = world
    walks = run(world, sample=sample)
    assert [s.step for s in walks.states] == [0, 1, 2, 3]
    assert walks.choices.shape == walks.log_probs.shape == walks.entropy.shape == (3, 100)
    hidden = policy.init(state)
    for k, (before, actions, after) in enumerate(zip(walks.states, walks.actions, walks.states[1:], strict=False)):
        choice = walks.choices[k]
        assert torch.equal(actions.row[choice], torch.arange(100))
        assert torch.equal(actions.dst[choice], after.node) and torch.equal(actions.dst, env.actions(before).dst)
        logits = policy.logits(before, hidden, actions)
        torch.testing.assert_close(logits, walks.logits[k])
        for agent in range(0, 100, 9):
            own = slice(int(actions.ptr[agent]), int(actions.ptr[agent + 1]))
            pi = torch.distributions.Categorical(logits=logits[own])
            torch.testing.assert_close(walks.log_probs[k, agent], pi.log_prob(choice[agent] - actions.ptr[agent]))
            torch.testing.assert_close(walks.entropy[k, agent], pi.entropy())
        hidden = policy.advance(hidden, after.last_relation, after.node)
    assert torch.equal(walks.states[-1].path_dst[:, -1], walks.states[-1].node)
    walks.log_probs.sum().backward()
    assert policy.relation.weight.grad is not None and policy.relation.weight.grad.abs().sum() > 0


def test_parts_of_a_batch_walk_as_the_whole(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    env, state, policy = world
    whole = run(world)
    for part in range(2):
        rows = torch.arange(50 * part, 50 * (part + 1))
        half = run((env, state.select(rows), policy), part=(part, 2))
        assert torch.equal(half.states[-1].path_dst, whole.states[-1].path_dst[rows])
        torch.testing.assert_close(half.log_probs, whole.log_probs[:, rows])


def test_same_seed_same_walk_bit_for_bit(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    first, again, other = run(world, 3), run(world, 3), run(world, 4)
    assert torch.equal(first.choices, again.choices) and torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.choices, other.choices)


def test_greedy_takes_the_likeliest(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    walks = run(world, greedy=True)
    for actions, logits, choice in zip(walks.actions, walks.logits, walks.choices, strict=True):
        for agent in range(100):
            own = slice(int(actions.ptr[agent]), int(actions.ptr[agent + 1]))
            assert choice[agent] - actions.ptr[agent] == logits[own].argmax()
    assert torch.equal(walks.choices, run(world, 1, greedy=True).choices)


def test_rollouts_start_in_the_midst(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    env, _, policy = world
    later = run(world).states[1]
    walks = rollout(policy, env, later, generator=torch.Generator().manual_seed(0))
    assert [s.step for s in walks.states] == [1, 2, 3] and walks.choices.shape == (2, 100)


def test_no_action_dropout_is_none(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    assert torch.equal(run(world, action_dropout=0.0).choices, run(world).choices)


def test_action_dropout_keeps_log_probs_of_the_policy(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    walks = run(world, action_dropout=0.9)
    for actions, logits, choice, log_p in zip(walks.actions, walks.logits, walks.choices, walks.log_probs, strict=True):
        torch.testing.assert_close(log_p, segment_log_softmax(logits, actions.row, actions.ptr)[choice])


def test_dropped_distribution(generator: torch.Generator) -> None:
    lengths = torch.full((20_000,), 3)
    row, ptr = torch.repeat_interleave(lengths), lengths_to_ptr(lengths)
    p = torch.tensor([0.7, 0.2, 0.1])
    weights = drop_actions(p.log().repeat(20_000), row, ptr, 0.4, generator).exp().view(-1, 3)
    # What is left of (.7, .2, .1): eight cases, probability 0.6 to stay each; none left means uniform over all three.
    expected = torch.zeros(3)
    for case in range(8):
        stays = torch.tensor([case >> i & 1 for i in range(3)])
        chance = 0.6 ** int(stays.sum()) * 0.4 ** int(3 - stays.sum())
        left = p * stays if stays.any() else torch.ones(3)
        expected += chance * left / left.sum()
    sigma = weights.std(0) / 20_000**0.5
    assert ((weights.mean(0) - expected).abs() <= 4 * sigma).all()
    assert (weights.sum(1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_dropout": 1.5}, "action_dropout: got 1.5, need 0..1"),
        ({"sample": "best"}, "sample: got 'best', need one of"),
        ({"sample": "gumbel", "part": (0, 2)}, r"part: got \(0, 2\) with sample 'gumbel'"),
    ],
)
def test_bad_settings(world: tuple[WalkEnv, State, MinervaPolicy], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(world, **options)


def test_no_walk_beyond_the_horizon(world: tuple[WalkEnv, State, MinervaPolicy]) -> None:
    env, _, policy = world
    with pytest.raises(ValueError, match="got step 3, need one before the horizon 3"):
        rollout(policy, env, run(world).states[-1], generator=torch.Generator())
