"""Names to ids: entities and relations in sorted order, inverse relations recognised, the nearest of an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tenfold.core.errors import UserError
from tenfold.graph.edges import Ints

Triple = tuple[str, str, str]  # head, relation, tail

INVERSE = "_inv"  # what the name of an inverse relation ends in


class UnknownName(UserError, KeyError):
    """A name that the graph does not have; the message gives the nearest one that it has."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        close = difflib.get_close_matches(name, known, n=1)
        super().__init__(f"unknown {kind} {name!r}; " + (f"nearest: {close[0]!r}" if close else "no name is near"))

    def __str__(self) -> str:  # KeyError would put the message in quotes
        return str(self.args[0])


def number_names(
    splits: Mapping[str, Sequence[Triple]], inverse: bool
) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Ints]]:
    """Triples of names to triples of ids.

    Args:
        splits: of which "graph", or else "train", gives the edges.
        inverse: relations get inverses; the relation "r_inv" of the triples is then that of "r".
    Returns:
        entity names [E] and relation names [R], both sorted; the splits as ids [n, 3], r + R for the inverse of r.
    Raises:
        UserError: "r_inv" without "r", or whose edges are not exactly those of "r" turned round.
    """
    entities = sorted({name for triples in splits.values() for head, _, tail in triples for name in (head, tail)})
    relations = sorted({relation for triples in splits.values() for _, relation, _ in triples})
    base = [name for name in relations if not (inverse and name.endswith(INVERSE))]
    relation_id = {name: number for number, name in enumerate(base)}
    for name in set(relations) - set(base):
        forward = name.removesuffix(INVERSE)
        if forward not in relation_id:
            raise UserError(
                f"relation {name!r}: ends in {INVERSE}, as inverses do, but there is no relation {forward!r}; "
                "rename it, or make the graph with inverse=False"
            )
        relation_id[name] = relation_id[forward] + len(base)
    entity_id = {name: number for number, name in enumerate(entities)}
    ids = {
        split: np.array(
            [(entity_id[head], relation_id[relation], entity_id[tail]) for head, relation, tail in triples],
            dtype=np.int64,
        ).reshape(-1, 3)
        for split, triples in splits.items()
    }
    _check_inverses(ids.get("graph", ids["train"]), base)
    return tuple(entities), tuple(base), ids


def _check_inverses(edges: Ints, base: Sequence[str]) -> None:
    """Refuse inverse relations that the edges do not give as exact inverses."""
    back = edges[edges[:, 1] >= len(base)]
    for relation in np.unique(back[:, 1]) - len(base):
        forward = edges[edges[:, 1] == relation][:, [0, 2]]
        turned = back[back[:, 1] == relation + len(base)][:, [2, 0]]
        if not np.array_equal(np.unique(forward, axis=0), np.unique(turned, axis=0)):
            name = base[relation]
            raise UserError(
                f"relation {name + INVERSE!r}: its edges are not those of {name!r} turned round; "
                "rename it, or make the graph with inverse=False"
            )
