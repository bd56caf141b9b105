"""Knowledge graphs: a training step of MultiHopKG's walker beside the released code, which runs from a checkout of your own.

    git clone https://github.com/salesforce/MultiHopKG
    MULTIHOPKG=MultiHopKG python benchmarks/run.py graph_released

The released code asks for a GPU: here its `.cuda()` does nothing. It reads pickles, which this file writes for it from
the graphs of `tenfold data get`. Without a checkout there is nothing to measure.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from graph import load, some_queries
from rows import Row, clock, milliseconds, parser, row, time_of, write
from torch import Tensor

from tenfold.core import data
from tenfold.core.timing import interleaved, ratio
from tenfold.graph.environment import WalkEnv
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.losses import HitReward, reinforce_loss
from tenfold.graph.policies import MultiHopPolicy

ROLLOUTS, BETA, WIDTH, LAYERS = 20, 0.05, 200, 3
SETTINGS = {"umls": (128, 2, 400), "wn18rr": (128, 3, 500), "fb15k-237": (32, 3, 400)}  # queries, T, most actions
RELATIONS, ENTITIES = 3, 2  # rows that the released code keeps for padding, the start and staying


class Released:
    """Walker and loss of the released code, with our weights and the actions of our graph.

    Args:
        kg: the graph, its rows cut.
        policy: whose weights it takes.
        horizon: T.
        folder: for the files that it reads.
    """

    def __init__(self, kg: KnowledgeGraph, policy: MultiHopPolicy, horizon: int, folder: Path) -> None:
        from src.knowledge_graph import KnowledgeGraph as TheirGraph  # of the checkout
        from src.rl.graph_search.pg import PolicyGradient
        from src.rl.graph_search.pn import GraphSearchPolicy

        self.kg, self.horizon = kg, horizon
        self._write(folder)
        arguments: Any = SimpleNamespace(
            **dict.fromkeys(("relation_only", "relation_only_in_path", "test", "run_analysis"), False),
            **dict.fromkeys(("emb_dropout_rate", "ff_dropout_rate", "rnn_dropout_rate", "action_dropout_rate"), 0.0),
            **dict.fromkeys(("start_epoch", "num_epochs", "num_wait_epochs", "num_peek_epochs", "grad_norm"), 0),
            **dict.fromkeys(("batch_size", "train_batch_size", "dev_batch_size", "beam_size"), 128),
            **dict.fromkeys(("learning_rate", "adam_beta1", "adam_beta2", "action_dropout_anneal_factor"), 0.9),
            **dict.fromkeys(("entity_dim", "relation_dim", "history_dim"), WIDTH),
            **{"model": "point", "data_dir": str(folder), "model_dir": str(folder), "bandwidth": 10**9},
            **{"history_num_layers": LAYERS, "num_graph_convolution_layers": 0, "xavier_initialization": True},
            **{"use_action_space_bucketing": True, "bucket_interval": 10, "mask_test_false_negatives": False},
            **{"num_rollouts": ROLLOUTS, "num_rollout_steps": horizon, "baseline": "n/a", "beta": BETA, "gamma": 1},
            **{"action_dropout_anneal_interval": 1000, "train": True},
        )
        with redirect_stdout(StringIO()):
            self.graph = TheirGraph(arguments)
            self.walker = GraphSearchPolicy(arguments)
            self.learner = PolicyGradient(arguments, self.graph, self.walker)
        self._copy(policy)

    def relation(self, ids: Tensor) -> Tensor:
        """Their number of a relation: each stands before its inverse."""
        count = self.kg.num_relations
        return torch.where(ids < count, RELATIONS + 2 * ids, RELATIONS + 2 * (ids - count) + 1)

    def _write(self, folder: Path) -> None:
        kg = self.kg
        names = [f"r{i}{inverse}" for i in range(kg.num_relations) for inverse in ("", "_inv")]
        listed = {
            "entity2id": ["DUMMY_ENTITY", "NO_OP_ENTITY", *(f"e{i}" for i in range(kg.num_entities))],
            "relation2id": ["DUMMY_RELATION", "START_RELATION", "NO_OP_RELATION", *names],
            "type2id": ["any"],
        }
        for name, lines in listed.items():
            (folder / f"{name}.txt").write_text("".join(f"{line}\t{i}\n" for i, line in enumerate(lines)))
        (folder / "raw.pgrk").write_text("")
        (folder / "raw.kb").write_text("")
        for ours, theirs in (("train", "train"), ("valid", "dev"), ("test", "test")):
            triples = kg.splits[ours].tolist()
            (folder / f"{theirs}.triples").write_text("".join(f"e{s}\te{t}\tr{r}\n" for s, r, t in triples))
        moves = kg.rel < kg.no_op  # they add staying themselves
        edges = zip(
            kg.sources[moves] + ENTITIES, self.relation(kg.rel[moves].long()), kg.dst[moves] + ENTITIES, strict=True
        )
        adjacent: dict[int, dict[int, set[int]]] = {}
        for source, relation, target in ([int(each) for each in edge] for edge in edges):
            adjacent.setdefault(source, {}).setdefault(relation, set()).add(target)
        (folder / "adj_list.pkl").write_bytes(pickle.dumps(adjacent))
        (folder / "entity2typeid.pkl").write_bytes(pickle.dumps([0] * (kg.num_entities + ENTITIES)))

    @torch.no_grad()
    def _copy(self, policy: MultiHopPolicy) -> None:
        kg, tables = self.kg, (self.graph.relation_embeddings.weight, self.graph.entity_embeddings.weight)
        assert policy.entity is not None
        kinds = torch.arange(2 * kg.num_relations)
        tables[0][self.relation(kinds)] = policy.relation.weight[kinds]
        tables[0][1], tables[0][2] = policy.relation.weight[kg.start], policy.relation.weight[kg.no_op]
        tables[1][ENTITIES:] = policy.entity.weight
        for ours, theirs in ((policy.W1, self.walker.W1), (policy.W2, self.walker.W2)):
            theirs.load_state_dict(ours.state_dict())
        history, entity, query = policy.W1.weight.split(WIDTH, 1)
        self.walker.W1.weight.copy_(torch.cat([entity, history, query], 1))  # their order
        cells = [[*name.split(".", 2)[1:], value] for name, value in policy.history.state_dict().items()]
        self.walker.path_encoder.load_state_dict({f"{name}_l{layer}": value for layer, name, value in cells})

    def loss(self, queries: Tensor) -> Tensor:
        """Of REINFORCE on new walks of the queries [3, B]."""
        source, relation, target = queries
        batch = zip(
            (source + ENTITIES).tolist(), (target + ENTITIES).tolist(), self.relation(relation).tolist(), strict=True
        )
        result: Tensor = self.learner.loss(list(batch))["model_loss"]
        return result

    def entropy(self, queries: Tensor) -> Tensor:
        """Of the first step, in nats [B]."""
        source, relation, target = queries[0] + ENTITIES, self.relation(queries[1]), queries[2] + ENTITIES
        start = torch.full_like(source, self.graph.dummy_start_r)
        self.walker.initialize_path((start, source), self.graph)
        seen = torch.zeros_like(source)[:, None]
        *_, entropy = self.walker.transit(source, [source, relation, target, False, start, seen], self.graph)
        result: Tensor = entropy
        return result


def step_row(name: str, repeats: int) -> Row:
    """Forward and backward of the same walker on the same queries and actions."""
    count, horizon, cap = SETTINGS[name]
    kg = KnowledgeGraph.from_tsv(data.path(f"06-kg-ssrl/{name}"), max_actions=cap, prune="pagerank")
    torch.manual_seed(0)
    policy = MultiHopPolicy(kg, dim=WIDTH, history=WIDTH, layers=LAYERS)
    env, queries = WalkEnv(kg, horizon, known=kg.answers("train")), some_queries(kg, count)
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        released = Released(kg, policy, horizon, Path(folder))

    def ours() -> None:
        policy.zero_grad()
        state = env.reset(*queries, rollouts=ROLLOUTS)
        loss, _ = reinforce_loss(policy, env, state, HitReward(), style="multihop", beta=BETA, generator=generator)
        loss.backward()

    def theirs() -> None:
        released.learner.zero_grad()
        released.loss(queries).backward()

    state = env.reset(*queries)
    actions = env.actions(state)
    logits = policy.logits(state, policy.init(state), actions)
    entropy = torch.stack([-(p.softmax(0) * p.log_softmax(0)).sum() for p in logits.split(actions.ptr.diff().tolist())])
    if not torch.allclose(entropy, released.entropy(queries), atol=1e-4):
        raise AssertionError(f"{name}: the walkers differ")
    timings = interleaved({"ours": ours, "theirs": theirs}, repeats, warmup=1, clock=clock)
    note = f"{milliseconds(timings['ours'])} against {milliseconds(timings['theirs'])}, {count} x {ROLLOUTS} agents, T = {horizon}"
    return row(f"RL step, {name}: released MultiHopKG / ours", ratio(timings, "theirs", "ours"), note)


def main() -> None:
    arguments = parser("walks on knowledge graphs beside the released code", repeats=5).parse_args()
    torch.set_num_threads(arguments.threads)
    checkout = os.environ.get("MULTIHOPKG")
    rows: list[Row] = []
    if checkout is None or not (Path(checkout) / "src" / "knowledge_graph.py").is_file():
        print("left out: MULTIHOPKG names no checkout of the released code")
    else:
        sys.path.insert(0, checkout)
        sys.argv = sys.argv[:1]  # it parses the command line as it is imported
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
        rows = [step_row(name, arguments.repeats) for name in SETTINGS if load(name) is not None]
    what = (
        "MultiHopKG's walker of the published sizes, untrained, with the released code's buckets of rows; forward and backward of "
        f"REINFORCE without dropout. Both have the same weights and actions, their first steps the same entropy; {time_of(arguments.threads)}."
    )
    write(arguments.out, "Walks beside the released code", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
