"""A trained walker for use: names in, names and the paths to them out; saved as one folder without a pickle.

config.json        the policy's class and sizes, the walk's horizon, the beam; written last
graph.npz          names, edges and triples
model.safetensors  the policy's weights
"""

# Shape legend: A answers of all queries, T horizon, N actions of all walks

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.graph.beam import MAX_WIDTH, BeamResult, beam_search
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import PathLabeller
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy, Policy

FORMAT = 2
CONFIG, GRAPH, WEIGHTS = "config.json", "graph.npz", "model.safetensors"
STAY = "NO_OP"
MAX_HORIZON = 64  # a config.json is not asked for more
POLICIES: dict[str, type[MinervaPolicy] | type[MultiHopPolicy]] = {"minerva": MinervaPolicy, "multihop": MultiHopPolicy}

Name = str | int  # a name, or the number of an entity or relation


@dataclass(frozen=True)
class Step:
    """One step of a walk to a known answer, and all actions that could still have ended there."""

    node: str
    relation: str  # taken, "NO_OP" for staying
    entity: str
    positive: list[tuple[str, str]]  # (relation, entity)
    actions: int  # how many there were


@dataclass(frozen=True)
class Answer:
    """One answer to (source, relation, ?) and the path that leads to it."""

    source: str
    relation: str
    entity: str
    score: float
    """log-probability of the walk (or of all walks that end here)"""
    prob: float
    """normalised over the answers returned together"""
    path: list[tuple[str, str]]
    """(relation, entity) of each step that moves; empty where the answer is the source itself"""
    known: bool = False
    """the triple is one of the training triples"""
    isolated: bool = False
    """the source has no edge, so it can answer with nothing but itself"""
    untrained: bool = False
    """the walker was never trained to answer this relation"""
    steps: list[Step] | None = None
    """of a known answer, where they were asked for"""

    def __str__(self) -> str:
        walk = "".join(f" -{relation}-> {entity}" for relation, entity in self.path) or " (is itself)"
        marks = "".join(f" [{mark}]" for mark in ("known", "isolated", "untrained") if getattr(self, mark))
        line = f"{self.entity}  {self.prob:.1%}{marks}  {self.source}{walk}"
        return " ".join(line.splitlines())


class Reasoner:
    """Answers queries with a trained walker.

    Args:
        policy: the walker; one of `POLICIES` where it is to be saved.
        kg: the graph it walks.
        horizon: T, steps of a walk, as in training.
        width: of the beam.
        reduce: an entity counts by its best path ("max") or by all paths found ("sum").
        mask_inverse: as in training (`WalkEnv`); for `steps` and for evaluation.
        trained: ids of the relations that the walker was trained to answer; None: all.
    """

    def __init__(
        self,
        policy: Policy[Any],
        kg: KnowledgeGraph,
        *,
        horizon: int = 3,
        width: int = 128,
        reduce: Literal["max", "sum"] = "max",
        mask_inverse: bool = True,
        trained: Iterable[int] | None = None,
    ) -> None:
        for name, value, most in (("horizon", horizon, MAX_HORIZON), ("width", width, MAX_WIDTH)):
            if not 1 <= value <= most:
                raise ValueError(f"{name}: got {value}, need 1..{most}")
        if reduce not in ("max", "sum"):
            raise ValueError(f"reduce: got {reduce!r}, need 'max' or 'sum'")
        self.policy, self.kg = policy, kg
        self.horizon, self.width, self.reduce = horizon, width, reduce
        self.mask_inverse = mask_inverse
        relations = frozenset(range(len(kg.relation_names)))
        self.trained = relations if trained is None else frozenset(trained)
        if not self.trained <= relations:
            raise ValueError(f"trained: got ids that are no relations, need 0..{len(relations) - 1}")
        self._known = kg.answers("train")

    @overload
    def answer(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, entity: Name, relation: Name, k: int = 5, *, known: Literal["keep", "mask"] = "keep", steps: bool = False
    ) -> list[Answer]: ...
    @overload
    def answer(
        self,
        entity: Sequence[Name] | Tensor,
        relation: Name | Sequence[Name] | Tensor,
        k: int = 5,
        *,
        known: Literal["keep", "mask"] = "keep",
        steps: bool = False,
    ) -> list[list[Answer]]: ...
    def answer(
        self,
        entity: Name | Sequence[Name] | Tensor,
        relation: Name | Sequence[Name] | Tensor,
        k: int = 5,
        *,
        known: Literal["keep", "mask"] = "keep",
        steps: bool = False,
    ) -> list[Answer] | list[list[Answer]]:
        """The likeliest answers of one query or of many.

        Args:
            entity: name or id of the source; a list or a tensor of ids makes a batch.
            relation: name or id; "r_inv" asks against the direction of "r". One for all, or a list as long as `entity`.
            k: answers of each query, at least 1; there may be fewer.
            known: "keep" lets a walk take the edges that answer the query in the graph; "mask" takes them away, so that
                an answer must be found by another way.
            steps: add to each known answer the actions that could still have ended there, step by step.
        Returns:
            answers, best first; for a batch a list of them for each query.
        Raises:
            UnknownName: a name that the graph lacks, with the nearest that it has; a KeyError.
            ValueError: an id out of range, or a setting.
        """
        if k < 1:
            raise ValueError(f"k: got {k}, need at least 1")
        if known not in ("keep", "mask"):
            raise ValueError(f"known: got {known!r}, need 'keep' or 'mask'")
        (one_entity, entities), (one_relation, relations) = _listed(entity), _listed(relation)
        if one_relation:
            relations *= len(entities)
        if len(relations) != len(entities):
            raise ValueError(
                f"relation: got {len(relations)} for {len(entities)} entities, need one each, or one for all"
            )
        source, query = self._ids(entities, "entity"), self._ids(relations, "relation")
        # Without a target the environment masks nothing, or all edges that answer the query.
        env = WalkEnv(self.kg, self.horizon, mask_query=known == "mask", targets="all")
        width = max(self.width, min(k, self.kg.num_entities, MAX_WIDTH))
        found = beam_search(self.policy, env, source, query, width, reduce=self.reduce)
        groups = self._answers(source, query, found, k, steps)
        return groups[0] if one_entity else groups

    def save(self, folder: str | Path) -> None:
        """Write the folder; an older model in it is replaced, and a folder without config.json is not whole.

        Raises:
            ValueError: a policy of a class of its own.
        """
        policy = self.policy
        if not isinstance(policy, MinervaPolicy | MultiHopPolicy):
            raise ValueError(f"policy: got {type(policy).__name__}, need MinervaPolicy or MultiHopPolicy to save it")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        self.kg.save(folder / GRAPH)
        with replacing(folder / WEIGHTS) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in policy.state_dict().items()}, temporary)
        config = {
            "format": FORMAT,
            "policy": next(name for name, kind in POLICIES.items() if isinstance(policy, kind)),
            "options": policy_options(policy),
            "horizon": self.horizon,
            "width": self.width,
            "reduce": self.reduce,
            "mask_inverse": self.mask_inverse,
            "trained": sorted(self.trained),
        }
        write_atomic(folder / CONFIG, json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> Reasoner:
        """Read a folder that `save` wrote.

        Raises:
            UserError: missing or damaged files, another format, weights that do not fit the graph.
        """
        folder = Path(folder)
        config = read_object(folder / CONFIG, format=int)
        if config["format"] != FORMAT:
            raise UserError(f"{folder / CONFIG}: format: got {config['format']}, need {FORMAT}")
        kinds: dict[str, type] = {"horizon": int, "width": int, "reduce": str, "mask_inverse": bool, "trained": list}
        config = read_object(folder / CONFIG, policy=str, options=dict, **kinds)
        if config["policy"] not in POLICIES:
            raise UserError(f"{folder / CONFIG}: policy: got {config['policy']!r}, need one of {', '.join(POLICIES)}")
        kg = KnowledgeGraph.load(folder / GRAPH)
        weights = _read_weights(folder / WEIGHTS)
        policy = _empty_policy(config["policy"], config["options"], kg, len(weights), str(folder / CONFIG))
        _check_fit(policy.state_dict(), weights, str(folder))
        policy.load_state_dict(weights, assign=True)
        try:
            return cls(policy, kg, **{name: config[name] for name in kinds})
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder / CONFIG}: {error}") from None

    def _ids(self, names: list[Name], kind: Literal["entity", "relation"]) -> Tensor:
        """[B] ids of names; ids stay what they are."""
        entity = kind == "entity"
        most = len(self.kg.entity_names if entity else self.kg.relation_names)
        ids = [(self.kg.entity_id if entity else self.kg.relation_id)(n) if isinstance(n, str) else n for n in names]
        for number in ids:
            if not 0 <= operator.index(number) < most:
                raise ValueError(f"{kind}: got id {number}, need 0..{most - 1}")
        return torch.tensor(ids, dtype=torch.int64, device=self.kg.indptr.device)

    def _answers(self, source: Tensor, relation: Tensor, found: BeamResult, k: int, steps: bool) -> list[list[Answer]]:
        """The first k answers of each query."""
        row_A, place_A = (found.entities[:, :k] >= 0).nonzero(as_tuple=True)
        triples = torch.stack([source[row_A], relation[row_A], found.entities[row_A, place_A]], 1)
        path_AT2 = torch.stack([found.path_rel[row_A, place_A], found.path_dst[row_A, place_A]], 2)
        known = self._known.contains(*triples.T)
        walks: Iterator[list[Step]] = iter(
            self._steps(triples[known], path_AT2[known]) if steps and known.any() else ()
        )
        names, stay = self.kg.entity_names, self.kg.no_op
        groups: list[list[Answer]] = [[] for _ in source]
        for row, (s, r, entity), score, prob, path, is_known, isolated in zip(
            row_A.tolist(),
            triples.tolist(),
            found.scores[row_A, place_A].tolist(),
            found.scores[:, :k].softmax(1)[row_A, place_A].tolist(),
            path_AT2.tolist(),
            known.tolist(),
            (self.kg.degrees[triples[:, 0]] == 0).tolist(),
            strict=True,
        ):
            groups[row].append(
                Answer(
                    source=names[s],
                    relation=self._relation(r),
                    entity=names[entity],
                    score=score,
                    prob=prob,
                    path=[(self._relation(step), names[node]) for step, node in path if step != stay],
                    known=is_known,
                    isolated=isolated,
                    untrained=r not in self.trained,
                    steps=next(walks) if steps and is_known else None,
                )
            )
        return groups

    def _steps(self, triples: Tensor, path_AT2: Tensor) -> list[list[Step]]:
        """The walks to known answers beside what the labels of training call positive, under the masks of training."""
        state = self._labeller.env.reset(*triples.T)
        reach = self._labeller.reach(state)
        walks: list[list[Step]] = [[] for _ in triples]
        for step in range(self.horizon):
            actions = self._labeller.env.actions(state)
            positive_N = self._labeller(state, actions, reach).positive
            relation, node = path_AT2[:, step].unbind(1)
            for agent, walk in enumerate(walks):
                row = slice(int(actions.ptr[agent]), int(actions.ptr[agent + 1]))
                good = actions.rel[row][positive_N[row]], actions.dst[row][positive_N[row]]
                ((taken, entity),) = self._named(relation[agent, None], node[agent, None])
                at = self.kg.entity_names[int(state.node[agent])]
                walk.append(Step(at, taken, entity, self._named(*good), actions=row.stop - row.start))
            # Not env.step: the beam knew no target, so its walk may use an edge that the masks take away.
            state = replace(
                state,
                node=node,
                previous=state.node,
                last_relation=relation,
                path_rel=path_AT2[:, : step + 1, 0],
                path_dst=path_AT2[:, : step + 1, 1],
                step=step + 1,
            )
        return walks

    @cached_property
    def _labeller(self) -> PathLabeller:
        return PathLabeller(self.kg, self.horizon, fallback="drop", mask_inverse=self.mask_inverse, known=self._known)

    def _named(self, relation: Tensor, node: Tensor) -> list[tuple[str, str]]:
        """Ids of steps as (relation, entity)."""
        ids = zip(relation.tolist(), node.tolist(), strict=True)
        return [(self._relation(r), self.kg.entity_names[v]) for r, v in ids]

    def _relation(self, number: int) -> str:
        return STAY if number == self.kg.no_op else self.kg.relation_names[number]


def _listed(names: Any) -> tuple[bool, list[Name]]:
    """Whether it is a single name or id, and the list of one or of many."""
    if isinstance(names, Tensor | np.ndarray):
        names = names.tolist()
    if isinstance(names, Sequence) and not isinstance(names, str):
        return False, list(names)
    return True, [names]


def policy_options(policy: MinervaPolicy | MultiHopPolicy) -> dict[str, int | float | bool]:
    """The keyword arguments that a policy was made with, read off its parts."""
    layers = len(policy.history.cells)
    if isinstance(policy, MinervaPolicy):
        return {
            "dim": policy.relation.embedding_dim // 2,
            "hidden": policy.inner.out_features // 4,
            "use_entity": policy.entity is not None,
            "layers": layers,
        }
    return {
        "dim": policy.relation.embedding_dim,
        "history": policy.W1.in_features - policy.W1.out_features,
        "layers": layers,
        "emb_dropout": policy.emb_dropout.p,
        "ff_dropout": policy.ff_dropout.p,
        "relation_only": policy.entity is None,
    }


def _empty_policy(
    kind: str, options: dict[str, Any], kg: KnowledgeGraph, tensors: int, where: str
) -> MinervaPolicy | MultiHopPolicy:
    """A policy of these sizes without memory for its weights: a few bytes of config could ask for any number."""
    layers = options.get("layers", 1)
    if not isinstance(layers, int) or layers > tensors:
        raise UserError(f"{where}: layers: got {layers!r}, need at most {tensors}, the tensors there are")
    try:
        with torch.device("meta"):
            return POLICIES[kind](kg, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{where}: options do not make a {kind} policy: {reason}") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"file not found: {path}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); save the model again") from None


def _check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """UserError naming the first tensor that is missing, left over, of another shape or no floating-point numbers."""
    for name in sorted(wanted.keys() | given.keys()):
        got, need = given.get(name), wanted.get(name)
        if got is None or need is None or got.shape != need.shape or not got.is_floating_point():
            raise UserError(
                f"{where}: tensor {name}: got {_kind(got)}, need {_kind(need)}; the files are of two models"
            )


def _kind(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
