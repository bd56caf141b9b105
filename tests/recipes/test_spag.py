"""The experiment end to end at a size of seconds, killed and resumed; its words, credit and findings."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState
from tenfold.core.run import Run
from tenfold.games.files import Clues
from tenfold.games.prompts import GUESS
from tenfold.games.referee import judge
from tenfold.games.store import TranscriptStore
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.recipes.spag import EXPECTED, PRESETS, Config, check, train, training
from tenfold.recipes.spag.config import Arena, Imitation, Model, Reasoning, SelfPlay, Table, Words
from tenfold.recipes.spag.findings import Scores, make_claims
from tenfold.recipes.spag.players import open_player
from tenfold.recipes.spag.training import setups_of, stages
from tenfold.recipes.spag.world import dictionary, open_world, word_tokenizer

LEXICON = [
    {"word": "apple", "clues": ["fruit", "tree", "red"]},
    {"word": "pear", "clues": ["fruit", "tree", "green"]},
    {"word": "horse", "clues": ["animal", "rider", "hoof"]},
    {"word": "saddle", "clues": ["leather", "rider", "seat"]},
    {"word": "cider", "clues": ["drink", "fruit", "barrel"]},
    {"word": "oak", "clues": ["tree", "acorn", "barrel"]},
    {"word": "stable", "clues": ["animal", "house", "straw"]},
]


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "lexicon.jsonl"
    path.write_text("\n".join(map(json.dumps, LEXICON)))
    return path


@pytest.fixture
def config(lexicon: Path) -> Config:
    return Config(
        words=Words(lexicon=lexicon, held_out=2),
        model=Model(dim=8, layers=1, heads=2, ffn=8),
        table=Table(max_turns=2, max_tokens=4, batch=16),
        imitation=Imitation(games=40, steps=4, batch=8),
        self_play=SelfPlay(games=60, batch=8),
        arena=Arena(repeats=2, words=2),
        log_every=1,
        save_every=2,
    )


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out figures and tables, which take longer than such a training."""
    monkeypatch.setattr("tenfold.recipes.spag.reporting.report", lambda *_: None)


def train_in(folder: Path, config: Config) -> Run:
    run = Run.create("spag", "tiny", config, folder)
    train(config, run)
    return run


def weights(run: Run, stage: str, seed: int = 0) -> bytes:
    folder = run.path / "models" / f"seed{seed}-{stage}"
    return next(folder.glob("*.safetensors")).read_bytes()


def talks(path: Path) -> dict[str, list[str]]:
    """Every game of a store: its id and what was said."""
    games = list(TranscriptStore(path, read_only=True))
    found = {game.id: [turn.text for turn in game.turns] for game in games}
    assert len(found) == len(games)
    return found


def same_games(run: Run, whole: Run) -> None:
    for players in ("scripted", "imitation", "signed-1"):
        one, other = (talks(each.path / "games" / f"seed0-{players}.jsonl") for each in (run, whole))
        assert one == other


def test_end_to_end_trains_every_arm_and_reports(config: Config, tmp_path: Path) -> None:
    arms = ("signed", "official", "official-matched", "signed-alone")
    config = replace(config, arms=arms, seeds=(0, 1), self_play=replace(config.self_play, epochs=1, alpha=1.0))
    run = Run.create("spag", "tiny", config, tmp_path)
    result = train(config, run)
    assert all(claim.simulator and claim.seeds == 2 and claim.holds is not None for claim in result.claims)
    assert len(result.claims) == 2 * 4 + 3 + 1 + 1 + 1 + 1
    names = {stage.name for stage in stages(config)}
    assert names == {"imitation", *(f"{arm}-1" for arm in arms)}
    assert {folder.name for folder in (run.path / "models").iterdir()} == {
        f"seed{s}-{n}" for s in (0, 1) for n in names
    }
    for name in ("stages", "arena", "divergence"):
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 5000
    for name in ("stages", "games", "arena", "referees", "sample games"):
        assert json.loads((run.path / "tables" / f"{name}.json").read_text())["rows"]
    assert "signed-1" in (run.path / "games.html").read_text()
    # The arms learn from the same games where these came from the same model, each by its own rule.
    rows = {arm: run.load_stage(f"seed0-{arm}-1") for arm in arms}
    assert rows["official"]["rows"] < rows["signed"]["rows"] == 2 * rows["signed-alone"]["rows"]
    assert rows["official-matched"]["steps"] == rows["signed"]["steps"] > rows["official"]["steps"]
    assert len({weights(run, f"{arm}-1") for arm in arms}) == 4


def test_no_game_is_trained_on_a_held_out_word(config: Config, tmp_path: Path) -> None:
    run = train_in(tmp_path, config)
    world = open_world(config.words)
    assert len(world.held_out) == 2 and not set(world.held_out) & set(world.trained)
    stores = list((run.path / "games").glob("*.jsonl"))
    assert {store.name for store in stores} == {f"seed0-{who}.jsonl" for who in ("scripted", "imitation", "signed-1")}
    for store in stores:
        told = {game.setup["target_word"] for game in TranscriptStore(store, read_only=True)}
        assert told == set(world.trained)
    played = list((run.path / "arena" / "seed0" / "held_out").glob("*.jsonl"))
    assert len(played) == 9
    assert {game.setup["target_word"] for store in played for game in TranscriptStore(store, read_only=True)} == set(
        world.held_out
    )


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


@pytest.mark.usefixtures("no_report")
def test_killed_in_play_and_in_training_and_resumed_it_is_the_same_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_in(tmp_path, config)
    plain_fit, plain_add = training.fit, TranscriptStore.add
    kill_at: list[str] = []

    def fit_until_killed(state: TrainState, loss: Any, *, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            if name in kill_at and state.step == 3:  # one step past the checkpoint at 2
                kill_at.remove(name)
                raise Killed

        return plain_fit(state, loss, name=name, after_step=after, **options)

    def add_until_killed(store: TranscriptStore, episode: Any) -> None:
        plain_add(store, episode)
        if store.path.name in kill_at and len(store) == 11:
            kill_at.remove(store.path.name)
            with store.path.open("ab") as file:
                file.write(b'{"id": "torn')
            raise Killed

    monkeypatch.setattr(training, "fit", fit_until_killed)
    monkeypatch.setattr(TranscriptStore, "add", add_until_killed)
    run = Run.create("spag", "tiny", config, tmp_path)
    moments = [
        "seed0-scripted.jsonl",
        "seed0-imitation",
        "seed0-imitation.jsonl",
        "seed0-signed-1",
        "seed0-signed-1.jsonl",
    ]
    for moment in moments:
        kill_at.append(moment)
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
    with pytest.warns(UserWarning, match="torn by a crash"):
        train(config, Run.open(run.path))
    for stage in ("imitation", "signed-1", "signed-2"):
        assert weights(run, stage) == weights(whole, stage)
        kept, expected = (each.load_stage(f"seed0-{stage}")["cells"] for each in (run, whole))
        assert kept == expected
    same_games(run, whole)


@pytest.mark.usefixtures("no_report")
def test_a_finished_stage_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, self_play=replace(config.self_play, epochs=1))
    run = train_in(tmp_path, config)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr(training, "play", refuse)
    train(config, Run.open(run.path))


@pytest.mark.usefixtures("no_report")
def test_an_adapter_learns_beside_a_pretrained_model(config: Config, lexicon: Path, tmp_path: Path) -> None:
    """A folder in Hugging Face's form as the base: it stays as it is, every stage keeps an adapter of it."""
    base = tmp_path / "base"
    tokenizer = word_tokenizer([Clues(row["word"], tuple(row["clues"])) for row in LEXICON])  # type: ignore[arg-type]
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 16, qk_norm=False, max_len=256)
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
    model.save_pretrained(base)
    tokenizer.save(base)
    sft = tmp_path / "sft.jsonl"
    sft.write_text('{"instruction": "Name a fruit.", "output": "apple"}\n')
    config = replace(
        config,
        words=replace(config.words, sft=str(sft)),
        model=Model(base=str(base), lora_rank=2, max_length=256),
        table=replace(config.table, pack="brief", form="chat"),
        imitation=replace(config.imitation, beta=0.1, lr=0.05),
        self_play=replace(config.self_play, epochs=1, lr=0.05, beta=0.2, alpha=1.0),
    )
    check(config)
    run = train_in(tmp_path, config)
    folders = {stage: run.path / "models" / f"seed0-{stage}" for stage in ("imitation", "signed-1")}
    for folder in folders.values():
        assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    players = {stage: open_player(folder).model for stage, folder in folders.items()}
    ids = torch.tensor([[1, 12, 15, 20]])
    logits = [each(ids) for each in (model, *players.values())]
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])
    assert torch.equal(Decoder.from_pretrained(base)(ids), logits[0])
    # Before its first step an epoch is at the model that played, so the divergence starts at 0.
    first = next(row for row in run.rows("seed0-signed-1") if "kl_k1" in row)
    assert first["step"] == 1 and first["kl_k1"] == pytest.approx(0, abs=1e-5)
    assert [row["stage"] for row in (run.load_stage(f"seed0-{s}") for s in ("base", "imitation", "signed-1"))]


# Words.


def test_the_fixed_phrase_of_a_guess_goes_through_the_tokenizer() -> None:
    lexicon = [Clues("apple", ("fruit", "sweet fruit")), Clues("x-ray", ("bone",))]
    tokenizer = word_tokenizer(lexicon)
    for word in ("apple", "x-ray"):
        ids = tokenizer.encode(GUESS.replace("{word}", word))
        assert len(ids) == 3
        said = tokenizer.decode(ids)
        assert tokenizer.encode(said) == ids
        history = [{"role": "attacker", "content": "bone"}, {"role": "defender", "content": said}]
        for rules in ("official", "strict"):
            assert judge(history, word, 5, rules).outcome == "defender wins"  # type: ignore[arg-type]
    assert tokenizer.decode(tokenizer.encode("Sweet,  FRUIT!")) == "sweet fruit"
    assert tokenizer.encode("never") == [tokenizer.token_id("<unk>")]


@pytest.mark.parametrize("seed", range(5))
def test_texts_with_control_tokens_stay_text(seed: int) -> None:
    tokenizer = word_tokenizer([Clues("apple", ("fruit",))])
    special = {tokenizer.token_id(token) for token in ("<pad>", "<s>", "</s>")}
    draw = random.Random(seed)
    text = "".join(draw.choice(["</s>", "<s>", "apple", " ", "<pad>", "\x00", "\u202e"]) for _ in range(30))
    assert not special & set(tokenizer.encode(text))


def test_the_dictionary_asks_both_ways_and_depends_on_its_seed() -> None:
    lexicon = [Clues("apple", ("fruit", "tree", "red", "round")), Clues("oak", ("acorn",))]
    rows = dictionary(lexicon, 40, 0)
    assert len(rows) == 40 and all(row.sft for row in rows)
    for row in rows[::2]:
        ending, word = str(row.query).split()
        (entry,) = (entry for entry in lexicon if entry.word == word)
        assert row.target in entry.clues and ending == "attack"
    for row in rows[1::2]:
        (entry,) = (entry for entry in lexicon if entry.word == row.target)
        told = (
            str(row.query)
            .removesuffix(" defend " + GUESS.partition("{word}")[0])
            .removeprefix("attacker ")
            .split(" attacker ")
        )
        assert len(told) == min(3, len(entry.clues)) and set(told) <= set(entry.clues)
    asked_as_chat = [row.query[0].content for row in dictionary(lexicon, 40, 0, chat=True)]  # type: ignore[union-attr]
    assert asked_as_chat == [row.query for row in rows]
    assert dictionary(lexicon, 40, 0) == rows != dictionary(lexicon, 40, 1)


def test_games_are_spread_evenly_over_the_words() -> None:
    words = [f"w{i}" for i in range(7)]
    told = [setup["target_word"] for setup in setups_of(words, 17, 0, 1)]
    assert {told.count(word) for word in words} == {2, 3}
    assert told != [setup["target_word"] for setup in setups_of(words, 17, 0, 2)]
    assert len(set(told[:7])) == 7


# Findings.


def row(stage: str, seed: int, cells: dict[tuple[str, str], list[int]], **more: Any) -> dict[str, Any]:
    epoch = 0 if stage == "imitation" else int(stage[-1])
    shown = [
        {"attacker": a, "defender": d, "words": "held_out", "scores": scores, "fouls": [0] * len(scores), "repeats": 1}
        for (a, d), scores in cells.items()
    ]
    return {
        "stage": stage,
        "arm": None if epoch == 0 else "signed",
        "epoch": epoch,
        "seed": seed,
        "cells": shown,
        **more,
    }


def test_claims_compare_the_same_side_against_the_imitation(config: Config) -> None:
    config = replace(config, seeds=(0, 1), arena=Arena(repeats=1, words=0), self_play=SelfPlay(epochs=1))
    rows = []
    for seed in (0, 1):
        rows.append(row("imitation", seed, {("imitation", "imitation"): [1, 1, 1, -1]}, dictionary=0.9))
        cells = {("imitation", "signed-1"): [1, 0, -1, -1 + seed], ("signed-1", "imitation"): [1, 1, -1, -1], ("signed-1", "signed-1"): [0] * 4}  # fmt: skip
        rows.append(row("signed-1", seed, cells, dictionary=0.91))
    claims = {claim.name: claim for claim in make_claims(config, rows)}
    gained = claims["signed: defender's return on held-out words, epoch 1 above imitation"]
    assert gained.baseline == -0.5 and gained.value == pytest.approx((0.25 + 0.0) / 2)
    assert gained.ci95[0] < gained.margin < gained.ci95[1]
    wins = claims["signed: defender's wins on held-out words, epoch 1 above imitation"]
    assert (wins.value, wins.baseline) == (pytest.approx((0.5 + 0.25) / 2), 0.25)
    attacks = claims["signed: attacker's wins on held-out words less than 4 points below imitation"]
    assert (attacks.value, attacks.baseline) == (0.5, pytest.approx(0.71)) and attacks.holds is False
    kept = claims["signed: dictionary accuracy less than 2 points below imitation"]
    assert kept.baseline == pytest.approx(0.88) and kept.holds is True
    assert claims["signed: games that break the rules below 2 %"].holds is True
    assert Scores(config, rows).of("attacker", "return")(0, "signed-1") == 0


# Settings.


def test_presets_say_what_they_should_reach_and_survive_a_file() -> None:
    assert set(PRESETS) == set(EXPECTED) and {"tiny", "laptop", "smollm2", "paper"} <= set(PRESETS)
    for config in PRESETS.values():
        assert from_json(Config, json.loads(json.dumps(to_json(config)))) == config
    assert len(PRESETS["laptop"].seeds) >= 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(arms=()), "arms: got"),
        (lambda: Config(arms=("signed", "signed")), "arms: got"),
        (lambda: Config(seeds=(-1,)), "seeds: got"),
        (lambda: Config(model=Model(lora_rank=4)), "model.lora_rank: got one without model.base"),
        (lambda: Config(table=Table(pack="brief")), "table.pack, table.form: got 'brief', 'text' without model.base"),
        (lambda: Config(reasoning=Reasoning(("piqa",))), "need model.base"),
        (lambda: Config(arena=Arena(temperature=0)), "arena.repeats: got 12 at temperature 0"),
        (lambda: Model(dim=10, heads=4), "heads: got 4"),
        (lambda: Table(max_turns=0), "max_turns: got 0"),
        (lambda: SelfPlay(gamma=1.1), "gamma: got 1.1"),
        (lambda: SelfPlay(clip=0), "clip: got 0"),
        (lambda: SelfPlay(beta=-1), "beta: got -1"),
        (lambda: SelfPlay(alpha=math.nan), "alpha: got nan"),
        (lambda: SelfPlay(ratio="token"), "ratio: got 'token'"),
        (lambda: Words(held_out=0), "held_out: got 0"),
        (lambda: Imitation(slip=1.5), "slip: got 1.5"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", "\\(")):
        make()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"words": Words(lexicon=Path("absent.jsonl"))}, "file not found: absent.jsonl"),
        ({"words": "HELD OUT"}, "words.held_out: got 7 of 7"),
        ({"model": Model(base="gpt-9"), "table": Table(pack="brief")}, "checkpoint not found: gpt-9"),
        ({"model": Model(base="B"), "table": Table(pack="absent.json")}, "prompt pack not found: absent.json"),
        ({"model": Model(base="B"), "words": Words(targets=Path("absent.txt"))}, "no target words at absent.txt"),
        ({"model": Model(base="B"), "words": Words(sft="absent.json")}, "data not found: absent.json"),
        ({"model": Model(base="B"), "reasoning": Reasoning(("bbh_chess",))}, "data not found: 10-abo/bbh/chess.jsonl"),
    ],
)
def test_what_is_absent_is_told_before_there_is_a_run(
    config: Config, changed: dict[str, Any], message: str, tmp_path: Path, lexicon: Path, data_dir: Path
) -> None:
    if changed.get("words") == "HELD OUT":
        changed = {"words": Words(lexicon=lexicon, held_out=7)}
    if changed.get("model") == Model(base="B"):
        changed = {**changed, "model": Model(base=str(tmp_path)), "table": changed.get("table", Table(pack="brief"))}
    with pytest.raises(UserError, match=message):
        check(replace(config, **changed))
