"""The chain end to end at a size of seconds, killed and resumed in every stage; its findings by hand-made numbers; its verbs."""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.cli import main
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.optim import OptimizerConfig
from tenfold.nn.rotary import rope_base_for_length
from tenfold.recipes.afm import PRESETS, Config, chain, train
from tenfold.recipes.afm.chain import CHAIN, RIVALS, Training, trainings, waves
from tenfold.recipes.afm.config import Data, Mix, Model, OptimizerRace, Stage, Stages, WidthSweep
from tenfold.recipes.afm.corpus import (
    PIECE,
    _pieces,
    _thin,
    grade_school_maths,
    open_corpus,
    windows,
    write_corpus,
)
from tenfold.recipes.afm.findings import beyond, paired_claim, race_claims, width_claims
from tenfold.recipes.afm.sweeps import best_octave, best_rates, race_trials, sweep_trials
from tenfold.text.corpus import Document
from tenfold.text.token_file import read_tokens
from tenfold.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is cached outside the test."""
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def text(words_file: Path) -> Path:
    return words_file


@pytest.fixture
def config(text: Path) -> Config:
    def stage(steps: int, length: int = 16, rows: int = 4) -> Stage:
        return Stage(steps, length, rows, OptimizerConfig(warmup=2, base_width=16))

    return Config(
        model=Model(dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=12, wide_ffn=24),
        data=Data(source="files", text=(text,), vocabulary=280, clean=False, validation_rows=8),
        stages=Stages(stage(6), stage(6), stage(6), stage(4), stage(4, length=64, rows=1)),
    )


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the weights matter: drawing takes longer than these trainings."""
    monkeypatch.setattr("tenfold.recipes.afm.experiment.report", lambda *_: None)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_end_to_end_trains_the_chain_and_every_rival_and_reports(config: Config, tmp_path: Path) -> None:
    config = replace(config, seeds=(0, 1), rivals=tuple(RIVALS))
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    result = train(config, run)
    assert [claim.seeds for claim in result.claims] == [2] * 7
    stages = json.loads((run.path / "tables" / "stages.json").read_text())["rows"]
    assert [row["stage"] for row in stages] == list(CHAIN)
    assert [row["inner width"] for row in stages] == [24, 12, 12, 12, 12]
    assert stages[0]["parameters"] - stages[1]["parameters"] == 2 * 3 * 16 * 12  # layers x matrices x D x units cut
    assert len({row["in the embedding"] for row in stages}) == 1
    rivals = json.loads((run.path / "tables" / "rivals.json").read_text())["rows"]
    assert len(rivals) == 11
    names = {path.name for path in (run.path / "models").iterdir()}
    assert names == {name + seed for name in (*CHAIN, *RIVALS) for seed in ("", "-seed1")}
    for name in ("learning", "pruning", "positions"):
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 5000
    # The mask was annealed: its size fell, and around the cut units count in part.
    sizes = run.load_stage("prune-seed0")["mask_sizes"]
    assert all(0 < min(size for size in layer if size > 0) < 1 for layer in sizes)
    # The last stage stretches the base by the rule, its rival does not.
    models = {name: Decoder.from_pretrained(run.path / "models" / name) for name in ("context", "context-same-base")}
    assert models["context"].cfg.rope_base == pytest.approx(rope_base_for_length(5e5, 16, 64))
    assert models["context-same-base"].cfg.rope_base == 5e5
    assert models["context"].cfg.max_len == 64
    ends = json.loads((run.path / "models" / "core" / "generation_config.json").read_text())
    tokenizer = Tokenizer.load(run.path / "models" / "core")
    assert ends["eos_token_id"] == [tokenizer.token_id("</s>"), tokenizer.token_id("<|end|>")]


@pytest.mark.usefixtures("no_figures")
def test_a_stage_model_opens_in_transformers_with_equal_logits(config: Config, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    train(config, run)
    folder = run.path / "models" / "context"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(40).reshape(1, 40)
    with torch.no_grad():
        difference = Decoder.from_pretrained(folder).eval()(ids) - theirs(ids).logits
    assert difference.abs().max() < 2e-5
    assert theirs.generation_config.eos_token_id == [2, 7]


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


@pytest.mark.usefixtures("no_figures")
def test_killed_in_every_stage_and_resumed_gives_the_weights_of_one_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, save_every=2)
    whole = Run.create("afm", "tiny", config, tmp_path / "runs")
    train(config, whole)
    plain_fit = chain.fit
    kill_at: list[str] = []

    def fit_until_killed(state: TrainState, loss: Any, *, after_step: Any, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            after_step(state)
            if name in kill_at and state.step == 3:  # one step past the checkpoint at 2
                kill_at.remove(name)
                raise Killed

        return plain_fit(state, loss, after_step=after, name=name, **options)

    monkeypatch.setattr(chain, "fit", fit_until_killed)
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    for name in CHAIN:
        kill_at.append(f"{name}-seed0")
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
    train(config, Run.open(run.path))
    for name in CHAIN:
        assert weights(run.path / "models" / name) == weights(whole.path / "models" / name), name
        assert len(run.rows(f"{name}-seed0")) == len(whole.rows(f"{name}-seed0"))


@pytest.mark.usefixtures("no_figures")
def test_killed_between_the_last_step_and_the_cut_resumes_too(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Run.create("afm", "tiny", config, tmp_path / "runs")
    train(config, whole)
    save = chain.save_model
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    for name in ("core", "prune"):

        def save_until_killed(model: Decoder, tokenizer: Tokenizer, folder: Path, name: str = name) -> None:
            if folder.name == name:
                raise Killed
            save(model, tokenizer, folder)

        monkeypatch.setattr(chain, "save_model", save_until_killed)
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
        assert not (run.path / "models" / name).exists()
    monkeypatch.setattr(chain, "save_model", save)
    train(config, Run.open(run.path))
    assert weights(run.path / "models" / "context") == weights(whole.path / "models" / "context")


def test_a_finished_training_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, rivals=("context-same-base",))
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    first = train(config, run)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(chain, "fit", refuse)
    monkeypatch.setattr("tenfold.recipes.afm.experiment.write_corpus", refuse)
    second = train(config, Run.open(run.path))
    assert [c.value for c in second.claims] == [c.value for c in first.claims]


def test_without_a_wide_model_the_chain_has_no_pruning_and_no_teacher(config: Config, tmp_path: Path) -> None:
    config = replace(config, model=replace(config.model, wide_ffn=0))
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    train(config, run)
    assert {path.name for path in (run.path / "models").iterdir()} == {"core", "continued", "context"}
    assert not (run.path / "figures" / "pruning.png").exists()


def test_shakespeare_comparisons_train_every_rate_and_width(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    characters = np.random.default_rng(0).integers(0, 9, 4000)
    monkeypatch.setattr("tenfold.recipes.afm.sweeps.characters", lambda: (characters[:3600], characters[3600:], 9))
    monkeypatch.setattr("tenfold.recipes.afm.experiment.characters", lambda: None)
    race = OptimizerRace(2, (5e-3, 1e-2), (1e-3, 2e-3), rows=2, length=8, warmup=1)
    sweep = WidthSweep(2, (32, 64), (5e-3, 1e-2, 2e-2), layers=1, rows=2, length=8, warmup=1)
    config = replace(config, model=replace(config.model, wide_ffn=0), race=race, sweep=sweep)
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    result = train(config, run)
    assert [claim.name.split()[0] for claim in result.claims] == ["AdaStar"] * 2 + ["muP-simple:"] * 2
    assert len(list((run.path / "stages").glob("char-*"))) == 2 + 2 + 3 * 3
    assert (run.path / "figures" / "rates.png").stat().st_size > 5000


# What a stage trains, and from what.


def test_the_paper_preset_has_the_papers_sizes() -> None:
    assert PRESETS["paper"] is PRESETS["3B"]
    config = PRESETS["3B"]
    with torch.device("meta"):
        model = Decoder(config.model.decoder(config.data.vocabulary, 4096), torch.Generator())
        wide = Decoder(config.model.decoder(config.data.vocabulary, 4096, ffn=config.model.wide_ffn), torch.Generator())
    assert model.num_params() == 2_586_744_320
    assert model.num_params(embedding=True) - model.num_params() == 150_994_944
    assert wide.num_params(embedding=True) == pytest.approx(6.4e9, rel=0.01)
    core, context = config.stages.core, config.stages.context
    assert core.step_tokens == 8 * 2**20 and core.step_tokens * core.steps == pytest.approx(6.3e12, rel=0.01)
    assert config.stages.continued.step_tokens * config.stages.continued.steps == pytest.approx(1e12, rel=1e-4)
    assert context.step_tokens * context.steps == pytest.approx(100e9, rel=1e-3) and context.length == 32768
    assert (core.optimizer.lr, core.optimizer.weight_decay, core.optimizer.warmup) == (0.01, 3.16e-4, 5000)
    assert rope_base_for_length(config.model.rope_base, 8192, 32768) == pytest.approx(6_315_089, rel=1e-5)


def test_the_server_preset_builds_without_memory() -> None:
    config = PRESETS["server"]
    with torch.device("meta"):
        model = Decoder(config.model.decoder(config.data.vocabulary, 4096), torch.Generator())
    assert model.num_params() == pytest.approx(13e9, rel=0.05)
    assert config.data.vocabulary >= 100_000 and list(trainings(config)) == ["core", "continued", "context"]


def test_the_85m_preset_has_85_million_parameters() -> None:
    config = PRESETS["85M"]
    with torch.device("meta"):
        model = Decoder(config.model.decoder(config.data.vocabulary, 1024), torch.Generator())
    assert model.num_params() == pytest.approx(85e6, rel=0.01)


def test_trainings_wait_for_what_they_need() -> None:
    todo = {**CHAIN, **RIVALS}
    turns = list(waves(todo))
    place = {name: turn for turn, names in enumerate(turns) for name in names}
    assert set(place) == set(todo)
    assert all(place[need] < place[name] for name, training in todo.items() for need in training.needs)
    assert place["fresh"] == 0 and place["fresh-top1"] == 1  # the teacher is the core model
    with pytest.raises(ValueError, match="healed-magnitude needs prune-magnitude"):
        list(waves({**CHAIN, "healed-magnitude": RIVALS["healed-magnitude"]}))


def test_rivals_of_a_stage_see_the_same_batches(config: Config, tmp_path: Path) -> None:
    write_corpus(config.data, tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")

    def first(training: Training) -> torch.Tensor:
        state, _ = chain.build(config, tmp_path, training, 0, corpus)
        assert state.stream is not None
        return next(iter(state.stream))["ids"]

    core = first(Training("core"))
    assert torch.equal(core, first(Training("core", method="random")))
    assert not torch.equal(core, first(Training("distil")))  # another stage, another order


# Text.


def test_pieces_lose_nothing_and_end_where_a_paragraph_does() -> None:
    document = Document("\n\n".join(["word " * 900] * 12), "book.txt")
    pieces = _pieces([document, Document("short", "b")])
    assert "".join(piece.text for piece in pieces[:-1]) == document.text
    assert len(pieces) > 2 and all(len(piece.text) <= PIECE for piece in pieces)
    assert all(piece.text.startswith("\n\nword") for piece in pieces[1:-1])
    assert "".join(p.text for p in _pieces([Document("x" * 50_001, "c")])) == "x" * 50_001


def test_thinning_spreads_evenly() -> None:
    documents = [Document("x" * 1000, str(i)) for i in range(100)]
    assert [d.source for d in _thin(documents, 0.01)] == [str(i) for i in range(0, 100, 10)]
    assert _thin(documents, 0) == documents and _thin(documents, 9.0) == documents


def test_gsm8k_rows_lose_the_calculators_marks(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"question": "2 + 3?", "answer": "It is <<2+3=5>>5.\n#### 5"}).encode()))
    assert grade_school_maths(path)[0].text == "2 + 3?\nIt is 5.\n#### 5"
    path.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="not GSM8K"):
        grade_school_maths(path)


def test_windows_overlap_by_one_and_spread() -> None:
    rows = windows(np.arange(41), 10)
    assert rows.tolist() == [list(range(start, start + 11)) for start in (0, 10, 20, 30)]
    assert windows(np.arange(41), 10, 2)[:, 0].tolist() == [0, 30]
    with pytest.raises(ValueError, match="got 10 tokens, need at least 11"):
        windows(np.arange(10), 10)


def test_real_text_comes_in_the_ratio_of_the_mixture(data_dir: Path, tmp_path: Path) -> None:
    write_corpus(Data(source="english", vocabulary=512, megabytes=0.1), tmp_path)
    corpus = open_corpus(tmp_path)
    assert set(corpus.train) == {"prose", "code", "maths"} and corpus.foreign is not None
    assert [row["step"] for row in corpus.steps] == ["html", "pii", "dedup", "quality", "decontaminate"]
    stage = Stage(1, 16, 20, OptimizerConfig(warmup=0), Mix(prose=0.5, code=0.35, maths=0.15))
    starts = {
        tuple(ids[at : at + 16]): name for name, ids in corpus.train.items() for at in range(0, len(ids) - 16, 16)
    }
    batches = iter(corpus.batches(stage, seed=0))
    drawn = [starts[tuple(row)] for _ in range(3) for row in next(batches)["ids"].tolist()]
    assert [drawn.count(name) for name in ("prose", "code", "maths")] == [30, 21, 9]
    assert corpus.shares(Mix(prose=0, code=3, maths=1)) == {"code": 0.75, "maths": 0.25}


@pytest.mark.usefixtures("no_figures")
def test_token_files_are_trained_on_where_they_lie(config: Config, tmp_path: Path) -> None:
    (text,) = config.data.text
    folder = tmp_path / "clean"
    assert main(["afm", "tokenizer", str(text), "--out", str(tmp_path / "tok"), "--vocabulary", "280"]) == 0
    options = ["--tokenizer", str(tmp_path / "tok"), "--no-decontaminate", "--no-quality"]
    assert main(["afm", "data", str(text), "--out", str(folder), *options]) == 0
    data = replace(config.data, text=(folder / "tokens.bin",), tokenizer=tmp_path / "tok")
    write_corpus(data, tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    both = np.concatenate([corpus.train["prose"], corpus.validation["prose"]])
    assert np.array_equal(both, read_tokens(folder / "tokens.bin"))
    assert corpus.tokenizer.decode(both[:-1].tolist()) == text.read_text()
    config = replace(config, data=data)
    train(config, Run.create("afm", "tiny", config, tmp_path / "runs"))


# Findings.


def test_the_best_rate_is_the_vertex_of_a_parabola_and_an_end_stays_an_end() -> None:
    rates = [0.001 * 2**i for i in range(5)]
    losses = [(math.log2(rate) - math.log2(0.003)) ** 2 for rate in rates]
    assert 2 ** best_octave(rates, losses) == pytest.approx(0.003)
    assert 2 ** best_octave(rates, [5, 4, 3, 2, 1]) == pytest.approx(rates[-1])


def test_drift_is_the_largest_distance_from_the_first_width() -> None:
    config = replace(PRESETS["laptop"], seeds=(0, 1))
    rows = []
    for trial in sweep_trials(config):
        # With the rule the best rate stays at 0.04; without it, it halves with every doubling of the width.
        best = 0.04 if trial.mup else 0.04 * 64 / trial.width
        loss = (math.log2(trial.lr) - math.log2(best)) ** 2
        rows.append({"seed": trial.seed, "width": trial.width, "mup": trial.mup, "lr": trial.lr, "loss": loss})
    within, less = width_claims(config, rows)
    assert within.value == pytest.approx(0) and within.holds
    assert less.baseline == pytest.approx(2) and less.holds


def test_the_race_takes_each_optimizers_best_rate_of_the_first_seed() -> None:
    config = replace(PRESETS["laptop"], seeds=(0, 1, 2))
    first = [
        {"optimizer": trial.optimizer, "lr": trial.lr, "seed": 0, "loss": 1.7 + abs(trial.lr - best)}
        for trial, best in ((t, 5e-3 if t.optimizer == "adastar" else 4e-3) for t in race_trials(config, (0,)))
    ]
    assert best_rates(first) == {"adastar": 0.005, "adamw": 0.004}
    others = race_trials(config, (1, 2), best_rates(first))
    assert [(t.optimizer, t.lr) for t in others] == [("adastar", 0.005), ("adamw", 0.004)] * 2
    rows = first + [{"optimizer": t.optimizer, "lr": t.lr, "seed": t.seed, "loss": 1.69} for t in others]
    bar, parity = race_claims(rows)
    assert bar.value == pytest.approx((1.7 + 1.69 + 1.69) / 3) and bar.baseline == 1.70 and bar.holds is False
    assert parity.margin == pytest.approx(-0.03) and parity.holds


def test_claims_are_paired_and_of_one_seed_say_nothing() -> None:
    assert paired_claim("a", [2.9, 3.89, 4.91], [3.0, 4.0, 5.0], "how").holds is True
    assert paired_claim("a", [2.5, 4.2, 4.9], [3.0, 4.0, 5.0], "how").holds is False
    assert paired_claim("a", [2.5], [3.0], "how").holds is None
    assert beyond({"by_position": [9.0, 9.0, 1.0, 2.0]}, 2) == 1.5


# Verbs.


def test_prune_and_distill_take_a_model_folder_and_text(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,) = config.data.text
    tokenizer = train_tokenizer([text.read_text()], 280)
    folder, other = tmp_path / "model", tmp_path / "other"
    cfg = config.model.decoder(tokenizer.vocab_size, 32, ffn=24)
    chain.save_model(Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer, folder)
    options = ["--text", str(text), "--steps", "3", "--length", "16", "--rows", "2", "--runs-dir", str(tmp_path / "r")]
    assert main(["afm", "prune", str(folder), "--keep", "8", "--out", str(tmp_path / "small"), *options]) == 0
    assert Decoder.from_pretrained(tmp_path / "small").cfg.ffn_dim == 8
    for targets in ("top1", "kl"):
        out = tmp_path / targets
        command = ["afm", "distill", str(tmp_path / "small"), str(folder), "--targets", targets]
        assert main([*command, "--out", str(out), *options]) == 0
        assert weights(out) != weights(tmp_path / "small")
    assert weights(tmp_path / "top1") != weights(tmp_path / "kl")
    words = train_tokenizer(["quite another text with other words"], 280)
    chain.save_model(Decoder(config.model.decoder(words.vocab_size, 32), torch.Generator()), words, other)
    capsys.readouterr()
    faults = {
        ("prune", str(folder), "--keep", "25"): "keep: got 25, need 1..24",
        ("prune", str(folder), "--length", "33"): "--length: got 33, need 1..32",
        ("prune", str(folder), "--steps", "0"): "--steps, --rows",
        ("prune", str(tmp_path / "none")): "checkpoint not found",
        ("distill", str(folder), str(other)): "another vocabulary",
        ("distill", str(folder), str(folder), "--teacher-weight", "2"): "teacher_weight: got 2.0",
    }
    for command, message in faults.items():
        pairs = (options[i : i + 2] for i in range(0, len(options), 2) if options[i] not in command)
        assert main(["afm", *command, *(word for pair in pairs for word in pair)]) == 2
        error = capsys.readouterr().err.strip().split("\n")[-1]
        assert message in error
    assert main(["afm", "prune", str(folder), "--length", "16"]) == 2
    assert "name at least one file" in capsys.readouterr().err


def test_data_prints_what_each_step_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "The cat sat on the mat and the dog ran far away from home in the rain that day. "
    rows = [sentence * 12 + str(i) for i in (1, 1)] + [
        "Write to me at ann@example.com, said the man. " * 9 + sentence * 8
    ]
    path = tmp_path / "mail.jsonl"
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    assert main(["afm", "data", str(path), "--out", str(tmp_path / "out"), "--no-decontaminate"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 documents kept" in printed and "duplicate 1" in printed
    kept = (tmp_path / "out" / "text.jsonl").read_text()
    assert "ann@example.com" not in kept and len(kept.splitlines()) == 2
    assert json.loads((tmp_path / "out" / "report.json").read_text())["steps"][0]["step"] == "html"


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.ffn", "705"], "ffn: got 705, need 1..704"),
        (["--model.ffn", "0"], "ffn: got 0"),
        (["--model.kv-heads", "3"], "got 3, need a divisor"),
        (["--model.head-dim", "7"], "head-dim: got 7, need an even number"),
        (["--model.wide-ffn", "0"], "rivals: those of pruning"),
        (["--rivals", "healed-random"], "healed-random needs prune-random"),
        (["--rivals", "nonsense"], "nonsense"),
        (["--seeds", "0", "0"], "seeds: got (0, 0)"),
        (["--seeds", "-1"], "seeds: got (-1,), need 0 or more"),
        (["--model.dim", "100000000"], "GB a process to train, this machine has"),
        (["--data.vocabulary", "1000000000"], "vocabulary: got 1000000000, need at most 1000000"),
        (["--stages.core.steps", "0"], "steps: got 0"),
        (["--stages.core.steps", "3"], "steps: got 3, need at least optimizer.warmup = 20"),
        (["--stages.context.length", "64"], "need lengths that do not fall"),
        (["--stages.teacher-weight", "1.5"], "weight: got 1.5"),
        (["--stages.core.optimizer.lr", "0"], "lr: got 0.0"),
        (["--stages.core.mix.prose", "-1"], "prose, code, maths"),
        (["--sweep.rates", "0.1", "0.2"], "rates: got (0.1, 0.2), need at least three"),
        (["--sweep.widths", "64"], "widths: got (64,), need at least two"),
        (["--race.adamw"], "adamw: got"),
        (["--data.vocabulary", "100"], "vocabulary: got 100"),
        (["--data.source", "files"], "text: name files"),
        (["--data.source", "files", "--data.text", "absent.txt"], "text not found: absent.txt"),
        (["--data.source", "files", "--data.text", "absent.bin"], "need --data.tokenizer"),
        (["--modell.dim", "3"], "--modell.dim"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["afm", "train", "tiny", "--runs-dir", str(tmp_path), *arguments])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert message in error and "\n" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prune MODEL --text TEXT --out MODEL", "holds files already; name a new folder"),
        ("distill MODEL MODEL --text TEXT --out MODEL", "holds files already; name a new folder"),
        ("prune MODEL --text TEXT --out TEXT", "cannot be made a folder"),
        ("prune MODEL --text TEXT --out TEXT/below", "cannot be made a folder"),
        ("prune MODEL --text TEXT --out NEW --seed -1", "--seed: got -1, need 0 or more"),
        ("prune MODEL --text TEXT --out NEW --steps 0", "--steps, --rows: got 0, 8"),
        ("prune MODEL --text TEXT --out NEW --keep 999", "keep: got 999, need 1..16"),
        ("distill MODEL MODEL --text TEXT --out NEW --lr 1e30", "--lr: got 1e+30, need more than 0, at most 1"),
        ("distill MODEL MODEL --text TEXT --out NEW --length 999", "--length: got 999"),
        ("distill MODEL MODEL --out NEW", "text: name at least one file"),
        ("tokenizer TEXT --out NEW --vocabulary 1000000000", "got 1000000000, need 272"),
        ("tokenizer TEXT --out TEXT", "cannot be made a folder"),
        ("data TEXT --out NEW --no-decontaminate", "no document is left (dropped: html 0, pii 0, dedup 0, quality 1"),
        ("chat MODEL --threads 0", "--threads: got 0, need 1..1024"),
        ("chat MODEL --seed 99999999999999999999", "need a number of 64 bits"),
        ("serve MODEL --max-batch 0", "--max-batch, --max-batch-tokens: got 0"),
        ("serve MODEL --host nosuchhost.invalid --api-key k", "host: nosuchhost.invalid is no address"),
        ("eval MODEL --max-tokens 0", "--max-tokens: got 0"),
        ("eval MODEL --limit 0", "limit: got 0"),
    ],
)
def test_bad_input_of_the_verbs_is_one_line_and_exit_2(
    words: str, message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text.write_text("short")
    folder = tmp_path / "model"
    tokenizer = train_tokenizer(["some words"], 272)
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 16, max_len=256)
    Decoder(cfg, torch.Generator()).save_pretrained(folder)
    tokenizer.save(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    places = {"MODEL": folder, "TEXT": text, "NEW": tmp_path / "new"}
    arguments = [str(places.get(word, word)).replace("TEXT", str(text)) for word in words.split()]
    code = main(["afm", *arguments])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not list((tmp_path / "new").glob("*"))
    assert not (words.startswith(("prune", "distill")) and (tmp_path / "new").exists())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("too short", "too little to split|tokens of prose"),
        ("a few more words than that but no row " * 3, "tokens of prose"),
    ],
)
def test_text_that_fills_no_row_is_refused(
    config: Config, content: str, message: str, text: Path, tmp_path: Path
) -> None:
    text.write_text(content)
    with pytest.raises(UserError, match=message):
        train(config, Run.create("afm", "tiny", config, tmp_path / "runs"))


def test_a_mixture_of_absent_sources_and_a_foreign_tokenizer_are_refused(config: Config, tmp_path: Path) -> None:
    write_corpus(config.data, tmp_path / "corpus")
    with pytest.raises(UserError, match="none of its sources is there; present: prose"):
        open_corpus(tmp_path / "corpus").shares(Mix(prose=0, code=1, maths=0))
    train_tokenizer(["other words altogether"], 290).save(tmp_path / "other")
    data = replace(config.data, text=(tmp_path / "corpus" / "train-prose.bin",), tokenizer=tmp_path / "other")
    with pytest.raises(UserError, match="is of a vocabulary of"):
        write_corpus(data, tmp_path / "corpus2")


@pytest.mark.slow
def test_two_processes_train_the_models_of_one(config: Config, tmp_path: Path) -> None:
    """The same chain under torchrun, weights and batches split over two ranks: the same models up to rounding."""
    config = replace(config, stages=replace(config.stages, context=replace(config.stages.context, rows=2)))
    script = tmp_path / "chain.py"
    script.write_text(
        "import json, sys\nfrom tenfold.cli.recipe import on_all_ranks\nfrom tenfold.core import config\n"
        "from tenfold.core.run import Run\nfrom tenfold.recipes.afm import Config, train\n"
        "settings = config.from_json(Config, json.load(open(sys.argv[1])))\n"
        "train(settings, on_all_ranks(lambda: Run.create('afm', 'tiny', settings, sys.argv[2])))\n"
    )
    from tenfold.core.config import to_json

    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    found = []
    for count in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if count > 1 else []
        command = [sys.executable, *launcher, str(script), str(tmp_path / "config.json"), str(tmp_path / f"r{count}")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        (folder,) = (tmp_path / f"r{count}" / "afm").iterdir()
        found.append({name: Decoder.from_pretrained(folder / "models" / name).state_dict() for name in CHAIN})
    for name in CHAIN:
        for key, tensor in found[0][name].items():
            torch.testing.assert_close(found[1][name][key], tensor, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
