"""Losses: gold values by hand, slow twins, REINFORCE against exact gradients, rewards, a policy of one's own."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.core.fit import TrainState, train_step
from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import PathLabeller
from tenfold.graph.losses import (
    EmaBaseline,
    HitReward,
    ShapedReward,
    binary_cross_entropy,
    cross_entropy,
    entropy_weight,
    marginal,
    reinforce_loss,
    sl_loss,
)
from tenfold.graph.policies import MinervaPolicy
from tenfold.graph.ragged import segment_log_softmax
from tenfold.graph.rollout import rollout
from tenfold.graph.synthetic import synthetic_kg

KINDS = ("ce", "bce", "marginal", "official_minerva", "official_multihop")


class Tabular(nn.Module):
    """A policy of one's own: a score for every (step, relation asked for, relation walked)."""

    def __init__(self, kg: KnowledgeGraph, horizon: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(horizon, kg.relation_rows, kg.relation_rows))

    def init(self, state: State) -> Tensor:
        return torch.zeros_like(state.node)

    def logits(self, state: State, hidden: Tensor, actions: Actions) -> Tensor:
        return self.table[hidden[actions.row], state.relation[actions.row], actions.rel]

    def advance(self, hidden: Tensor, relation: Tensor, node: Tensor) -> Tensor:
        return hidden + 1

    def select(self, hidden: Tensor, rows: Tensor) -> Tensor:
        return hidden[rows]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world() -> tuple[KnowledgeGraph, WalkEnv, State, MinervaPolicy]:
    """30 entities with rows of 2 to about 20 actions; 24 queries, some of which no walk solves; 4 agents each."""
    ends = (30 * torch.rand(90, 2, generator=seeded(2)) ** 1.7).long()
    triples = torch.cat([ends[:, :1], torch.randint(0, 3, (90, 1), generator=seeded(1)), ends[:, 1:]], 1)
    kg = KnowledgeGraph.from_triples(triples, entity_names=[str(i) for i in range(32)])
    env = WalkEnv(kg, 3, known=kg.answers("train"))
    torch.manual_seed(0)
    policy = MinervaPolicy(kg, dim=6, hidden=6)
    with torch.no_grad():
        policy.outer.bias.fill_(0.5)  # no dead layer
        policy.relation.weight.mul_(2)
        policy.relation.weight[-1] *= 5  # padding is the extreme of its table
    queries = torch.cat([triples[:22], torch.tensor([[30, 0, 2], [3, 1, 31]])])
    return kg, env, env.reset(*queries.T, rollouts=4), policy


def slow_actions(env: WalkEnv, state: State, agent: int) -> slice:
    ptr = env.actions(state).ptr
    return slice(int(ptr[agent]), int(ptr[agent + 1]))


def slow_state_loss(kind: str, z: Tensor, y: Tensor) -> Tensor:
    p = z.softmax(0)
    if kind == "ce":
        return -sum((p[i].log() for i in y.nonzero().flatten()), torch.tensor(0.0)) / max(1, int(y.sum()))
    if kind == "marginal":
        return -p[y].sum().log() if y.any() else torch.tensor(0.0)
    return F.binary_cross_entropy(z.sigmoid(), y.float())


def keras_cross_entropy(target: Tensor, output: Tensor) -> Tensor:
    """Categorical cross-entropy of Keras on numbers that it takes for probabilities."""
    output = output / output.sum(1, keepdim=True)
    return -(target * output.clamp(1e-7, 1 - 1e-7).log()).sum(1)


def slow_minerva(policy: nn.Module, env: WalkEnv, walk: Any, labels: list[Tensor]) -> Tensor:
    """Tables [A, 200] made in full, padding scored as any other action."""
    kg, steps, hidden = env.kg, [], policy.init(walk.states[0])
    for state, after, y in zip(walk.states, walk.states[1:], labels, strict=False):
        actions, agents = env.actions(state), len(state)
        relation = torch.full((agents, 200), kg.relation_rows - 1)
        target = torch.zeros(agents, 200)
        for agent in range(agents):
            rows = slow_actions(env, state, agent)
            relation[agent, : rows.stop - rows.start] = actions.rel[rows]
            target[agent, : rows.stop - rows.start] = y[rows].float()
        row = torch.arange(agents).repeat_interleave(200)
        table = Actions(row, relation.flatten(), state.node[row], 200 * torch.arange(agents + 1))
        scores = policy.logits(state, hidden, table).view(agents, 200)
        scores = (scores - scores.min()) / (scores.max() - scores.min())
        if ((scores != 0).sum(1) == 0).any():
            scores = scores + 1e-4
        steps.append(keras_cross_entropy(target, scores))
        hidden = policy.advance(hidden, after.last_relation, after.node)
    return torch.stack(steps).sum(0).square().mean()


def slow_multihop(env: WalkEnv, walk: Any, labels: list[Tensor]) -> Tensor:
    """Buckets of padded probabilities, each handed to torch's cross-entropy on logits; totals by the bucket's place."""
    totals: dict[int, Tensor] = {}
    for state, z, y in zip(walk.states, walk.logits, labels, strict=False):
        buckets: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for agent in range(len(state)):
            rows = slow_actions(env, state, agent)
            width = (int(env.kg.degrees[state.node[agent]] + 1) // 10 + 1) * 10
            padding = (0, width - (rows.stop - rows.start))
            pair = F.pad(z[rows].softmax(0), padding), F.pad(y[rows].float(), padding)
            buckets.setdefault(width, []).append(pair)
        for place, pairs in enumerate(buckets.values()):
            probability, target = (torch.stack(column) for column in zip(*pairs, strict=True))
            loss = nn.CrossEntropyLoss()(probability, target)
            totals[place] = totals.get(place, torch.tensor(0.0)) + loss
    return torch.stack(list(totals.values())).mean()


@pytest.mark.parametrize("fallback", ["backtrack", "drop"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_supervised_losses_are_their_slow_twins(
    world: tuple[KnowledgeGraph, WalkEnv, State, MinervaPolicy], kind: str, beta: float, fallback: str
) -> None:
    kg, env, state, policy = world
    labeller = PathLabeller(kg, 3, known=kg.answers("train"), fallback=fallback)
    loss, metrics = sl_loss(policy, env, state, labeller, kind=kind, beta=beta, generator=seeded(3))
    walk = rollout(policy, env, state, generator=seeded(3))
    labels = [labeller(here, actions) for here, actions in zip(walk.states, walk.actions, strict=False)]
    y = [label.positive for label in labels]
    if kind == "official_minerva":
        expected = slow_minerva(policy, env, walk, y) - beta * walk.entropy.mean()
    elif kind == "official_multihop":
        expected = slow_multihop(env, walk, y) - beta * walk.entropy.mean()
    else:
        states = [
            slow_state_loss(kind, walk.logits[k][rows], y[k][rows]) - beta * walk.entropy[k, agent]
            for k in range(3)
            for agent in range(len(state))
            if y[k][rows := slow_actions(env, walk.states[k], agent)].any()
        ]
        assert metrics["weight"] == len(states) and metrics["labelled"] == len(states) / (3 * len(state))
        expected = 3 * torch.stack(states).mean()
    assert 0 < metrics["labelled"] < 1
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(each, list(policy.parameters()), allow_unused=True) for each in (loss, expected)]
    for one, other in zip(*gradients, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    assert metrics["hits"] == (walk.states[-1].node == state.target).float().mean() > 0
    torch.testing.assert_close(metrics["entropy"], walk.entropy.mean().detach())
    assert metrics["positive"] == torch.cat(y).sum() / metrics["weight"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(cross_entropy, math.log(6) / 2), (binary_cross_entropy, math.log(4) / 3), (marginal, math.log(6 / 5))],
)
def test_gold_by_hand(loss: Any, expected: float) -> None:
    """Scores log 1, log 2, log 3 have probabilities 1/6, 2/6, 3/6; the last two are positive."""
    logits = torch.tensor([1.0, 2, 3, 1, 1]).log()
    actions = Actions(torch.tensor([0, 0, 0, 1, 1]), *2 * [torch.zeros(5, dtype=torch.int64)], torch.tensor([0, 3, 5]))
    positive = torch.tensor([False, True, True, False, False])
    value = loss(logits, positive, actions)
    assert value[0].item() == pytest.approx(expected, abs=1e-6)
    assert value[1].item() == pytest.approx(math.log(2) if loss is binary_cross_entropy else 0, abs=1e-6)


def test_gold_by_hand_of_the_official_kinds() -> None:
    """One agent, one step, T = 1: from a to b by q (masked), p (positive), or stay; scores 1 for p, 0 else."""
    kg = KnowledgeGraph.from_triples([("a", "q", "b"), ("a", "p", "b")])
    labeller, policy = PathLabeller(kg, 1), Tabular(kg, 1)
    with torch.no_grad():
        policy.table[0, kg.relation_id("q"), kg.relation_id("p")] = 1
    state = labeller.env.reset(*torch.tensor([[kg.entity_id("a")], [kg.relation_id("q")], [kg.entity_id("b")]]))
    loss, _ = sl_loss(policy, labeller.env, state, labeller, kind="official_minerva", generator=seeded())
    assert loss.item() == pytest.approx(math.log(1 - 1e-7) ** 2, abs=1e-9)  # the row's only score that is not 0
    loss, _ = sl_loss(policy, labeller.env, state, labeller, kind="official_multihop", generator=seeded())
    p = math.e / (1 + math.e)  # ten places: p, 1 - p, and eight of 0
    assert loss.item() == pytest.approx(math.log(math.exp(p) + math.exp(1 - p) + 8) - p, abs=1e-5)


def test_minerva_rows_of_zeros_are_lifted() -> None:
    """Where all scores are equal every place of the table has the same share, 1/200."""
    kg = KnowledgeGraph.from_triples([("a", "q", "b"), ("a", "p", "b")])
    labeller = PathLabeller(kg, 1)
    state = labeller.env.reset(*torch.tensor([[kg.entity_id("a")], [kg.relation_id("q")], [kg.entity_id("b")]]))
    loss, _ = sl_loss(Tabular(kg, 1), labeller.env, state, labeller, kind="official_minerva", generator=seeded())
    assert loss.item() == pytest.approx(math.log(200) ** 2, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_has_no_loss(kind: str) -> None:
    kg = KnowledgeGraph.from_triples([("a", "q", "b"), ("c", "q", "d")])
    labeller, policy = PathLabeller(kg, 2), Tabular(kg, 2)
    state = labeller.env.reset(torch.tensor([0, 0]), torch.tensor([0, 0]), torch.tensor([3, 1]), rollouts=3)
    beta = 0.0 if kind.startswith("official") else 0.3
    loss, metrics = sl_loss(policy, labeller.env, state, labeller, kind=kind, beta=beta, generator=seeded())
    loss.backward()
    assert loss == 0 and policy.table.grad is not None and not policy.table.grad.any()
    assert metrics["weight"] == metrics["labelled"] == metrics["positive"] == 0


def test_two_half_batches_weigh_as_much_as_the_whole() -> None:
    kg = synthetic_kg("rules", 0)
    policy, labeller = Tabular(kg, 1), PathLabeller(kg, 1)  # with one step, no chance decides what is seen
    nn.init.normal_(policy.table, generator=seeded())
    queries = kg.splits["train"][:60]
    whole, *halves = (
        sl_loss(policy, labeller.env, labeller.env.reset(*part.T), labeller, beta=0.1, generator=seeded())
        for part in (queries, queries[:25], queries[25:])
    )
    assert 0 < halves[0][1]["labelled"] != halves[1][1]["labelled"]
    total = sum(loss * metrics["weight"] for loss, metrics in halves)
    torch.testing.assert_close(whole[0], total / whole[1]["weight"])


def expected_reward(policy: Any, env: WalkEnv, state: State, reward: Any) -> Tensor:
    """The mean over agents of Σ over all walks of probability times reward, differentiable."""
    hidden, log_p, agents = policy.init(state), torch.zeros(len(state)), len(state)
    for step in range(env.horizon):
        actions = env.actions(state)
        log_pi = segment_log_softmax(policy.logits(state, hidden, actions), actions.row, actions.ptr)
        log_p = log_p[actions.row] + log_pi
        hidden = policy.select(hidden, actions.row)
        state = env.step(state, torch.arange(len(actions)))
        if step + 1 < env.horizon:
            hidden = policy.advance(hidden, state.last_relation, state.node)
    return (log_p.exp() * reward(state)).sum() / agents


@pytest.fixture(scope="module")
def small() -> tuple[WalkEnv, Tabular, Tensor]:
    """Six entities, two steps, three queries."""
    kg = KnowledgeGraph.from_triples(
        torch.tensor([[0, 0, 1], [1, 1, 2], [0, 1, 3], [3, 0, 2], [2, 0, 4], [4, 1, 5], [0, 0, 5], [1, 0, 3]])
    )
    policy = Tabular(kg, 2)
    nn.init.normal_(policy.table, generator=seeded())
    return WalkEnv(kg, 2, known=kg.answers("train")), policy, torch.tensor([[0, 0, 2], [0, 1, 3], [3, 0, 2]])


@pytest.mark.parametrize(
    ("baseline", "style", "scale"),
    [
        (None, "multihop", 1),
        (None, "minerva", 1 / 2),  # its mean over the T = 2 steps
        ("avg_reward", "multihop", 99 / 100),  # each of the K = 100 walks is in its own baseline
        ("ema", "multihop", 1),
    ],
)
def test_reinforce_is_unbiased(small: tuple[WalkEnv, Tabular, Tensor], baseline: Any, style: Any, scale: float) -> None:
    env, policy, queries = small

    def reward(state: State) -> Tensor:
        return HitReward()(state) + 0.1 * state.node  # no walk is worth nothing

    (exact,) = torch.autograd.grad(-expected_reward(policy, env, env.reset(*queries.T), reward), policy.table)
    if baseline == "ema":
        baseline = EmaBaseline(0.1)
        baseline.value.fill_(0.4)
    state, generator, estimates = env.reset(*queries.T, rollouts=100), seeded(1), []
    for _ in range(200):  # 20 000 walks of each query
        loss, _ = reinforce_loss(
            policy, env, state, reward, style=style, baseline=baseline, normalize=False, generator=generator
        )
        estimates.append(torch.autograd.grad(loss, policy.table)[0].flatten())
    samples = torch.stack(estimates)
    error = samples.std(0) / math.sqrt(len(samples))
    used = exact.flatten() != 0
    assert used.sum() >= 10
    assert ((samples.mean(0) - scale * exact.flatten()).abs() <= 4 * error + 1e-7).all()
    assert (error[used] < 0.2 * exact.flatten()[used].abs().max()).all()


def test_styles_and_normalisation(small: tuple[WalkEnv, Tabular, Tensor]) -> None:
    env, policy, queries = small
    state = env.reset(*queries.T, rollouts=40)

    def loss(scale: float = 1.0, shift: float = 0.0, **options: Any) -> Tensor:
        def reward(state: State) -> Tensor:
            return scale * HitReward()(state) + shift

        return reinforce_loss(policy, env, state, reward, generator=seeded(5), **options)[0]

    walk = rollout(policy, env, state, generator=seeded(5))
    gain, log_p, entropy = HitReward()(walk.states[-1]), walk.log_probs.double(), walk.entropy.mean()
    z = (gain - gain.mean()) / (gain.double().var(correction=0).sqrt() + 1e-6)
    close = torch.testing.assert_close
    close(loss(beta=0.3), (-(z * log_p).mean() - 0.3 * entropy).float(), rtol=1e-5, atol=1e-6)
    close(loss(style="multihop", beta=0.3), (-(gain * log_p.sum(0)).mean() - 0.3 * entropy).float())
    close(loss(normalize=False) * 2, loss(style="multihop"))
    close(loss(style="multihop", normalize=True), 2 * loss())
    close(loss(scale=7, shift=-3), loss(), rtol=1e-4, atol=1e-5)
    by_query = gain.view(3, 40)
    centred = by_query - by_query.mean(1, keepdim=True)
    for name, advantage in (
        ("avg_reward", centred),
        ("avg_reward_normalized", centred / (by_query.std(1, keepdim=True) + 1e-6)),
    ):
        close(loss(style="multihop", baseline=name), -(advantage.flatten() * log_p.sum(0)).mean().float())
    assert torch.equal(loss(), loss())  # bit for bit


def test_moving_average_baseline() -> None:
    baseline = EmaBaseline(0.25)
    assert torch.equal(baseline(torch.tensor([1.0, 0.0])), torch.tensor([1.0, 0.0]))  # starts at 0
    assert baseline.value == 0.125
    assert torch.equal(baseline(torch.tensor([1.0, 1.0])), torch.tensor([0.875, 0.875]))
    assert baseline.value == 0.125 * 0.75 + 0.25
    before = baseline.state_dict()["value"].clone()
    baseline.eval()(torch.ones(3))
    assert baseline.value == before
    fresh = EmaBaseline(0.25)
    fresh.load_state_dict(baseline.state_dict())
    assert fresh.value == before


def test_entropy_weight_decays() -> None:
    assert entropy_weight(0.05, 0) == 0.05
    assert entropy_weight(0.05, 200) == pytest.approx(0.045)
    assert entropy_weight(0.05, 100) == pytest.approx(0.05 * math.sqrt(0.9))
    assert entropy_weight(0.05, 100, every=50, rate=0.5) == pytest.approx(0.0125)


def test_action_dropout_changes_the_walk_and_not_the_loss(small: tuple[WalkEnv, Tabular, Tensor]) -> None:
    env, policy, queries = small
    state = env.reset(*queries.T, rollouts=300)

    def run(share: float) -> tuple[Tensor, dict[str, Any]]:
        return reinforce_loss(
            policy, env, state, HitReward(), style="multihop", action_dropout=share, generator=seeded(2)
        )

    plain, _ = reinforce_loss(policy, env, state, HitReward(), style="multihop", generator=seeded(2))
    assert torch.equal(run(0.0)[0], plain)
    walk = rollout(policy, env, state, generator=seeded(2), action_dropout=0.8)
    hidden = policy.init(state)
    for k, (here, actions, after) in enumerate(zip(walk.states, walk.actions, walk.states[1:], strict=False)):
        log_pi = segment_log_softmax(policy.logits(here, hidden, actions), actions.row, actions.ptr)
        torch.testing.assert_close(walk.log_probs[k], log_pi[walk.choices[k]])
        hidden = policy.advance(hidden, after.last_relation, after.node)
    gain = HitReward()(walk.states[-1])
    torch.testing.assert_close(run(0.8)[0], -(gain * walk.log_probs.sum(0)).mean())
    assert not torch.equal(run(0.8)[1]["hits"], run(0.0)[1]["hits"])


class Constant(nn.Module):
    """A scorer that gives every triple the same score in evaluation, and another in training."""

    num_entities, num_relations = 6, 2

    def __init__(self, score: float) -> None:
        super().__init__()
        self.score = score

    def score_hrt(self, head: Tensor, relation: Tensor, tail: Tensor) -> Tensor:
        return torch.full(head.shape, -1.0 if self.training else self.score)


@pytest.mark.parametrize(
    ("score", "mu", "threshold", "miss"),
    [
        (1.0, 1.0, 0.0, 1.0),  # f = 1 everywhere
        (0.9, 0.0, 0.0, 0.0),  # no shaping
        (0.6, 0.5, 0.0, 0.3),
        (0.6, 1.0, 0.6, 0.0),  # not above the threshold
        (0.6, 1.0, 0.59, 0.6),
    ],
)
def test_shaped_reward(
    small: tuple[WalkEnv, Tabular, Tensor], score: float, mu: float, threshold: float, miss: float
) -> None:
    env, policy, queries = small
    end = rollout(policy, env, env.reset(*queries.T, rollouts=30), generator=seeded()).states[-1]
    hit = end.node == end.target
    assert 0 < hit.sum() < len(hit)
    reward = ShapedReward(Constant(score), mu, threshold)(end)  # type: ignore[arg-type]
    torch.testing.assert_close(reward, torch.where(hit, 1.0, miss))
    assert torch.equal(HitReward()(end), hit.float())


def test_a_policy_of_ones_own_learns_by_both_losses() -> None:
    assert len(inspect.getsource(Tabular).splitlines()) <= 40
    kg = synthetic_kg("rules", 1)
    known, a, b, q = kg.answers("train"), *(kg.relation_id(name) for name in "abq")
    env, generator = WalkEnv(kg, 2, known=known), seeded()
    labeller = PathLabeller(kg, 2, known=known, fallback="drop")
    asked = kg.splits["train"][kg.splits["train"][:, 1] == q][:40]
    state = env.reset(*asked.T, rollouts=10)

    def supervised(policy: nn.Module, batch: State) -> Any:
        return sl_loss(policy, env, batch, labeller, generator=generator)  # type: ignore[arg-type]

    def reinforced(policy: nn.Module, batch: State) -> Any:
        return reinforce_loss(policy, env, batch, HitReward(), beta=0.01, generator=generator)  # type: ignore[arg-type]

    for loss in (supervised, reinforced):
        policy = Tabular(kg, 2)
        train = TrainState(policy, torch.optim.Adam(policy.parameters(), 0.1))
        for _ in range(40):
            train_step(train, loss, [state])
        assert policy.table[:, q].argmax(1).tolist() == [a, b]  # the rule of the graph: q(x, y) <- a(x, z), b(z, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: sl_loss(*w, kind="mse", generator=seeded()), "kind: got 'mse', need one of 'ce', 'bce'"),
        (
            lambda w: sl_loss(w[0], WalkEnv(w[1].kg, 2), *w[2:], generator=seeded()),
            "env: got horizon 2, need 3, as the labeller has it",
        ),
        (
            lambda w: sl_loss(w[0], WalkEnv(w[1].kg, 3, targets="all"), *w[2:], generator=seeded()),
            "env: got targets 'all', need 'single', as the labeller has it",
        ),
        (
            lambda w: reinforce_loss(*w[:3], HitReward(), style="ppo", generator=seeded()),
            "style: got 'ppo', need one of 'minerva', 'multihop'",
        ),
        (
            lambda w: reinforce_loss(*w[:3], HitReward(), baseline="ema", generator=seeded()),
            "baseline: got 'ema', need 'avg_reward', 'avg_reward_normalized', an EmaBaseline or None",
        ),
        (
            lambda w: reinforce_loss(
                *w[:2],
                w[1].reset(*w[1].kg.splits["train"][:3].T),
                HitReward(),
                baseline="avg_reward",
                generator=seeded(),
            ),
            "baseline: got a query with a single walk, 'avg_reward' needs several rollouts",
        ),
        (lambda w: EmaBaseline(0), "rate: got 0, need 0 < rate <= 1"),
        (lambda w: ShapedReward(Constant(1), mu=-1), "mu: got -1, need a finite number from 0"),
        (lambda w: ShapedReward(Constant(1), threshold=2), r"threshold: got 2, need 0\.\.1"),
    ],
)
def test_bad_settings(world: tuple[KnowledgeGraph, WalkEnv, State, MinervaPolicy], call: Any, message: str) -> None:
    kg, env, state, policy = world
    with pytest.raises(ValueError, match=message):
        call((policy, env, state, PathLabeller(kg, 3)))
