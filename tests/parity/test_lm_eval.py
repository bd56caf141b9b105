"""Scores against lm-evaluation-harness 0.4.13: its Hugging Face model class on the same weights, and our adapter."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import lm_eval
import tokenizers
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.score import Scores, evaluate, harness_model, loglikelihood, loglikelihood_rolling
from tenfold.lm.tasks import Task

ITEMS = 200
SETS = {"arc_easy": ITEMS, "piqa": ITEMS, "boolq": 40, "winogrande": ITEMS, "lambada": 60, "blimp": 134}
MAX_LEN = 256  # shorter than some of BoolQ's passages: truncation is compared too
LONGEST_CHOICE = 400  # characters: lm-eval stops at a choice longer than the model
MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": metric} for metric in ("acc", "acc_norm", "acc_bytes")],
}
FORMS: dict[str, dict[str, Any]] = {
    "arc_easy": MULTIPLE_CHOICE,
    "piqa": MULTIPLE_CHOICE,
    "boolq": MULTIPLE_CHOICE,
    "winogrande": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{gold}}",
        "doc_to_choice": "{{contexts}}",
        "doc_to_target": "{{continuation}}",
        "metric_list": [{"metric": "acc"}],
    },
    "lambada": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + target}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "blimp": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[good, bad]}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    },
}


@pytest.fixture(scope="module")
def subset(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of every set, every fiftieth pair of BLiMP."""
    folder = tmp_path_factory.mktemp("sets")
    for name, count in SETS.items():
        lines = (data_dir / "05-moe-vs-dense" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if max(map(len, json.loads(line).get("choices", [""]))) < LONGEST_CHOICE]
        kept = lines[::50][:count] if name == "blimp" else lines[:count]
        assert len(kept) == count
        (folder / f"{name}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def tokenizer(subset: Path) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE trained on the sets themselves: merges cross the space before a choice as in real ones."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>"], initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [line for path in sorted(subset.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    backend.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<|end|>")


@pytest.fixture(scope="module")
def decoder(tokenizer: transformers.PreTrainedTokenizerFast) -> Decoder:
    cfg = DecoderConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64, max_len=MAX_LEN,
        tie_embeddings=False,
    )  # fmt: skip
    return Decoder(cfg, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(
    decoder: Decoder, tokenizer: transformers.PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> HFLM:
    """lm-eval's own model class around the same weights, read by transformers from our folder."""
    folder = tmp_path_factory.mktemp("model")
    decoder.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    # Without it transformers writes on past the end token, and lm-eval drops the token itself from the text.
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=MAX_LEN)


def lm_eval_results(model: Any, subset: Path, names: list[str]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    tasks = [
        {
            "task": f"local_{name}",
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(subset / f"{name}.jsonl")},
                "cache_dir": str(subset / "cache"),
            },
            "test_split": "test",
            **FORMS[name],
        }
        for name in names
    ]
    out = lm_eval.simple_evaluate(model=model, tasks=tasks, log_samples=True, bootstrap_iters=2, num_fewshot=0)
    results = {name: out["results"][f"local_{name}"] for name in names}
    # Text of the request to (log-probability, is_greedy).
    samples = {
        name: [
            pair
            for s in sorted(out["samples"][f"local_{name}"], key=lambda s: s["doc_id"])
            for pair in s["filtered_resps"]
        ]
        for name in names
    }
    return results, samples


@pytest.fixture(scope="module")
def reference(theirs: HFLM, subset: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    return lm_eval_results(theirs, subset, list(SETS))


@pytest.fixture(scope="module")
def ours(decoder: Decoder, tokenizer: transformers.PreTrainedTokenizerFast, subset: Path) -> dict[str, Scores]:
    return evaluate(decoder, tokenizer, list(SETS), data=subset)


@pytest.mark.parametrize("name", list(SETS))
def test_accuracies_are_identical(name: str, reference: Any, ours: dict[str, Scores]) -> None:
    results, mine = reference[0][name], ours[name]
    assert mine["n"] == SETS[name]
    assert mine["acc"] == pytest.approx(results["acc,none"], abs=1e-12)
    assert 0 < results["acc,none"] < 1 or name == "lambada"  # a figure that could differ
    for metric in ("acc_norm", "acc_bytes"):
        if f"{metric},none" in results:
            assert mine[metric] == pytest.approx(results[f"{metric},none"], abs=1e-12)  # type: ignore[literal-required]
    if name == "lambada":
        assert mine["ppl"] == pytest.approx(results["perplexity,none"], rel=1e-5)


def test_standard_errors_are_identical(reference: Any, ours: dict[str, Scores]) -> None:
    for name in ("piqa", "winogrande"):
        assert ours[name]["stderr"] == pytest.approx(reference[0][name]["acc_stderr,none"], rel=1e-9)


def test_any_model_that_gives_logits_will_do(theirs: HFLM, subset: Path, ours: dict[str, Scores]) -> None:
    scores = evaluate(theirs.model, theirs.tokenizer, "piqa", data=subset, max_len=MAX_LEN)["piqa"]
    assert scores == ours["piqa"]


def test_truncation_was_part_of_the_comparison(ours: dict[str, Scores]) -> None:
    assert ours["boolq"]["truncated"] > 0


@pytest.mark.parametrize("name", ["arc_easy", "winogrande", "boolq", "lambada", "blimp"])
def test_log_probabilities_agree(
    name: str, reference: Any, decoder: Decoder, tokenizer: transformers.PreTrainedTokenizerFast, subset: Path
) -> None:
    rows = [json.loads(line) for line in (subset / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    if name == "blimp":
        pairs = [("", " " + row[key]) for row in rows for key in ("good", "bad")]
    elif name == "lambada":
        pairs = [(row["context"], " " + row["target"]) for row in rows]
    elif name == "winogrande":
        pairs = [(context, " " + row["continuation"]) for row in rows for context in row["contexts"]]
    else:
        pairs = [(row["context"], " " + choice) for row in rows for choice in row["choices"]]
    mine = loglikelihood(decoder, tokenizer, pairs)
    assert len(mine) == len(reference[1][name])
    for (logp, greedy), (their_logp, their_greedy) in zip(mine, reference[1][name], strict=True):
        assert logp == pytest.approx(float(their_logp), abs=1e-3, rel=1e-5)
        assert greedy == their_greedy


def test_our_adapter_under_lm_eval_gives_the_same(
    decoder: Decoder, tokenizer: transformers.PreTrainedTokenizerFast, subset: Path, reference: Any
) -> None:
    results, _ = lm_eval_results(harness_model(decoder, tokenizer), subset, list(SETS))
    for name in SETS:
        for key, value in reference[0][name].items():
            if key.startswith(("acc", "perplexity")) and isinstance(value, float) and not math.isnan(value):
                assert results[name][key] == pytest.approx(value, rel=1e-5, abs=1e-12)


def test_running_text_agrees(theirs: HFLM, decoder: Decoder, tokenizer: Any, subset: Path) -> None:
    passages = [
        json.loads(line)["context"] for line in (subset / "boolq.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = [passages[0], " ".join(passages[:6]), "short"]
    assert len(tokenizer(texts[1])["input_ids"]) > 2 * MAX_LEN
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    assert loglikelihood_rolling(decoder, tokenizer, texts) == pytest.approx(
        theirs.loglikelihood_rolling(requests), rel=1e-6
    )


def test_greedy_answers_agree(theirs: HFLM, decoder: Decoder, tokenizer: Any, subset: Path) -> None:
    contexts = [
        json.loads(line)["context"] for line in (subset / "piqa.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    options = {"until": ["e", "\n"], "max_gen_toks": 40, "do_sample": False}
    requests = [Instance("generate_until", {}, (c, dict(options)), 0) for c in contexts[:12]]
    mine = harness_model(decoder, tokenizer).generate_until(requests)
    assert mine == theirs.generate_until(requests)
    assert any(mine)


def test_few_shot_prompts_agree(theirs: HFLM, subset: Path, tmp_path: Path) -> None:
    """One row to show: both put it first, then a blank line, then the query."""
    rows = (subset / "piqa.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "piqa.jsonl").write_text("\n".join(rows[1:40]) + "\n", encoding="utf-8")
    (tmp_path / "piqa_shots.jsonl").write_text(rows[0] + "\n", encoding="utf-8")
    files = {"test": str(tmp_path / "piqa.jsonl"), "train": str(tmp_path / "piqa_shots.jsonl")}
    task = {
        "task": "local_shots",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "fewshot_split": "train",
        **MULTIPLE_CHOICE,
    }
    results = lm_eval.simple_evaluate(model=theirs, tasks=[task], num_fewshot=1, bootstrap_iters=0)["results"]
    out = results["local_shots"]
    mine = evaluate(theirs.model, theirs.tokenizer, [Task("piqa", "choices")], shots=1, data=tmp_path)["piqa"]
    assert mine["acc"] == pytest.approx(out["acc,none"], abs=1e-12)
    assert mine["acc_norm"] == pytest.approx(out["acc_norm,none"], abs=1e-12)
