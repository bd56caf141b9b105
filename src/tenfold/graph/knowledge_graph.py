"""A knowledge graph in memory: names, splits of triples, and the edges that may be walked, row by row.

Edges come from the training triples (or from a graph of their own) and their inverses, never from validation or
test triples. Every entity can also stay where it is: an edge of relation `no_op` to itself.
"""

# Shape legend: E entities, R relations (without inverses), M edges with the stays, n triples, B anything flat

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.packed import read_arrays
from tenfold.graph.answers import AnswerIndex
from tenfold.graph.csr import find_sorted
from tenfold.graph.edges import Ints, Prune, build_rows, edge_key
from tenfold.graph.readers import read_folder
from tenfold.graph.vocabulary import INVERSE, Triple, UnknownName, number_names

Triples = Sequence[Triple] | Sequence[tuple[int, int, int]] | NDArray[np.integer] | Tensor

_ARRAYS = ("indptr", "rel", "dst")
_SPLIT = "split_"  # before the name of a split in a saved graph


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Entities, relations, splits and edges; made by `from_tsv`, `from_triples` or `load`.

    Relation ids: r in 0..R-1 as given, r + R its inverse, 2R staying (`no_op`), 2R + 1 the relation by which a walk
    comes to its source (`start`), 2R + 2 padding.

    Args:
        entity_names: of ids 0..E-1.
        relation_names: of ids 0..R-1, and of the inverses R..2R-1 ("r_inv") where the graph has them.
        indptr: where the row of each entity begins [E + 1] int64.
        rel, dst: relation and target of the edges [M] int32, by source, each row sorted by them behind its stay.
        splits: "train", "valid", "test" and perhaps "graph": (head, relation, tail) [n, 3] int64.
        doubled: the edges have inverses.
    """

    entity_names: Sequence[str]
    relation_names: Sequence[str]
    indptr: Tensor
    rel: Tensor
    dst: Tensor
    splits: Mapping[str, Tensor]
    doubled: bool = True

    @classmethod
    def from_tsv(
        cls,
        path: str | Path,
        inverse: bool = True,
        max_actions: int | None = None,
        prune: Prune | None = None,
        order: str = "hrt",
    ) -> KnowledgeGraph:
        """Read a folder of splits, or one file of training triples.

        Args:
            path: what `readers.read_folder` takes.
            inverse: also walk edges backwards.
            max_actions, prune: cut long rows; see `edges.build_rows`.
            order: of the columns; "htr" in the files of MultiHopKG.
        Raises:
            UserError: a file is missing or empty, or a line is no triple.
        """
        splits = read_folder(path, order)
        return cls.from_triples(
            splits["train"],
            splits["valid"],
            splits["test"],
            splits.get("graph"),
            inverse=inverse,
            max_actions=max_actions,
            prune=prune,
        )

    @classmethod
    def from_triples(
        cls,
        train: Triples,
        valid: Triples = (),
        test: Triples = (),
        graph: Triples | None = None,
        *,
        entity_names: Sequence[str] | None = None,
        relation_names: Sequence[str] | None = None,
        inverse: bool = True,
        max_actions: int | None = None,
        prune: Prune | None = None,
    ) -> KnowledgeGraph:
        """Make a graph of (head, relation, tail), all of names or all of ids.

        Args:
            train, valid, test: the splits.
            graph: the triples to walk on; None: those of `train`.
            entity_names, relation_names: for ids, what 0..E-1 and 0..R-1 are called; None: their numbers, up to the
                largest. Names are numbered in sorted order.
            inverse, max_actions, prune: as for `from_tsv`. With inverses, a relation "r_inv" beside "r" is the
                inverse of "r".
        Raises:
            UserError: no training triples, or a relation that looks like an inverse and is none.
        """
        given = {"train": train, "valid": valid, "test": test} | ({} if graph is None else {"graph": graph})
        edges_of = "train" if graph is None else "graph"
        for name in ("train", edges_of):
            if not len(given[name]):
                raise UserError(f"no triples in {name}")
        if isinstance(train[0][0], str):
            if entity_names is not None or relation_names is not None:
                raise ValueError("entity_names, relation_names: got them beside triples of names, need triples of ids")
            named = cast(Mapping[str, Sequence[Triple]], given)
            entities, relations, ids = number_names(named, inverse)
        else:
            ids = {name: _as_ids(name, triples) for name, triples in given.items()}
            entities, relations = _names_of_ids(ids, entity_names, relation_names, inverse)
        indptr, rel, dst = build_rows(
            ids[edges_of],
            len(entities),
            len(relations),
            inverse=inverse,
            max_actions=max_actions,
            prune=prune,
        )
        inverses = tuple(name + INVERSE for name in relations) if inverse else ()
        return cls(
            entities,
            (*relations, *inverses),
            torch.from_numpy(indptr),
            torch.from_numpy(rel),
            torch.from_numpy(dst),
            {name: torch.from_numpy(triples) for name, triples in ids.items()},
            inverse,
        )

    @property
    def num_entities(self) -> int:
        """E."""
        return len(self.entity_names)

    @property
    def num_relations(self) -> int:
        """R, without inverses."""
        return len(self.relation_names) // (2 if self.doubled else 1)

    @property
    def num_edges(self) -> int:
        """Edges with their inverses, without the stays."""
        return len(self.rel) - self.num_entities

    @property
    def no_op(self) -> int:
        """The relation of staying."""
        return 2 * self.num_relations

    @property
    def start(self) -> int:
        """The relation by which a walk comes to its source."""
        return 2 * self.num_relations + 1

    @property
    def relation_rows(self) -> int:
        """Rows of a table of relations: those of the graph, their inverses, staying, starting, padding."""
        return 2 * self.num_relations + 3

    @property
    def nbytes(self) -> int:
        """Bytes of everything that a walk reads, its search keys among them."""
        return sum(tensor.nbytes for tensor in (self.indptr, self.rel, self.dst, self.keys))

    @cached_property
    def keys(self) -> Tensor:
        """`key` of every edge [M] int64, ascending."""
        return self.key(self.sources, self.rel.long(), self.dst.long())

    @property
    def sources(self) -> Tensor:
        """The source of every edge [M] int64."""
        return torch.repeat_interleave(self.indptr.diff(), output_size=len(self.rel))

    @property
    def degrees(self) -> Tensor:
        """Edges of every entity [E] int64, without the stay; 0: isolated."""
        return self.indptr.diff() - 1

    @cached_property
    def incoming(self) -> tuple[Tensor, Tensor]:
        """The edges by target: where those of each entity begin [E + 1], and their places among all edges [M]."""
        order = torch.argsort(self.dst, stable=True)
        entities = torch.arange(self.num_entities + 1, device=self.dst.device)
        return torch.searchsorted(self.dst[order].long(), entities), order

    def key(self, source: Tensor, relation: Tensor, target: Tensor) -> Tensor:
        """One number an edge [B] int64, in the order of the graph."""
        return edge_key(source, relation, target, self.num_entities, self.num_relations)

    def find(self, source: Tensor, relation: Tensor, target: Tensor) -> Tensor:
        """The places of edges [B] among all, -1 for those that the graph lacks and for unknown ends (-1)."""
        edge = find_sorted(self.keys, self.key(source, relation, target))
        return edge.masked_fill_((source < 0) | (target < 0), -1)

    def inverse(self, relation: Tensor) -> Tensor:
        """r to r + R and r + R to r; staying is its own inverse."""
        turned = (relation + self.num_relations) % self.no_op
        return turned.where(relation < self.no_op, relation)

    def neighbours(self, entity: int) -> tuple[Tensor, Tensor]:
        """Relations and targets of an entity's edges, its stay left out."""
        row = slice(int(self.indptr[entity]) + 1, int(self.indptr[entity + 1]))
        return self.rel[row], self.dst[row]

    def entity_id(self, name: str) -> int:
        """The id of an entity; `UnknownName` where there is none."""
        return _lookup(self._entity_ids, "entity", name)

    def relation_id(self, name: str) -> int:
        """The id of a relation or, with "_inv", of an inverse; `UnknownName` where there is none."""
        return _lookup(self._relation_ids, "relation", name)

    def answers(self, *splits: str) -> AnswerIndex:
        """The known answers of queries in these splits, with those of inverse queries where the graph has inverses.

        Args:
            splits: names of splits; none: train, valid and test.
        """
        triples = torch.cat([self.splits[name] for name in splits or ("train", "valid", "test")])
        if self.doubled:
            head, relation, tail = triples.unbind(1)
            triples = torch.cat([triples, torch.stack([tail, self.inverse(relation), head], 1)])
        return AnswerIndex.from_triples(triples, self.num_entities, self.relation_rows)

    def to(self, device: torch.device | str) -> KnowledgeGraph:
        """The same graph with its tensors on another device."""
        moved = {name: getattr(self, name).to(device) for name in _ARRAYS}
        return replace(self, **moved, splits={name: triples.to(device) for name, triples in self.splits.items()})

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz file, whole or not at all."""
        names = {"entities": self.entity_names, "relations": self.relation_names, "doubled": self.doubled}
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {
            _SPLIT + name: triples.to(torch.int32) for name, triples in self.splits.items()
        }
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            names=np.frombuffer(json.dumps(names).encode(), np.uint8),
            **{name: tensor.cpu().numpy() for name, tensor in arrays.items()},
        )
        write_atomic(Path(path), packed.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> KnowledgeGraph:
        """Read what `save` wrote.

        Raises:
            UserError: absent, damaged, or no graph.
        """
        try:
            arrays = read_arrays(Path(path))
            names = json.loads(arrays["names"].tobytes())
            indptr, rel, dst = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
            splits = {
                name.removeprefix(_SPLIT): torch.from_numpy(array).long()
                for name, array in arrays.items()
                if name.startswith(_SPLIT)
            }
            graph = cls(
                tuple(names["entities"]), tuple(names["relations"]), indptr, rel, dst, splits, bool(names["doubled"])
            )
            _check(graph)
        except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise UserError(f"{path}: no saved graph ({' '.join(str(error).split())[:200]})") from error
        return graph

    @cached_property
    def _entity_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.entity_names)}

    @cached_property
    def _relation_ids(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.relation_names)}


def _lookup(ids: Mapping[str, int], kind: str, name: str) -> int:
    if name not in ids:
        raise UnknownName(kind, name, ids)
    return ids[name]


def _as_ids(name: str, triples: Triples) -> Ints:
    given = np.asarray(triples)
    if given.size == 0:
        return np.empty((0, 3), dtype=np.int64)
    if given.dtype.kind not in "iu":
        raise ValueError(f"{name}: got {given.dtype}, need integer ids")
    array = given.astype(np.int64)
    if array.ndim != 2 or array.shape[1] != 3 or array.min() < 0:
        raise ValueError(f"{name}: got shape {list(array.shape)} from {array.min()}, need ids [n, 3] from 0")
    return array


def _names_of_ids(
    splits: Mapping[str, Ints],
    entity_names: Sequence[str] | None,
    relation_names: Sequence[str] | None,
    inverse: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of 0..E-1 and of 0..R-1, those given or the numbers themselves."""
    every = np.concatenate(list(splits.values()))
    largest_entity, largest_relation = int(every[:, [0, 2]].max()), int(every[:, 1].max())
    entities = tuple(map(str, range(largest_entity + 1))) if entity_names is None else tuple(entity_names)
    relations = tuple(map(str, range(largest_relation + 1))) if relation_names is None else tuple(relation_names)
    for name, names, largest, most in (
        ("entity_names", entities, largest_entity, len(entities)),
        ("relation_names", relations, largest_relation, len(relations) * (2 if inverse else 1)),
    ):
        if largest >= most:
            raise ValueError(f"{name}: got {len(names)} names, need one for id {largest}")
        if len(set(names)) < len(names):
            raise ValueError(f"{name}: got a name twice, need {len(names)} different ones")
    if inverse and any(name.endswith(INVERSE) for name in relations):
        raise ValueError(f"relation_names: got a name that ends in {INVERSE}, which marks the inverses of the others")
    return entities, relations


def _check(graph: KnowledgeGraph) -> None:
    """Raise ValueError where a graph from a file breaks what every user of it relies on."""
    entities, edges = graph.num_entities, len(graph.rel)
    for names in (graph.entity_names, graph.relation_names):
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("names that are no different texts")
    if (graph.doubled and len(graph.relation_names) % 2) or not {"train", "valid", "test"} <= graph.splits.keys():
        raise ValueError("a relation without its inverse, or a missing split")
    if [tensor.dtype for tensor in (graph.indptr, graph.rel, graph.dst)] != [torch.int64, torch.int32, torch.int32]:
        raise ValueError("arrays of other types")
    first = graph.indptr[:-1]
    if graph.indptr.shape != (entities + 1,) or first[0] != 0 or graph.indptr[-1] != edges or graph.degrees.min() < 0:
        raise ValueError("rows that do not fit the edges")
    ends = torch.cat([graph.dst.long(), *(triples[:, [0, 2]].flatten() for triples in graph.splits.values())])
    kinds = torch.cat([triples[:, 1] for triples in graph.splits.values()])
    if ends.min() < 0 or ends.max() >= entities or kinds.min() < 0 or kinds.max() >= len(graph.relation_names):
        raise ValueError("ids without a name")
    stays = (graph.rel[first] == graph.no_op) & (graph.dst[first] == torch.arange(entities))
    in_order = graph.rel.min() >= 0 and graph.rel.max() <= graph.no_op and bool((graph.keys.diff() > 0).all())
    if not stays.all() or not in_order:
        raise ValueError("edges out of order")
