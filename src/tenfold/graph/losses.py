"""The two stages of training: supervised on labels of the agent's own walks, then REINFORCE.

Either walks every agent of the batch by its policy (`rollout`); they differ in what they make of the walk.
"""

# Shape legend: A agents, N actions of all agents at one step, T horizon

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from tenfold.core.mesh import batch_coordinate, sum_over_batch
from tenfold.graph.embed import Scorer
from tenfold.graph.environment import Actions, State, WalkEnv
from tenfold.graph.labels import PathLabeller
from tenfold.graph.official import PaddingScores, minerva_step, multihop_loss
from tenfold.graph.policies import Policy
from tenfold.graph.ragged import segment_log_softmax, segment_logsumexp, segment_sum
from tenfold.graph.rollout import rollout

Metrics = dict[str, Any]
Reward = Callable[[State], Tensor]  # agents at the end of their walks -> [A]
Kind = Literal["ce", "bce", "marginal", "official_minerva", "official_multihop"]
Style = Literal["minerva", "multihop"]
QueryBaseline = Literal["avg_reward", "avg_reward_normalized"]

EPSILON = 1e-6  # beside a standard deviation


def sl_loss(
    policy: Policy[Any],
    env: WalkEnv,
    state: State,
    labeller: PathLabeller,
    *,
    kind: Kind = "ce",
    beta: float = 0.0,
    generator: torch.Generator | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Tensor, Metrics]:
    """Walk by the policy, label what could have been done at every state come to, and learn from that.

    "ce", "bce" and "marginal" are T times the mean over all states with a label of the loss of a state (the functions
    `cross_entropy`, `binary_cross_entropy`, `marginal`) less β times its entropy. The kinds of the released code are
    means over all agents, of which one without a label counts 0, less β times the mean entropy.

    Args:
        policy: the walker.
        env: the rules of the walk; with the horizon and the targets of the labeller.
        state: A agents at the start, with known targets.
        labeller: says which actions are positive.
        kind: of loss.
        beta: β, weight of the entropy in nats.
        generator: of the actions sampled, None is torch's; with a mesh, the same on every process.
        mesh: over whose processes a batch lies in equal parts; the walks are those of one process.
    Returns:
        the loss, and metrics: "weight", states with a label; "labelled", their share of all; "positive", how many
        actions are positive in one of them; "hits", share of walks that end on a target; "entropy" of a state.
    Raises:
        ValueError: an unknown kind, or rules that are not the labeller's.
    Source: arXiv 2405.13640, the supervised stage.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: got {kind!r}, need one of {', '.join(map(repr, get_args(Kind)))}")
    for name in ("horizon", "targets"):
        got, need = getattr(env, name), getattr(labeller.env, name)
        if got != need:
            raise ValueError(f"env: got {name} {got!r}, need {need!r}, as the labeller has it")
    walker, part = PaddingScores(policy, env.kg), batch_coordinate(mesh)
    walk = rollout(walker if kind == "official_minerva" else policy, env, state, generator=generator, part=part)
    reach = labeller.reach(state)
    labels = [labeller(here, actions, reach) for here, actions in zip(walk.states, walk.actions, strict=False)]
    positive = [label.positive for label in labels]
    weight_TA = torch.stack([label.weight for label in labels])
    weight = weight_TA.sum()
    steps = zip(walk.logits, positive, walk.actions, strict=True)
    if kind == "official_minerva":
        losses = [minerva_step(z, pad, y, a) for (z, y, a), pad in zip(steps, walker.scores, strict=True)]
        loss = torch.stack(losses).sum(0).square().mean() - beta * walk.entropy.mean()
    elif kind == "official_multihop":
        sizes = [env.kg.degrees[here.node] + 1 for here in walk.states[:-1]]
        loss = multihop_loss(walk.logits, positive, walk.actions, sizes) - beta * walk.entropy.mean()
    else:
        loss_TA = torch.stack([_STATE_LOSS[kind](z, y, a) for z, y, a in steps]) - beta * walk.entropy
        loss = len(labels) * (weight_TA * loss_TA).sum() / weight.clamp(min=1)
    end = walk.states[-1]
    return loss, {
        "weight": weight,
        "labelled": weight_TA.mean(),
        "positive": torch.cat(positive).sum() / weight.clamp(min=1),
        "hits": reach.within(end.query, end.node, 0).float().mean(),
        "entropy": walk.entropy.detach().mean(),
    }


def cross_entropy(logits: Tensor, positive: Tensor, actions: Actions) -> Tensor:
    """-(1/|Y|) Σ log π(a) over the positive actions Y of every agent, [A]; 0 without any.

    Args:
        logits: of the actions [N].
        positive: [N] bool.
        actions: of all agents.
    """
    log_p = segment_log_softmax(logits, actions.row, actions.ptr)
    y = positive.to(log_p)
    return -segment_sum(log_p * y, actions.ptr) / segment_sum(y, actions.ptr).clamp(min=1)


def binary_cross_entropy(logits: Tensor, positive: Tensor, actions: Actions) -> Tensor:
    """The mean over an agent's actions of -(y log σ(z) + (1 - y) log(1 - σ(z))), [A]; arguments as `cross_entropy`."""
    loss = F.binary_cross_entropy_with_logits(logits, positive.to(logits), reduction="none")
    return segment_sum(loss, actions.ptr) / actions.ptr.diff()


def marginal(logits: Tensor, positive: Tensor, actions: Actions) -> Tensor:
    """-log Σ π(a) over the positive actions of every agent, [A]; 0 without any; arguments as `cross_entropy`."""
    row, ptr = actions.row, actions.ptr
    none = segment_sum(positive.float(), ptr) == 0
    log_p = segment_log_softmax(logits, row, ptr)
    return -segment_logsumexp(log_p.masked_fill(~(positive | none[row]), -torch.inf), row, ptr)


_STATE_LOSS = {"ce": cross_entropy, "bce": binary_cross_entropy, "marginal": marginal}


class HitReward:
    """1 for a walk that ends on its target, else 0."""

    def __call__(self, state: State) -> Tensor:
        """[A], of agents at the end of their walks."""
        return (state.node == state.target).float()


class ShapedReward:
    """b + μ(1 - b)·f·1[f > τ]: what misses its target (b = 0) earns the score f of its triple.

    Args:
        scorer: a trained embedding model; `score_hrt` gives f in (0, 1).
        mu: μ, weight of the score.
        threshold: τ, below which a score counts nothing.
    Source: Lin et al. 2018, Eq. 7; the threshold is that of its code.
    """

    def __init__(self, scorer: Scorer, mu: float = 1.0, threshold: float = 0.0) -> None:
        if not 0 <= mu < float("inf"):
            raise ValueError(f"mu: got {mu}, need a finite number from 0")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold: got {threshold}, need 0..1")
        if isinstance(scorer, nn.Module):
            scorer.eval()  # a reward has no dropout
        self.scorer, self.mu, self.threshold = scorer, mu, threshold

    @torch.no_grad()
    def __call__(self, state: State) -> Tensor:
        """[A], of agents at the end of their walks."""
        hit = HitReward()(state)
        score = self.scorer.score_hrt(state.source, state.relation, state.node).to(hit)
        return hit + self.mu * (1 - hit) * score * (score > self.threshold)


class EmaBaseline(nn.Module):
    """A moving average of rewards, b ← (1 - λ)b + λ·mean(G); a module, so that a checkpoint of its owner holds b.

    Args:
        rate: λ in (0, 1].
    """

    value: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate: got {rate}, need 0 < rate <= 1")
        self.rate = rate
        self.register_buffer("value", torch.zeros(()))

    def forward(self, reward: Tensor) -> Tensor:
        """The reward [A] less b; then, in training, b moves."""
        advantage = reward - self.value
        if self.training:
            self.value = torch.lerp(self.value, reward.mean(), self.rate)
        return advantage


def reinforce_loss(
    policy: Policy[Any],
    env: WalkEnv,
    state: State,
    reward: Reward,
    *,
    style: Style = "minerva",
    beta: float = 0.0,
    baseline: QueryBaseline | EmaBaseline | None = None,
    normalize: bool | None = None,
    action_dropout: float = 0.0,
    generator: torch.Generator | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Tensor, Metrics]:
    """REINFORCE with one reward at the end of the walk, which counts in full at every step.

    With advantage G and mean entropy H of a state: "minerva" is the mean over agents and steps of -G log π, less βH;
    "multihop" the mean over agents of its sum over the steps, less βH.

    Args:
        policy: the walker.
        env: the rules of the walk.
        state: A agents at the start, with known targets.
        reward: of the agents at the end [A].
        style: of averaging, and whether `normalize` is on by default ("minerva") or off ("multihop").
        beta: β, weight of the entropy in nats; see `entropy_weight`.
        baseline: taken from the reward: the mean over the walks of the same query ("avg_reward"), also divided by their
            standard deviation ("avg_reward_normalized"), or a moving average over batches.
        normalize: bring the advantages of the batch to mean 0 and deviation 1.
        action_dropout: α; shares of actions hidden from the sampling, but not from the loss.
        generator: of the actions sampled, None is torch's; with a mesh, the same on every process unless actions are dropped.
        mesh: over whose processes a batch lies in equal parts; walks and normalised advantages are those of one process, but
            for action dropout and a moving average.
    Returns:
        the loss, and metrics: "weight", agents; "reward", its mean; "hits", share of walks that end on their target;
        "entropy" of a state.
    Raises:
        ValueError: an unknown style or baseline, or a query with a single walk where the baseline needs several.
    Source: MINERVA, Das et al. 2018, section 2.4; MultiHopKG, Lin et al. 2018, sections 3.3 and 3.5; their code.
    """
    if style not in get_args(Style):
        raise ValueError(f"style: got {style!r}, need one of {', '.join(map(repr, get_args(Style)))}")
    part = batch_coordinate(mesh)
    walk = rollout(policy, env, state, generator=generator, action_dropout=action_dropout, part=part)
    end = walk.states[-1]
    gain = reward(end).detach()
    advantage = _advantage(gain, end.query, baseline)
    if style == "minerva" if normalize is None else normalize:
        advantage = advantage - _mean(advantage, mesh)
        advantage = advantage / (_mean(advantage.square(), mesh).sqrt() + EPSILON)
    log_p = walk.log_probs.mean(0) if style == "minerva" else walk.log_probs.sum(0)
    loss = -(advantage * log_p).mean() - beta * walk.entropy.mean()
    return loss, {
        "weight": len(state),
        "reward": gain.mean(),
        "hits": (end.node == end.target).float().mean(),
        "entropy": walk.entropy.detach().mean(),
    }


def entropy_weight(beta: float, step: int, every: int = 200, rate: float = 0.9) -> float:
    """β · rate^(step / every): the decay that MINERVA's code intends; its own step counter never moves."""
    return beta * rate ** (step / every)


def _mean(x: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """The mean over all processes."""
    total, count = sum_over_batch(torch.stack([x.sum(), x.new_tensor(len(x))]), mesh)
    return total / count


def _advantage(reward: Tensor, query: Tensor, baseline: QueryBaseline | EmaBaseline | None) -> Tensor:
    if baseline is None:
        return reward
    if isinstance(baseline, EmaBaseline):
        return baseline(reward)
    if baseline not in get_args(QueryBaseline):
        raise ValueError(
            f"baseline: got {baseline!r}, need 'avg_reward', 'avg_reward_normalized', an EmaBaseline or None"
        )
    count = torch.bincount(query).to(reward)
    if (count == 1).any():
        raise ValueError(f"baseline: got a query with a single walk, {baseline!r} needs several rollouts")
    mean = torch.zeros_like(count).index_add_(0, query, reward) / count.clamp(min=1)
    advantage = reward - mean[query]
    if baseline == "avg_reward_normalized":
        square = torch.zeros_like(count).index_add_(0, query, advantage.square())
        advantage = advantage / ((square / (count - 1).clamp(min=1)).sqrt()[query] + EPSILON)
    return advantage
