"""What a trained walker shows: its ranks, its predictions, and the rules its walks follow."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.fit import forward_seed
from tenfold.graph.beam import beam_search
from tenfold.graph.embed import Scorer
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.metrics import Evaluation, evaluate
from tenfold.graph.policies import Policy
from tenfold.graph.rollout import rollout
from tenfold.graph.rules import Rule, mine_rules
from tenfold.recipes.kg_ssrl.config import Config
from tenfold.recipes.kg_ssrl.learning import STAGES, trained_relations
from tenfold.recipes.kg_ssrl.published import Settings

WALKS, ASKED = 100, 200  # walks of a query, and queries, behind the count of rewarded paths


def rank(
    model: Policy[Any] | Scorer, kg: KnowledgeGraph, split: str | Tensor, config: Config, settings: Settings
) -> dict[str, Any]:
    """`graph.metrics.evaluate` as the config says."""
    search = config.search
    return evaluate(
        model,
        kg,
        split,
        width=settings.width,
        horizon=settings.horizon,
        reduce=search.reduce,
        ties=search.ties,
        unreached=search.unreached,
        unseen=search.unseen,
        eval_mask=search.eval_mask,
        mask_inverse=config.training.mask_inverse,
        both_sides=search.both_sides,
    )


def figures_of(found: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation without its queries."""
    return {name: value for name, value in found.items() if name != "per_query"}


def of_relations(kg: KnowledgeGraph, split: str, config: Config) -> Tensor:
    """The triples [n, 3] of a split whose relations are trained on.

    Raises:
        UserError: there are none.
    """
    triples = kg.splits[split]
    if not config.training.relations:
        return triples
    wanted = torch.tensor(trained_relations(config, kg), device=triples.device)
    own = triples[torch.isin(triples[:, 1], wanted)]
    if not len(own):
        raise UserError(
            f"training.relations: no {split} triple of {', '.join(config.training.relations)} to rank; hold out more (data.{split})"
        )
    return own


def valid_triples(kg: KnowledgeGraph, config: Config) -> Tensor:
    """Validation triples behind a point of the learning curve [n, 3], evenly picked."""
    triples = of_relations(kg, "valid", config)
    most = min(len(triples), config.search.valid_queries)
    return triples[torch.linspace(0, len(triples) - 1, most).round().long()]


@torch.no_grad()
def rewarded_paths(
    policy: Policy[Any], kg: KnowledgeGraph, triples: Tensor, config: Config, settings: Settings, seed: int
) -> float:
    """Different paths to the answer that a walker finds in `WALKS` sampled walks of a training query, on average.

    Paths that differ in where they stay are one.

    Args:
        triples: training queries [n, 3]; at most `ASKED` are walked, evenly picked.
        seed: of the walks.
    """
    most = min(len(triples), ASKED)
    picked = triples[torch.linspace(0, len(triples) - 1, most).round().long()].to(kg.indptr.device)
    env = WalkEnv(kg, settings.horizon, mask_inverse=config.training.mask_inverse, known=kg.answers("train"))
    generator = torch.Generator(picked.device).manual_seed(forward_seed(seed, 0, 0, len(STAGES)))
    found = 0
    for part in picked.split(50):
        source, relation, target = part.T
        end = rollout(policy, env, env.reset(source, relation, target, WALKS), generator=generator).states[-1]
        stays = end.path_rel == kg.no_op
        order = stays.long().argsort(dim=1, stable=True)  # the steps that move come first
        steps = [column.masked_fill(stays, -1).gather(1, order) for column in (end.path_rel, end.path_dst)]
        paths = torch.cat([end.query[:, None], *steps], 1)
        found += len(paths[end.node == end.target].unique(dim=0))
    return found / most


def write_predictions(path: Path, kg: KnowledgeGraph, found: Evaluation) -> None:
    """Every test query as a line: head, relation, tail, rank, top1, score, path (relations and entities in turn)."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    table.writerow(["head", "relation", "tail", "rank", "top1", "score", "path"])
    columns = (found.triples, found.ranks, found.top1, found.score, found.path_rel, found.path_dst)
    entities, relations = kg.entity_names, kg.relation_names
    for (s, r, t), position, top1, score, rel, dst in zip(*(column.tolist() for column in columns), strict=True):
        path_text = " / ".join(
            f"{relations[step]} > {entities[node]}" for step, node in zip(rel, dst, strict=True) if 0 <= step < kg.no_op
        )
        best = entities[top1] if top1 >= 0 else ""
        table.writerow([entities[s], relations[r], entities[t], f"{position:g}", best, f"{score:.4f}", path_text])
    write_atomic(path, text.getvalue())


def rules_of(
    policy: Policy[Any],
    kg: KnowledgeGraph,
    *,
    horizon: int,
    mask_inverse: bool = True,
    relations: Sequence[int] = (),
    queries: int = 1000,
    width: int = 20,
    min_support: int = 2,
) -> list[Rule]:
    """The rules that the likeliest walks of training queries follow, the edges in question taken away.

    Args:
        policy: a trained walker.
        kg: the graph.
        horizon: of its walks.
        mask_inverse: as in training.
        relations: heads of the rules; none: all.
        queries: distinct (source, relation) asked, evenly picked.
        width: walks of a query.
        min_support: rules of less are left out.
    """
    asked = torch.unique(kg.splits["train"][:, :2], dim=0)
    if relations:
        asked = asked[torch.isin(asked[:, 1], torch.tensor(relations, device=asked.device))]
    if not len(asked):
        return []
    asked = asked[torch.linspace(0, len(asked) - 1, min(queries, len(asked))).round().long()]
    env = WalkEnv(kg, horizon, mask_inverse=mask_inverse, targets="all")
    found = beam_search(policy, env, asked[:, 0], asked[:, 1], width)
    query = torch.arange(len(asked)).repeat_interleave(found.entities.shape[1])
    return mine_rules(
        kg,
        asked[query, 0],
        asked[query, 1],
        found.path_rel.flatten(0, 1),
        found.entities.flatten(),
        min_support=min_support,
    )
