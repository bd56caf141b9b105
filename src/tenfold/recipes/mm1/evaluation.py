"""What a trained model can do: few-shot tasks, tuned tasks, text; and the examples that the report shows."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tenfold.core.atomic import write_atomic
from tenfold.lm.loss import IGNORED, token_losses
from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.documents import texts
from tenfold.vision.cider import cider
from tenfold.vision.document_tokens import encode_document, special_ids
from tenfold.vision.instructions import Instructions, final_answer, with_demos
from tenfold.vision.interleaved import STOPS, Query, few_shot_queries
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_generate import Answer, fit_demos, generate
from tenfold.vision.multimodal_packing import pack_documents
from tenfold.vision.vqa_accuracy import vqa_accuracy

FEW_SHOT = ("attr", "vqa", "caption")
SHOWN = 8  # examples of each kind that are kept for the report
NEW = {"attr": 6, "vqa": 8, "caption": 24}
Segments = Sequence[dict[str, Any]]


@torch.no_grad()
def after_pretraining(config: Config, seed: int, model: MultimodalLM, examples: Path) -> dict[str, Any]:
    """Few-shot tasks and text.

    Returns:
        "few_shot" {task: {shots: figure in per cent, CIDEr times 100}}, "text_bpb".
    """
    kept: list[dict[str, Any]] = []
    figures: dict[str, dict[str, float]] = {task: {} for task in FEW_SHOT}
    for task in FEW_SHOT:
        for shots in config.evaluation.shots:
            figures[task][str(shots)], told = few_shot(model, task, shots, config.evaluation.queries, seed)
            kept += told[:SHOWN]
    _keep(examples, kept)
    return {"few_shot": figures, "text_bpb": text_bpb(model, config)}


@torch.no_grad()
def after_tuning(config: Config, seed: int, model: MultimodalLM, examples: Path) -> dict[str, Any]:
    """The tuned tasks.

    Returns:
        "tuned" {task: {"all", each family, "without pictures", …: accuracy in per cent}}.
    """
    kept: list[dict[str, Any]] = []
    figures = {}
    for task in config.sft.tasks:
        figures[task], told = tuned(model, config, task, seed)
        kept += told[:SHOWN]
    _keep(examples, kept)
    return {"tuned": figures}


def _keep(examples: Path, kept: Sequence[dict[str, Any]]) -> None:
    examples.parent.mkdir(exist_ok=True)
    write_atomic(examples.with_suffix(".json"), json.dumps(kept, ensure_ascii=False, indent=1))


def few_shot(model: MultimodalLM, task: str, shots: int, count: int, seed: int) -> tuple[float, list[dict[str, Any]]]:
    """A figure in per cent (accuracy; CIDEr times 100 for captions) and what was asked and said, prompts included."""
    queries = few_shot_queries(task, shots, count, seed)
    answers = ask(model, queries, NEW[task], STOPS[task])
    told: list[dict[str, Any]] = [
        {"kind": f"{task}, {shots} shots", "prompt": prompt_of(query), "answer": query.answer, "said": answer.text.strip(), "note": query.note, "seed": seed}
        for query, answer in zip(queries, answers, strict=True)
    ]  # fmt: skip
    if task == "caption":
        references = {str(i): [query.answer] for i, query in enumerate(queries)}
        return 100 * cider(references, {str(i): each["said"] for i, each in enumerate(told)}).score, told
    scores = [vqa_accuracy(each["said"], [each["answer"]]) for each in told]
    return 100 * sum(scores) / len(scores), told


def ask(model: MultimodalLM, queries: Sequence[Query], new: int, stop: Sequence[str]) -> list[Answer]:
    """Greedy answers; the oldest demonstrations are left out where the model does not read so far."""
    room = model.lm.cfg.max_len - new - 1
    special = special_ids(model.tokenizer)
    assert model.processor is not None
    processor = model.processor

    def size(document: Segments) -> int:
        return sum(len(s.ids) for s in encode_document(document, model.tokenizer, special, processor))

    # Demonstrations are shown whole: only the query is cut into tiles (MM1, Section 4.2, mixed resolution).
    prompts = [
        fit_demos([_whole(demo) for demo in query.demos], query.prompt, room, size, where=query.task)
        for query in queries
    ]
    return generate(model, prompts, new, stop)


def _whole(document: Segments) -> list[dict[str, Any]]:
    return [{**segment, "tiled": False} if "image" in segment else segment for segment in document]


def prompt_of(query: Query) -> list[dict[str, Any]]:
    """The whole prompt as plain data."""
    return [segment for document in (*query.demos, query.prompt) for segment in document]


def tuned(model: MultimodalLM, config: Config, task: str, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Accuracy in per cent on a tuned task: "all", by family; over several pictures also with their order reversed, and blind."""
    part = Instructions((task,), seed, config.evaluation.tuned, part="test")
    queries = [part.query(i) for i in range(len(part))]
    stop = ("\n",)
    answers = ask(model, queries, 16, stop)
    told, by_family = [], defaultdict(list)
    for query, answer in zip(queries, answers, strict=True):
        right, said = final_answer(query.answer), answer.text.strip()
        score = vqa_accuracy(final_answer(said), [right])
        by_family[query.note].append(score)
        told.append({"kind": task, "prompt": prompt_of(query), "answer": query.answer, "said": said, "note": query.note, "seed": seed})  # fmt: skip
    figures = {"all": 100 * sum(map(sum, by_family.values())) / len(queries)}
    figures |= {family: 100 * sum(scores) / len(scores) for family, scores in sorted(by_family.items())}
    figures["most frequent answers"] = _most_frequent(queries)
    blind = [Query(q.task, (), [s for s in q.prompt if "text" in s], q.answer, q.note) for q in queries]
    figures["without pictures"] = accuracy(model, blind, stop)
    if task == "reading":
        figures["letters at their places"] = 100 * letters_right([(answer.text.strip(), query.answer) for query, answer in zip(queries, answers, strict=True)])  # fmt: skip
    if task == "several":
        single = [Query(q.task, (), _only_first(q.prompt), q.answer, q.note) for q in queries]
        figures["first picture alone"] = accuracy(model, single, stop)
        figures["order reversed"] = _reversed_accuracy(model, queries, stop)
        figures |= chain_of_thought(model, config, queries, seed)
    return figures, told


def letters_right(pairs: Sequence[tuple[str, str]]) -> float:
    """Share of the letters of words that what was said has at the same places; pairs: (said, word)."""
    places = [said[i : i + 1].lower() == letter.lower() for said, word in pairs for i, letter in enumerate(word)]
    return sum(places) / len(places)


def _most_frequent(queries: Sequence[Query]) -> float:
    """Accuracy in per cent of whoever knows how often each answer to a family's questions is right, and no picture."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for query in queries:
        counts[query.note][final_answer(query.answer)] += 1
    return 100 * sum(max(each.values()) for each in counts.values()) / len(queries)


def chain_of_thought(model: MultimodalLM, config: Config, queries: Sequence[Query], seed: int) -> dict[str, float]:
    """Accuracy with demonstrations of the same family whose answers stand alone, and whose answers follow from worked steps."""
    found = {}
    for shots in config.evaluation.shots:
        for style, worked in (("direct", False), ("steps", True)):
            asked = [
                with_demos(query, shots, np.random.default_rng([seed, 9, i]), worked=worked)
                for i, query in enumerate(queries)
            ]
            found[f"{shots} shots, {style}"] = accuracy(model, asked, ("\n",), new=32)
            if not shots:
                break  # without demonstrations there is no style
    return found


def accuracy(model: MultimodalLM, queries: Sequence[Query], stop: Sequence[str], new: int = 16) -> float:
    """Accuracy in per cent."""
    answers = ask(model, queries, new, stop)
    scores = [
        vqa_accuracy(final_answer(answer.text.strip()), [final_answer(query.answer)])
        for query, answer in zip(queries, answers, strict=True)
    ]
    return 100 * sum(scores) / len(scores)


def _only_first(prompt: Segments) -> list[dict[str, Any]]:
    first = next(i for i, segment in enumerate(prompt) if "image" in segment)
    return [segment for i, segment in enumerate(prompt) if i == first or "text" in segment]


def _reversed_accuracy(model: MultimodalLM, queries: Sequence[Query], stop: Sequence[str]) -> float:
    """The pictures in reversed order, with the answer that then is right."""
    from tenfold.vision.scenes_reasoning import ask as ask_scenes

    turned = []
    for query in queries:
        images = [segment for segment in query.prompt if "image" in segment][::-1]
        rest = [segment for segment in query.prompt if "text" in segment]
        scenes = [segment["image"]["scene"] for segment in images]
        turned.append(Query(query.task, (), [*images, *rest], ask_scenes(query.note, scenes).answer, query.note))
    return accuracy(model, turned, stop)


def text_bpb(model: MultimodalLM, config: Config) -> float:
    """Bits per byte of held-out text, the end of each line counted with it."""
    lines = texts(config.data, "val")[: config.evaluation.glosses]
    assert model.processor is not None
    nats, bytes_ = 0.0, 0
    device = next(model.parameters()).device
    longest = min(256, model.lm.cfg.max_len)
    for batch in pack_documents(lines, model.tokenizer, model.processor, longest, batch_size=8):
        batch = type(batch)(**{name: tensor.to(device) for name, tensor in vars(batch).items()})
        labels = batch.labels[batch.labels != IGNORED]
        nats += float(token_losses(model(batch, learnt_only=True), labels)[0].sum())
    bytes_ = sum(len(line[0]["text"].encode()) for line in lines)
    return nats / math.log(2) / bytes_
