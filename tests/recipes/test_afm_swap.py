"""Two task adapters learned on a palettized model answer through one server, each request with its own; the base stays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tenfold.align.small_tasks import TASK_SETS
from tenfold.cli import main
from tenfold.compress.adapters import AdapterBank
from tenfold.compress.compressed_folder import save_palettized
from tenfold.compress.palette_linear import PaletteLinear
from tenfold.compress.palettize import PaletteConfig, palettize
from tenfold.core.run import Run
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.recipes.afm import swap
from tenfold.recipes.afm.opening import open_model, with_adapters
from tenfold.text.chat import Sampling, complete_all
from tenfold.text.tokenizer import train_tokenizer

TASKS = ("extract", "summarize")


def run_of(printed: str) -> Run:
    return Run.open(re.findall(r"^run: (\S+)", printed, re.MULTILINE)[-1])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{t.messages[0].content} {t.answer}" for make in TASK_SETS.values() for t in make(9, 150, "learned")]
    tokenizer = train_tokenizer(texts, 500)
    cfg = DecoderConfig(tokenizer.vocab_size, 32, 2, 2, 1, 16, 64, max_len=192)
    folder = tmp_path_factory.mktemp("base") / "model"
    save_palettized(palettize(Decoder(cfg, torch.Generator().manual_seed(0)), PaletteConfig(bins=64)), folder)
    tokenizer.save(folder)
    return folder


def learn(base: Path, task: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    words = ["--steps", "10", "--rows", "2", "--length", "160", "--lr", "0.02", "--rank", "8", "--start", "new"]
    words += ["--toy.learned", "60", "--toy.held-out", "2", "--toy.draws", "1", "--answers.max-tokens", "4"]
    code = main(["afm", "adapter", str(base), "--data", task, *words, "--runs-dir", str(runs)])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return run_of(captured.out).path / "adapters" / "task"


def test_adapters_swap_by_request_under_32_streams(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {task: learn(base, task, tmp_path / "runs", capsys) for task in TASKS}
    kept = (base / "model.safetensors").read_bytes()
    answers: list[swap.Answered] = []
    show = swap.show

    def kept_and_shown(run: Run, job: swap.SwapJob, given: list[swap.Answered], seconds: float) -> None:
        answers.extend(given)
        show(run, job, given, seconds)

    monkeypatch.setattr(swap, "show", kept_and_shown)
    given = [f"{task}={folder}" for task, folder in folders.items()]
    words = [
        "--adapters",
        *given,
        "--items",
        "6",
        "--max-tokens",
        "24",
        "--materialize",
        "--runs-dir",
        str(tmp_path / "swap"),
    ]
    assert main(["afm", "swap", str(base), *words]) == 0, capsys.readouterr().err
    run = run_of(capsys.readouterr().out)
    scores = json.loads((run.path / "tables" / "scores.json").read_text())["rows"]
    assert [row["model"] for row in scores] == ["base", "base:extract", "base:summarize"]
    assert len(answers) == 3 * 2 * 6 > 32
    # What an adapter says alone, on the tables, is what it said among the others on whole matrices (rounding may turn a
    # close choice in float32).
    alone, tokenizer = open_model(str(base))
    assert any(isinstance(module, PaletteLinear) for module in alone.modules())
    whole, _ = open_model(str(base), materialize=True)
    assert not any(isinstance(module, PaletteLinear) for module in whole.modules())
    with_adapters(alone, given)
    with LocalChatModel(alone, tokenizer, "base") as local:
        same = 0
        for name in ("base", "extract", "summarize"):
            model = local if name == "base" else local.with_adapter(name)
            mine = [each for each in answers if each.model.removeprefix("base:") == name]
            for each in mine:
                ((reply,),) = complete_all(model, [each.task.messages], Sampling(temperature=0.0, max_tokens=24))
                same += reply.text == each.text
        assert same >= 34
    said = {
        model: {each.text for each in answers if each.model == model}
        for model in ("base", "base:extract", "base:summarize")
    }
    assert not said["base:extract"] & said["base:summarize"] and not said["base"] & said["base:extract"]
    assert (base / "model.safetensors").read_bytes() == kept


def test_the_digest_sees_one_changed_weight_and_no_adapter(base: Path, tmp_path: Path) -> None:
    decoder, _ = open_model(str(base))
    before = swap.digest(decoder)
    AdapterBank(decoder).add("new", 2, generator=torch.Generator().manual_seed(0))
    again, _ = open_model(str(base))
    assert swap.digest(again) == before
    packed = next(buffer for name, buffer in again.named_buffers() if name.endswith("packed"))
    packed[0, 0] ^= 1
    assert swap.digest(again) != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("swap BASE", "adapters: got none"),
        ("swap BASE --adapters mail=BASE", "adapters: got mail, need NAME=FOLDER of extract, summarize"),
        ("swap BASE --adapters extract=NONE", "adapter not found"),
        ("swap BASE --adapters extract=NONE --streams 0", "streams: got 0"),
        ("swap NONE --adapters extract=NONE", "checkpoint not found"),
    ],
)
def test_bad_input(words: str, message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"BASE": str(base), "NONE": str(tmp_path / "none")}
    arguments = [word.replace("BASE", places["BASE"]).replace("NONE", places["NONE"]) for word in words.split()]
    code = main(["afm", *arguments, "--runs-dir", str(tmp_path / "runs")])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert not (tmp_path / "runs").exists()
