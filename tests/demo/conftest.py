"""Runs that took seconds, of every recipe, in one runs folder: enough for each tab to work, though its models know little."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.core.run import Run
from tenfold.demo.shelf import Room, rooms
from tenfold.demo.worker import Deadline
from tenfold.recipes import registry

WORDS = ("apple", "pear", "horse", "saddle", "cider", "oak")


def ec_dit(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.diffusion.config import ECDiTConfig
    from tenfold.recipes.ec_dit import Config, train
    from tenfold.recipes.ec_dit.config import Data, Sampling, Training

    model = ECDiTConfig(dim=16, num_layers=2, num_heads=2, text_dim=16, patch_size=8, num_experts=4)
    training = Training(steps=2, rows=8, warmup=1)
    config = Config(
        model=model, data=Data(per_prompt=1), training=training, sampling=Sampling(steps=2, images_per_prompt=1)
    )
    train(config, run(config))


def afm(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.lm.decoder import Decoder, DecoderConfig
    from tenfold.nn import lora
    from tenfold.recipes.afm import PRESETS
    from tenfold.text.tokenizer import train_tokenizer

    made = run(PRESETS["tiny"])  # its chain takes a minute; the demo opens its models' folders alone
    tokenizer = train_tokenizer(["the cat sat on a mat and saw one more dog run far away. " * 20], 300)
    cfg = DecoderConfig(tokenizer.vocab_size, 32, 2, 4, 2, 8, 48, max_len=256)
    for name in ("context", "compressed"):
        model = Decoder(cfg, torch.Generator().manual_seed(0))
        model.save_pretrained(made.path / "models" / name)
        tokenizer.save(made.path / "models" / name)
    lora.add_lora(model, 2, generator=torch.Generator().manual_seed(1))
    lora.save(model, made.path / "models" / "compressed" / "adapters" / "recovery")
    made.finish()


def deep_ssm(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.deep_ssm import Config, train
    from tenfold.recipes.deep_ssm.config import NETWORK, Data, Rivals, Training

    training = Training(steps=4, batch=16, eval_every=2)
    config = Config(
        methods=("dssm",), seeds=(0,), data=Data(patients=60, few=30), network=replace(NETWORK, z_dim=4),
        rivals=Rivals(width=4), training=training, workers=1, samples=3,
    )  # fmt: skip
    train(config, run(config))


def meta_forecast(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.clinical.selection_config import SelectConfig
    from tenfold.recipes.meta_forecast import Config, train
    from tenfold.recipes.meta_forecast.config import Data

    few = SelectConfig(
        rounds=2, inner_steps=2, head_steps=2, lookahead=2, batch_size=16, state_size=3, classifier_steps=5
    )
    data = Data(history=6, horizon=3, subjects=60, labelled=40, tested=50)
    config = Config(mode=("first_order",), seed=(0,), data=data, simulated=few, workers=1, draws=2)
    train(config, run(config))


def moe_vs_dense(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.moe_vs_dense import Config, train
    from tenfold.recipes.moe_vs_dense.config import Budget, Data

    text = folder / "words.txt"
    text.write_text("the cat sat on a mat and saw one more dog run far away from home " * 300)
    data = Data(source="files", text=(text,), vocabulary=280, sequence=16, rows=4, validation_rows=8)
    config = Config(
        widths=(16,), layers=(2,), head_dim=(8,), families=("dense", "moe-half"), seeds=(0,), data=data,
        budget=Budget(tokens_per_param=0.05, timing_steps=3, tolerance=1e9), eval_items=0, workers=1,
    )  # fmt: skip
    train(config, run(config))


def kg_ssrl(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.kg_ssrl import Config, train
    from tenfold.recipes.kg_ssrl.config import Budget, Data, Search, Training, Walker

    config = Config(
        data=Data(entities=40), walker=Walker(dim=8, hidden=8), arms=("ssrl",),
        training=Training(batch=8, lr=1e-2, relations=("q",), mask_inverse=False), budget=Budget(40, "steps", 0.25),
        search=Search(width=40, valid_queries=9, curve_points=3, eval_mask="all", unreached="rank"),
    )  # fmt: skip
    train(config, run(config))


def spag(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.spag import Config, train
    from tenfold.recipes.spag.config import Arena, Imitation, Model, SelfPlay, Table, Words

    lexicon = folder / "lexicon.jsonl"
    lexicon.write_text("".join(json.dumps({"word": word, "clues": ["fruit", f"clue{i}"]}) + "\n" for i, word in enumerate(WORDS)))  # fmt: skip
    config = Config(
        words=Words(lexicon=lexicon, held_out=2), model=Model(dim=8, layers=1, heads=2, ffn=8),
        table=Table(max_turns=2, max_tokens=4, batch=16), imitation=Imitation(games=40, steps=4, batch=8),
        self_play=SelfPlay(games=40, batch=16, epochs=1), arena=Arena(repeats=1, words=0),
    )  # fmt: skip
    train(config, run(config))


def mm1(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.mm1 import Config, train
    from tenfold.recipes.mm1.config import Connector, Evaluation, Language, Training, Tuning, Vision

    config = Config(
        vision=Vision(size=12, patch=4, dim=16, layers=1, heads=2, mlp=16), connector=Connector(tokens=1, hidden=8, depth=1),
        language=Language(vocab=300, dim=16, layers=2, heads=2, ffn=16, max_len=256),
        pretrain=Training(steps=3, rows=4, length=64, warmup=1),
        sft=Tuning(("scenes",), training=Training(steps=2, rows=4, length=96, final=0.0, warmup=1)),
        evaluation=Evaluation(shots=(0,), queries=3, tuned=3, glosses=4),
    )  # fmt: skip
    train(config, run(config))


def deer(run: Callable[[Any], Run], folder: Path) -> None:
    from tenfold.recipes.deer import Config, train
    from tenfold.recipes.deer.config import Candidates, Data, Ranking

    config = Config(
        data=Data(source="toy", held_out=8, most=40, tools=40, unseen=16), candidates=Candidates(k=3, n_clusters=4),
        ranking=Ranking(hidden=8, steps=40, batch=32), arms=("mix",),
    )  # fmt: skip
    train(config, run(config))


MAKERS = (ec_dit, afm, deep_ssm, meta_forecast, moe_vs_dense, kg_ssrl, spag, mm1, deer)


def make_runs(runs: Path, scratch: Path, makers: Any = MAKERS) -> None:
    """A run of each recipe below a runs folder, without the pictures of its report: the demo does not show them."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("TENFOLD_CACHE", str(scratch / "cache"))
        for make in makers:
            name = make.__name__.replace("_", "-")
            where = "experiment" if make is moe_vs_dense else "reporting"
            if make is not afm:
                patch.setattr(f"{registry.find(name).module}.{where}.report", lambda *_: None)
            make(lambda config, name=name: Run.create(name, "tiny", config, runs), scratch)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a small run of every recipe."""
    folder = tmp_path_factory.mktemp("demo")
    make_runs(folder / "runs", folder)
    return folder / "runs"


@pytest.fixture(scope="session")
def found(runs: Path) -> dict[str, Room]:
    """The room of every recipe."""
    return rooms(runs)


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(120)
