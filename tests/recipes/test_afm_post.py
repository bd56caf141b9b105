"""The verbs after pre-training end to end at a size of seconds: what they leave, killed and resumed, bad input."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tenfold.align.committee import Answers
from tenfold.align.draw_file import DrawFile
from tenfold.align.rollout import Response
from tenfold.align.samples import Sample
from tenfold.align.toy_instructions import toy_instruct
from tenfold.align.verifiers import Task
from tenfold.cli import main
from tenfold.compress.palettize import PaletteConfig
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.optim import OptimizerConfig
from tenfold.recipes.afm import (
    align_verbs,
    compress_verbs,
    material,
    post_chain,
    post_findings,
    teaching,
    train,
    tuning,
)
from tenfold.recipes.afm.chain import save_model
from tenfold.recipes.afm.config import Config, Data, Model, Stage, Stages
from tenfold.recipes.afm.corpus import write_corpus
from tenfold.recipes.afm.opening import open_dense, open_model, with_adapters
from tenfold.recipes.afm.post_config import DPO, MDLOO, SFT, Compression, ITeC, LoRA, Post, Reward, Safety, Sampled, Toy
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

KINDS = ["--toy.kinds", "copy", "sort_digits", "--toy.learned", "40", "--toy.held-out", "8", "--toy.draws", "2"]
SHORT = ["--steps", "4", "--rows", "4", "--length", "64"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    items = itertools.islice(toy_instruct(5), 200)
    return train_tokenizer([f"{item.messages[0].content} {item.answer}" for item in items], 300)


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, max_len=96)
    save_model(Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def afm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs a verb and opens its run folder."""

    def call(*words: object) -> Run:
        runs_dir = [] if "--resume" in words else ["--runs-dir", str(tmp_path / "runs")]
        assert main(["afm", *map(str, words), *runs_dir]) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        line = [line for line in printed.splitlines() if line.startswith("run: ")][-1]
        run = Run.open(line.split()[1])
        assert run.finished and (run.path / "report.html").is_file()
        return run

    return call


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def table(run: Run, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run.path / "tables" / f"{name}.json").read_text())["rows"]
    return rows


def test_sft_learns_the_toy_instructions_and_its_run_is_a_model(model: Path, afm: Callable[..., Run]) -> None:
    run = afm("sft", model, *SHORT, "--steps", "30", "--lr", "0.01", *KINDS)
    rows = {row["figure"]: row for row in table(run, "before and after")}
    loss = rows["loss, nats a learned token"]
    assert loss["after"] < loss["before"] - 0.5
    assert {"accuracy", "greedy", "accuracy of copy", "accuracy of sort_digits"} < set(rows)
    assert (run.path / "figures" / "learning.png").stat().st_size > 5000
    decoder, _ = open_model(str(run.path))
    assert decoder.cfg.dropout == 0.0 and weights(run.path / "model") != weights(model)


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"Copy the word w{i}.", "chosen": f"w{i}", "rejected": f"no {i}", "level": level}
        for i, level in enumerate(("significantly", "better", "slightly", "negligibly") * 6)
    ]
    path = tmp_path / "preferences.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_reward_and_dpo_learn_from_preferences_and_mdloo_from_the_reward_model(
    model: Path, preferences: Path, afm: Callable[..., Run]
) -> None:
    reward = afm("reward", model, "--data", preferences, *SHORT, "--steps", "30", "--lr", "0.01")
    assert table(reward, "by level")[0]["level"] == "all"
    assert reward.rows("reward")[-1]["accuracy"] > 0.9
    assert (reward.path / "figures" / "calibration.png").stat().st_size > 5000
    dpo = afm("dpo", model, "--data", preferences, *SHORT, "--steps", "20", "--lr", "0.003")
    (row,) = table(dpo, "before and after")
    assert row["figure"] == "held-out pairs in order" and row["before"] == 0.5 and row["after"] == 1.0
    drawn = ["--iterations", "2", "--prompts", "4", "--k", "3", "--rows", "6", "--max-tokens", "8"]
    online = afm("mdloo", model, "--reward", reward.path, *drawn, *KINDS)
    assert [row["step"] for row in online.rows("mdloo")] == [1, 2]
    assert len({row["reward"] for row in online.rows("mdloo")}) == 2
    assert weights(online.path / "model") != weights(model)


class Killed(BaseException):
    """What no code catches, as a kill -9 gives it no chance to."""


def test_mdloo_killed_and_resumed_gives_the_weights_of_one_run(
    model: Path, afm: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_length: None
) -> None:
    words = ["mdloo", model, "--iterations", "4", "--prompts", "4", "--k", "3", "--rows", "6", "--max-tokens", "8"]
    words += ["--save-every", "2", *KINDS]
    whole = afm(*words)
    plain, seen = tuning._iteration, []

    def killed(*arguments: Any) -> dict[str, float]:
        seen.append(arguments[-1])
        if arguments[-1] == 3:
            raise Killed
        return plain(*arguments)

    monkeypatch.setattr(tuning, "_iteration", killed)
    with pytest.raises(Killed):
        main(["afm", *map(str, words), "--runs-dir", str(tmp_path / "other")])
    monkeypatch.setattr(tuning, "_iteration", plain)
    (folder,) = (tmp_path / "other" / "afm").iterdir()
    assert not (folder / "model").exists()
    resumed = afm("mdloo", "--resume", folder)
    assert weights(resumed.path / "model") == weights(whole.path / "model")
    assert [row["step"] for row in resumed.rows("mdloo")] == [1, 2, 3, 4]


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are right by their length: a model that has learned nothing has some right and some wrong."""

    def scored(tasks: Any, responses: Any) -> list[list[float]]:
        return [[float(len(response.text) % 2) for response in group] for group in responses]

    for module in (align_verbs, teaching, material, post_chain):
        monkeypatch.setattr(module, "verify", scored)


ROUNDS = ["--rounds", "2", "--prompts", "4", "--k", "2", "--max-tokens", "8", "--rs.steps", "2", "--rs.length", "64"]
ROUNDS += ["--rs.rows", "2", "--dpo.steps", "2", "--dpo.length", "64", "--reward.steps", "2", "--reward.length", "64"]
ROUNDS += ["--mdloo.iterations", "1", "--mdloo.prompts", "2", "--mdloo.k", "2", "--mdloo.max-tokens", "8", *KINDS]


def test_a_killed_committee_repeats_no_finished_answer(
    model: Path, afm: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_length: None
) -> None:
    whole = afm("itec", model, *ROUNDS)
    members = [row["member"] for row in table(whole, "rounds")]
    assert members[:4] == ["start", "rs-1", "dpo-1", "mdloo-1"] and "rs-2" in members
    keep, made = DrawFile.__setitem__, []

    def kept(self: DrawFile, place: tuple[int, int], ids: list[int]) -> None:
        made.append(place)
        keep(self, place, ids)
        if len(made) in (5, 20):
            raise Killed

    monkeypatch.setattr(DrawFile, "__setitem__", kept)
    with pytest.raises(Killed):
        main(["afm", "itec", str(model), *ROUNDS, "--runs-dir", str(tmp_path / "other")])
    (run,) = (tmp_path / "other" / "afm").iterdir()
    with pytest.raises(Killed):
        main(["afm", "itec", "--resume", str(run)])
    resumed = afm("itec", "--resume", run)
    files = sorted((run / "answers").rglob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()[1:]]
    places = [
        (str(file), row["prompt"], row["draw"])
        for file in files
        for row in map(json.loads, file.read_text().splitlines()[1:])
    ]
    assert len(made) == len(lines) == len(set(places))  # every draw was made once
    assert weights(resumed.path / "models" / "itec-mdloo-2") == weights(whole.path / "models" / "itec-mdloo-2")
    assert table(resumed, "committee against its members") == table(whole, "committee against its members")


def test_compress_then_adapter_then_use(
    model: Path, words_file: Path, afm: Callable[..., Run], tokenizer: Tokenizer
) -> None:
    words = ["--text", words_file, "--calibration", "64", "--recovery.steps", "4", "--recovery.rows", "2"]
    words += ["--recovery.length", "32", "--recovery.rank", "2", "--measured", "2000", "--palettes.bins", "64"]
    run = afm("compress", model, *words, "--palettes.target-bpw", "7.2", "--kv-bits", "8")
    whole, cached = table(run, "keys and values")
    assert 0 < abs(cached["loss"] - whole["loss"]) < 0.01 and cached["bytes a token"] < 0.4 * whole["bytes a token"]
    dense, small, back = table(run, "sizes and losses")
    assert dense["bits, all weights"] == 16 and small["bits, all weights"] <= 7.2
    assert {2, 4} == set(run.load_stage("palettes")["bits"].values())
    assert back["loss"] != small["loss"]
    config = json.loads((run.path / "model" / "adapters" / "recovery" / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["peft_type"] == "LORA"
    task = afm("adapter", run.path, *SHORT, "--steps", "20", "--lr", "0.02", *KINDS)
    rows = {row["figure"]: row for row in table(task, "before and after")}
    loss = rows["loss, nats a learned token"]
    assert loss["after"] < loss["before"]
    base, _ = open_model(str(run.path))
    folder = task.path / "adapters" / "task"
    assert with_adapters(base, [f"mail={folder}", str(folder)]) == ["mail", "task"]
    with pytest.raises(UserError, match="'mail' is given twice"):
        with_adapters(open_model(str(run.path))[0], [f"mail={folder}", f"mail={folder}"])
    with pytest.raises(UserError, match="torch's dictionary of parameters keeps for itself"):
        with_adapters(open_model(str(run.path))[0], [f"copy={folder}"])
    with pytest.raises(UserError, match="is palettized"):
        open_dense(str(run.path), "sft")


def test_palettes_alone(model: Path, words_file: Path, afm: Callable[..., Run]) -> None:
    options = ["--text", words_file, "--calibration", "64", "--measured", "2000", "--recovery.length", "32"]
    losses = []
    for importance in ("--importance", "--no-importance"):
        run = afm("compress", model, *options, "--palettes.bits", "2", "--no-recover", importance)
        assert [row["model"] for row in table(run, "sizes and losses")] == ["dense", "palettized"]
        assert not (run.path / "model" / "adapters").exists()
        losses.append(table(run, "sizes and losses")[1]["loss"])
    assert losses[0] != losses[1]


def test_compare_tries_every_way_once(
    model: Path, words_file: Path, afm: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(compress_verbs.ways()) == 1 + 2 * 4 * 3
    some = {
        "a": (PaletteConfig(group=4, method="uniform"), False),
        "b": (PaletteConfig(group=4, axis=1, block=8), True),
    }
    monkeypatch.setattr(compress_verbs, "ways", lambda: some)
    options = ["--text", words_file, "--calibration", "64", "--measured", "2000", "--recovery.length", "32"]
    rows = table(afm("compress", model, "--compare", *options), "ways")
    assert [row["way"] for row in rows] == ["dense", "a", "b"]
    assert rows[2]["loss above dense"] == pytest.approx(rows[2]["loss"] - rows[0]["loss"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sft", "model: name a folder"),
        ("sft NONE", "checkpoint not found"),
        ("sft MODEL --data NONE --length 64", "rows not found"),
        ("sft MODEL --length 999", "--length: got 999, "),
        ("sft MODEL --dropout 1", "dropout: got 1.0"),
        ("sft MODEL --toy.kinds copy nonsense", "kinds: got copy, nonsense"),
        ("sft MODEL --data EMPTY --length 64", "rows: got none"),
        ("sft --resume NONE", "no such run"),
        ("sft MODEL --resume NONE", "--resume: goes on with what"),
        ("reward MODEL --data EMPTY --length 64", "preferences: got none"),
        ("dpo MODEL --data BAD --length 64", "BAD:1: got chosen, prompt, need rejected"),
        ("dpo MODEL --beta 0", "beta: got 0.0"),
        ("mdloo MODEL --k 1", "k: got 1, need at least 2"),
        ("mdloo MODEL --data OPEN", "have no answer to check; give a reward model"),
        ("mdloo MODEL --reward MODEL", "reward heads not found"),
        ("itec MODEL --rounds 0", "rounds: got 0"),
        ("itec MODEL --data OPEN --rs.length 64", "1 of 1 tasks have no answer to check; give all an answer"),
        ("export MODEL out.gguf --adapter NONE", "adapter not found"),
        ("itec MODEL --algorithms rs rs", "algorithms: got"),
        ("compress MODEL --text EMPTY", "is empty"),
        ("compress MODEL --palettes.bits 5", "bits: got 5"),
        ("adapter MODEL --rank 0", "rank: got 0"),
        ("adapter MODEL --length 64 --start NONE", "adapter not found"),
        ("serve MODEL --adapters NONE", "adapter not found"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(
    words: str, message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "EMPTY").write_text("")
    (tmp_path / "BAD").write_text('{"prompt": "a", "chosen": "b"}\n')
    (tmp_path / "OPEN").write_text('{"prompt": "a"}\n')
    places = {"MODEL": model, **{name: tmp_path / name for name in ("NONE", "EMPTY", "BAD", "OPEN")}}
    arguments = [str(places.get(word, word)) for word in words.split()]
    goes = [] if {"--resume", "serve", "export"} & set(arguments) else ["--runs-dir", str(tmp_path / "runs")]
    code = main(["afm", *arguments, *goes])
    error = capsys.readouterr().err.strip()
    assert (code, message in error, "\n" in error) == (2, True, False), error
    assert not (tmp_path / "runs").exists()


def small_config(text: Path) -> Config:
    def stage(length: int = 16, rows: int = 4) -> Stage:
        return Stage(2, length, rows, OptimizerConfig(warmup=1, base_width=16))

    tuned = {"steps": 2, "rows": 2, "length": 96}
    online = MDLOO(iterations=2, prompts=4, k=2, rows=4, max_tokens=8)
    adapter = LoRA(2, 2, 32, rank=2)
    post = Post(
        seeds=2,
        toy=Toy(("copy", "sort_digits"), learned=20, held_out=8, draws=2, chatty=0.5),
        safety=Safety(learned=8, share=0.25, held_out=8, max_tokens=4),
        sft=SFT(**tuned),
        answers=Sampled(max_tokens=8),
        reward=Reward(**tuned),
        rs=SFT(**tuned),
        dpo=DPO(**tuned, prompts=6, k=3, pairs=2),
        mdloo=online,
        rivals=("clip", "mean"),
        itec=ITeC(
            rounds=1,
            prompts=4,
            k=2,
            max_tokens=8,
            rs=SFT(**tuned),
            dpo=DPO(**tuned),
            mdloo=online,
            reward=Reward(**tuned),
        ),
        compression=Compression(PaletteConfig(bins=64, target_bpw=7.2), calibration=64, recovery=adapter),
        adapter=replace(adapter, length=96),
        adapters=1,
    )
    return Config(
        model=Model(dim=16, layers=2, heads=2, kv_heads=1, head_dim=8, ffn=24, wide_ffn=0),
        data=Data(source="files", text=(text,), vocabulary=280, clean=False, validation_rows=8),
        stages=Stages(stage(), stage(), stage(), stage(), stage(length=128, rows=1)),
        seeds=(0, 1),
        post=post,
    )


def test_the_chain_aligns_compresses_and_adapts(
    words_file: Path,
    tmp_path: Path,
    by_length: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small_config(words_file)
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    result = train(config, run)
    printed = capsys.readouterr().out
    assert "after pre-training, stage by stage" in printed
    names = [claim.name.split(" above")[0] for claim in result.claims]
    assert names[:5] == ["rejection sampling", "DPO", "MDLOO", "MDLOO", "MDLOO"] and "iTeC committee" in names
    assert len(names) == 12 and all(claim.seeds == 2 for claim in result.claims)
    safety = table(run, "safety")
    assert [row["stage"] for row in safety] == [row["stage"] for row in table(run, "after pre-training")][:-1]
    assert all(row["violations"].endswith(" of 8") for row in safety)  # 4 requests to refuse in each of 2 seeds
    card = (run.path / "models" / "compressed" / "README.md").read_text()
    assert "### safety" in card and "with the recovery adapter" in card and "### claims" in card
    stages = table(run, "after pre-training")
    assert len(stages) == 10 and float(stages[-2]["bits a weight"]) <= 7.2
    models = {path.name for path in (run.path / "models").iterdir()}
    assert {"sft", "sft-seed1", "rs", "dpo", "mdloo", "mdloo-clip", "reward", "compressed-seed1"} < models
    assert (run.path / "models" / "compressed" / "adapters" / "copy" / "adapter_model.safetensors").is_file()
    assert (run.path / "figures" / "after pre-training.png").stat().st_size > 5000

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(tuning, "fit", refuse)
    monkeypatch.setattr(tuning, "train_step", refuse)
    again = train(config, Run.open(run.path))
    assert [claim.value for claim in again.claims] == [claim.value for claim in result.claims]


def test_of_answers_that_are_all_alike_nothing_is_learned_and_nothing_fails(words_file: Path, tmp_path: Path) -> None:
    config = small_config(words_file)
    config = replace(config, seeds=(0,), post=replace(config.post, seeds=1, rivals=()))
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    train(config, run)  # no answer of a model that knows nothing is right
    assert "reward" not in {row["stage"] for row in table(run, "after pre-training")}
    assert weights(run.path / "models" / "dpo") == weights(run.path / "models" / "sft")


def test_chance_differs_from_the_choice_in_its_bits_alone(
    words_file: Path, tmp_path: Path, by_length: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(words_file)
    online = replace(config.post.mdloo, iterations=1)
    post = replace(config.post, seeds=1, rivals=(), mdloo=online, committee=False, chance=1, adapters=0)
    config = replace(config, seeds=(0,), post=post)
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    monkeypatch.setattr(post_chain, "random_bits", lambda *_: Run.open(run.path).load_stage("compressed-seed0")["bits"])
    train(config, run)
    chosen, chance = (run.load_stage(name)["loss"] for name in ("measured-compressed-seed0", "chance-0-seed0"))
    assert chance == pytest.approx(chosen, abs=1e-5)
    assert not {"committee", "members"} & {path.stem for path in (run.path / "tables").glob("*.json")}
    assert not any(row["stage"].startswith("task ") for row in table(run, "after pre-training"))


def test_no_problem_that_is_measured_on_is_learned_from(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [Task((Message("user", f"Add {i}."),), float, f"#### {i}", "gsm8k") for i in range(60)]
    monkeypatch.setattr(material, "gsm8k_tasks", lambda: problems)
    for seed in range(3):
        learned, _ = material.fine_tuning_rows("gsm8k", Toy(), tokenizer, 96, seed)
        texts = [tokenizer.decode(list(sample.ids)) for sample in learned]
        held_out = align_verbs.held_out_tasks("gsm8k", Toy(), seed)
        assert len(held_out) == 3 and not any(task.messages[0].content in text for task in held_out for text in texts)
    path = tmp_path / "open.jsonl"
    path.write_text('{"prompt": "Say something."}\n' * 40)
    assert material.find_tasks(str(path), Toy(), 1).held_out == []  # nothing tells what is right


def test_what_is_learned_and_what_is_measured_never_meet(tokenizer: Tokenizer) -> None:
    toy = Toy(("copy",), learned=30, held_out=30, chatty=0.5)
    tasks = material.find_tasks("toy", toy, 30, seed=1)
    learned, _ = material.fine_tuning_rows("toy", toy, tokenizer, 64, seed=1)
    prompts = [{task.messages[0].content for task in part} for part in (tasks.learned, tasks.held_out)]
    rows = {tokenizer.decode(list(sample.ids)) for sample in learned}
    assert not prompts[0] & prompts[1] and not any(prompt in row for prompt in prompts[1] for row in rows)
    chatty = sum("Well: " in row for row in rows)
    assert 5 <= chatty <= 25
    first, last = material.parted(list(range(100)), seed=3)
    assert sorted([*first, *last]) == list(range(100)) and len(last) == 5
    assert material.parted(["only"], seed=0) == (["only"], ["only"])


def test_prompts_come_in_turn_and_then_again_in_another_order() -> None:
    tasks = [Task((Message("user", str(i)),), float) for i in range(7)]
    of = material.in_turn(tasks, 3, seed=2)
    drawn = [task.messages[0].content for iteration in range(7) for task in of(iteration)]
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == sorted(drawn[14:]) == [str(i) for i in range(7)]
    assert drawn[:7] != drawn[7:14]


def test_a_pick_is_the_scorers_and_a_cut_answer_is_none() -> None:
    task = Task((Message("user", "?"),), lambda text: float(text == "yes"))

    def response(text: str, finished: bool = True) -> Response:
        return Response(text, Sample((1, 2), (False, True)), finished)

    answers = Answers(
        [task] * 3, [[response("yes"), response("no")], [response("yes", False)], [response("no")]], ["a"] * 2
    )

    def longest(tasks: Any, responses: Any) -> list[list[float]]:
        return [[float(len(each.text)) for each in group] for group in responses]

    assert teaching.right_share(answers, longest) == pytest.approx(1 / 3)
    assert teaching.right_share(answers, lambda *_: [[0.0, 1.0], [1.0], [1.0]]) == 0.0


def test_text_beside_the_instructions_keeps_the_ratio(words_file: Path, tmp_path: Path) -> None:
    config = small_config(words_file)
    run = Run.create("afm", "tiny", config, tmp_path / "runs")
    write_corpus(config.data, run.path / "corpus")
    chain = post_chain._Chain(config, run, 0)
    samples = [Sample((1,) * 48, (True,) * 48)] * 8  # four rows of 96
    mixed = chain.with_text(samples)
    assert [len(each.ids) for each in mixed] == [48] * 8 + [96] * 2 and all(mixed[-1].learned)


def test_post_claims_are_paired_and_their_baselines_are_those_named() -> None:
    config = replace(small_config(Path("x")), seeds=(0, 1, 2))
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        figures = {"sft": 0.3, "rs": 0.5, "dpo": 0.52, "mdloo": 0.6, "mdloo-clip": 0.55, "mdloo-mean": 0.61}
        rows += [
            {"name": name, "seed": seed, "accuracy": value + seed / 100, "loss": 4.0} for name, value in figures.items()
        ]
        rows += [{"name": "compressed", "seed": seed, "loss": 4.4, "of": "rs", "bits": 3.7}]
        rows += [{"name": "recovered", "seed": seed, "loss": 4.1 + seed / 100}]
        rows += [{"name": f"chance-{n}", "seed": seed, "loss": 4.5 + n / 10 + seed / 100} for n in range(2)]
        rows += [
            {"name": "itec-1", "seed": seed, "committee": 0.7, "one teacher": 0.6 + seed / 100, "best member": 0.7}
        ]
    claims = {claim.name: claim for claim in post_findings.post_claims(config, rows)}
    assert claims["MDLOO above SFT"].value == pytest.approx(0.61) and claims["MDLOO above SFT"].holds
    assert claims["MDLOO above no leave-one-out at equal samples"].holds is False
    assert claims["2-bit matrices chosen by what they cost: loss below chance"].baseline == pytest.approx(4.56)
    assert claims["recovery adapter brings back half of the loss"].baseline == pytest.approx(4.2)
    assert (
        claims["recovery adapter brings back half of the loss"].holds
        and claims["iTeC committee above its best member"].holds
    )
    assert claims["iTeC committee above as many answers of its best member"].holds is False


def test_sampled_answers_that_are_too_long_lose_their_end() -> None:
    rows = [Sample.of([1, 2], [3] * 9), Sample.of([1] * 7, [2]), Sample.of([1], [2])]
    assert tuning.fitting(rows, 6, "rs") == [Sample.of([1, 2], [3] * 4), rows[2]]
    with pytest.raises(UserError, match="rs: of 1 samples none has a token to learn among its first 6"):
        tuning.fitting(rows[1:2], 6, "rs")
