"""What a step of each stage learns from: batches of queries, and the losses on them."""

# Shape legend: n triples, B queries of this process, A agents

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.core.errors import UserError
from tenfold.core.fit import Loss, TrainState, forward_seed
from tenfold.core.mesh import batch_coordinate
from tenfold.core.stream import ArrayStream
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import PathLabeller
from tenfold.graph.losses import EmaBaseline, Reward, entropy_weight, reinforce_loss, sl_loss
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy
from tenfold.recipes.kg_ssrl.config import Config
from tenfold.recipes.kg_ssrl.published import Base, Settings

STAGES = ("sl", "rl")


class Learner(nn.Module):
    """A policy, and the moving average of its rewards where there is one: what a checkpoint holds."""

    def __init__(self, policy: MinervaPolicy | MultiHopPolicy, baseline: EmaBaseline | None) -> None:
        super().__init__()
        self.policy, self.baseline = policy, baseline


def build_learner(config: Config, base: Base, settings: Settings, kg: KnowledgeGraph, seed: int) -> Learner:
    """A walker whose weights follow from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(forward_seed(seed, 0, 0, 0))
        policy: MinervaPolicy | MultiHopPolicy
        if base == "minerva":
            policy = MinervaPolicy(
                kg, dim=settings.dim, hidden=settings.hidden, use_entity=settings.use_entity, layers=settings.layers
            )
        else:
            policy = MultiHopPolicy(
                kg,
                dim=settings.dim,
                history=settings.hidden,
                layers=settings.layers,
                emb_dropout=settings.emb_dropout,
                ff_dropout=settings.ff_dropout,
                relation_only=not settings.use_entity,
            )
    return Learner(policy, EmaBaseline(settings.ema_rate) if config.rl.baseline == "ema" else None)


def trained_relations(config: Config, kg: KnowledgeGraph) -> list[int]:
    """The ids of `training.relations`.

    Raises:
        UserError: one that the graph lacks.
    """
    try:
        return [kg.relation_id(name) for name in config.training.relations]
    except UserError as fault:
        raise UserError(
            f"training.relations: {fault}; name some of this graph, or take a preset that trains on all, such as umls"
        ) from None


def training_queries(config: Config, kg: KnowledgeGraph) -> Tensor:
    """(source, relation, target) [n, 3] to train on.

    Raises:
        UserError: a relation that the graph lacks, or nothing left to train on.
    """
    triples = kg.splits["train"].cpu()
    if config.training.relations:
        triples = triples[torch.isin(triples[:, 1], torch.tensor(trained_relations(config, kg)))]
    if config.training.queries == "both":
        triples = torch.cat([triples, torch.stack([triples[:, 2], kg.inverse(triples[:, 1]), triples[:, 0]], 1)])
    if not len(triples):
        raise UserError(f"training.relations: no training triple of {', '.join(config.training.relations)}")
    return triples


class Queries:
    """Endless batches of queries, each with a key for the walks: a function of the seed, the stage and the place in the data.

    Args:
        triples: [n, 3].
        batch: queries of one batch over all processes.
        seed: of order and walks; arms of one seed see the same.
        stage: number of the stage.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    """

    def __init__(self, triples: Tensor, batch: int, seed: int, stage: int, rank: int = 0, world: int = 1) -> None:
        self.seed, self.stage = seed, stage
        self._order = ArrayStream(triples, batch, seed=(seed, stage), rank=rank, world=world)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for triples in self._order:
            key = forward_seed(self.seed, self._order.epoch, self._order.position, self.stage)
            yield {"triples": triples, "key": torch.tensor(key)}

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._order.load_state_dict(state)


def supervised_loss(
    config: Config, settings: Settings, kg: KnowledgeGraph, queries: int, mesh: DeviceMesh | None
) -> Loss:
    """The loss of the supervised stage on batches of `Queries`.

    Args:
        queries: so many in a row without a label are an error.
    """
    known, single = kg.answers("train"), config.sl.targets == "single"
    env = WalkEnv(
        kg, settings.horizon, mask_inverse=config.training.mask_inverse, known=known, targets=config.sl.targets
    )
    labeller = PathLabeller(
        kg,
        settings.horizon,
        labels=config.sl.labels,
        targets=config.sl.targets,
        fallback=config.sl.fallback,
        mask_inverse=config.training.mask_inverse,
        known=known if single else None,
        method=config.sl.method,
    )
    unlabelled = 0

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        nonlocal unlabelled
        assert isinstance(model, Learner)
        source, relation, target = batch["triples"].T
        state = env.reset(source, relation, target, config.training.rollouts)
        generator = torch.Generator(state.node.device).manual_seed(int(batch["key"]))
        value, metrics = sl_loss(
            model.policy, env, state, labeller, kind=config.sl.loss, beta=config.sl.beta, generator=generator, mesh=mesh
        )
        unlabelled = 0 if float(metrics["weight"]) else unlabelled + len(batch["triples"])
        if unlabelled >= queries:
            raise UserError(
                f"no path of length <= {settings.horizon} for any training query; raise training.horizon, or train with rl alone"
            )
        return value, metrics

    return loss


def reinforced_loss(
    config: Config,
    base: Base,
    settings: Settings,
    kg: KnowledgeGraph,
    reward: Reward,
    step: Callable[[], int],
    mesh: DeviceMesh | None,
) -> Loss:
    """The loss of the reinforcement stage on batches of `Queries`.

    Args:
        reward: of walks at their end.
        step: steps done, for the decay of the entropy's weight.
    """
    env = WalkEnv(kg, settings.horizon, mask_inverse=config.training.mask_inverse, known=kg.answers("train"))
    style = base if config.rl.style == "base" else config.rl.style
    rank, world = batch_coordinate(mesh)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        assert isinstance(model, Learner)
        source, relation, target = batch["triples"].T
        state = env.reset(source, relation, target, config.training.rollouts)
        key = int(batch["key"])
        if (
            world > 1 and settings.action_dropout
        ):  # it draws as many numbers as there are actions: other ones on every process
            key = forward_seed(key, rank, 0, 0)
        beta = settings.beta
        if config.rl.decay_every:
            beta = entropy_weight(beta, step(), config.rl.decay_every)
        name = config.rl.baseline
        return reinforce_loss(
            model.policy,
            env,
            state,
            reward,
            style=style,
            beta=beta,
            baseline=model.baseline if name == "ema" else None if name == "none" else name,
            normalize=config.rl.normalize,
            action_dropout=settings.action_dropout,
            generator=torch.Generator(state.node.device).manual_seed(key),
            mesh=mesh,
        )

    return loss


def new_state(learner: Learner, settings: Settings, queries: Queries, seed: int) -> TrainState:
    """A stage at its step 0, with a fresh optimizer."""
    optimizer = torch.optim.Adam(learner.parameters(), settings.lr)
    return TrainState(learner, optimizer, stream=queries, seed=seed)
