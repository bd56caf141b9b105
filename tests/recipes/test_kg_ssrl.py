"""The experiment end to end at a size of seconds, killed and resumed, on two processes; its verbs, data and findings."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tenfold.cli import main
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import NonFiniteError, TrainState
from tenfold.core.run import Run
from tenfold.graph.embed import ComplEx, ScorerConfig
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.losses import HitReward
from tenfold.graph.policies import MinervaPolicy
from tenfold.graph.reasoner import Reasoner
from tenfold.recipes.kg_ssrl import EXPECTED, PRESETS, Config, train, training
from tenfold.recipes.kg_ssrl.config import Budget, Data, Reinforced, Search, Shaping, Supervised, Sweep, Training
from tenfold.recipes.kg_ssrl.config import Walker as WalkerSizes
from tenfold.recipes.kg_ssrl.evaluation import rewarded_paths
from tenfold.recipes.kg_ssrl.experiment import check, plan
from tenfold.recipes.kg_ssrl.findings import make_claims
from tenfold.recipes.kg_ssrl.graphs import build_graph
from tenfold.recipes.kg_ssrl.learning import Queries, build_learner, reinforced_loss, training_queries
from tenfold.recipes.kg_ssrl.training import Job

CHAIN = [(f"n{i}", "next", f"n{i + 1}") for i in range(60)]


@pytest.fixture
def config() -> Config:
    return Config(
        data=Data(entities=40),
        walker=WalkerSizes(dim=4, hidden=4),
        training=Training(batch=4, rollouts=3),
        budget=Budget(6, "steps", 1 / 3),
        search=Search(width=6, valid_queries=9, curve_points=3),
        log_every=1,
        save_every=2,
    )


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figures and tables, which take longer than such a training."""
    monkeypatch.setattr("tenfold.recipes.kg_ssrl.reporting.report", lambda *_: None)


def write_tsv(path: Path, triples: Any) -> Path:
    path.write_text("".join("\t".join(triple) + "\n" for triple in triples))
    return path


def weights(run: Run, name: str) -> bytes:
    return (run.path / "models" / name / "model.safetensors").read_bytes()


def train_in(folder: Path, config: Config, **options: Any) -> Run:
    run = Run.create("kg-ssrl", "tiny", config, folder)
    train(config, run, **options)
    return run


def test_end_to_end_trains_every_arm_of_both_bases_and_reports(config: Config, tmp_path: Path) -> None:
    config = replace(
        config,
        bases=("minerva", "multihop"),
        arms=("ssrl", "rl", "sl", "ssrl-shaped", "rl-shaped"),
        seeds=(0, 1),
        shaping=Shaping(scorer=ScorerConfig(dim=4, epochs=2)),
    )
    run = Run.create("kg-ssrl", "tiny", config, tmp_path)
    result = train(config, run)
    assert len(result.claims) == 2 * 5 * 5
    names = [claim.name for claim in result.claims]
    assert "synthetic, minerva: ssrl above rl, MRR" in names
    assert "synthetic, multihop: ssrl-shaped above ssrl, Hits@10" in names
    assert all(claim.simulator and claim.seeds == 2 and claim.holds is not None for claim in result.claims)
    assert {folder.name for folder in (run.path / "models").iterdir()} == {job.name for job in plan(config)}
    for name in ("learning", "answers"):
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 5000
    table = json.loads((run.path / "tables" / "synthetic, per cent.json").read_text())["rows"]
    assert [row["walker"] for row in table][:2] == ["minerva, ssrl", "minerva, rl"]
    assert table[-1]["walker"] == "complex" and 0 < float(table[-1]["MRR"]) < 100
    assert all(float(row["coverage"].split()[0]) <= float(row["ceiling of coverage"]) for row in table[:-1])
    steps = {row["walker"]: row["steps sl + rl"] for row in table[:-1]}
    assert steps["minerva, ssrl"] == "2 + 4" and steps["minerva, rl"] == "0 + 6" and steps["minerva, sl"] == "6 + 0"
    # A shaped reward changes what reinforcement learns, not what came before it.
    first, second = (run.rows(f"synthetic-minerva-{arm}-seed0-sl") for arm in ("ssrl", "ssrl-shaped"))
    assert [row["loss"] for row in first if "loss" in row] == [row["loss"] for row in second if "loss" in row]
    assert weights(run, "synthetic-minerva-ssrl-seed0") != weights(run, "synthetic-minerva-ssrl-shaped-seed0")
    lines = (run.path / "models" / "synthetic-minerva-rl-seed0" / "predictions.tsv").read_text().splitlines()
    kg = KnowledgeGraph.load(run.path / "graphs" / "synthetic.npz")
    assert len(lines) == 1 + len(kg.splits["test"]) and lines[0].startswith("head\trelation\ttail\trank")


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


@pytest.mark.usefixtures("no_report")
def test_killed_and_resumed_gives_the_weights_of_one_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, budget=Budget(10, "steps", 0.5), rl=Reinforced(baseline="ema", decay_every=3))
    whole = train_in(tmp_path, config)
    plain_fit, kill_at = training.fit, []

    def fit_until_killed(state: TrainState, loss: Any, *, after_step: Any, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            after_step(state)
            if name in kill_at and state.step == 3:  # one step past the checkpoint at 2
                kill_at.remove(name)
                raise Killed

        return plain_fit(state, loss, after_step=after, name=name, **options)

    monkeypatch.setattr(training, "fit", fit_until_killed)
    run = Run.create("kg-ssrl", "tiny", config, tmp_path)
    stages = ["synthetic-minerva-ssrl-seed0-sl", "synthetic-minerva-ssrl-seed0-rl", "synthetic-minerva-rl-seed0-rl"]
    for name in stages:
        kill_at.append(name)
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
    train(config, Run.open(run.path))
    for arm in ("ssrl", "rl"):
        assert weights(run, f"synthetic-minerva-{arm}-seed0") == weights(whole, f"synthetic-minerva-{arm}-seed0")
    for name in stages:
        kept, expected = ([{k: v for k, v in row.items() if k in ("step", "loss", "valid_mrr")} for row in each.rows(name)]
                          for each in (run, whole))  # fmt: skip
        assert kept == expected and any("valid_mrr" in row for row in kept)


def test_a_finished_training_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create("kg-ssrl", "tiny", config, tmp_path)
    first = train(config, run)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr("tenfold.recipes.kg_ssrl.experiment.build_graph", refuse)
    second = train(config, Run.open(run.path))
    assert [claim.value for claim in second.claims] == [claim.value for claim in first.claims]


@pytest.mark.usefixtures("no_report")
def test_the_same_seed_gives_the_same_weights_and_another_one_others(config: Config, tmp_path: Path) -> None:
    config = replace(config, arms=("ssrl",))
    name = "synthetic-minerva-ssrl-seed{}".format
    once, again = (weights(train_in(tmp_path, config), name(0)) for _ in range(2))
    assert once == again
    assert weights(train_in(tmp_path, replace(config, seeds=(1,))), name(1)) != once


class Tick:
    """A clock of steps that take 0.25 seconds each."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now

    @contextmanager
    def paused(self) -> Iterator[None]:
        yield
        self.now += 0.0


@pytest.mark.usefixtures("no_report")
def test_arms_get_the_same_seconds_and_supervision_counts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "StepClock", Tick)
    config = replace(config, arms=("ssrl", "rl", "sl"), budget=Budget(4.0, sl_share=1.875 / 4))
    run = train_in(tmp_path, config)
    rows = {job.arm: run.load_stage(job.name) for job in plan(config)}
    assert {arm: (row["sl_steps"], row["rl_steps"]) for arm, row in rows.items()} == {
        "ssrl": (8, 8),  # 1.875 s take 8 steps of 0.25 s, and the other stage gets so much less
        "rl": (0, 16),
        "sl": (16, 0),
    }
    assert all(row["sl_seconds"] + row["rl_seconds"] == 4.0 for row in rows.values())


def test_a_supervised_stage_that_eats_the_budget_leaves_no_reinforcement(
    config: Config, tmp_path: Path, no_report: None
) -> None:
    config = replace(config, arms=("ssrl",), budget=Budget(1e-4, "seconds", 0.9))
    run = train_in(tmp_path, config)
    row = run.load_stage("synthetic-minerva-ssrl-seed0")
    assert (row["sl_steps"], row["rl_steps"], row["rl_seconds"]) == (1, 0, 0)


def test_only_relations_trained_on_are_ranked(config: Config, tmp_path: Path, no_report: None) -> None:
    file = write_tsv(tmp_path / "two.tsv", [*CHAIN, *((tail, "before", head) for head, _, tail in CHAIN)])
    config = replace(
        config,
        graphs=("files",),
        data=Data(path=(file,)),
        arms=("rl",),
        training=replace(config.training, relations=("before",)),
    )
    run = train_in(tmp_path, config)
    kg = KnowledgeGraph.load(run.path / "graphs" / "files.npz")
    asked = int((kg.splits["test"][:, 1] == kg.relation_id("before")).sum())
    assert run.load_stage("files-minerva-rl-seed0")["queries"] == asked < len(kg.splits["test"])
    assert Reasoner.load(run.path / "models" / "files-minerva-rl-seed0").trained == {kg.relation_id("before")}


def test_evaluation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(training.time, "process_time", lambda: float(next(now)))
    clock = training.StepClock()
    before = clock()
    with clock.paused():
        for _ in range(10):
            next(now)
    assert clock() - before == 2  # the readings at the ends of the pause are its own


@pytest.mark.parametrize(
    "changed",
    [
        {"sl": Supervised(loss="bce", targets="all")},
        {"sl": Supervised(loss="marginal", labels="multihop", fallback="drop", method="sparse")},
        {"sl": Supervised(loss="official_minerva", labels="minerva"), "training": Training(batch=4, mask_inverse=False)},
        {"sl": Supervised(loss="official_multihop", beta=0.1), "bases": ("multihop",)},
        {"rl": Reinforced(style="multihop", baseline="avg_reward_normalized", action_dropout=0.5, decay_every=2)},
        {"rl": Reinforced(normalize=False, baseline="avg_reward"), "search": Search(width=6, reduce="sum", both_sides=True)},
        {"training": Training(batch=4, rollouts=2, horizon=1, queries="both", clip=0.0), "walker": WalkerSizes(use_entity=True)},
        {"data": Data(entities=40, max_actions=4, inverse=False), "search": Search(width=6, eval_mask="all", unreached="rank")},
        {"bases": ("multihop",), "walker": WalkerSizes(dim=4, hidden=4, use_entity=False, emb_dropout=0.0, ff_dropout=0.0)},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("no_report")
def test_every_switch_trains(config: Config, changed: dict[str, Any], tmp_path: Path) -> None:
    run = train_in(tmp_path, replace(config, arms=("ssrl",), **changed))
    rows = run.rows()
    assert len({row["loss"] for row in rows if "loss" in row}) > 1
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row)


@pytest.mark.usefixtures("no_report")
def test_a_scorer_of_ones_own_shapes_the_reward(config: Config, tmp_path: Path) -> None:
    """As one made by `from_pykeen`: with a score of nearly 1 for everything, every walk earns it."""
    config = replace(config, arms=("rl-shaped", "rl"))
    scorer = ComplEx(40, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.fill_(3.0)  # the real part of 3 · 3 · conj(3) everywhere
    run = train_in(tmp_path, config, scorer=scorer)
    assert not (run.path / "scorers").exists()
    shaped, plain = ([row["reward"] for row in run.rows(f"synthetic-minerva-{arm}-seed0-rl") if "reward" in row]
                     for arm in ("rl-shaped", "rl"))  # fmt: skip
    assert min(shaped) == pytest.approx(1) and max(plain) < 0.9
    with pytest.raises(ValueError, match="workers: got 2 with a scorer"):
        train(replace(config, workers=2), run, scorer=scorer)
    with pytest.raises(ValueError, match="scorer has 9 entities, graph has 40"):
        train_in(tmp_path, config, scorer=ComplEx(9, 4, 4, generator=torch.Generator()))


@pytest.mark.usefixtures("no_report")
def test_a_loss_that_is_nan_stops_naming_stage_and_step_and_keeps_the_checkpoint(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = training.reinforced_loss

    def poisoned(*arguments: Any) -> Any:
        loss, step = plain(*arguments), arguments[5]

        def later(model: Any, batch: Any) -> Any:
            value, metrics = loss(model, batch)
            return value * (math.nan if step() == 3 else 1), metrics

        return later

    monkeypatch.setattr(training, "reinforced_loss", poisoned)
    run = Run.create("kg-ssrl", "tiny", config, tmp_path)
    with pytest.raises(
        NonFiniteError, match=r"ssrl-seed0, reinforcement stage: loss is nan at step 4 .*last finite loss -?\d"
    ):
        train(config, run)
    assert (run.path / "checkpoints" / "synthetic-minerva-ssrl-seed0-rl" / "step-00000002").is_dir()


@pytest.mark.usefixtures("no_report")
def test_an_epoch_without_any_label_is_an_error(config: Config, tmp_path: Path) -> None:
    """In a chain the only path from n1 to n2 is the edge in question, which is masked."""
    config = replace(
        config,
        graphs=("files",),
        data=Data(path=(write_tsv(tmp_path / "chain.tsv", CHAIN),)),
        budget=Budget(100, "steps", 0.5),
        arms=("ssrl",),
    )
    with pytest.raises(UserError, match="no path of length <= 3 for any training query"):
        train_in(tmp_path, config)
    run = train_in(tmp_path, replace(config, arms=("rl",), budget=Budget(3, "steps")))
    assert run.load_stage("files-minerva-rl-seed0")["coverage"] == 0


def test_the_entropy_bonus_decays_with_the_steps(config: Config) -> None:
    kg = build_graph("synthetic", config.data)
    config = replace(config, rl=Reinforced(beta=0.5, decay_every=2))
    settings = config.settings("synthetic", "minerva")
    learner = build_learner(config, "minerva", settings, kg, 0)
    batch = next(iter(Queries(training_queries(config, kg), 4, 0, 1)))
    losses = []
    for step in (0, 4):
        loss = reinforced_loss(config, "minerva", settings, kg, HitReward(), lambda step=step: step, None)
        value, metrics = loss(learner, batch)
        losses.append(float(value.detach()))
    assert losses[1] - losses[0] == pytest.approx((0.5 - 0.5 * 0.9**2) * float(metrics["entropy"]), rel=1e-4)


def test_two_ranks_see_the_parts_of_one_batch() -> None:
    triples = torch.arange(30).view(10, 3)
    whole = next(iter(Queries(triples, 4, 3, 1)))
    parts = [next(iter(Queries(triples, 4, 3, 1, rank, 2))) for rank in (0, 1)]
    assert torch.equal(torch.cat([part["triples"] for part in parts]), whole["triples"])
    assert parts[0]["key"] == parts[1]["key"] == whole["key"]
    assert next(iter(Queries(triples, 4, 3, 0)))["key"] != whole["key"]


def test_two_processes_train_the_walker_of_one(config: Config, tmp_path: Path) -> None:
    """Under torchrun each takes half the queries; walks and advantages are those of one process, weights equal up to rounding."""
    config = replace(config, arms=("ssrl",), budget=Budget(8, "steps", 0.5))
    file, script = tmp_path / "config.json", tmp_path / "work.py"
    file.write_text(json.dumps(to_json(config)))
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tenfold.cli.recipe import on_all_ranks\n"
        "from tenfold.core.config import from_json\n"
        "from tenfold.core.run import Run\n"
        "from tenfold.recipes.kg_ssrl import Config, check, train\n"
        "config = from_json(Config, json.loads(Path(sys.argv[1]).read_text()))\n"
        "check(config)\n"
        "train(config, on_all_ranks(lambda: Run.create('kg-ssrl', 'tiny', config, sys.argv[2])))\n"
    )
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*start, str(script), str(file), str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (two,) = (tmp_path / "two" / "kg-ssrl").iterdir()
    one = train_in(tmp_path / "one", config)
    name = "models/synthetic-minerva-ssrl-seed0/model.safetensors"
    expected, got = load_file(one.path / name), load_file(two / name)
    for key, tensor in expected.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-5, msg=key)


def test_several_processes_refuse_what_they_cannot_share(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(config)
    for changed, message in (
        ({"workers": 2}, "workers: got 2 under torchrun"),
        ({"sl": Supervised(loss="official_minerva")}, "sl.loss: got 'official_minerva'"),
        ({"rl": Reinforced(baseline="ema")}, "rl.baseline: got 'ema'"),
        ({"training": Training(batch=3)}, "training.batch: got 3, need a multiple of 2"),
    ):
        with pytest.raises(UserError, match=message):
            check(replace(config, **changed))


def test_a_sweep_trains_every_value_and_shows_them(config: Config, tmp_path: Path) -> None:
    config = replace(config, arms=("ssrl",), sweep=Sweep("budget.sl_share", ("0", "0.5", "1")))
    assert [variant.budget.sl_share for variant in config.variants().values()] == [0, 0.5, 1]
    run = train_in(tmp_path, config)
    table = json.loads((run.path / "tables" / "sweep.json").read_text())["rows"]
    assert [row["budget.sl_share"] for row in table] == ["0", "0.5", "1"]
    assert (run.path / "figures" / "sweep.png").stat().st_size > 5000
    steps = [run.load_stage(f"v{i}-synthetic-minerva-ssrl-seed0")["sl_steps"] for i in range(3)]
    assert steps == [0, 3, 6]
    assert Reasoner.load(run.path / "models" / "v1-synthetic-minerva-ssrl-seed0").horizon == 3
    assert from_json(Config, json.loads((run.path / "config.json").read_text())) == config


@pytest.mark.parametrize(
    ("field", "values", "read"),
    [
        ("sl.loss", ("ce", "bce"), ["ce", "bce"]),
        ("training.horizon", ("1", "3"), [1, 3]),
        ("training.mask-inverse", ("true", "False"), [True, False]),
        ("walker.dim", ("None", "7"), [None, 7]),
        ("training.relations", ("q", "a,b"), [("q",), ("a", "b")]),
    ],
)
def test_values_of_a_sweep_are_read_as_typed(field: str, values: tuple[str, ...], read: list[Any]) -> None:
    part, name = field.replace("-", "_").split(".")
    variants = Config(sweep=Sweep(field, values)).variants().values()
    assert [getattr(getattr(variant, part), name) for variant in variants] == read


@pytest.mark.usefixtures("no_report")
def test_a_sweep_of_the_data_makes_a_graph_for_each_value(config: Config, tmp_path: Path) -> None:
    config = replace(config, arms=("rl",), budget=Budget(1, "steps"), sweep=Sweep("data.entities", ("20", "30")))
    run = train_in(tmp_path, config)
    sizes = [KnowledgeGraph.load(run.path / "graphs" / f"v{i}-synthetic.npz").num_entities for i in range(2)]
    assert sizes == [20, 30]


def test_published_settings_give_way_to_those_of_the_config() -> None:
    plain = Config()
    assert plain.settings("umls", "minerva").horizon == 2 and plain.settings("wn18rr", "minerva").horizon == 3
    assert plain.settings("kinship", "multihop").action_dropout == 0.9
    assert plain.settings("synthetic", "multihop").hidden == 200
    given = replace(
        plain, training=Training(horizon=4, batch=7, clip=0.0), rl=Reinforced(beta=0.0), search=Search(width=9)
    )
    found = given.settings("umls", "minerva")
    assert (found.horizon, found.batch, found.clip, found.beta, found.width, found.lr) == (4, 7, 0.0, 0.0, 9, 1e-3)


def test_presets_say_what_they_are() -> None:
    assert EXPECTED.keys() == PRESETS.keys() and all(EXPECTED.values())
    laptop = PRESETS["laptop"]
    assert len(laptop.seeds) >= 3 and len(laptop.bases) == 2 and {"ssrl", "rl", "sl", "ssrl-shaped"} == set(laptop.arms)
    paper = PRESETS["fb15k-237-minerva"]
    assert paper.budget.stages("ssrl") == {"sl": 1000, "rl": 7001} and paper.budget.stages("rl") == {"rl": 8001}
    assert paper.settings("fb15k-237", "minerva").batch == 256 and paper.data.max_actions == 200


NT = "".join(
    f"<http://x/{h}> <http://x/{r}> <http://x/{t}> .\n" for h, r, t in [*CHAIN, *((t, "back", h) for h, _, t in CHAIN)]
)
NODES = "personId:ID,name\n" + "".join(f"{i},n{i}\n" for i in range(61))
EDGES = ":START_ID,:END_ID,:TYPE\n" + "".join(f"{i},{i + 1},next\n{i + 1},{i},back\n" for i in range(60))


@pytest.mark.parametrize(
    ("files", "paths", "order"),
    [
        ({"g.csv": "head,relation,tail\n" + "".join(f"{h},{r},{t}\n" for h, r, t in CHAIN)}, ["g.csv"], "hrt"),
        ({"g.txt": "".join(f"{h}\t{t}\t{r}\n" for h, r, t in CHAIN)}, ["g.txt"], "htr"),
        ({"train.tsv": "".join("\t".join(t) + "\n" for t in CHAIN), "dev.tsv": "n0\tnext\tn2\n"}, [""], "hrt"),
        ({"nodes.csv": NODES, "edges.csv": EDGES}, ["nodes.csv", "edges.csv"], "hrt"),
        ({"edges.csv": EDGES}, ["edges.csv"], "hrt"),
        ({"g.nt": NT}, ["g.nt"], "hrt"),
    ],
    ids=["csv", "order", "folder", "neo4j", "neo4j-edges", "rdf"],
)
def test_ones_own_files_are_read_and_parts_held_out(
    files: dict[str, str], paths: list[str], order: str, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    kg = build_graph("files", Data(path=tuple(tmp_path / name for name in paths), order=order))
    assert kg.num_entities == 61
    sizes = {split: len(triples) for split, triples in kg.splits.items()}
    total = 61 if "dev.tsv" in files else 60 if "back" not in str(files) else 120
    assert sum(sizes.values()) == total
    assert sizes["test"] == round(0.05 * (60 if total < 100 else 120))
    assert sizes["valid"] == (1 if "dev.tsv" in files else sizes["test"])
    assert any(name.endswith("next") for name in kg.relation_names)


def test_queries_are_those_of_the_relations_asked_for(config: Config) -> None:
    kg = build_graph("synthetic", config.data)
    only = training_queries(replace(config, training=Training(relations=("q",))), kg)
    assert set(only[:, 1].tolist()) == {kg.relation_id("q")}
    both = training_queries(replace(config, training=Training(relations=("q",), queries="both")), kg)
    assert len(both) == 2 * len(only) and set(both[:, 1].tolist()) == {kg.relation_id("q"), kg.relation_id("q_inv")}


def test_a_claim_pairs_the_seeds_of_two_arms() -> None:
    config = Config(graphs=("umls",), seeds=(0, 1))
    rows = [{"graph": "umls", "base": "minerva", "arm": arm, "seed": seed, "mrr": mrr, "hits@1": mrr, "hits@3": mrr, "hits@10": mrr, "paths": mrr}
            for arm, scores in (("ssrl", (0.7, 0.6)), ("rl", (0.5, 0.4))) for seed, mrr in enumerate(scores)]  # fmt: skip
    claim = make_claims(config, rows)[0]
    assert (claim.value, claim.baseline, claim.seeds, claim.simulator) == (
        pytest.approx(0.65),
        pytest.approx(0.45),
        2,
        False,
    )
    assert claim.holds and claim.ci95[0] == pytest.approx(0.2)


def test_rewarded_paths_are_counted_once_wherever_they_stay(config: Config) -> None:
    ways = [("s", "r", "t"), *(("s", "x", f"m{i}") for i in range(3)), *((f"m{i}", "y", "t") for i in range(2))]
    kg = KnowledgeGraph.from_triples(ways, inverse=False)
    config = replace(config, walker=WalkerSizes(), training=replace(config.training, horizon=3))
    settings = config.settings("files", "minerva")
    policy = MinervaPolicy(kg, dim=4, hidden=4)
    torch.nn.init.zeros_(policy.outer.weight)  # a walk of even chances
    asked = torch.tensor([[kg.entity_id("s"), kg.relation_id("r"), kg.entity_id("t")]])
    # The edge in question is not walked; of three ways on from s, two lead to t. 100 walks find both.
    assert rewarded_paths(policy, kg, asked, config, settings, 0) == 2


@pytest.mark.usefixtures("no_report")
def test_an_entity_without_an_edge_answers_with_itself(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, triples in (("train", CHAIN), ("valid", CHAIN[:2]), ("test", [("lonely", "next", "n1")])):
        write_tsv(tmp_path / f"{split}.tsv", triples)
    config = replace(config, graphs=("files",), data=Data(path=(tmp_path,)), arms=("rl",), budget=Budget(1, "steps"))
    run = train_in(tmp_path / "runs", config)
    assert run.load_stage("files-minerva-rl-seed0")["unseen"] == 1
    capsys.readouterr()
    assert main(["kg-ssrl", "answer", str(run.path), "--head", "lonely", "--relation", "next"]) == 0
    assert capsys.readouterr().out.strip() == "1  lonely  100.0% [isolated]  lonely (is itself)"


def test_prepared_graphs_are_found(data_dir: Path) -> None:
    kg = build_graph("umls", Data())
    assert (kg.num_entities, kg.num_relations, len(kg.splits["test"])) == (135, 46, 661)


def test_names_of_trainings() -> None:
    assert Job("umls", "minerva", "ssrl", 2).name == "umls-minerva-ssrl-seed2"
    assert [job.arm for job in plan(Config(arms=("rl", "sl")))] == ["rl", "sl"]
