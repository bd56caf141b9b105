"""Knowledge graphs: labels of the supervised stage and the actions of agents, beside plain Python.

    python benchmarks/graph.py --threads 1 --out graph.json

Needs the graphs of `tenfold data get`; those that are absent are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from rows import Row, clock, milliseconds, parser, row, time_of, write
from torch import Tensor

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.core.timing import interleaved, ratio
from tenfold.graph.environment import State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import PathLabeller

HORIZON, QUERIES, AGENTS, ROLLOUTS = 3, 512, 1280, 20
LABEL_BARS = {"umls": 8.0, "kinship": 8.0, "wn18rr": 3.0, "nell-995": None, "fb15k-237": 20.0}
ACTION_BARS = {"umls": 5.0, "wn18rr": 5.0, "fb15k-237": 5.0}


def load(name: str) -> KnowledgeGraph | None:
    """The graph; None, and a line that says so, where it is absent."""
    try:
        return KnowledgeGraph.from_tsv(data.path(f"06-kg-ssrl/{name}"))
    except UserError as missing:
        print(f"left out: {missing}")
        return None


def some_queries(kg: KnowledgeGraph, count: int) -> Tensor:
    """The columns [3, count] of training triples drawn without replacement."""
    order = torch.randperm(len(kg.splits["train"]), generator=torch.Generator().manual_seed(0))
    return kg.splits["train"][order[:count]].T


def rows_of(kg: KnowledgeGraph) -> list[list[tuple[int, int]]]:
    """The graph as Python keeps it: (relation, target) of the edges of every entity, staying first."""
    edges = list(zip(kg.rel.tolist(), kg.dst.tolist(), strict=True))
    return [edges[a:b] for a, b in zip(kg.indptr[:-1].tolist(), kg.indptr[1:].tolist(), strict=True)]


def known_answers(kg: KnowledgeGraph) -> dict[tuple[int, int], set[int]]:
    """The training answers of every query as Python keeps them."""
    known: dict[tuple[int, int], set[int]] = defaultdict(set)
    for h, r, t in kg.splits["train"].tolist():
        known[h, r].add(t)
    return known


def allowed_actions(
    kg: KnowledgeGraph, edges: list[tuple[int, int]], u: int, query: tuple[int, int, int], others: set[int] | None
) -> list[tuple[int, int]]:
    """The edges of `u` that the masks leave; `others`: answers that the last step may not end on."""
    s, r, t = query
    if u in (s, t):
        own, back = (s, r, t), (t, r + kg.num_relations, s)
        edges = [(q, v) for q, v in edges if (u, q, v) not in (own, back)]
    if others is not None:
        edges = [(q, v) for q, v in edges if v == t or v not in others]
    return edges or [(kg.no_op, u)]


def label_row(kg: KnowledgeGraph, name: str, repeats: int) -> Row:
    """Labels of the first actions of 512 queries, T = 3: a search backwards from each target, and a look-up an action."""
    queries = some_queries(kg, QUERIES)
    labeller = PathLabeller(kg, HORIZON, labels="multihop")
    state = labeller.env.reset(*queries)
    actions = labeller.env.actions(state)
    ends = [part.tolist() for part in actions.dst.split(actions.ptr.diff().tolist())]
    back: dict[int, list[tuple[int, int]]] = defaultdict(list)
    joined: dict[int, dict[int, int]] = defaultdict(dict)  # target -> source -> its only relation, else -1
    for u, edges in enumerate(rows_of(kg)):
        for r, v in edges[1:]:
            back[v].append((r, u))
            joined[v][u] = -1 if u in joined[v] else r

    def loops(s: int, r: int, t: int) -> set[int]:
        reached, frontier = {t}, {t}
        for _ in range(HORIZON - 1):
            found = set()
            for v in frontier:
                for q, u in back[v]:
                    if u not in reached and not (u == s and q == r and v == t):
                        found.add(u)
            reached, frontier = reached | found, found
        return reached

    def unions(s: int, r: int, t: int) -> set[int]:
        first = {t, *joined[t]}
        if s != t and joined[t].get(s) == r:
            first.remove(s)
        return first.union(*(joined[v] for v in first if v != t))

    def python(search: Callable[[int, int, int], set[int]]) -> list[bool]:
        reached = map(search, *queries.tolist())
        return [v in those for nodes, those in zip(ends, reached, strict=True) for v in nodes]

    expected = labeller(state, actions).positive.tolist()
    if not expected == python(loops) == python(unions):
        raise AssertionError(f"{name}: the labels differ")
    timings = interleaved(
        {"ours": lambda: labeller(state, actions), "loops": lambda: python(loops), "unions": lambda: python(unions)},
        repeats,
        warmup=1,
        clock=clock,
    )
    note = (
        f"{milliseconds(timings['ours'])} against {milliseconds(timings['loops'])}; "
        f"{ratio(timings, 'unions', 'ours'):.1f} against unions of whole sets, for T = 3 alone"
    )
    return row(f"labels, {name}: Python / ours", ratio(timings, "loops", "ours"), note, LABEL_BARS[name])


def action_row(kg: KnowledgeGraph, name: str, repeats: int) -> Row:
    """Masked actions of 1280 agents at the three steps of a random walk: lists, made into tensors, beside ours."""
    env, generator = WalkEnv(kg, HORIZON, known=kg.answers("train")), torch.Generator().manual_seed(0)
    source, relation, target = some_queries(kg, AGENTS // ROLLOUTS)
    states = [env.reset(source, relation, target, rollouts=ROLLOUTS)]
    for _ in range(HORIZON - 1):
        ptr = env.actions(states[-1]).ptr
        chance = torch.rand(AGENTS, generator=generator)
        states.append(env.step(states[-1], ptr[:-1] + (chance * ptr.diff()).long()))
    edges = rows_of(kg)
    known = known_answers(kg)

    def lists(state: State) -> tuple[Tensor, ...]:
        row, relation, node, ptr = [], [], [], [0]
        queries = (column.tolist() for column in (state.source, state.relation, state.target, state.node))
        for agent, (s, r, t, u) in enumerate(zip(*queries, strict=True)):
            others = known[s, r] if state.step == HORIZON - 1 else None
            allowed = allowed_actions(kg, edges[u], u, (s, r, t), others)
            row += [agent] * len(allowed)
            relation += [q for q, _ in allowed]
            node += [v for _, v in allowed]
            ptr.append(len(row))
        return tuple(map(torch.tensor, (row, relation, node, ptr)))

    def ours() -> None:
        for state in states:  # in turn: the environment remembers only the latest
            env.actions(state)

    for state in states:
        actions = env.actions(state)
        if not all(map(torch.equal, lists(state), (actions.row, actions.rel, actions.dst, actions.ptr))):
            raise AssertionError(f"{name}: the actions differ")
    calls = {"ours": ours, "lists": lambda: [lists(state) for state in states]}
    timings = interleaved(calls, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['lists'])} for three steps"
    return row(f"actions, {name}: Python's lists / ours", ratio(timings, "lists", "ours"), note, ACTION_BARS[name])


def main() -> None:
    arguments = parser("knowledge graphs", repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in LABEL_BARS:
        if (kg := load(name)) is not None:
            rows.append(label_row(kg, name, arguments.repeats))
            if name in ACTION_BARS:
                rows.append(action_row(kg, name, arguments.repeats))
    what = f"Labels of {QUERIES} queries and actions of {AGENTS} agents, T = {HORIZON}; {time_of(arguments.threads)}."
    write(arguments.out, "Knowledge graphs", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
