"""The experiment end to end at a size of seconds, killed and resumed, on two processes; its measures and findings by hand."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tenfold.cli import main
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState
from tenfold.core.run import Run
from tenfold.diffusion.config import ECDiTConfig
from tenfold.recipes.ec_dit import PRESETS, Config, measures, train, training
from tenfold.recipes.ec_dit.config import GROUP, Data, Sampling, Training
from tenfold.recipes.ec_dit.evaluation import draw_asked, shapes_rates
from tenfold.recipes.ec_dit.experiment import best_rates, rate_trials
from tenfold.recipes.ec_dit.findings import heat_sentence, rate_interval, steps_until
from tenfold.recipes.ec_dit.folder import open_model
from tenfold.recipes.ec_dit.network import NoisyBatches, build, make_loss
from tenfold.recipes.ec_dit.pictures import (
    Corpus,
    Pictures,
    open_corpus,
    shapes_floor,
    to_bytes,
    to_model,
    write_corpus,
)
from tenfold.recipes.ec_dit.reporting import captions_seen
from tenfold.recipes.ec_dit.training import Job
from tenfold.vision.geneval import TASKS
from tenfold.vision.shapes import render, sample_scene

SMALL = ECDiTConfig(dim=16, num_layers=2, num_heads=2, text_dim=16, patch_size=8, num_experts=4)


@pytest.fixture
def config() -> Config:
    return Config(
        model=SMALL,
        data=Data(per_prompt=1),
        training=Training(steps=6, rows=8, warmup=2, log_every=2, save_every=2, curve_points=3),
        sampling=Sampling(steps=2, images_per_prompt=1),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(Data(per_prompt=1), 32, folder)
    return open_corpus(folder)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one rival."""
    config = Config(
        model=SMALL,
        data=Data(per_prompt=1),
        training=Training(steps=2, rows=8, warmup=1),
        sampling=Sampling(steps=2, images_per_prompt=1),
        rivals=("dense",),
    )
    run = Run.create("ec-dit", "tiny", config, tmp_path_factory.mktemp("runs"))
    train(config, run)
    return run.path


def weights(run: Run, model: str, seed: int = 0) -> bytes:
    return (run.path / "models" / f"{model}-seed{seed}" / "denoiser" / "model.safetensors").read_bytes()


def test_end_to_end_trains_every_rival_and_reports(config: Config, tmp_path: Path) -> None:
    rivals = ("dense", "dense-wide", "tc", "random", "ec-2", "ec-group", "random-group")
    config = replace(
        config,
        rivals=rivals,
        seeds=(0, 1),
        training=replace(config.training, rates=(1e-3, 2e-3), rate_steps=2),
        sampling=replace(config.sampling, guidance_sweep=(1.0, 3.0)),
    )
    run = Run.create("ec-dit", "laptop", config, tmp_path / "runs")
    result = train(config, run)
    names = [claim.name for claim in result.claims]
    for rival in ("dense", "dense-wide", "tc", "random"):
        assert f"ec above {rival}: overall rate" in names
        assert f"ec below {rival}: held-out loss" in names
        assert f"ec below {rival}: Fréchet distance by a small classifier" in names
    assert "pictures of more objects get more experts than under a random router" in names
    assert "4 experts below 2: held-out loss" in names
    assert "ec reaches dense's final loss in fewer steps" in names
    assert all(claim.seeds == 2 and claim.holds is not None for claim in result.claims)
    assert {path.name for path in (run.path / "models").iterdir()} == {
        f"{model}-seed{seed}" for model in ("ec", *rivals) for seed in (0, 1)
    }
    for name in ("samples", "rates", "learning", "guidance", "heat", "objects"):
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 5000, name
    for model in ("ec", *rivals):
        assert abs(run.load_stage(f"{model}-seed0")["text_gain"]) > 0, "the model is deaf to its captions"
    rates = json.loads((run.path / "tables" / "rates.json").read_text())["rows"]
    assert [row["model"] for row in rates][:9] == ["ec", *rivals, "floor"]
    tried = json.loads((run.path / "tables" / "rates tried.json").read_text())["rows"]
    assert [set(row) for row in tried] == [{"model", "0.001", "0.002"}] * 8
    assert "frechet" in run.load_stage("dense-seed1")
    # Rivals differ in the model alone: the first batch is the same, to the noise.
    assert run.rows("ec-seed0")[0]["step"] == run.rows("dense-seed0")[0]["step"] == 2


class Killed(BaseException):
    """What no code of the recipe catches, as a kill -9 gives it no chance to."""


def test_killed_and_resumed_gives_the_weights_of_one_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, rivals=("tc",))
    whole = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    train(config, whole)
    plain_fit = training.fit
    kill_at: list[str] = []

    def fit_until_killed(state: TrainState, loss: Any, *, after_step: Any, name: str, **options: Any) -> TrainState:
        def after(state: TrainState) -> None:
            after_step(state)
            if name in kill_at and state.step == 5:  # one step past the checkpoint at 4
                kill_at.remove(name)
                raise Killed

        return plain_fit(state, loss, after_step=after, name=name, **options)

    monkeypatch.setattr(training, "fit", fit_until_killed)
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    for name in ("ec-seed0", "tc-seed0"):
        kill_at.append(name)
        with pytest.raises(Killed):
            train(config, Run.open(run.path))
    train(config, Run.open(run.path))
    for model in ("ec", "tc"):
        assert weights(run, model) == weights(whole, model)
        assert len(run.rows(f"{model}-seed0")) == len(whole.rows(f"{model}-seed0"))


def test_a_finished_training_is_not_done_again(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    first = train(config, run)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr("tenfold.recipes.ec_dit.experiment.write_corpus", refuse)
    second = train(config, Run.open(run.path))
    assert [claim.value for claim in second.claims] == [claim.value for claim in first.claims]


def test_two_ranks_see_the_parts_of_one_batch(corpus: Corpus) -> None:
    settings = Training(rows=6, steps=1, warmup=0, text_dropout=0.5)
    whole = next(iter(NoisyBatches(corpus.train, settings, "flow", 3)))
    parts = [next(iter(NoisyBatches(corpus.train, settings, "flow", 3, rank, 2))) for rank in (0, 1)]
    for name in ("image", "caption", "t", "noise"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    assert 0 < int((whole["caption"] == 0).sum()) < 6


@pytest.mark.parametrize("objective", ["flow", "ddpm"])
def test_batches_go_on_where_they_stood(corpus: Corpus, objective: str) -> None:
    settings = Training(rows=4, steps=1, warmup=0)
    first = NoisyBatches(corpus.train, settings, objective, 0)
    stream = iter(first)
    next(stream)
    state = first.state_dict()
    expected = next(stream)
    resumed = NoisyBatches(corpus.train, settings, objective, 0)
    resumed.load_state_dict(state)
    got = next(iter(resumed))
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not torch.equal(expected["noise"], next(stream)["noise"])


def test_the_loss_gives_every_parameter_a_gradient_once_the_zeros_are_gone(corpus: Corpus) -> None:
    model = build(SMALL, corpus, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    batch = next(iter(NoisyBatches(corpus.train, Training(rows=8, steps=1, warmup=0), "flow", 0)))
    loss, metrics = make_loss(corpus, "flow", 0.0)(model, batch)
    loss.backward()
    assert metrics["weight"] == 8
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_masked_training_and_ddpm_learn_too(config: Config, tmp_path: Path) -> None:
    for number, changed in enumerate(
        (
            replace(config, training=replace(config.training, mask_ratio=0.5, optimizer="rmsprop", lr=1e-4)),
            replace(config, model=replace(SMALL, objective="ddpm"), sampling=replace(config.sampling, solver="ddim")),
        )
    ):
        run = Run.create("ec-dit", "tiny", changed, tmp_path / f"runs{number}")
        train(changed, run)
        losses = [row["held_out_loss"] for row in run.rows("ec-seed0") if "held_out_loss" in row]
        assert losses[-1] < losses[0]


def test_ground_truth_pictures_are_all_right_and_floors_are_those_of_other_prompts(corpus: Corpus) -> None:
    rng = np.random.default_rng(0)
    pictures = np.stack([render(sample_scene(row, rng))[None] for row in corpus.asked])
    rates = shapes_rates(pictures, corpus.asked)
    assert rates["overall"] == 1
    assert sum(total for _, total in rates["tasks"].values()) == len(corpus.asked)
    # Pictures of other training prompts: near .09 overall over many draws.
    floor = shapes_floor(corpus.asked, 0)
    assert set(floor) == {*TASKS, "overall"}
    assert floor["single_object"] > 0.2
    assert 0.05 < floor["overall"] < 0.13
    assert corpus.floor == floor


def test_objects_are_found_where_the_scene_has_them() -> None:
    scene = sample_scene({"include": [{"class": "square", "count": 1, "color": "yellow"}]}, np.random.default_rng(1))
    picture = torch.from_numpy(render(scene)).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = measures.object_patches(picture, 4)[0]
    shape = scene[0]
    rows, columns = (slice((c - shape.r + 1) // 4, (c + shape.r - 1) // 4 + 1) for c in (shape.y, shape.x))
    expected = np.zeros((8, 8), dtype=bool)
    expected[rows, columns] = True
    assert (found == expected).all()


class _Routed:
    """Stands in for a model whose experts go where a test says."""

    config = replace(SMALL, group_size=GROUP * 16)
    denoiser: Any = None

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(())

    def states(self, text: Tensor, mask: Tensor) -> Tensor:
        return text[..., None].float()


def test_complexity_is_the_slope_of_experts_over_objects(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = measures.object_counts(corpus)
    assert set(objects.tolist()) == {1, 2, 3, 4}

    def rigged(denoiser: Any, x: Tensor, t: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        counts = torch.tensor(objects[start : start + len(x)])
        start_next(len(x))
        return (2 * counts + 1)[None, :, None, None].expand(3, -1, 4, 4)

    start = 0

    def start_next(by: int) -> None:
        nonlocal start
        start = (start + by) % len(objects)

    monkeypatch.setattr(measures, "allocation_map", rigged)
    model: Any = _Routed()
    model.denoiser = object()
    found = measures.complexity(model, corpus)
    assert found["slope"] == pytest.approx(2)
    assert found["correlation"] == pytest.approx(1)


def test_words_are_weighed_by_attention(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """One half of the tokens has 4 experts and attends to naming words alone, the other has 1 and attends to the rest."""
    naming = {"red", "green", "blue", "yellow", "purple", "cyan", "circle", "circles", "square", "squares"}
    naming |= {"triangle", "triangles", "cross", "crosses"}

    class Denoiser:
        def cross_attention_maps(self, x: Tensor, t: Tensor, states: Tensor, mask: Tensor) -> Tensor:
            weights = torch.zeros(2, len(x), 16, mask.shape[1])
            for i, row in enumerate(corpus.held_out.caption[: len(x)].tolist()):
                for j, word in enumerate(corpus.captions[row].split()):
                    weights[:, i, slice(0, 8) if word in naming else slice(8, 16), j] = 1
            return weights

    def rigged(*_: Any) -> Tensor:
        experts = torch.ones(1, 32, 4, 4, dtype=torch.int64)
        experts[:, :, :2] = 4
        return experts

    monkeypatch.setattr(measures, "allocation_map", rigged)
    model: Any = _Routed()
    model.denoiser = Denoiser()
    assert measures.word_importance(model, corpus, 32) == pytest.approx({"content": 4.0, "function": 1.0})


def test_best_rates_are_those_with_the_lowest_loss(config: Config) -> None:
    config = replace(config, rivals=("dense",), training=replace(config.training, rates=(1e-3, 2e-3), rate_steps=2))
    jobs = rate_trials(config)
    assert [(job.model, job.lr) for job in jobs] == [("ec", 1e-3), ("ec", 2e-3), ("dense", 1e-3), ("dense", 2e-3)]
    assert all(job.trial and job.steps == 2 for job in jobs)
    rows = [
        {"model": job.model, "lr": job.lr, "loss": loss} for job, loss in zip(jobs, (2.0, 1.0, 1.0, 2.0), strict=True)
    ]
    assert best_rates(config, rows) == {"ec": 2e-3, "dense": 1e-3}
    assert best_rates(config, []) == {"ec": config.training.lr, "dense": config.training.lr}


@pytest.mark.parametrize(
    ("target", "steps"), [(5.0, 10.0), (4.0, 10.0), (3.0, 15.0), (2.0, 20.0), (1.5, 25.0), (0.5, None)]
)
def test_steps_until_a_loss(target: float, steps: float | None) -> None:
    assert steps_until([(10, 4.0), (20, 2.0), (30, 1.0)], target) == steps


def test_the_group_rivals_compete_over_four_pictures() -> None:
    config = Config(rivals=("ec-group", "ec-16"))
    assert config.variant("ec-group").group_size == GROUP * 64
    assert config.variant("ec-16").num_experts == 16
    assert config.variant("ec") == config.model


def test_sample_writes_a_grid(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"
    words = ["ec-dit", "sample", str(run_folder), "a red circle", "two squares", "--out", str(out), "--count", "3"]
    assert main(words) == 0
    assert Image.open(out).size == (3 * 260, 2 * 260)
    assert "2 x 3 pictures of 32 x 32, 2 steps" in capsys.readouterr().out
    first = out.read_bytes()
    assert main(words) == 0
    assert out.read_bytes() == first
    assert main([*words, "--seed", "1"]) == 0
    assert out.read_bytes() != first


def test_eval_writes_the_layout_and_prints_the_rates(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"},
        {"tag": "two_object", "include": [{"class": "circle", "count": 1}, {"class": "cross", "count": 1}], "prompt": "a circle and a cross"},
    ]  # fmt: skip
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "pictures"
    model = run_folder / "models" / "dense-seed0"
    command = ["ec-dit", "eval", str(model), "--prompts", str(prompts), "--images-per-prompt", "2", "--out", str(out)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "two_object" in shown and "overall" in shown
    assert sorted(path.name for path in out.iterdir()) == ["00000", "00001", "results.jsonl"]
    assert len((out / "results.jsonl").read_text().splitlines()) == 4
    assert main([*command[:-1], str(tmp_path / "unjudged"), "--no-judge"]) == 0
    assert not (tmp_path / "unjudged" / "results.jsonl").exists()


def test_heatmap_and_report_verbs(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "heat.png"
    assert main(["ec-dit", "heatmap", str(run_folder), "a red circle", "--out", str(out), "--step", "0"]) == 0
    assert Image.open(out).size[0] > 200
    assert main(["ec-dit", "report", "xl"]) == 0
    shown = capsys.readouterr().out
    assert "paper's XL-32E" in shown and "FLOPs an image" in shown


def test_the_model_of_a_run_is_its_own_not_a_rival(run_folder: Path) -> None:
    assert open_model(run_folder).model.config.router == "ec"
    assert open_model(run_folder / "models" / "dense-seed0").model.config.router == "dense"


def test_a_saved_model_draws_what_the_trained_one_drew(run_folder: Path) -> None:
    run = Run.open(run_folder)
    held = np.load(run_folder / "samples" / "ec-seed0.npy", allow_pickle=False)
    pipeline = open_model(run_folder)
    config = Config(model=SMALL, data=Data(per_prompt=1), sampling=Sampling(steps=2, images_per_prompt=1))
    drawn = draw_asked(config, pipeline.model, open_corpus(run_folder / "corpus"), 0)
    assert (drawn == held).all()
    assert run.finished


def test_users_own_pictures(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, name in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 30), name).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {name} picture" + " of much more" * (i == 0))
    config = replace(
        config, data=Data(source="files", path=folder, text_length=3), training=replace(config.training, rows=4)
    )
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    train(config, run)
    corpus = open_corpus(run.path / "corpus")
    assert (len(corpus.train), len(corpus.held_out)) == (3, 1)
    assert corpus.asked == [{"prompt": "a white picture"}]
    assert corpus.text.shape[1] == 3  # the first picture's caption was cut
    assert main(["ec-dit", "sample", str(run.path), "a mauve picture", "--out", str(tmp_path / "x.png")]) == 2
    assert "'mauve' not among" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
    words = ["ec-dit", "sample", str(run.path), "a mauve picture", "--out", str(tmp_path / "x.png"), "--allow-unk"]
    assert main(words) == 0


def test_an_autoencoder_of_ones_own_carries_the_whole_run(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(
        config,
        model=replace(SMALL, image_size=8, patch_size=2, in_channels=4),
        data=Data(per_prompt=1, codec_steps=4),
        rivals=("random",),
    )
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    train(config, run)
    corpus = open_corpus(run.path / "corpus")
    assert corpus.train.images.shape[1:] == (4, 8, 8)
    assert abs(float(corpus.train.images.mean())) < 0.1
    assert float(corpus.train.images.std()) == pytest.approx(1, abs=0.1)
    assert np.load(run.path / "samples" / "ec-seed0.npy", allow_pickle=False).shape == (110, 1, 32, 32, 3)
    assert "frechet" in run.load_stage("ec-seed0")
    moved = tmp_path / "moved"
    (run.path / "models" / "ec-seed0").rename(moved)  # a model folder stands alone
    assert main(["ec-dit", "sample", str(moved), "a red circle", "--out", str(tmp_path / "x.png"), "--count", "1"]) == 0
    assert Image.open(tmp_path / "x.png").size == (260, 260)


def test_emoji_are_held_out_by_style(config: Config, tmp_path: Path) -> None:
    config = replace(config, data=Data(source="emoji"), training=replace(config.training, steps=2, warmup=1))
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    result = train(config, run)
    corpus = open_corpus(run.path / "corpus")
    trained = {corpus.captions[row] for row in corpus.train.caption.tolist()}
    assert len(corpus.asked) == 184
    assert not trained & {row["prompt"] for row in corpus.asked}
    other = {"noto": "twemoji", "twemoji": "noto"}
    row = corpus.asked[0]
    assert row["prompt"].replace(row["style"], other[row["style"]], 1) in trained  # the other style is
    assert [claim.name for claim in result.claims] == ["held-out emoji retrieved above chance"]
    assert run.load_stage("ec-seed0")["retrieval"]["pictures"] == 184


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny", "--model.patch-size", "5"], "got 8, need a multiple of patch_size = 5"),
        (["tiny", "--model.num-experts", "0"], "num-experts: got 0"),
        (["tiny", "--model.capacity-factor", "99"], "capacity-factor: got 99"),
        (["tiny", "--model.num-kv-heads", "3"], "num-kv-heads: got 3"),
        (["tiny", "--model.dim", "130"], "dim: got 130"),
        (["tiny", "--model.moe-layers", "9"], "moe-layers: got 9"),
        (["tiny", "--model.router", "best"], "router"),
        (["huge"], "unknown preset"),
        (["tiny", "--sampling.steps", "0"], "steps: got 0"),
        (["tiny", "--sampling.solver", "ddim"], "ddim is for ddpm"),
        (["tiny", "--rivals", "ec"], "rivals"),
        (["tiny", "--training.rates", "1e-3"], "rates, rate_steps"),
        (["tiny", "--training.lr", "-1"], "lr: got -1"),
        (["tiny", "--training.lr", "nan"], "lr: got nan"),
        (["tiny", "--training.ema", "1"], "ema: got 1"),
        (["tiny", "--training.mask-ratio", "nan"], "mask-ratio: got nan"),
        (["tiny", "--training.text-dropout", "1.2"], "text-dropout: got 1.2"),
        (["tiny", "--training.clip-norm", "0"], "clip-norm: got 0"),
        (["tiny", "--training.final-fraction", "nan"], "final-fraction: got nan"),
        (["tiny", "--sampling.guidance-scale", "nan"], "guidance-scale: got nan"),
        (["tiny", "--data.source", "files"], "path: got None with source 'files'"),
        (["tiny", "--data.source", "files", "--data.path", "absent"], "data not found: absent"),
        (["tiny", "--data.text", "t5"], "got None with text 't5'"),
        (["tiny", "--model.image-size", "16"], "got 64 pixels, need 32 for the shapes world"),
        (["tiny", "--data.codec-steps", "0", "--data.codec-folder", "absent"], "autoencoder not found"),
        (["tiny", "--model.text-dim", "64", "--data.text", "minilm"], "--model.text-dim: got 64, need 384"),
        (["tiny", "--data.codec-steps", "0"], "--model.in-channels: got 4, need 3"),
        (["tiny", "--model.in-channels", "3"], "--model.in-channels: got 3, need 4"),
        (["tiny", "--data.codec-steps", "9", "--data.codec-folder", "x"], "one of the two"),
        (["tiny", "--training.t-std", "0"], "t-mean, t-std|t_mean, t_std"),
        (["tiny", "--sampling.shift", "0"], "shift: got 0"),
        (["tiny", "--training.rows", "100000000000"], "--training.rows: got 100000000000, need at least 1, at most"),
        (["tiny", "--training.steps", "100000000000"], "--training.steps: got 100000000000, need at least 1, at most"),
        (["tiny", "--sampling.steps", "99999999999"], "--sampling.steps: got 99999999999, need at least 1, at most"),
        (["tiny", "--sampling.images-per-prompt", "100000"], "images-per-prompt: got 100000, need at least 1, at most"),
        (["tiny", "--sampling.guidance-scale", "-1"], "guidance-scale: got -1.0, need at least 0, at most 1000"),
        (
            ["tiny", "--sampling.guidance-sweep", "1", "2e9"],
            "guidance-sweep: got 2000000000.0, need at least 0, at most",
        ),
        (["tiny", "--data.per-prompt", "99999999"], "--data.per-prompt: got 99999999, need at least 1, at most"),
        (["tiny", "--data.text-length", "99999999"], "--data.text-length: got 99999999, need at least 1, at most"),
        (["tiny", "--data.codec-steps", "-1"], "--data.codec-steps: got -1, need at least 0"),
        (["tiny", "--model.num-layers", "999999"], "--model.num-layers: got 999999, need at least 1, at most"),
        (["tiny", "--workers", "100000"], "--workers: got 100000, need at least 1, at most 1024"),
    ],
)
def test_bad_input_of_train_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["ec-dit", "train", *arguments, "--runs-dir", str(tmp_path)])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert any(each in error for each in message.split("|")) and "\n" not in error
    assert not list(tmp_path.glob("ec-dit/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample RUN", "PROMPT: got none"),
        ("sample absent a", "no model in absent"),
        ("sample RUN green --out x.jpg", "--out: got x.jpg, need a .png"),
        ("sample RUN green --out absent/x.png", "need a .png file in a folder that exists"),
        ("sample RUN green --count 0", "count: got 0"),
        ("sample RUN green --steps 0", "steps: got 0"),
        ("sample RUN green --solver ddim", "ddim does not fit the model's objective flow"),
        ("sample RUN green --guidance-scale nan", "--guidance-scale: got nan"),
        ("sample RUN zebra", "'zebra' not among"),
        ("eval RUN --out RUN", "exists already"),
        ("eval RUN --out BAD/x", "--out: got"),
        ("eval RUN --out NEW --prompts absent.jsonl", "absent.jsonl not found"),
        ("eval RUN --out NEW --prompts BAD", "bad.jsonl:1: class: got 'zebra'"),
        ("heatmap DENSE green", "its router is 'dense'"),
        ("heatmap RUN green --step 9", "--step: got 9, need -2..1"),
        ("report tiny --image-size 33", "--image-size: got 33"),
        ("compare tiny --seeds 1 1", "--seeds: got (1, 1)"),
        ("compare tiny --steps -5", "--steps: got -5, need at least 1"),
        ("compare tiny --workers 100000", "--workers: got 100000"),
        (
            "sample RUN green --seed 99999999999999999999999",
            "--seed: got 99999999999999999999999, need 0 or more, below",
        ),
        ("sample RUN green --seed -1", "--seed: got -1, need 0 or more"),
        ("eval RUN --out NEW --seed -1", "--seed: got -1, need 0 or more"),
        ("heatmap RUN green --seed -1", "--seed: got -1, need 0 or more"),
        ("sample RUN green --steps 99999999999", "--steps: got 99999999999, need at least 1, at most 10000"),
        ("sample RUN green --guidance-scale 1001", "--guidance-scale: got 1001.0, need at least 0, at most 1000"),
        ("sample RUN zebra", "use its words (a above and "),
        ("heatmap RUN zebra", "or allow unknown ones (--allow-unk)"),
        ("eval RUN --out NEW --prompts WIDE", "'tiny' not among"),
        ("sample RUN green --out /proc/x.png", "--out: got /proc/x.png, need a folder that files can be written to"),
        ("eval RUN --out /proc/x", "--out: got /proc/x, need a folder that files can be written to"),
        ("heatmap RUN", "PROMPT: got none, need at least one caption"),
        ("eval RUN --out NEW --images-per-prompt 0", "--images-per-prompt: got 0 for 110 captions"),
        ("report xl --image-size 100000000", "--image-size: got 100000000, need at least 1, at most 65536"),
        ("report xl --num-experts 999999999", "--num-experts: got 999999999, need at least 1, at most 65536"),
        ("report xl --router dense --num-experts 4", "--num-experts: got 4 with router dense, which has none"),
    ],
)
def test_bad_input_of_the_verbs_is_one_line_and_exit_2(
    words: str, message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"tag": "t", "include": [{"class": "zebra", "count": 1}], "prompt": "a circle"}))
    wide = tmp_path / "wide.jsonl"
    wide.write_text(json.dumps({"tag": "t", "include": [{"class": "circle", "count": 1}], "prompt": "a tiny circle"}))
    before = sorted(tmp_path.rglob("*"))
    places = {
        "WIDE": wide,
        "RUN": run_folder,
        "DENSE": run_folder / "models" / "dense-seed0",
        "BAD": bad,
        "NEW": tmp_path / "new",
    }
    code = main(["ec-dit", *(str(places.get(word, word)) for word in words.split())])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of pictures with captions; every caption but the last two is of one picture."""
    folder = tmp_path / "own"
    folder.mkdir()
    for i, name in enumerate(("red", "green", "blue", "white", "white")):
        Image.new("RGB", (40, 30), name).save(folder / f"p{i}.png")
        (folder / f"p{i}.txt").write_text(f"a {name} picture")
    return folder


def truncate(folder: Path) -> None:
    picture = folder / "p1.png"
    picture.write_bytes(picture.read_bytes()[:60])


def inflate(folder: Path) -> None:
    """A header of 30000 x 30000 pixels."""
    picture = folder / "p1.png"
    content = bytearray(picture.read_bytes())
    content[16:24] = (30000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    picture.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "p1.png: cannot be read as PNG"),
        (inflate, "p1.png: too many pixels"),
        (lambda folder: (folder / "p1.png").write_text("no picture"), "p1.png: cannot be read as PNG"),
        (lambda folder: (folder / "p2.txt").write_text(" \n"), "p2.png: the caption of this picture has no words"),
        (lambda folder: (folder / "p2.txt").write_text("?!"), "p2.png: the caption of this picture has no words"),
    ],
)
def test_bad_pictures_are_named_before_there_is_a_run(
    damage: Any, message: str, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(own)
    words = ["ec-dit", "train", "tiny", "--data.source", "files", "--data.path", str(own)]
    assert main([*words, "--runs-dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"error: {own}/{message}") and "\n" not in error
    assert not (tmp_path / "runs").exists()


def remove_words(folder: Path) -> None:
    shutil.rmtree(folder / "words")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_words, "text encoder not found: MODEL/words; copy it again"),
        (lambda m: (m / "words" / "config.json").unlink(), "file not found: MODEL/words/config.json; copy the folder"),
        (lambda m: (m / "words" / "config.json").write_text("{"), "copy the folder words again"),
        (lambda m: (m / "words" / "model.safetensors").unlink(), "model.safetensors; copy it again"),
        (lambda m: (m / "pipeline.json").write_text("{"), "copy it again from where the model was trained"),
    ],
)
def test_a_damaged_model_folder_says_what_to_do(
    damage: Any, message: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run_folder / "models" / "ec-seed0", model)
    damage(model)
    assert main(["ec-dit", "sample", str(model), "green", "--out", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err.strip()
    assert message.replace("MODEL", str(model)) in error and "\n" not in error


def test_too_long_a_caption_says_where_the_limit_comes_from(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ec-dit", "sample", str(run_folder), "a " * 24]) == 2
    assert "got 24 words, need at most 7 (its longest caption in training)" in capsys.readouterr().err


def test_an_eval_that_dies_leaves_no_folder(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a process that dies at once, without tidying up, leaves --out free."""
    seen: list[bool] = []

    def dies(*_: Any, **__: Any) -> None:
        seen.append((tmp_path / "out").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr("tenfold.recipes.ec_dit.verbs.score_folder", dies)
    words = ["ec-dit", "eval", str(run_folder), "--images-per-prompt", "1", "--out", str(tmp_path / "out")]
    assert main(words) == 130
    assert seen == [False]
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert main(words) == 0
    names = [json.loads(line)["filename"] for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(names) == 110 and all(Path(name).is_file() for name in names)


def test_a_run_on_own_pictures_draws_heat_maps_and_owns_up_to_repeated_captions(
    config: Config, own: Path, tmp_path: Path
) -> None:
    training = replace(config.training, rows=4, curve_points=1)
    config = replace(config, data=Data(source="files", path=own), training=training)
    run = Run.create("ec-dit", "tiny", config, tmp_path / "runs")
    train(config, run)
    assert (run.path / "figures" / "heat.png").stat().st_size > 5000
    page = (run.path / "report.html").read_text()
    assert "1 of the 1 also trained on" in page and "never trained on" not in page
    assert f"{own}: 4 pictures" in page
    corpus = open_corpus(run.path / "corpus")
    assert captions_seen(corpus) == 1
    others = replace(corpus.train, caption=corpus.train.caption[:3])  # without the other white picture
    assert captions_seen(replace(corpus, train=others)) == 0


def test_blocks_are_counted_from_1() -> None:
    heat = {"times": [0.5], "objects": [[2.0, 3.0]], "background": [[1.0, 1.0]]}
    said = heat_sentence([{"model": "ec", "seed": 0, "heat": heat}], "ec", (1, 3))
    assert "in block 4 a token" in said and "largest in block 4" in said


def test_intervals_of_the_bars() -> None:
    rows = [{"model": "ec", "seed": 0, "tasks": {"counting": [1, 10], "colors": [5, 10]}, "overall": 0.3}]
    assert rate_interval(rows, "ec", "counting") == pytest.approx((0.1, 0.0179, 0.4042), abs=1e-4)  # Wilson
    below, above = (math.hypot(a, b) / 2 for a, b in ((0.1 - 0.0179, 0.5 - 0.2366), (0.4042 - 0.1, 0.7634 - 0.5)))
    assert rate_interval(rows, "ec", "overall") == pytest.approx((0.3, 0.3 - below, 0.3 + above), abs=1e-4)
    rows.append({"model": "ec", "seed": 1, "tasks": {"counting": [3, 10], "colors": [5, 10]}, "overall": 0.4})
    value, low, high = rate_interval(rows, "ec", "overall")
    assert (value, low) == (pytest.approx(0.35), 0) and high == pytest.approx(0.35 + 12.706 * 0.05, abs=1e-3)


@pytest.mark.parametrize("router", ["ec", pytest.param("tc", marks=pytest.mark.slow)])
def test_two_processes_train_the_model_of_one(config: Config, router: str, tmp_path: Path) -> None:
    """The same recipe under torchrun, weights and batches split over two ranks: the same model up to rounding."""
    if router == "tc":
        config = replace(config, model=replace(config.model, router="tc"))
    file = tmp_path / "config.json"
    script = tmp_path / "work.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tenfold.core.config import from_json\n"
        "from tenfold.core.mesh import init_distributed, is_main\n"
        "from tenfold.core.run import Run\n"
        "from tenfold.recipes.ec_dit import Config, train\n"
        "from tenfold.cli.recipe import on_all_ranks\n"
        "config = from_json(Config, json.loads(Path(sys.argv[1]).read_text()))\n"
        "run = on_all_ranks(lambda: Run.create('ec-dit', 'tiny', config, sys.argv[2]))\n"
        "train(config, run)\n"
    )
    from tenfold.core.config import to_json

    file.write_text(json.dumps(to_json(config)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = []
    for number, start in enumerate(
        ([sys.executable], [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"])
    ):
        runs = tmp_path / f"runs{number}"
        done = subprocess.run(
            [*start, str(script), str(file), str(runs)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        (run,) = (runs / "ec-dit").iterdir()
        found.append(open_model(run).model.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=2e-4, atol=2e-6, msg=name)


def test_presets_say_what_they_are() -> None:
    from tenfold.recipes.ec_dit import EXPECTED

    assert EXPECTED.keys() == PRESETS.keys()
    assert all(EXPECTED.values())
    assert PRESETS["m"].model.num_experts == 64
    assert PRESETS["paper"] is PRESETS["m"]
    assert set(PRESETS["accelerator"].rivals) >= {"dense", "dense-wide", "tc", "random"}
    assert len(PRESETS["accelerator"].seeds) >= 3


def test_pictures_keep_their_bytes() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    assert (to_bytes(to_model(images)) == images.permute(0, 2, 3, 1).numpy()).all()
    assert len(Pictures(images, torch.zeros(1, dtype=torch.int64))) == 1
    assert Job("ec", 0, 1e-3, 5, trial=True).name == "ec-lr0.001-seed0"


def test_damaged_pictures_and_weights_are_named(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(run_folder / "corpus", corpus)
    pictures = corpus / "pictures.safetensors"
    pictures.write_bytes(pictures.read_bytes()[:-9])
    for _ in range(2):
        with pytest.raises(UserError, match=r"pictures are gone or damaged .*; start a new run"):
            open_corpus(corpus)
        shutil.rmtree(corpus, ignore_errors=True)
    folder = tmp_path / "model"
    shutil.copytree(run_folder / "models" / "ec-seed0", folder)
    weights = folder / "denoiser" / "model.safetensors"
    save_file({name: tensor * math.nan for name, tensor in load_file(weights).items()}, weights)
    assert main(["ec-dit", "sample", str(folder), "green", "--out", str(tmp_path / "x.png")]) == 2
    assert "weights that are not finite" in capsys.readouterr().err and not (tmp_path / "x.png").exists()
