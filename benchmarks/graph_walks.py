"""Knowledge graphs: training steps, beam search, ranks and memory, beside padded tables, plain Python and PyKEEN.

    python benchmarks/graph_walks.py --threads 1 --out graph_walks.json

Needs PyKEEN and the graphs of `tenfold data get`; graphs that are absent are left out, peaks of memory where there is no Linux.
"""

from __future__ import annotations

import heapq
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from operator import itemgetter
from pathlib import Path

import torch
from graph import allowed_actions, known_answers, load, rows_of, some_queries
from rows import Row, clock, milliseconds, parser, row, time_of, write
from torch import Tensor
from torch.nn import functional as F

from tenfold.core import data
from tenfold.core.timing import interleaved, ratio
from tenfold.graph.beam import BeamResult, beam_search
from tenfold.graph.environment import State, WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.losses import HitReward, reinforce_loss
from tenfold.graph.metrics import rank_metrics
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy
from tenfold.graph.rollout import rollout

HORIZON, ROLLOUTS, CAP, BETA = 3, 20, 200, 0.05
STEP_QUERIES = {"wn18rr": 64, "umls": 32, "fb15k-237": 8}
STEP_BARS = {("wn18rr", "cut"): 6.0, ("umls", "cut"): 3.0, ("fb15k-237", "whole"): 1 / 1.2}
WIDTH, BEAM_QUERIES, RANK_QUERIES = 100, 256, 512
MEMORY_QUERIES, PADDED_QUERIES = 128, 32

CLEAR_PEAK = Path("/proc/self/clear_refs")  # a 5 written here sets the peak back to what is resident now

Edges = list[list[tuple[int, int]]]
Answers = dict[tuple[int, int], set[int]]


def graph(name: str, cap: int | None = None) -> KnowledgeGraph:
    """A graph, its rows cut to `cap` actions as MINERVA cuts them."""
    folder = data.path(f"06-kg-ssrl/{name}")
    return KnowledgeGraph.from_tsv(folder, max_actions=cap, prune=None if cap is None else "first")


class PaddedWalk:
    """The released codes' way: tables [E, width] of all actions, from which every agent gathers a padded row of embeddings."""

    def __init__(self, kg: KnowledgeGraph, known: Answers) -> None:
        self.kg, self.known = kg, known
        source, shape = kg.sources, (kg.num_entities, int(kg.degrees.max()) + 1)
        slot = torch.arange(len(source)) - kg.indptr[source]
        self.padding = kg.relation_rows - 1
        self.relation = torch.full(shape, self.padding)
        self.node = torch.zeros(shape, dtype=torch.int64)
        self.relation[source, slot], self.node[source, slot] = kg.rel.long(), kg.dst.long()

    def loss(
        self,
        policy: MinervaPolicy | MultiHopPolicy,
        queries: Tensor,
        generator: torch.Generator,
        path: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """REINFORCE's loss, as `reinforce_loss`; along the relations and entities of `path` [A, T], or where chance leads."""
        others = torch.zeros(queries.shape[1], self.kg.num_entities, dtype=torch.bool)
        for number, (s, r) in enumerate(queries[:2].T.tolist()):
            others[number, list(self.known[s, r])] = True
        query = torch.arange(queries.shape[1]).repeat_interleave(ROLLOUTS)
        source, asked, target = queries.repeat_interleave(ROLLOUTS, 1)
        opposite, last, node, hidden = self.kg.inverse(asked), torch.full_like(source, self.kg.start), source, None
        log_probs, entropies = [], []
        for step in range(HORIZON):
            hidden = policy.history(_embed(policy, last, node), hidden)
            relation, ends = self.relation[node], self.node[node]
            gone = relation == self.padding
            for here, kind, there in ((source, asked, target), (target, opposite, source)):
                gone |= (node == here)[:, None] & (relation == kind[:, None]) & (ends == there[:, None])
            if step == HORIZON - 1:
                gone |= others[query[:, None], ends] & (ends != target[:, None])
            gone[:, 0] &= ~gone.all(1)
            stood_on = [] if policy.entity is None else [policy.entity(node)]
            out = _point(policy, torch.cat([hidden[-1][0], *stood_on, policy.relation(asked)], 1))
            logits = (_embed(policy, relation, ends) @ out[:, :, None]).squeeze(2)
            log_p = F.log_softmax(logits.masked_fill(gone, -99999.0), 1)
            if path is None:
                choice = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
            else:
                taken = (relation == path[0][:, [step]]) & (ends == path[1][:, [step]])
                choice = taken.int().argmax(1, keepdim=True)
            log_probs.append(log_p.gather(1, choice).squeeze(1))
            entropies.append(-(log_p.exp() * log_p).sum(1))
            last, node = relation.gather(1, choice).squeeze(1), ends.gather(1, choice).squeeze(1)
        gain = (node == target).float()
        advantage = gain - gain.mean()
        advantage = advantage / (advantage.square().mean().sqrt() + 1e-6)
        return -(advantage * torch.stack(log_probs).mean(0)).mean() - BETA * torch.stack(entropies).mean()


def _embed(policy: MinervaPolicy | MultiHopPolicy, relation: Tensor, node: Tensor) -> Tensor:
    """[r ‖ e] of actions, r alone for a policy without entities."""
    if policy.entity is None:
        return policy.relation(relation)
    return torch.cat([policy.relation(relation), policy.entity(node)], -1)


def _point(policy: MinervaPolicy | MultiHopPolicy, x: Tensor) -> Tensor:
    """What the embeddings of actions are multiplied with."""
    if isinstance(policy, MinervaPolicy):
        return policy.outer(policy.inner(x).relu()).relu()
    return policy.W2(policy.W1(x).relu())


def step_rows(name: str, repeats: int) -> list[Row]:
    """Forward and backward of MINERVA: ours on rows cut to 200 actions as the tables are, and on whole rows."""
    graphs = {"cut": graph(name, CAP), "whole": graph(name)}
    queries = some_queries(graphs["cut"], STEP_QUERIES[name])
    torch.manual_seed(0)
    policy = MinervaPolicy(graphs["cut"])
    envs = {rows: WalkEnv(kg, HORIZON, known=kg.answers("train")) for rows, kg in graphs.items()}
    padded = PaddedWalk(graphs["cut"], known_answers(graphs["cut"]))

    def start(rows: str) -> State:
        source, relation, target = queries
        return envs[rows].reset(source, relation, target, rollouts=ROLLOUTS)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def ours(rows: str) -> None:
        policy.zero_grad()
        loss, _ = reinforce_loss(policy, envs[rows], start(rows), HitReward(), beta=BETA, generator=seeded())
        loss.backward()

    def theirs(path: tuple[Tensor, Tensor] | None = None) -> None:
        policy.zero_grad()
        padded.loss(policy, queries, seeded(), path).backward()

    def gradient() -> Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in policy.parameters() if parameter.grad is not None])

    ours("cut")
    expected = gradient()
    end = rollout(policy, envs["cut"], start("cut"), generator=seeded()).states[-1]
    theirs((end.path_rel, end.path_dst))
    if not torch.allclose(gradient(), expected, rtol=1e-3, atol=1e-6):
        raise AssertionError(f"{name}: the gradients differ by {float((gradient() - expected).abs().max())}")
    calls: dict[str, Callable[[], None]] = {
        "cut": partial(ours, "cut"),
        "whole": partial(ours, "whole"),
        "padded": theirs,
    }
    timings = interleaved(calls, repeats, warmup=1, clock=clock)
    agents = f"{STEP_QUERIES[name]} x {ROLLOUTS} agents"
    measured = []
    for rows in graphs:
        note = f"{milliseconds(timings[rows])} against {milliseconds(timings['padded'])}, {agents}"
        title = f"RL step, {name}, rows {rows}: padded to {CAP} / ours"
        measured.append(row(title, ratio(timings, "padded", rows), note, STEP_BARS.get((name, rows))))
    return measured


def python_beam(
    policy: MinervaPolicy, kg: KnowledgeGraph, edges: Edges, known: Answers, query: tuple[int, int, int], at_once: int
) -> list[tuple[float, int]]:
    """The likeliest ends of a query, best first; the network runs on `at_once` paths at once, the rest is Python."""
    scores, nodes, last, hidden = [0.0], [query[0]], [kg.start], None
    asked = policy.relation.weight[query[1]]
    for step in range(HORIZON):
        walked, parts = policy.relation(torch.tensor(last)), []
        for paths in torch.arange(len(nodes)).split(at_once):
            after = policy.history(walked[paths], None if hidden is None else policy.select(hidden, paths))
            x = torch.cat([after[-1][0], asked.expand(len(paths), -1)], 1)
            parts.append((*after[-1], _point(policy, x) @ policy.relation.weight.T))
        h, c, logits = map(torch.cat, zip(*parts, strict=True))
        others = known[query[:2]] if step == HORIZON - 1 else None
        found: list[tuple[float, int, int, int]] = []
        for parent, values in enumerate(logits.tolist()):
            actions = allowed_actions(kg, edges[nodes[parent]], nodes[parent], query, others)
            chosen = [values[relation] for relation, _ in actions]
            top = max(chosen)
            score = scores[parent] - top - math.log(sum(math.exp(value - top) for value in chosen))
            found += [(score + value, parent, *action) for value, action in zip(chosen, actions, strict=True)]
        if step == HORIZON - 1:
            break
        kept = heapq.nlargest(WIDTH, found, key=itemgetter(0))
        scores, parents, last, nodes = (list(column) for column in zip(*kept, strict=True))
        hidden = policy.select(((h, c),), torch.tensor(parents))
    best: dict[int, float] = {}
    for score, _, _, end in found:
        best[end] = max(score, best.get(end, -math.inf))
    return heapq.nlargest(WIDTH, ((score, end) for end, score in best.items()))


def beam_rows(repeats: int) -> list[Row]:
    """Beam search for WN18RR's test queries: Python answers some of them, ours the same, and then all."""
    kg = graph("wn18rr")
    torch.manual_seed(0)
    policy, edges, known = MinervaPolicy(kg).eval(), rows_of(kg), known_answers(kg)
    env = WalkEnv(kg, HORIZON, known=kg.answers("train"))
    test = kg.splits["test"]
    some = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:BEAM_QUERIES]]

    def ours(triples: Tensor) -> BeamResult:
        source, relation, target = triples.T
        return beam_search(policy, env, source, relation, WIDTH, t=target)

    @torch.no_grad()
    def python(at_once: int) -> list[list[tuple[float, int]]]:
        return [python_beam(policy, kg, edges, known, (s, r, t), at_once) for s, r, t in some.tolist()]

    for scores, found in zip(ours(some).scores, python(WIDTH), strict=True):
        expected = torch.tensor([score for score, _ in found])
        if not torch.allclose(scores[: len(found)], expected, rtol=0, atol=1e-4):
            raise AssertionError("the beams differ")
    calls = {"ours": lambda: ours(some), "path": lambda: python(1), "beam": lambda: python(WIDTH)}
    timings = interleaved(calls, repeats, warmup=1, clock=clock)
    start = clock()
    ours(test)
    seconds = clock() - start
    rows, each = [], {side: 1e3 * timing.median / len(some) for side, timing in timings.items()}
    for side, how, bar in (("path", "path by path", 10.0), ("beam", "network on a whole beam", None)):
        note = f"{each['ours']:.2f} against {each[side]:.2f} ms a query, {len(some)} of {len(test)} test queries"
        name = f"beam of {WIDTH}, wn18rr: Python, {how} / ours"
        rows.append(row(name, ratio(timings, side, "ours"), note, bar))
    name = f"beam of {WIDTH}, wn18rr, all {len(test)} test queries: 90 s / ours"
    return [*rows, row(name, 90 / seconds, f"{seconds:.1f} s", 1.0)]


def rank_row(repeats: int) -> Row:
    """Filtered ranks of made-up scores of FB15K-237's test queries, and what comes of them, beside PyKEEN's evaluator."""
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.evaluation.evaluator import create_sparse_positive_filter_, filter_scores_

    kg = graph("fb15k-237")
    known, every = kg.answers(), torch.cat([kg.splits[name] for name in ("train", "valid", "test")])
    triples = kg.splits["test"][:RANK_QUERIES]
    source, relation, target = triples.T
    scores = torch.randn(len(triples), kg.num_entities, generator=torch.Generator().manual_seed(0))

    def ours() -> dict[str, float]:
        return rank_metrics(scores, target, known.of(source, relation), unreached="rank")

    def pykeen() -> dict[str, float]:
        evaluator = RankBasedEvaluator()
        own = scores.gather(1, target[:, None])
        positives, _ = create_sparse_positive_filter_(triples, every, filter_col=2)
        rest = filter_scores_(scores.clone(), positives).scatter_(1, target[:, None], own)
        evaluator.process_scores_(triples, "tail", rest, own)
        result = evaluator.finalize()
        return {"mrr": result.get_metric("mrr"), "hits@10": result.get_metric("hits@10")}

    figures = ours()
    for name, value in pykeen().items():
        if not math.isclose(value, figures[name], abs_tol=1e-6):
            raise AssertionError(f"{name}: got {figures[name]} and {value}")
    timings = interleaved({"ours": ours, "pykeen": pykeen}, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['pykeen'])}, {len(triples)} queries"
    return row("filtered ranks, fb15k-237: PyKEEN / ours", ratio(timings, "pykeen", "ours"), note)


def memory_rows() -> list[Row]:
    """What FB15K-237 takes, and what a training step of MultiHopKG's walker takes beside it, at its peak."""
    kg = graph("fb15k-237")
    slots = kg.num_entities * (int(kg.degrees.max()) + 1)
    note = f"{kg.nbytes / 1e6:.1f} MB; a table of all actions, padded, has {slots * 8 / 1e6:.0f} MB"
    rows = [row("graph, fb15k-237: 12 MB / ours", 12e6 / kg.nbytes, note, 1.0)]
    if not CLEAR_PEAK.exists():
        print("left out: peaks of memory, which only Linux tells")
        return rows
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as fresh:
        ours, padded = (fresh.submit(peak, way).result() for way in ("ours", "padded"))
    agents = f"{MEMORY_QUERIES} x {ROLLOUTS} agents"
    return [
        *rows,
        row(f"peak of an RL step, fb15k-237, {agents}: 1.2 GB / ours", 1.2e9 / ours, f"{ours / 1e6:.0f} MB", 1.0),
        row(
            f"peak of an RL step, fb15k-237: padded to {CAP} / ours, rows whole",
            padded * MEMORY_QUERIES / PADDED_QUERIES / ours,
            f"{padded / 1e6:.0f} MB for {PADDED_QUERIES} x {ROLLOUTS} agents, taken times {MEMORY_QUERIES // PADDED_QUERIES}",
        ),
    ]


def peak(way: str) -> int:
    """Bytes by which this process grows at most in a step of MultiHopKG's walker on FB15K-237."""
    torch.set_num_threads(1)
    kg = graph("fb15k-237", None if way == "ours" else CAP)
    torch.manual_seed(0)
    policy, generator = MultiHopPolicy(kg), torch.Generator().manual_seed(0)
    env = WalkEnv(kg, HORIZON, known=kg.answers("train"))
    padded = None if way == "ours" else PaddedWalk(kg, known_answers(kg))

    def step(queries: Tensor) -> None:
        if padded is None:
            source, relation, target = queries
            state = env.reset(source, relation, target, rollouts=ROLLOUTS)
            loss, _ = reinforce_loss(policy, env, state, HitReward(), beta=BETA, generator=generator)
        else:
            loss = padded.loss(policy, queries, generator)
        loss.backward()

    step(some_queries(kg, 1))  # what comes once a process, and the gradients of the parameters
    queries = some_queries(kg, MEMORY_QUERIES if way == "ours" else PADDED_QUERIES)
    CLEAR_PEAK.write_text("5")
    before = _resident("VmRSS")
    step(queries)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes of memory of this process, "VmRSS" now or "VmHWM" at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    arguments = parser("walks on knowledge graphs", repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    there = {name for name in STEP_QUERIES if load(name) is not None}
    rows = []
    for name in STEP_QUERIES:
        if name in there:
            rows += step_rows(name, arguments.repeats)
    if "wn18rr" in there:
        rows += beam_rows(arguments.repeats)
    if "fb15k-237" in there:
        rows += [rank_row(arguments.repeats), *memory_rows()]
    what = f"Untrained walkers, T = {HORIZON}; an RL step is forward and backward; {time_of(arguments.threads)}."
    write(arguments.out, "Walks on knowledge graphs", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
