"""What a user does with a trained walker: ask, see why, mine rules, rank; and what a graph is like before training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tenfold.core.config import from_json, need, read_object
from tenfold.core.errors import UserError, one_line
from tenfold.core.report import number
from tenfold.core.run import Run
from tenfold.graph.environment import WalkEnv
from tenfold.graph.explain import explain_html
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.labels import Fallback, PathLabeller, Rule, Targets
from tenfold.graph.metrics import evaluate
from tenfold.graph.readers import read_triples
from tenfold.graph.reasoner import Answer, Reasoner
from tenfold.graph.rules import save_rules
from tenfold.graph.stats import graph_stats
from tenfold.recipes.kg_ssrl.config import Config, Data, GraphName, Search, Sweep
from tenfold.recipes.kg_ssrl.evaluation import rules_of, write_predictions
from tenfold.recipes.kg_ssrl.experiment import check, plan, train
from tenfold.recipes.kg_ssrl.findings import graph_table, rule_table
from tenfold.recipes.kg_ssrl.graphs import build_graph
from tenfold.recipes.kg_ssrl.presets import PRESETS

MOST = 1000  # answers and rules printed


def answer(
    model: Path,
    /,
    head: tuple[str, ...] = (),
    relation: str = "",
    k: int = 5,
    mask_known: bool = True,
    width: int | None = None,
) -> None:
    """Answer (head, relation, ?): ranked answers with their probabilities and the paths that lead to them.

    Args:
        model: a run folder, or a model folder of one.
        head: names of entities, one query each.
        relation: its name; with _inv at its end it is asked against its direction.
        k: answers of a query.
        mask_known: hide the edges that answer the query in the graph, as training does: a walker has never met them.
        width: of the beam; none takes the model's own.
    """
    for answers in _ask(model, head, relation, k, mask_known, width):
        if len(head) > 1:
            print(_shown(f"{answers[0].source}, {answers[0].relation}, ?"))
        for place, each in enumerate(answers, 1):
            print(_shown(f"{place:>3}  {each}"))


def explain(
    model: Path,
    /,
    head: tuple[str, ...] = (),
    relation: str = "",
    out: Path = Path("answers.html"),
    k: int = 5,
    mask_known: bool = True,
    width: int | None = None,
) -> None:
    """Write the answers as one self-contained page: probabilities, paths, a map of all, what else could have led there.

    Args:
        model: a run folder, or a model folder of one.
        head: names of entities, one query each.
        relation: its name; with _inv at its end it is asked against its direction.
        out: the page.
        k: answers of a query.
        mask_known: hide the edges that answer the query in the graph, as training does.
        width: of the beam; none takes the model's own.
    """
    _check_out(out, ".html")
    explain_html(_ask(model, head, relation, k, mask_known, width, steps=True), out)
    print(out)


def rules(
    model: Path,
    /,
    out: Path = Path("rules.csv"),
    relation: tuple[str, ...] = (),
    queries: int = 1000,
    width: int = 20,
    min_support: int = 2,
    show: int = 20,
) -> None:
    """Mine the path rules that a walker follows: a CSV file with support and confidence of each.

    Args:
        model: a run folder, or a model folder of one.
        out: the CSV file.
        relation: names of the rules' heads; none: all.
        queries: distinct training queries asked, evenly picked.
        width: walks of a query.
        min_support: rules of less are left out.
        show: how many are printed.
    """
    _check_out(out, ".csv")
    for name, value in (("--queries", queries), ("--width", width), ("--min-support", min_support)):
        need(name, value, 1)
    need("--show", show, 0, MOST)
    reasoner = open_model(model)
    kg = reasoner.kg
    heads = [kg.relation_id(name) for name in relation]
    found = rules_of(
        reasoner.policy,
        kg,
        horizon=reasoner.horizon,
        mask_inverse=reasoner.mask_inverse,
        relations=heads,
        queries=queries,
        width=width,
        min_support=min_support,
    )
    save_rules(found, kg, out)
    for row in rule_table(found, kg, show):
        print(_shown(f"{row['confidence']:.2f}  {row['support']:>5} of {row['pairs']:<5}  {row['rule']}"))
    print(f"{out}: {len(found)} rules")


def eval_(
    model: Path,
    /,
    split: Literal["train", "valid", "test"] = "test",
    triples: Path | None = None,
    out: Path | None = None,
    relation: tuple[str, ...] = (),
    width: int | None = None,
    eval_mask: Literal["train", "all"] | None = None,
    ties: Literal["realistic", "optimistic", "pessimistic"] | None = None,
    unreached: Literal["miss", "rank"] | None = None,
    unseen: Literal["miss", "drop"] | None = None,
    both_sides: bool | None = None,
) -> None:
    """Rank the tail of every triple: MRR, Hits@k, coverage, to-one and to-many relations apart.

    Args:
        model: a run folder, or a model folder of one.
        split: of the model's own graph.
        triples: rank those of this file in its place; head, relation, tail.
        out: a .tsv file for the rank, the best answer and its path of every query.
        relation: names; none: those that the walker was trained on.
        width: of the beam; none takes the model's own.
        eval_mask: the last step may not end on other answers of the training triples, or of all (uses test answers). For this and
            the following, none takes what the run was ranked with.
        ties: rank among equal scores.
        unreached: an answer that the beam did not reach is a miss, or is ranked among all of these.
        unseen: triples with an entity that no training triple has.
        both_sides: also rank heads; papers on walkers rank tails only.
    """
    if out is not None:
        _check_out(out, ".tsv")
    need("--width", width, 1, 1 << 16)
    reasoner = open_model(model)
    kg = reasoner.kg
    asked = kg.splits[split] if triples is None else _triples_of(triples, kg)
    wanted = {kg.relation_id(name) for name in relation} if relation else reasoner.trained
    own = asked[torch.isin(asked[:, 1], torch.tensor(sorted(wanted)))]
    if not len(own):
        raise UserError("--relation: no triple to rank is of these relations")
    if len(own) < len(asked):
        print(
            f"{len(own)} of {len(asked)} triples: {', '.join(kg.relation_names[r] for r in sorted(wanted)[:10])} only"
        )
    search = _search_of(model)
    given: dict[str, Any] = {
        "eval_mask": eval_mask,
        "ties": ties,
        "unreached": unreached,
        "unseen": unseen,
        "both_sides": both_sides,
    }
    search = replace(search, **{name: value for name, value in given.items() if value is not None})
    found = evaluate(
        reasoner.policy,
        kg,
        own,
        width=width or reasoner.width,
        horizon=reasoner.horizon,
        reduce=reasoner.reduce,
        ties=search.ties,
        unreached=search.unreached,
        unseen=search.unseen,
        eval_mask=search.eval_mask,
        mask_inverse=reasoner.mask_inverse,
        both_sides=search.both_sides,
    )
    per_query = found.pop("per_query")
    print("heads and tails, filtered" if search.both_sides else "tails only, filtered")
    for name, value in found.items():
        print(f"{name:<18} {value:.4f}" if isinstance(value, float) else f"{name:<18} {value}")
    if out is not None:
        write_predictions(out, kg, per_query)
        print(out)


def stats(graph: str, /, horizon: int = 3, order: str = "hrt") -> None:
    """Sizes, degrees, unseen entities and the share of answers that walks can reach, of any graph.

    Args:
        graph: synthetic, umls, kinship, wn18rr, fb15k-237, nell-995, or a folder or file of triples.
        horizon: the longest walk counted.
        order: of the columns of text files.
    """
    need("--horizon", horizon, 1, 64)
    found = graph_stats(_graph(graph, order), horizon)
    (row,) = graph_table({graph: found})
    for name, value in row.items():
        print(f"{name:<36} {number(value)}")
    print(f"{'self-loops in train':<36} {found.self_loops}")


def labels(
    graph: str,
    /,
    horizon: int = 3,
    labels: Rule = "reach",
    targets: Targets = "single",
    fallback: Fallback = "backtrack",
    queries: int = 512,
    order: str = "hrt",
) -> None:
    """Label the first step of training queries: how many have a path, how many actions are positive, how long it takes.

    Args:
        graph: synthetic, umls, kinship, wn18rr, fb15k-237, nell-995, or a folder or file of triples.
        horizon: steps of a walk.
        labels: which actions are positive.
        targets: the triple's own answer, or all known ones.
        fallback: where no action is positive.
        queries: training triples asked, evenly picked.
        order: of the columns of text files.
    """
    need("--horizon", horizon, 1, 64)
    need("--queries", queries, 1)
    kg = _graph(graph, order)
    train_triples = kg.splits["train"]
    picked = train_triples[torch.linspace(0, len(train_triples) - 1, min(queries, len(train_triples))).round().long()]
    inverse, known = labels != "minerva", kg.answers("train")
    env = WalkEnv(kg, horizon, mask_inverse=inverse, known=known, targets=targets)
    labeller = PathLabeller(
        kg, horizon, labels=labels, targets=targets, fallback=fallback, mask_inverse=inverse,
        known=known if targets == "single" else None,
    )  # fmt: skip
    state = env.reset(*picked.T)
    actions = env.actions(state)
    begun = time.perf_counter()
    found = labeller(state, actions)
    seconds = time.perf_counter() - begun
    with_path = int((found.weight > 0).sum())
    print(f"{'queries':<28} {len(picked)}")
    print(f"{'with a path':<28} {with_path / len(picked):.4f}")
    print(f"{'actions a query':<28} {len(actions) / len(picked):.1f}")
    print(f"{'positive, of those with one':<28} {float(found.positive.sum()) / max(1, with_path):.1f}")
    print(f"{'milliseconds a query':<28} {1000 * seconds / len(picked):.3f}")


def sweep(
    preset: str = "tiny",
    /,
    field: str = "budget.sl_share",
    values: tuple[str, ...] = ("0", "0.25", "0.5", "0.75", "1"),
    seeds: tuple[int, ...] = (),
    workers: int = 0,
    runs_dir: Path | None = None,
) -> None:
    """Train with several values of one field; by default, how much of the budget is supervised (0: none, 1: all of it).

    Args:
        preset: whose settings; of its arms the first. More can be set by train PRESET --sweep.field ... --sweep.values ...
        field: of the config, as on the command line: sl.loss, training.horizon, ...
        values: as they would be typed; several of a list with commas.
        seeds: instead of the preset's.
        workers: processes, instead of the preset's.
        runs_dir: where the run folder goes.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    config = swept(PRESETS[preset], field, values, seeds, workers)
    check(config)
    run = Run.create("kg-ssrl", preset, config, runs_dir, title=f"kg-ssrl: {field}")
    print(f"run: {run.path}", flush=True)
    train(config, run)
    print(f"report: {run.path / 'report.html'}")


def swept(config: Config, field: str, values: Sequence[str], seeds: tuple[int, ...], workers: int) -> Config:
    """A config for a sweep: one arm, unless arms are what is swept."""
    try:
        return replace(
            config,
            arms=config.arms[:1],
            seeds=seeds or config.seeds,
            workers=workers or config.workers,
            sweep=Sweep(field, tuple(values)),
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def open_model(path: Path) -> Reasoner:
    """Open a model folder, or the first model of a run folder.

    Raises:
        UserError: no such folder, or no model in it.
    """
    if (path / "graph.npz").is_file():
        return Reasoner.load(path)
    if (path / "run.json").is_file():
        Run.open(path).need_recipe("kg-ssrl")
    found = sorted(file.parent for file in path.glob("models/*/config.json"))
    if not found:
        raise UserError(f"no model in {path}: need a model folder, or a run that trained one")
    return Reasoner.load(_own_model(path, found))


def _shown(line: str) -> str:
    """Names of a file for a terminal, which must not obey them."""
    return one_line(line, 4000)


def _triples_of(file: Path, kg: KnowledgeGraph) -> torch.Tensor:
    """The triples of a file as ids [n, 3]."""
    ids = []
    for h, r, t in read_triples(file):
        try:
            ids.append((kg.entity_id(h), kg.relation_id(r), kg.entity_id(t)))
        except KeyError as error:
            raise UserError(f"{file}: triple {h!r}, {r!r}, {t!r}: {error}") from None
    return torch.tensor(ids)


def _search_of(model: Path) -> Search:
    """What the run of a model was ranked with; the defaults where the model stands alone."""
    for folder in (model, model.parent.parent):
        if (folder / "config.json").is_file() and (folder / "run.json").is_file():
            where = folder / "config.json"
            return from_json(Config, read_object(where), where=str(where)).search
    return Search()


def _own_model(run: Path, found: Sequence[Path]) -> Path:
    """Of a run's models the one it is about: the first of every list of its config."""
    config = from_json(Config, read_object(run / "config.json"), where=str(run / "config.json"))
    own = run / "models" / plan(config)[0].name
    return own if own in found else found[0]


def _ask(
    model: Path, head: Sequence[str], relation: str, k: int, mask_known: bool, width: int | None, steps: bool = False
) -> list[list[Answer]]:
    """The answers of every query."""
    if not head or not relation:
        raise UserError("--head, --relation: need both, say --head aspirin --relation treats")
    need("--k", k, 1, MOST)
    need("--width", width, 1, 1 << 16)
    reasoner = open_model(model)
    reasoner.width = width or reasoner.width
    return reasoner.answer(list(head), relation, k, known="mask" if mask_known else "keep", steps=steps)


def _graph(name: str, order: str) -> KnowledgeGraph:
    """A graph by its name, or from files."""
    prepared = [known for known in get_args(GraphName) if known != "files"]
    if name in prepared:
        return build_graph(name, Data())  # type: ignore[arg-type]
    if not name or not Path(name).exists():
        raise UserError(f"graph: got {name}, need a folder or file of triples, or one of {', '.join(prepared)}")
    return build_graph("files", Data(path=(Path(name),), order=order))


def _check_out(out: Path, suffix: str) -> None:
    if out.suffix.lower() != suffix or not out.parent.is_dir() or out.is_dir():
        raise UserError(f"--out: got {out}, need a {suffix} file in a folder that exists")


VERBS = {
    "answer": answer,
    "explain": explain,
    "rules": rules,
    "eval": eval_,
    "sweep": sweep,
    "stats": stats,
    "labels": labels,
}
