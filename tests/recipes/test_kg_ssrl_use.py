"""The verbs as a user types them, and what they say to bad input."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tenfold.cli import main
from tenfold.core.run import Run
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.recipes.kg_ssrl import Config, train
from tenfold.recipes.kg_ssrl.config import Budget, Data, Search, Sweep, Training, Walker

CHAIN = [(f"n{i}", "next", f"n{i + 1}") for i in range(60)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a walker that learnt to answer q a little."""
    config = Config(
        data=Data(entities=40),
        walker=Walker(dim=8, hidden=8),
        training=Training(batch=8, lr=1e-2, relations=("q",), mask_inverse=False),
        budget=Budget(80, "steps", 0.25),
        search=Search(width=40, valid_queries=9, curve_points=3, eval_mask="all", unreached="rank"),
        arms=("ssrl",),
    )
    run = Run.create("kg-ssrl", "tiny", config, tmp_path_factory.mktemp("runs"))
    train(config, run)
    return run.path


def write_tsv(path: Path, triples: Any) -> Path:
    path.write_text("".join("\t".join(triple) + "\n" for triple in triples))
    return path


def test_answers_come_with_their_paths(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kg = KnowledgeGraph.load(run_folder / "graphs" / "synthetic.npz")
    source = kg.entity_names[int(kg.splits["train"][kg.splits["train"][:, 1] == kg.relation_id("q")][0, 0])]
    assert main(["kg-ssrl", "answer", str(run_folder), "--head", source, "--relation", "q", "--k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(f"{source} -" in line or "is itself" in line for line in lines)
    folder = run_folder / "models" / "synthetic-minerva-ssrl-seed0"
    words = ["kg-ssrl", "answer", str(folder), "--head", source, "e1", "--relation", "q_inv", "--mask-known"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"{source}, q_inv, ?" in printed
    assert "[untrained]" in printed and "[untrained]" not in "".join(lines)


def test_edges_that_answer_are_hidden_unless_asked_for(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kg = KnowledgeGraph.load(run_folder / "graphs" / "synthetic.npz")
    asked = kg.splits["train"][kg.splits["train"][:, 1] == kg.relation_id("q")][:8, 0]
    sources = dict.fromkeys(kg.entity_names[int(entity)] for entity in asked)

    def printed(*more: str) -> str:
        words = ["kg-ssrl", "answer", str(run_folder), "--head", *sources, "--relation", "q", "--k", "50"]
        assert main([*words, *more]) == 0
        return capsys.readouterr().out

    def walks_the_edge(text: str) -> bool:
        lines = (line for line in text.splitlines() if not line.endswith("?"))
        return any(line.count("-q-> ") == line.count("-> ") == 1 for line in lines)

    assert printed() == printed("--mask-known") != printed("--no-mask-known")
    assert walks_the_edge(printed("--no-mask-known")) and not walks_the_edge(printed())


def test_explain_writes_one_page(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    words = ["kg-ssrl", "explain", str(run_folder), "--head", "e1", "--relation", "q", "--out", str(out)]
    assert main(words) == 0
    page = out.read_text()
    assert "<svg" in page and "e1" in page and "<script" not in page


def test_rules_are_mined(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.csv"
    assert main(["kg-ssrl", "rules", str(run_folder), "--out", str(out), "--relation", "q", "--show", "3"]) == 0
    with out.open() as file:
        found = {row["body"]: row for row in csv.DictReader(file)}
    # Every pair at the ends of such a path is a q edge; those held out for validation and test are not known.
    assert 0.4 < float(found["a / b"]["confidence"]) <= 1
    assert all(row["head"] == "q" for row in found.values())
    assert f"{len(found)} rules" in capsys.readouterr().out


def test_eval_prints_what_the_run_reports(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.tsv"
    assert main(["kg-ssrl", "eval", str(run_folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    row = Run.open(run_folder).load_stage("synthetic-minerva-ssrl-seed0")
    assert f"{'mrr':<18} {row['mrr']:.4f}" in printed
    assert out.read_text() == (run_folder / "models" / row["name"] / "predictions.tsv").read_text()
    own = write_tsv(tmp_path / "own.tsv", [("e1", "q", "e2"), ("e2", "q_inv", "e1")])
    asked = ["kg-ssrl", "eval", str(run_folder), "--triples", str(own)]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 triples: q only" in printed and f"{'queries':<18} 1" in printed
    assert main([*asked, "--relation", "q", "q_inv"]) == 0
    assert f"{'queries':<18} 2" in capsys.readouterr().out
    assert main([*asked, "--relation", "a"]) == 2
    assert "no triple to rank is of these relations" in capsys.readouterr().err
    write_tsv(own, [("e1", "q", "elsewhere")])
    assert main(asked) == 2
    assert f"{own}: triple 'e1', 'q', 'elsewhere': unknown entity" in capsys.readouterr().err
    assert main(["kg-ssrl", "eval", str(run_folder), "--eval-mask", "train", "--unreached", "miss"]) == 0
    assert f"{'mrr':<18} {row['mrr']:.4f}" not in capsys.readouterr().out


def test_stats_and_labels_of_any_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kg-ssrl", "stats", "synthetic"]) == 0
    assert f"{'entities':<36} 300" in capsys.readouterr().out
    assert main(["kg-ssrl", "labels", "synthetic", "--queries", "50"]) == 0
    assert "with a path" in capsys.readouterr().out
    file = write_tsv(tmp_path / "g.tsv", CHAIN)
    assert main(["kg-ssrl", "labels", str(file)]) == 0
    assert f"{'with a path':<28} 0.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "unknown preset"),
        (["tiny", "--training.horizon", "0"], "horizon: got 0, need at least 1"),
        (["tiny", "--training.rollouts", "0"], "rollouts: got 0, need at least 1"),
        (["tiny", "--training.batch", "0"], "batch: got 0"),
        (["tiny", "--training.lr", "nan"], "lr: got nan"),
        (["tiny", "--search.width", "0"], "width: got 0, need at least 1"),
        (["tiny", "--data.max-actions", "1"], "max-actions: got 1, need at least 2"),
        (["tiny", "--budget.total", "0"], "total: got 0.0, need more than 0"),
        (["tiny", "--budget.total", "inf"], "total: got inf"),
        (["tiny", "--budget.total", "1.5", "--budget.unit", "steps"], "total: got 1.5, need whole steps"),
        (["tiny", "--budget.sl-share", "1.1"], "sl-share: got 1.1"),
        (["tiny", "--graphs", "wn19"], "graphs"),
        (["tiny", "--graphs", "umls", "umls"], "graphs: got"),
        (["tiny", "--graphs", "files"], "data.path: got 0 paths"),
        (["tiny", "--graphs", "files", "--data.path", "absent"], "data.path: absent not found"),
        (["tiny", "--graphs", "files", "--data.path", "EMPTY"], "no triples in"),
        (["tiny", "--graphs", "files", "--data.path", "TORN"], "torn.tsv line 2: got 'a\\tb'"),
        (["tiny", "--graphs", "files", "--data.path", "INVERSE"], "relation 'r_inv': ends in _inv"),
        (["tiny", "--graphs", "files", "--data.path", "SHORT"], "no triple can be held out for valid"),
        (["tiny", "--training.relations", "p"], "training.relations: unknown relation 'p'"),
        (["tiny", "--sl.labels", "minerva"], "sl.labels: minerva goes with"),
        (["tiny", "--sl.loss", "mse"], "loss"),
        (["tiny", "--rl.baseline", "avg_reward", "--training.rollouts", "1"], "training.rollouts: got 1 with rl.baseline"),
        (["tiny", "--data.no-inverse", "--training.queries", "both"], "training.queries: got 'both' without"),
        (["tiny", "--data.no-inverse", "--search.both-sides"], "search.both_sides"),
        (["tiny", "--walker.ff-dropout", "0.1"], "with base 'minerva', need 'multihop'"),
        (["tiny", "--rl.ema-rate", "0.1"], "rl.ema_rate: got 0.1 with rl.baseline 'none', need 'ema'"),
        (["tiny", "--data.prune", "pagerank"], "prune: got 'pagerank' without max_actions"),
        (["tiny", "--training.rollouts", "1e11"], "rollouts"),
        (["tiny", "--shaping.mu", "-1"], "mu: got -1"),
        (["tiny", "--shaping.scorer.dim", "0"], "dim: got 0"),
        (["tiny", "--walker.emb-dropout", "1"], "emb-dropout: got 1"),
        (["tiny", "--seeds", "1", "1"], "seeds: got (1, 1)"),
        (["tiny", "--workers", "0"], "workers: got 0"),
        (["tiny", "--sweep.field", "budget.sl_share"], "need both or neither"),
        (["tiny", "--sweep.field", "budget.share", "--sweep.values", "1"], "did you mean budget.sl_share?"),
        (["tiny", "--sweep.field", "budget", "--sweep.values", "1"], "sweep.field: got 'budget'"),
        (["tiny", "--sweep.field", "sl.loss", "--sweep.values", "ce", "mse"], "sl.loss"),
    ],
)  # fmt: skip
def test_bad_input_of_train_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "EMPTY": write_tsv(tmp_path / "empty.tsv", []),
        "TORN": write_tsv(tmp_path / "torn.tsv", [("a", "r", "b"), ("a", "b")]),
        "INVERSE": write_tsv(tmp_path / "inverse.tsv", [*CHAIN, ("n1", "r_inv", "n2")]),
        "SHORT": write_tsv(tmp_path / "short.tsv", CHAIN[:2]),
    }
    words = [str(files.get(word, word)) for word in arguments]
    code = main(["kg-ssrl", "train", *words, "--runs-dir", str(tmp_path / "runs")])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert not list(tmp_path.glob("runs/kg-ssrl/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("answer RUN", "--head, --relation: need both"),
        ("answer RUN --head e1", "--head, --relation: need both"),
        ("answer absent --head e1 --relation q", "no model in absent"),
        ("answer RUN --head ee1 --relation q", "unknown entity 'ee1'; nearest: 'e1'"),
        ("answer RUN --head e1 --relation qq", "unknown relation 'qq'; nearest: 'q'"),
        ("answer RUN --head e1 --relation q --k 0", "--k: got 0, need at least 1"),
        ("answer RUN --head e1 --relation q --width 0", "--width: got 0, need at least 1"),
        ("explain RUN --head e1 --relation q --out x.png", "--out: got x.png, need a .html"),
        ("explain RUN --head e1 --relation q --out absent/x.html", "in a folder that exists"),
        ("rules RUN --out r.txt", "need a .csv file"),
        ("rules RUN --queries 0", "--queries: got 0"),
        ("rules RUN --relation p", "unknown relation 'p'"),
        ("eval RUN --out p.csv", "need a .tsv file"),
        ("eval RUN --triples absent.tsv", "absent.tsv"),
        ("eval RUN --triples BAD", "unknown entity 'mars'"),
        ("eval RUN --split graph", "split"),
        ("stats absent", "graph: got absent, need a folder or file of triples, or one of synthetic, umls"),
        ("stats synthetic --horizon 0", "--horizon: got 0"),
        ("labels synthetic --queries 0", "--queries: got 0"),
        ("sweep huge", "unknown preset 'huge'"),
        ("sweep tiny --field sl.beta --values -1", "beta: got -1"),
    ],
)
def test_bad_input_of_the_verbs_is_one_line_and_exit_2(
    words: str, message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    bad = write_tsv(tmp_path / "bad.tsv", [("mars", "q", "e1")])
    before = sorted(tmp_path.rglob("*"))
    places = {"RUN": run_folder, "BAD": bad}
    code = main(["kg-ssrl", *(str(places.get(word, word)) for word in words.split())])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert sorted(tmp_path.rglob("*")) == before


def test_the_sweep_verb_takes_the_first_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []
    monkeypatch.setattr("tenfold.recipes.kg_ssrl.verbs.train", lambda config, run: seen.append(config))
    words = ["kg-ssrl", "sweep", "tiny", "--values", "0", "0.5", "--seeds", "3", "4", "--runs-dir", str(tmp_path)]
    assert main(words) == 0
    (config,) = seen
    assert (
        config.arms == ("ssrl",) and config.seeds == (3, 4) and config.sweep == Sweep("budget.sl_share", ("0", "0.5"))
    )
