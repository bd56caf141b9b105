"""The experiment end to end at a size of seconds, killed and resumed, on two processes; its verbs and its settings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tenfold.cli import main
from tenfold.core.config import from_json, to_json
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.nn.moe import moe_layers
from tenfold.recipes.mm1 import EXPECTED, PRESETS, Config, contrastive, evaluation, reconstructive, train, training
from tenfold.recipes.mm1.config import (
    MAIN,
    Clip,
    Connector,
    Evaluation,
    Language,
    Mix,
    Training,
    Tuning,
    Vision,
    of_cell,
    settings,
)
from tenfold.recipes.mm1.contrastive import encoder_file
from tenfold.recipes.mm1.documents import batches, make_tokenizer, mixture, texts
from tenfold.recipes.mm1.evaluation import letters_right
from tenfold.recipes.mm1.experiment import check, wants_aim
from tenfold.recipes.mm1.findings import make_claims, summary
from tenfold.recipes.mm1.network import EncodedOnce, build, build_optimizer, decoder_config
from tenfold.recipes.mm1.published import SIZES
from tenfold.recipes.mm1.reconstructive import train_aim
from tenfold.recipes.mm1.training import Job, model_folder
from tenfold.recipes.mm1.verbs import size_of
from tenfold.vision.document_tokens import special_ids
from tenfold.vision.multimodal import mm_loss
from tenfold.vision.multimodal_folder import open_model
from tenfold.vision.multimodal_packing import Collate
from tenfold.vision.scenes import render_scene

SMALL = Config(
    vision=Vision(size=12, patch=4, dim=16, layers=1, heads=2, mlp=16),
    connector=Connector(tokens=1, hidden=8, depth=1),
    language=Language(vocab=300, dim=16, layers=2, heads=2, ffn=16, max_len=256),
    pretrain=Training(steps=5, rows=4, length=64, warmup=1),
    sft=Tuning(("scenes", "several"), training=Training(steps=3, rows=4, length=96, final=0.0, warmup=1)),
    evaluation=Evaluation(shots=(0, 2), queries=3, tuned=3, glosses=4),
    log_every=1,
    save_every=2,
)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two cells."""
    run = Run.create("mm1", "tiny", replace(SMALL, cells=(MAIN, "decoder=moe+connector=mlp+tokens=9")), tmp_path_factory.mktemp("runs"))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(from_json(Config, run.config), run)
    return run.path


def test_a_run_leaves_models_tables_and_examples(run_folder: Path) -> None:
    run = Run.open(run_folder)
    row = run.load_stage(Job(MAIN, 0).name)
    assert set(row["few_shot"]) == {"attr", "vqa", "caption"} and set(row["few_shot"]["attr"]) == {"0", "2"}
    assert {"all", "without pictures", "order reversed", "first picture alone", "2 shots, steps"} <= set(row["tuned"]["several"])  # fmt: skip
    assert 0 < row["text_bpb"] < 12
    for name in ("shots", "losses", "examples attr, 2 shots", "examples scenes"):
        assert (run_folder / "figures" / f"{name}.png").stat().st_size > 4000, name
    cells = json.loads((run_folder / "tables" / "cells.json").read_text())["rows"]
    assert [line["cell"] for line in cells] == [MAIN, "decoder=moe+connector=mlp+tokens=9"]
    assert (run_folder / "report.html").is_file()
    examples = json.loads((run_folder / "examples" / f"{Job(MAIN, 0).name}-pretrain-measures.json").read_text())
    assert {"prompt", "said", "answer", "seed"} <= set(examples[0])
    claims = json.loads((run_folder / "result.json").read_text())["claims"]
    assert claims and all(claim["holds"] is None for claim in claims)


def test_killed_in_either_stage_and_resumed_it_is_the_same_model(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_fit, kill_at = training.fit, [("pretrain", 3), ("sft", 3)]

    def fit_until_killed(state: TrainState, loss: Any, *, after_step: Any, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            after_step(state)
            if kill_at and name.endswith(kill_at[0][0]) and state.step == kill_at[0][1]:
                kill_at.pop(0)
                raise Killed

        return plain_fit(state, loss, after_step=after, name=name, **options)

    monkeypatch.setattr(training, "fit", fit_until_killed)
    for name in ("after_pretraining", "after_tuning"):
        monkeypatch.setattr(evaluation, name, lambda *_: {"few_shot": {}, "tuned": {}})
    run = Run.create("mm1", "tiny", SMALL, tmp_path)
    for _ in range(2):
        with pytest.raises(Killed):
            train(SMALL, Run.open(run.path))
    train(SMALL, Run.open(run.path))
    for file in ("model.safetensors", "lm/model.safetensors"):
        whole, resumed = (model_folder(path, Job(MAIN, 0)) / file for path in (run_folder, run.path))
        assert whole.read_bytes() == resumed.read_bytes(), file


def test_two_processes_train_the_model_of_one(run_folder: Path, tmp_path: Path) -> None:
    """Under torchrun, weights and batches split over two ranks: the same model up to rounding."""
    (tmp_path / "config.json").write_text(json.dumps(to_json(SMALL)))
    (tmp_path / "work.py").write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tenfold.core.config import from_json\n"
        "from tenfold.core.run import Run\n"
        "from tenfold.recipes.mm1 import Config, evaluation, train\n"
        "from tenfold.cli.recipe import on_all_ranks\n"
        "evaluation.after_pretraining = evaluation.after_tuning = lambda *_: {'few_shot': {}, 'tuned': {}}\n"
        "config = from_json(Config, json.loads(Path(sys.argv[1]).read_text()))\n"
        "run = on_all_ranks(lambda: Run.create('mm1', 'tiny', config, sys.argv[2]))\n"
        "train(config, run)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(tmp_path / "work.py"), str(tmp_path / "config.json"), str(tmp_path / "runs")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "runs" / "mm1").iterdir()
    one, two = (open_model(model_folder(path, Job(MAIN, 0))).state_dict() for path in (run_folder, run))
    for name, tensor in one.items():
        # An offset of all keys changes no attention: its gradient is rounding alone, which Adam scales up to whole steps.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def test_chat_answers_from_files(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = [{"shape": "circle", "colour": "red", "size": "large", "row": 1, "col": 1}]
    for name in ("a.png", "b.png"):
        Image.fromarray(render_scene(scene, 40)).save(tmp_path / name)
    images = ["--image", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["mm1", "chat", str(run_folder), *images, "--question", "what shape is red?"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 1
    monkeypatch.setattr(
        sys, "stdin", io.StringIO("how many objects are there?\n\nwhat colour is the circle? <image>\n")
    )
    assert main(["mm1", "chat", str(run_folder), *images]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 2
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    for path, told in (("broken.png", "cannot be read"), ("none.png", "not found")):
        assert main(["mm1", "chat", str(run_folder), "--image", str(tmp_path / path), "--question", "x"]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert main(["mm1", "chat", str(tmp_path), "--question", "x"]) == 2


def test_eval_scores_files_of_the_field(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2):
        Image.fromarray(np.full((20, 20, 3), 90 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
    asked = {"questions": [{"question_id": n, "image_id": n, "question": "what?"} for n in (1, 2)]}
    told = {"annotations": [{"question_id": n, "answers": [{"answer": "red"}]} for n in (1, 2)]}
    captions = {"annotations": [{"image_id": n, "caption": f"a thing {n}"} for n in (1, 2)]}
    for name, content in (("q.json", asked), ("a.json", told), ("c.json", captions)):
        (tmp_path / name).write_text(json.dumps(content))
    common = ["--images", str(tmp_path), "--out", str(tmp_path / "out")]
    questions = ["--questions", str(tmp_path / "q.json"), "--annotations", str(tmp_path / "a.json")]
    assert main(["mm1", "eval", str(run_folder), *questions, *common]) == 0
    assert "accuracy" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["rows"][0]["prompt"] == "<image>Question: what? Short answer:"
    assert [row["question_id"] for row in json.loads((tmp_path / "out" / "answers.json").read_text())] == [1, 2]
    assert main(["mm1", "eval", str(run_folder), "--task", "caption", "--annotations", str(tmp_path / "c.json"), *common]) == 0  # fmt: skip
    assert "CIDEr" in capsys.readouterr().out
    assert main(["mm1", "eval", str(run_folder)]) == 2
    capsys.readouterr()
    (tmp_path / "none.json").write_text('{"questions": [], "annotations": []}')
    (tmp_path / "list.json").write_text("[]")
    empty = ["--questions", str(tmp_path / "none.json"), "--annotations", str(tmp_path / "a.json")]
    for words, told in (
        ([*questions, "--pattern", "{nope}.png"], "--pattern: got '{nope}.png', need a name with {image_id} in it"),
        ([*questions, "--pattern", "x.png"], "--pattern: got 'x.png', need a name with {image_id} in it"),
        ([*questions, "--pattern", "{image_id:d}"], "--pattern: got '{image_id:d}'"),
        (empty, "none.json: holds no question"),
        (["--task", "caption", "--annotations", str(tmp_path / "none.json")], "none.json: holds no caption"),
        (["--task", "caption", *questions], "with --task caption, which has none"),
        (
            ["--questions", str(tmp_path / "list.json"), "--annotations", str(tmp_path / "a.json")],
            "list.json: got list, need",
        ),
    ):
        assert main(["mm1", "eval", str(run_folder), *common[:2], "--out", str(tmp_path / "no"), *words]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    assert not (tmp_path / "no").exists()


def test_report_export_law_and_sizes(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mm1", "report", str(run_folder)]) == 0
    moe = model_folder(run_folder, Job("decoder=moe+connector=mlp+tokens=9", 0))
    capsys.readouterr()
    assert main(["mm1", "export", str(moe), str(tmp_path / "x")]) == 2
    assert "need llama or qwen3" in capsys.readouterr().err
    assert main(["mm1", "lr-law", "9e6:6.75e-4", "1.2e9:8.58e-5"]) == 0
    assert "-0.42" in capsys.readouterr().out
    assert main(["mm1", "sizes", "3b-moe64"]) == 0
    assert "64.48 B" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(SIZES))
def test_published_sizes_have_the_weights_that_the_paper_states(name: str) -> None:
    """Decoder, within a tenth: the paper rounds; encoder ViT-H, the C-Abstractor with 144 tokens, whose size Honeybee's code gives."""
    told = size_of(SIZES[name])
    assert float(told["decoder"].removesuffix(" B")) == pytest.approx(SIZES[name]["billions"], rel=0.1)
    assert float(told["active"].removesuffix(" B")) <= float(told["decoder"].removesuffix(" B"))
    assert told["encoder"] == "0.631 B"
    law = float(told["rate by the law"])
    assert law == pytest.approx(SIZES[name]["lr"], rel=0.15), "the paper's own rates follow its law"


def test_experts_with_a_capacity_leave_tokens_out() -> None:
    """AXLearn's: int(2 · tokens / E) rounded up to a multiple of 4; padding takes no room."""
    crowded = replace(SMALL.language, experts=4, capacity=2.0)
    lm = Decoder(decoder_config(crowded, 60), torch.Generator().manual_seed(0))
    (moe,) = (layer for _, layer in moe_layers(lm))
    with torch.no_grad():
        moe.gate_weight.zero_()
        moe.gate_weight[:, 0] = 1  # all tokens like the same experts, as far as their sums are positive
    ids, segments = torch.randint(0, 60, (2, 15)), torch.ones(2, 15, dtype=torch.int64)
    segments[1, 9:] = 0
    lm(ids, segments=segments)
    assert moe.last is not None
    kept = moe.last.routing.keep[moe.last.routing.indices == 0]
    assert kept.sum() <= 12  # int(2 · 24 / 4) = 12 of 24 tokens, the 6 of padding not counted
    assert not moe.last.routing.keep.all()
    assert decoder_config(replace(crowded, capacity=0.0), 60).moe.dropless  # type: ignore[union-attr]


def test_ablate_prints_a_table_and_skips_finished_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(SMALL, sft=replace(SMALL.sft, training=replace(SMALL.sft.training, steps=0)))
    monkeypatch.setitem(PRESETS, "tiny", small)
    arguments = ["--axes", "decoder", "--seeds", "1", "--steps", "2", "--runs-dir", str(tmp_path)]
    assert main(["mm1", "ablate", "tiny", *arguments]) == 0
    out = capsys.readouterr().out
    assert "decoder=dense" in out and "experts ahead of dense" in out
    (run,) = (tmp_path / "mm1").iterdir()
    assert len((run / "ablation.csv").read_text().splitlines()) == 3
    assert len(json.loads((run / "ablation.json").read_text())) == 2
    monkeypatch.setattr(training, "learn", lambda *_: pytest.fail("trained again"))
    assert main(["mm1", "ablate", "--resume", str(run)]) == 0
    assert main(["mm1", "ablate", "tiny", "--axes", "depth"]) == 2


def test_cells_change_what_they_name() -> None:
    changed, mix = of_cell(SMALL, "mix=20/70/10+resolution=24+tokens=4+encoder=3+decoder=moe+connector=avg+tiles=4")
    assert (mix.captions, mix.interleaved, mix.text, mix.control) == (20, 70, 10, False)
    assert (changed.vision.size, changed.vision.layers, changed.vision.tiles) == (24, 3, 4)
    assert (changed.connector.name, changed.connector.tokens, changed.language.experts) == ("avg", 4, 4)
    assert of_cell(SMALL, "mix=control")[1].control
    changed, _ = of_cell(SMALL, "task=reading")
    assert changed.pretrain.steps == 0 and changed.sft.tasks == ("reading",)
    for cell, told in (("depth=3", "axis=value"), ("mix=1/2", "captions/interleaved/text"), ("mix=0/0/0", "captions/"), ("mix=-1/1/1", "captions/"), ("tokens=x", "whole number")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            settings(cell)


def test_a_cell_starts_from_the_encoder_that_foretells_patches(tmp_path: Path) -> None:
    """Data: the prepared emoji."""
    cell = "encoder=aim+resolution=16"
    config = replace(SMALL, cells=(cell,), clip=Clip(steps=2, batch=4, size=12, patch=4))
    run = Run.create("mm1", "tiny", config, tmp_path)
    row = train_aim(config, run, 0)
    assert 0 < row["error"] < 3 and row["pool"] == 152 and 0 <= row["picture_R@5"] <= 1
    assert wants_aim(config) and not wants_aim(replace(config, cells=("encoder=clip",)))
    changed, _ = of_cell(config, cell)
    assert changed.vision.start == "aim"
    file = encoder_file(run.path, "aim-seed0")
    vision = build(changed, make_tokenizer(changed), 0, file).vision
    assert vision is not None
    for name, weight in load_file(file).items():
        assert name == "positions" or torch.equal(vision.state_dict()[name], weight), name
    assert train_aim(config, Run.open(run.path), 0) == row, "a finished stage is read back"
    with pytest.raises(UserError, match=r"clip\.steps: got 0"):
        check(replace(config, clip=Clip(steps=0)))


@pytest.mark.parametrize("stage", [contrastive, reconstructive])
def test_an_encoder_whose_stage_was_killed_is_the_same_encoder(
    stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data: the prepared emoji."""
    config = replace(SMALL, clip=Clip(steps=4, batch=4, size=12, patch=4))
    learn, name = (stage.train_aim, "aim-seed0") if stage is reconstructive else (stage.train_clip, "clip-seed0")
    whole = Run.create("mm1", "tiny", config, tmp_path / "whole")
    learn(config, whole, 0)
    plain_fit = stage.fit

    def killed(state: TrainState, loss: Any, **options: Any) -> None:
        def after(state: TrainState) -> None:
            if state.step == 3:
                raise Killed

        plain_fit(state, loss, **{**options, "after_step": after})

    run = Run.create("mm1", "tiny", config, tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "fit", killed)
        with pytest.raises(Killed):
            learn(config, run, 0)
    assert not run.done(name)
    learn(config, Run.open(run.path), 0)
    assert encoder_file(run.path, name).read_bytes() == encoder_file(whole.path, name).read_bytes()


def test_settings_that_cannot_be_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    for options, told in (
        (["--vision.size", "25"], "multiple of patch"),
        (["--connector.tokens", "5"], "square number"),
        (["--connector.name", "cab"], "did you mean cabs"),
        (["--connector.tokens", "49"], "from a grid of 3 x 3"),
        (["--data.text", "glosses"], "data not found: 08-mm1/glosses-train.txt.gz"),
        (["--data.captions", "emoji"], "data not found: 08-mm1/emoji-train.tar"),
        (["--data.folder", str(tmp_path), "--data.text", "glosses"], "pass --data.folder"),
    ):
        assert main(["mm1", "train", "tiny", *options, "--runs-dir", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    assert not (tmp_path / "runs").exists()


def test_presets_say_what_they_are_and_survive_a_file() -> None:
    assert EXPECTED.keys() == PRESETS.keys() and all(EXPECTED.values())
    for preset in PRESETS.values():
        assert from_json(Config, json.loads(json.dumps(to_json(preset)))) == preset


def test_a_place_of_another_mix_or_tokenizer_is_refused() -> None:
    tokenizer = make_tokenizer(SMALL)
    model = build(SMALL, tokenizer, 0)
    assert model.processor is not None
    first = batches(SMALL.pretrain, mixture(SMALL, Mix(45, 45, 10), 0), tokenizer, model.processor, 0, "mix 45/45/10")
    other = batches(SMALL.pretrain, mixture(SMALL, Mix(90, 5, 5), 0), tokenizer, model.processor, 0, "mix 90/5/5")
    with pytest.raises(UserError, match="another tokenizer, number of tokens or mix"):
        other.load_state_dict(first.state_dict())


def test_features_of_a_frozen_encoder_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, vision=replace(SMALL.vision, frozen=True))
    tokenizer = make_tokenizer(config)
    model = build(config, tokenizer, 0)
    assert model.processor is not None and model.vision is not None
    assert not any(weight.requires_grad for weight in model.vision.parameters())
    collate = Collate(special_ids(tokenizer), model.processor)
    rows = batches(SMALL.pretrain, mixture(config, Mix(1, 0, 0), 0), tokenizer, model.processor, 0, "x", collate=list)
    first = next(iter(rows))
    once = EncodedOnce(collate, model.vision, -1)
    told, seen = once(first), collate(first)
    assert told.pixel_values.ndim == 3
    torch.testing.assert_close(mm_loss(model, told)[0], mm_loss(model, seen)[0])
    monkeypatch.setattr(model.vision, "forward", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(once(first).pixel_values, told.pixel_values)


def test_seeds_that_agree_do_not_hide_how_few_emoji_were_asked() -> None:
    row = {"cell": "mix=45/45/10", "few_shot": {}, "tuned": {}}
    rows = [row | {"seed": seed} for seed in range(3)]
    for pool, holds in ((152, False), (15_200, True)):
        claims = make_claims(PRESETS["laptop"], rows, [{"name_R@5": 0.293, "pool": pool}] * 3)
        (names,) = [claim for claim in claims if claim.name.startswith("names find emoji")]
        assert names.holds is holds and names.ci95[0] < names.margin < names.ci95[1]


def test_letters_of_signs_are_counted_at_their_places() -> None:
    assert letters_right([("KTR", "KTR"), ("ktz", "KTR")]) == pytest.approx(5 / 6)
    assert letters_right([("", "KTR"), ("TRK", "KTR"), ("KTRKTR", "KTR")]) == pytest.approx(1 / 3)


def test_weight_decay_by_either_reading() -> None:
    model = torch.nn.Linear(2, 2)
    for wd, factor in (("absolute", 1 - 0.01 * 0.1), ("adamw", 1 - 0.01 * 0.01 * 0.1)):
        optimizer = build_optimizer(model, Training(lr=0.01, wd=wd))  # type: ignore[arg-type]
        before = model.weight.detach().clone()
        model.weight.grad = torch.zeros_like(model.weight)
        model.bias.grad = torch.zeros_like(model.bias)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), before * factor, atol=1e-8, rtol=1e-6)
    assert isinstance(build_optimizer(model, Training(optimizer="adafactor")), torch.optim.Adafactor)


def test_held_out_text_is_not_trained_on() -> None:
    train_lines = {document[0]["text"] for document in texts(SMALL.data, "train")}
    assert not train_lines & {document[0]["text"] for document in texts(SMALL.data, "val")}


def test_claims_pair_seeds_and_leave_out_what_was_not_run() -> None:
    def row(cell: str, seed: int, eight: float, bpb: float) -> dict[str, Any]:
        shots = {"0": 1.0, "8": eight}
        return {"cell": cell, "seed": seed, "few_shot": {"attr": shots, "caption": {"0": 5.0, "8": 6.0}}, "tuned": {}, "text_bpb": bpb}  # fmt: skip

    config = replace(SMALL, evaluation=replace(SMALL.evaluation, shots=(0, 8)), cells=(MAIN, "mix=100/0/0"), seeds=(0, 1, 2))  # fmt: skip
    rows = [row(MAIN, seed, 60 + seed, 2.0) for seed in (0, 1, 2)] + [
        row("mix=100/0/0", s, 1.0, 3.0) for s in (0, 1, 2)
    ]
    claims = {claim.name: claim for claim in make_claims(config, rows, [])}
    first = claims["8 shots above 0 shots + 30 points on attr"]
    assert first.holds and first.value == 61 and first.baseline == 31
    assert claims["45/45/10 above captions alone + 20 points, 8 shots on attr"].holds
    assert not any("control" in name or "redrawn" in name or "easy" in name for name in claims)


def test_connectors_are_held_against_the_resolution() -> None:
    reading = "task=reading+tokens=16+resolution"
    cells = {f"{reading}=48": 20.0, f"{reading}=96": 60.0, f"{reading}=96+connector=avg": 52.0, f"{reading}=96+connector=attn": 55.0}  # fmt: skip
    rows = [
        {"cell": cell, "seed": seed, "few_shot": {}, "tuned": {"reading": {"all": right + seed}}}
        for cell, right in cells.items()
        for seed in (0, 1, 2)
    ]
    assert set(cells) <= set(PRESETS["reading"].cells)
    config = replace(PRESETS["reading"], cells=tuple(cells))
    claims = {claim.name: claim for claim in make_claims(config, rows, [])}
    spread = claims["connectors differ by less than 48 and 96 pixels do: reading, points"]
    assert (spread.value, spread.baseline, spread.holds) == (8, 40, True)
    assert claims["reading at 96 pixels above that at 48 + 10 points"].margin == 30
    fewer = replace(config, cells=(f"{reading}=48",))
    assert not make_claims(fewer, rows[:3], [])


@pytest.mark.parametrize(("right", "told"), [(33.0, True), (60.0, False)])
def test_the_summary_says_where_answers_come_from_the_question_alone(right: float, told: bool) -> None:
    row = {"cell": MAIN, "seed": 0, "few_shot": {}, "tuned": {"scenes": {"all": right, "without pictures": 30.0}}}
    assert ("better than guessing" in summary(SMALL, [row])) is told
