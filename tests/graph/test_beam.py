"""Beam search against all paths written out, and against a beam in plain Python."""

from __future__ import annotations

from math import exp, inf, log
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.graph import beam
from tenfold.graph.beam import BeamResult, beam_search
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.policies import MinervaPolicy, MultiHopPolicy
from tenfold.graph.rollout import rollout

REDUCE: tuple[Any, ...] = ("max", "sum")
Path = tuple[tuple[int, int], ...]  # (relation, entity) of each step


def world(seed: int, *, entities: int = 6, edges: int = 10) -> tuple[KnowledgeGraph, MinervaPolicy, Tensor]:
    """A small graph, a policy with pronounced opinions, and a few triples to ask about."""
    generator = torch.Generator().manual_seed(seed)
    triples = torch.randint(0, entities, (edges, 3), generator=generator)
    triples[:, 1] %= 2
    triples[0, 0], triples[0, 1] = entities - 1, 1
    kg = KnowledgeGraph.from_triples(triples)
    torch.manual_seed(seed)
    policy = MinervaPolicy(kg, dim=3, hidden=3, use_entity=True).double()
    with torch.no_grad():
        policy.outer.weight *= 4
    return kg, policy, triples[:4]


def all_paths(policy: Any, env: WalkEnv, queries: Tensor, ask_target: bool) -> list[dict[Path, float]]:
    """Every path of every query and its log-probability: at each step all actions of all paths so far, nothing cut."""
    s, r, t = queries.T
    state = env.reset(s, r, t if ask_target else None)
    hidden, score = policy.init(state), torch.zeros(len(state), dtype=torch.float64)
    for step in range(env.horizon):
        actions = env.actions(state)
        weight = policy.logits(state, hidden, actions).detach().exp()
        score = (
            score[actions.row]
            + (weight / torch.zeros(len(state)).double().index_add(0, actions.row, weight)[actions.row]).log()
        )
        state = env.step(state, torch.arange(len(actions)))
        hidden = policy.select(hidden, actions.row)
        if step + 1 < env.horizon:
            hidden = policy.advance(hidden, state.last_relation, state.node)
    paths: list[dict[Path, float]] = [{} for _ in queries]
    columns = (state.query, state.path_rel, state.path_dst, score)
    for query, rel, dst, value in zip(*(column.tolist() for column in columns), strict=True):
        paths[query][tuple(zip(rel, dst, strict=True))] = value
    return paths


def beam_in_python(policy: Any, env: WalkEnv, query: Tensor, width: int) -> dict[Path, float]:
    """Candidates of the last step and their log-probabilities, for one query."""
    paths: list[tuple[float, Path]] = [(0.0, ())]
    for step in range(env.horizon):
        longer: list[tuple[float, Path]] = []
        for score, path in paths:
            state = env.reset(*query.view(3, 1))
            hidden = policy.init(state)
            for relation, node in path:
                actions = env.actions(state)
                state = env.step(state, ((actions.rel == relation) & (actions.dst == node)).nonzero()[0])
                hidden = policy.advance(hidden, torch.tensor([relation]), torch.tensor([node]))
            actions = env.actions(state)
            log_p = policy.logits(state, hidden, actions).log_softmax(0)
            columns = (log_p, actions.rel, actions.dst)
            for p, relation, node in zip(*(column.tolist() for column in columns), strict=True):
                longer.append((score + p, (*path, (relation, node))))
        paths = longer if step + 1 == env.horizon else sorted(longer, key=lambda found: -found[0])[:width]
    return {path: score for score, path in paths}


def best_ends(paths: dict[Path, float], reduce: str) -> list[tuple[int, float, Path]]:
    """(entity, score, best path), best first."""
    groups: dict[int, list[tuple[float, Path]]] = {}
    for path, score in paths.items():
        groups.setdefault(path[-1][1], []).append((score, path))
    ends = []
    for entity, found in groups.items():
        best, path = max(found, key=lambda one: one[0])
        ends.append((entity, best if reduce == "max" else log(sum(exp(score) for score, _ in found)), path))
    return sorted(ends, key=lambda end: (-end[1], end[0]))


def listed(result: BeamResult, query: int) -> list[tuple[int, float, Path]]:
    columns = [column[query].tolist() for column in (result.entities, result.scores, *result.paths)]
    ends = []
    for entity, score, rel, dst in zip(*columns, strict=True):
        if entity >= 0:
            ends.append((entity, score, tuple(zip(rel, dst, strict=True))))
        else:
            assert score == -inf and set(rel) == set(dst) == {-1}
    return ends


def assert_same(ours: list[tuple[int, float, Path]], expected: list[tuple[int, float, Path]]) -> None:
    assert [(entity, path) for entity, _, path in ours] == [(entity, path) for entity, _, path in expected]
    assert [score for _, score, _ in ours] == pytest.approx([score for _, score, _ in expected], abs=1e-9)


def test_a_wide_beam_is_exhaustive() -> None:
    for seed in range(200):
        kg, policy, queries = world(seed, edges=5)
        ask_target = seed % 2 == 0
        env = WalkEnv(kg, 1 + seed % 3, known=kg.answers("train"), mask_inverse=seed % 5 > 0)
        paths = all_paths(policy, env, queries, ask_target)
        width = max(map(len, paths))
        for reduce in REDUCE:
            result = beam_search(
                policy, env, *queries[:, :2].T, width, t=queries[:, 2] if ask_target else None, reduce=reduce
            )
            for number, found in enumerate(paths):
                assert_same(listed(result, number), best_ends(found, reduce))


def test_a_narrow_beam_keeps_the_likeliest() -> None:
    for seed in range(30):
        kg, policy, queries = world(seed)
        width = 1 + seed % 5
        env = WalkEnv(kg, 3, known=kg.answers("train"))
        paths = [beam_in_python(policy, env, query, width) for query in queries]
        for reduce in REDUCE:
            result = beam_search(policy, env, *queries[:, :2].T, width, t=queries[:, 2], reduce=reduce)
            for number, found in enumerate(paths):
                assert_same(listed(result, number), best_ends(found, reduce)[:width])


def assert_close(a: BeamResult, b: BeamResult) -> None:
    assert torch.equal(a.entities, b.entities)
    assert torch.equal(a.path_rel, b.path_rel) and torch.equal(a.path_dst, b.path_dst)
    torch.testing.assert_close(a.scores, b.scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("reduce", REDUCE)
def test_queries_do_not_know_of_each_other(reduce: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kg, policy, _ = world(1, entities=30, edges=150)
    policy = policy.float()
    s, r, t = kg.splits["train"][:40].T
    env = WalkEnv(kg, 3, known=kg.answers("train"))

    def search(rows: Tensor) -> BeamResult:
        return beam_search(policy, env, s[rows], r[rows], 10, t=t[rows], reduce=reduce)

    everything = torch.arange(40)
    together = search(everything)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    permuted = search(order)
    picked = BeamResult(
        together.entities[order], together.scores[order], together.path_rel[order], together.path_dst[order]
    )
    assert_close(permuted, picked)
    parts = [search(everything[start : start + 7]) for start in range(0, 40, 7)]
    names = ("entities", "scores", "path_rel", "path_dst")
    assert_close(BeamResult(*(torch.cat([getattr(part, name) for part in parts]) for name in names)), together)
    for limit in (1, 400, 5000):  # split at the start, and in the midst of the search
        monkeypatch.setattr(beam, "CANDIDATES", limit)
        assert_close(search(everything), together)


def test_paths_keep_the_rules() -> None:
    """No path walks the edge in question or its inverse; none ends on another known answer."""
    for seed in range(50):
        kg, policy, triples = world(seed, entities=8, edges=25)
        known = kg.answers("train")
        s, r, t = triples.T
        result = beam_search(policy, kg, s, r, 20, t=t, known=known)
        for number, (source, relation, target) in enumerate(triples.tolist()):
            inverse = int(kg.inverse(torch.tensor(relation)))
            answers = set(known.of(s[number : number + 1], r[number : number + 1]).values.tolist())
            for entity, _, path in listed(result, number):
                nodes = [source, *(node for _, node in path)]
                steps = list(zip(nodes[:-1], (rel for rel, _ in path), nodes[1:], strict=True))
                assert (source, relation, target) not in steps and (target, inverse, source) not in steps
                # Where the masks leave nothing else, staying is allowed.
                assert entity == target or entity not in answers or steps[-1] == (entity, kg.no_op, entity)


def test_equal_scores_come_by_id() -> None:
    kg, policy, triples = world(0, entities=9, edges=40)
    with torch.no_grad():
        policy.outer.weight.zero_()  # every action is as likely as any other
    result = beam_search(policy, kg, *triples[:, :2].T, 50, horizon=1)
    for number, (source, _, _) in enumerate(triples.tolist()):
        ends = [entity for entity, _, _ in listed(result, number)]
        assert ends == sorted({source, *kg.neighbours(source)[1].tolist()})


def test_width_one_is_the_greedy_walk(generator: torch.Generator) -> None:
    kg, policy, triples = world(2, entities=12, edges=60)
    env = WalkEnv(kg, 3)
    s, r, _ = triples.T
    walks = rollout(policy, env, env.reset(s, r), generator=generator, greedy=True)
    result = beam_search(policy, env, s, r, 1)
    assert torch.equal(result.path_rel[:, 0], walks.states[-1].path_rel)
    assert torch.equal(result.entities[:, 0], walks.states[-1].node)
    torch.testing.assert_close(result.scores[:, 0], walks.log_probs.sum(0))


def test_a_module_searches_without_dropout_and_keeps_its_mode() -> None:
    kg, _, triples = world(3)
    policy = MultiHopPolicy(kg, dim=4, history=4, emb_dropout=0.5, ff_dropout=0.5)
    s, r, _ = triples.T
    assert_close(beam_search(policy, kg, s, r, 5), beam_search(policy, kg, s, r, 5))
    assert policy.training and not beam_search(policy, kg, s, r, 5).scores.requires_grad


def test_no_queries_no_answers() -> None:
    kg, policy, _ = world(0)
    nobody = torch.empty(0, dtype=torch.int64)
    result = beam_search(policy, kg, nobody, nobody, 5)
    assert result.entities.shape == (0, 5) and result.path_rel.shape == (0, 5, 3)


def test_bad_input() -> None:
    kg, policy, triples = world(0)
    s, r, _ = triples.T
    for options, message in (
        ({"width": 0}, "width: got 0, need 1..65536"),
        ({"reduce": "mean"}, "reduce: got 'mean', need 'max' or 'sum'"),
        ({"horizon": 0}, "horizon: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            beam_search(policy, kg, s, r, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need a WalkEnv made with them"):
        beam_search(policy, WalkEnv(kg), s, r, horizon=2)
    with torch.no_grad():
        policy.outer.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="policy: got NaN logits at step 0"):
        beam_search(policy, kg, s, r)
