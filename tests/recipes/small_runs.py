"""All ten recipes, cut down to seconds: begun here, trained by the command line in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenfold.core.run import Run

SOURCE = """
import os, sys
os.environ.update(ENVIRONMENT)
said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(said, 1), os.dup2(said, 2)
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
BEFORE and exec(BEFORE)
from tenfold.cli import main
sys.exit(main(ARGUMENTS))
"""
MODULES = ("ec_dit", "afm", "deep_ssm", "meta_forecast", "moe_vs_dense", "kg_ssrl", "spag", "mm1", "deer", "abo")


def words(folder: Path) -> Path:
    """A text of few words in a fixed random order."""
    path = folder / "words.txt"
    vocabulary = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "more", "dog", "run", "far", "away", "from", "home"]  # fmt: skip
    path.write_text(" ".join(random.Random(0).choices(vocabulary, k=6000)))
    return path


def ec_dit(folder: Path) -> Any:
    from tenfold.diffusion.config import ECDiTConfig
    from tenfold.recipes.ec_dit import Config
    from tenfold.recipes.ec_dit.config import Data, Sampling, Training

    return Config(
        model=ECDiTConfig(dim=16, num_layers=2, num_heads=2, text_dim=16, patch_size=8, num_experts=4),
        data=Data(per_prompt=1),
        training=Training(steps=6, rows=8, warmup=2, log_every=2, save_every=2, curve_points=3),
        sampling=Sampling(steps=2, images_per_prompt=1),
    )


def afm(folder: Path) -> Any:
    from tenfold.recipes.afm import Config
    from tenfold.recipes.afm.config import Data, Model, OptimizerConfig, Stage, Stages

    def stage(steps: int, length: int = 16, rows: int = 4) -> Stage:
        return Stage(steps, length, rows, OptimizerConfig(warmup=2, base_width=16))

    return Config(
        model=Model(dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=12, wide_ffn=24),
        data=Data(source="files", text=(words(folder),), vocabulary=280, clean=False, validation_rows=8),
        stages=Stages(stage(6), stage(6), stage(6), stage(4), stage(4, length=64, rows=2)),
    )


def deep_ssm(folder: Path) -> Any:
    from tenfold.recipes.deep_ssm import Config
    from tenfold.recipes.deep_ssm.config import NETWORK, Data, Rivals, Training

    return Config(
        methods=("dssm",), seeds=(0,), data=Data(patients=60, few=30),
        network=replace(NETWORK, z_dim=4, hazard_smlp=4, obs_smlp=4, stran_smlp=4, ctran_smlp=4, interv_smlp=4),
        rivals=Rivals(width=4), training=Training(steps=6, batch=8, eval_every=2), workers=1, log_every=1, save_every=2, samples=3,
    )  # fmt: skip


def meta_forecast(folder: Path) -> Any:
    from tenfold.clinical.task_selection import SelectConfig
    from tenfold.recipes.meta_forecast import Config
    from tenfold.recipes.meta_forecast.config import Data

    few = SelectConfig(rounds=2, inner_steps=2, head_steps=2, lookahead=2, batch_size=16, state_size=3, classifier_steps=5, save_every=1)  # fmt: skip
    return Config(
        mode=("pretrain", "first_order"), seed=(0,), simulated=few, workers=1, draws=2,
        data=Data(history=6, horizon=3, subjects=60, labelled=40, tested=50),
    )  # fmt: skip


def moe_vs_dense(folder: Path) -> Any:
    from tenfold.recipes.moe_vs_dense import Config
    from tenfold.recipes.moe_vs_dense.config import Budget, Data

    return Config(
        widths=(16,), layers=(2,), head_dim=(8,), families=("dense", "moe-half"), seeds=(0,), protocols=("tokens", "seconds"),
        data=Data(source="files", text=(words(folder),), vocabulary=280, sequence=16, rows=4, validation_rows=8),
        budget=Budget(tokens_per_param=0.05, timing_steps=2, tolerance=1e9), eval_items=0, workers=1,
    )  # fmt: skip


def kg_ssrl(folder: Path) -> Any:
    from tenfold.recipes.kg_ssrl import Config
    from tenfold.recipes.kg_ssrl.config import Budget, Data, Search, Training, Walker

    return Config(
        data=Data(entities=40), walker=Walker(dim=4, hidden=4), training=Training(batch=4, rollouts=3), arms=("ssrl", "rl"),
        budget=Budget(8, "steps", 0.5), search=Search(width=6, valid_queries=9, curve_points=3), log_every=1, save_every=2,
    )  # fmt: skip


def spag(folder: Path) -> Any:
    from tenfold.recipes.spag.config import Arena, Config, Imitation, Model, SelfPlay, Table, Words

    lexicon = folder / "lexicon.jsonl"
    named = ["apple", "pear", "horse", "saddle", "cider", "oak", "stable", "barrel"]
    rows = ({"word": word, "clues": [f"clue{i}", f"clue{i + 1}", "thing"]} for i, word in enumerate(named))
    lexicon.write_text("\n".join(map(json.dumps, rows)))
    return Config(
        words=Words(lexicon=lexicon, held_out=2), model=Model(dim=8, layers=1, heads=2, ffn=8),
        table=Table(max_turns=2, max_tokens=4, batch=16), imitation=Imitation(games=40, steps=4, batch=8),
        self_play=SelfPlay(games=60, batch=8), arena=Arena(repeats=2, words=2), log_every=1, save_every=2,
    )  # fmt: skip


def mm1(folder: Path) -> Any:
    from tenfold.recipes.mm1.config import Config, Connector, Evaluation, Language, Training, Tuning, Vision

    return Config(
        vision=Vision(size=12, patch=4, dim=16, layers=1, heads=2, mlp=16), connector=Connector(tokens=1, hidden=8, depth=1),
        language=Language(vocab=300, dim=16, layers=2, heads=2, ffn=16, max_len=256),
        pretrain=Training(steps=5, rows=4, length=64, warmup=1),
        sft=Tuning(("scenes", "several"), training=Training(steps=3, rows=4, length=96, final=0.0, warmup=1)),
        evaluation=Evaluation(shots=(0, 2), queries=3, tuned=3, glosses=4), log_every=1, save_every=2,
    )  # fmt: skip


def deer(folder: Path) -> Any:
    from tenfold.recipes.deer.config import Candidates, Config, Data, Ranking

    return Config(
        data=Data(source="toy", held_out=8, most=40, tools=40, unseen=16), candidates=Candidates(k=3, n_clusters=4),
        ranking=Ranking(hidden=8, steps=60, batch=32), arms=("mix", "fixed"),
    )  # fmt: skip


def abo(folder: Path) -> Any:
    from tenfold.recipes.abo.config import Config, Data, Probes, Search

    return Config(
        data=Data(tasks=("sim/navigate",), train=12, val=10, test=30),
        search=Search(calls=140, proposals=4, minibatch=6, keep=1, verify=3, abo_rounds=1),
        probes=Probes(reflections=12, betas=(0.0, 1.0), paraphrases=2), methods=("given", "apo"),
    )  # fmt: skip


SMALL: dict[str, Callable[[Path], Any]] = {
    each.__name__.replace("_", "-"): each
    for each in (ec_dit, afm, deep_ssm, meta_forecast, moe_vs_dense, kg_ssrl, spag, mm1, deer, abo)
}


def begin(recipe: str, folder: Path, runs: Path) -> Path:
    """A run that has a config and nothing else; `train --resume` does all of it."""
    return Run.create(recipe, "tiny", SMALL[recipe](folder), runs).path


def start(arguments: list[str], said: Path, before: str = "", **environment: str) -> Any:
    """`tenfold` with these arguments in a fresh process that has torch imported; what it says goes to a file.

    Args:
        before: Python that runs first, such as a limit on the size of files.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "matplotlib.pyplot", *(f"tenfold.recipes.{name}" for name in MODULES)])  # fmt: skip
    names = {
        "__name__": "__main__",
        "ARGUMENTS": arguments,
        "SAID": str(said),
        "BEFORE": before,
        "ENVIRONMENT": {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **environment},
    }
    process = context.Process(target=exec, args=(SOURCE, names))
    process.start()
    return process


def trained(recipe: str, run: Path, processes: int = 1) -> list[str]:
    """The command that trains a run that was begun."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] * (processes > 1)
    return [sys.executable, "-m", *launcher, "tenfold", recipe, "train", "--resume", str(run)]


def claims(run: Path) -> list[dict[str, Any]]:
    """What a run claims, without what depends on the clock."""
    result = json.loads((run / "result.json").read_text())
    return [claim for claim in result["claims"] if not _timed(result["recipe"], claim["name"])]


def weights(run: Path) -> dict[str, bytes]:
    """Every file of weights that a run leaves, by its path; checkpoints apart, and models that train for so many seconds."""
    recipe = json.loads((run / "run.json").read_text())["recipe"]
    found = {path.relative_to(run).as_posix(): path.read_bytes() for path in sorted(run.rglob("*.safetensors"))}
    return {
        name: content
        for name, content in found.items()
        if not name.startswith("checkpoints/") and not _timed(recipe, name)
    }


def _timed(recipe: str, name: str) -> bool:
    """Whether something of a recipe depends on the clock, by its name."""
    return recipe == "moe-vs-dense" and "tokens" not in name


def quiet_environment(folder: Path) -> dict[str, str]:
    """The environment of a process that caches nothing outside its folder."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TENFOLD_CACHE": str(folder / "cache"), "MPLBACKEND": "agg"}
