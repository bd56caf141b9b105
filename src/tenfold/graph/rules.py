"""What walks have in common: path rules head(x, y) <- body_1(x, z1), …, body_k(z.., y), with their support."""

# Shape legend: A walks, T steps

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.graph.answers import AnswerIndex
from tenfold.graph.knowledge_graph import KnowledgeGraph


@dataclass(frozen=True)
class Rule:
    """Walks for queries of relation `head` that went along the relations `body`, staying left out."""

    head: int
    body: tuple[int, ...]
    support: int  # distinct (source, end) of such walks that are known triples of the head
    pairs: int  # distinct (source, end) of such walks

    @property
    def confidence(self) -> float:
        """Share of the pairs that are known to be true; the others are false or not known yet."""
        return self.support / self.pairs

    def text(self, kg: KnowledgeGraph) -> str:
        """The rule in names: "uncle(x, y) <- father(x, z1), brother(z1, y)"."""
        places = ["x", *(f"z{i}" for i in range(1, len(self.body))), "y"]
        steps = zip(self.body, places, places[1:], strict=False)
        body = ", ".join(f"{kg.relation_names[relation]}({a}, {b})" for relation, a, b in steps)
        return f"{kg.relation_names[self.head]}(x, y) <- {body}"


def mine_rules(
    kg: KnowledgeGraph,
    source: Tensor,
    relation: Tensor,
    path_rel: Tensor,
    end: Tensor,
    *,
    known: AnswerIndex | None = None,
    min_support: int = 2,
) -> list[Rule]:
    """Collect the rules that walks follow: those of a trained policy, of a beam, or sampled ones.

    Args:
        kg: the graph walked.
        source, relation, end: the query of each walk and where it ended [A] int64; an end of -1 is no walk.
        path_rel: its relations [A, T] int64.
        known: what counts as true; None: the training triples.
        min_support: rules of less are left out.
    Returns:
        rules by head, the most confident first, then those of most support.
    """
    known = kg.answers("train") if known is None else known
    # Staying goes last, so that walks which rest at different steps follow the same rule.
    body = path_rel.gather(1, (path_rel == kg.no_op).long().argsort(dim=1, stable=True))
    walked = (end >= 0) & (body[:, :1] != kg.no_op).any(1)
    rules, number = torch.unique(torch.cat([relation[:, None], body], 1)[walked], dim=0, return_inverse=True)
    found = torch.unique(torch.stack([number, source[walked], end[walked]], 1), dim=0)
    rule = found[:, 0]
    true = known.contains(found[:, 1], rules[rule, 0], found[:, 2])
    support, pairs = (torch.bincount(rule[rows], minlength=len(rules)).tolist() for rows in (true, slice(None)))
    mined = [
        Rule(head, tuple(step for step in steps if step != kg.no_op), *counts)
        for (head, *steps), *counts in zip(rules.tolist(), support, pairs, strict=True)
        if counts[0] >= min_support
    ]
    return sorted(mined, key=lambda rule: (rule.head, -rule.confidence, -rule.support, rule.body))


def save_rules(rules: list[Rule], kg: KnowledgeGraph, path: str | Path) -> None:
    """Write rules as CSV: head, body (relations, one step after the other, divided by " / "), support, pairs, confidence."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["head", "body", "support", "pairs", "confidence"])
    for rule in rules:
        body = " / ".join(kg.relation_names[relation] for relation in rule.body)
        table.writerow([kg.relation_names[rule.head], body, rule.support, rule.pairs, f"{rule.confidence:.4f}"])
    write_atomic(Path(path), text.getvalue())
