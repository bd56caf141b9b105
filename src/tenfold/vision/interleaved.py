"""Interleaved documents: several pictures under one hidden rule, a line after each; captions; questions; few-shot prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.errors import UserError
from tenfold.vision.picture_refs import span_ref
from tenfold.vision.rows import check_keys
from tenfold.vision.scenes import COLOURS, COLUMNS, SHAPES, SIZES, Scene, caption, random_scene, scene_questions
from tenfold.vision.webdataset import read_about, read_shard

ATTRIBUTES = ("colour", "shape", "size", "column")
LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "fi", "pl", "hu", "et")
QUESTION_FAMILIES = ("count", "total", "exist", "colour", "shape", "position")
PICTURES = (3, 9)  # of a document, both ends included
CAPTION_PROMPT, VQA_PROMPT = "A photo of", "Question: {question} Short answer:"
STOPS = {"caption": ("\n",), "vqa": ("\n", ".", ",", "Question"), "attr": ("\n",)}
_HELD_OUT_SHARE, _SYLLABLES = 0.15, ("ba", "do", "ki", "lu", "me", "no", "pi", "ra", "su", "ti", "vo", "za")

Segments = list[dict[str, Any]]
Combination = tuple[str, str, str, int, int]


def combinations() -> list[Combination]:
    """Every object of one cell: (shape, colour, size, row, col)."""
    return [(s, c, z, r, k) for s in SHAPES for c in COLOURS for z in SIZES for r in range(3) for k in range(3)]


def held_out_combinations() -> frozenset[Combination]:
    """The 15 % of the combinations that no training document shows; always the same."""
    every = combinations()
    order = np.random.default_rng(8).permutation(len(every))
    return frozenset(every[i] for i in order[: round(_HELD_OUT_SHARE * len(every))])


_HELD_OUT = held_out_combinations()
_SHOWN = [each for each in combinations() if each not in _HELD_OUT]
_HIDDEN = sorted(_HELD_OUT)


def single_object(rng: np.random.Generator, held_out: bool = False) -> dict[str, Any]:
    """An object of a training combination, or of one held out."""
    pool = _HIDDEN if held_out else _SHOWN
    shape, colour, size, row, col = pool[rng.integers(len(pool))]
    return {"shape": shape, "colour": colour, "size": size, "row": row, "col": col}


def attribute(thing: Mapping[str, Any], rule: str) -> str:
    """What a rule of `attr` says of an object."""
    if rule not in ATTRIBUTES:
        raise ValueError(f"rule: got {rule!r}, need one of {', '.join(ATTRIBUTES)}")
    return COLUMNS[thing["col"]] if rule == "column" else str(thing[rule])


def scene_image(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A scene's picture as a segment."""
    return {"image": {"scene": [dict(each) for each in objects]}}


def line(image: Mapping[str, Any], answer: str) -> Segments:
    """A picture and its line."""
    return [dict(image), {"text": f"{answer}\n"}]


@dataclass(frozen=True)
class EmojiNames:
    """Emoji drawings with their names, for documents over them.

    Args:
        rows: of each: "images" (references of its drawings), "name" by language, "subgroup", "keywords".
    """

    rows: tuple[dict[str, Any], ...]
    by_subgroup: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> EmojiNames:
        """Read a shard of `<code>.google.webp`, `<code>.twitter.webp` and `<code>.json`; pictures stay in it."""
        rows: list[dict[str, Any]] = []
        groups: dict[str, list[int]] = {}
        for sample, kinds in read_shard(Path(path)).items():
            drawings = [kinds[kind] for kind in ("google.webp", "twitter.webp") if kind in kinds]
            where = f"{path}: {sample!r:.80}"
            if "json" not in kinds or not drawings:
                raise UserError(f"{where}: need a .json and a drawing")
            about = read_about(kinds, where)
            keys = {"name": dict, "subgroup": str, "keywords": list}
            check_keys(about, keys, f"{where}: .json", f"it needs {', '.join(keys)}")
            images = [span_ref(span) for span in drawings]
            rows.append({"images": images, **{key: about[key] for key in keys}})
            groups.setdefault(about["subgroup"], []).append(len(rows) - 1)
        if not rows:
            raise UserError(f"{path}: got no emoji, need at least one")
        return cls(tuple(rows), groups)

    def image(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One of an emoji's drawings as a segment."""
        images = self.rows[index]["images"]
        return {"image": images[rng.integers(len(images))]}


@dataclass(frozen=True)
class InterleavedDocuments(Sequence[Segments]):
    """Documents of 3 to 9 pictures and a line each, all under one rule that the reader must find.

    Args:
        kinds: of "attr", "vqa", and with `emoji` "lang", "group", "bind"; taken in turn.
        seed: document i depends on (seed, i) alone.
        size: documents in an epoch.
        emoji: for the last three.
        control: the rule is drawn anew for every picture: nothing can be learnt from the lines before.
    """

    kinds: tuple[str, ...]
    seed: int
    size: int
    emoji: EmojiNames | None = None
    control: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.kinds) - {"attr", "vqa", "lang", "group", "bind"} or not self.kinds:
            raise ValueError(f"kinds: got {unknown or self.kinds}, need attr, vqa, lang, group or bind")
        if self.emoji is None and set(self.kinds) & {"lang", "group", "bind"}:
            raise UserError("documents over emoji: got no emoji, need emoji-train.tar (TENFOLD_DATA)")
        if self.size < 1:
            raise ValueError(f"size: got {self.size}, need at least 1")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, 1, index])
        kind = self.kinds[index % len(self.kinds)]
        rule = self._rule(kind, rng)
        document: Segments = []
        for _ in range(int(rng.integers(PICTURES[0], PICTURES[1] + 1))):
            rule = self._rule(kind, rng) if self.control else rule
            document += self._line(kind, rule, rng)
        return document

    def _rule(self, kind: str, rng: np.random.Generator) -> Any:
        if kind == "attr":
            return ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
        if kind == "vqa":
            return QUESTION_FAMILIES[rng.integers(len(QUESTION_FAMILIES))]
        if kind == "lang":
            return LANGUAGES[rng.integers(len(LANGUAGES))]
        if kind == "bind":
            assert self.emoji is not None
            groups = list(self.emoji.by_subgroup)
            chosen = [groups[i] for i in rng.choice(len(groups), 2, replace=False)]
            words = ["".join(_SYLLABLES[i] for i in rng.integers(len(_SYLLABLES), size=2)) for _ in chosen]
            return dict(zip(chosen, words, strict=True))
        return None

    def _line(self, kind: str, rule: Any, rng: np.random.Generator) -> Segments:
        if kind == "attr":
            thing = single_object(rng)
            return line(scene_image([thing]), attribute(thing, rule))
        if kind == "vqa":
            return vqa_example(rng, rule)
        assert self.emoji is not None
        if kind == "bind":
            group = list(rule)[rng.integers(2)]
            members = self.emoji.by_subgroup[group]
            index = members[rng.integers(len(members))]
            return line(self.emoji.image(index, rng), rule[group])
        index = int(rng.integers(len(self.emoji.rows)))
        row = self.emoji.rows[index]
        answer = row["subgroup"] if kind == "group" else row["name"].get(rule, row["name"]["en"])
        return line(self.emoji.image(index, rng), str(answer))


def vqa_example(rng: np.random.Generator, family: str | None = None) -> Segments:
    """A scene, a question of a family and its answer, as one line; yes and no, and numbers, as often as the others."""
    objects, question, answer = scene_question(rng, family)
    return [scene_image(objects), {"text": f"{VQA_PROMPT.format(question=question)} {answer}\n"}]


def scene_question(rng: np.random.Generator, family: str | None = None) -> tuple[list[dict[str, Any]], str, str]:
    """A scene, a question about it and the answer; every answer of the scene's questions is drawn as often."""
    while True:
        objects = random_scene(rng)
        if found := question_about(objects, family or QUESTION_FAMILIES[rng.integers(len(QUESTION_FAMILIES))], rng):
            return objects, *found


def question_about(objects: Scene, family: str, rng: np.random.Generator) -> tuple[str, str] | None:
    """A question of a family about a scene, and the answer; none where the scene has no such question."""
    asked = [each for each in scene_questions(objects) if each.family == family]
    if not asked:
        return None
    answers = sorted({each.answer for each in asked})
    answer = answers[rng.integers(len(answers))]
    fitting = [each for each in asked if each.answer == answer]
    chosen = fitting[rng.integers(len(fitting))]
    return chosen.question, chosen.answer


@dataclass(frozen=True)
class CaptionDocuments(Sequence[Segments]):
    """Pictures with captions: scenes drawn for the purpose, and pairs from files.

    Args:
        seed: a scene depends on (seed, index) alone.
        scenes: number of them in an epoch; every other one has one object.
        pairs: documents read elsewhere, after the scenes.
        synthetic: share of the scenes whose caption is a sentence from a template (the role of VeCap: 7 % in the paper).
    """

    seed: int
    scenes: int
    pairs: tuple[Segments, ...] = ()
    synthetic: float = 0.07

    def __len__(self) -> int:
        return self.scenes + len(self.pairs)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index >= self.scenes:
            return self.pairs[index - self.scenes]
        rng = np.random.default_rng([self.seed, 0, index])
        objects = [single_object(rng)] if index % 2 else random_scene(rng, int(rng.integers(1, 4)))
        if rng.random() < self.synthetic:
            kinds = " and ".join(f"{each['colour']} {each['shape']}" for each in objects)
            text = f" The picture has {len(objects)} objects: {kinds}."
        else:
            text = f"{CAPTION_PROMPT} {caption(objects)}"
        return [scene_image(objects), {"text": text}]


@dataclass(frozen=True)
class Query:
    """A query of a few-shot task.

    Attributes:
        task: "attr", "vqa" or "caption".
        demos: demonstrations, oldest first, each with picture and answer.
        prompt: picture and opening.
        answer: what is right.
        note: the rule or question, for tables.
    """

    task: str
    demos: tuple[Segments, ...]
    prompt: Segments
    answer: str
    note: str


def few_shot_queries(task: str, shots: int, count: int, seed: int) -> list[Query]:
    """Queries with their demonstrations, drawn from (seed, query); a query with more shots has the same question.

    Demonstrations come from the training part, queries of `attr` from combinations never trained on.

    Source: MM1, Section 3 (few-shot evaluation) and its protocol of prompts.
    """
    return [_query(task, shots, np.random.default_rng([seed, 7, i])) for i in range(count)]


def _query(task: str, shots: int, rng: np.random.Generator) -> Query:
    if task == "attr":
        rule = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
        thing = single_object(rng, held_out=True)
        shown = [single_object(rng) for _ in range(shots)]
        demos = tuple(line(scene_image([each]), attribute(each, rule)) for each in shown)
        return Query(task, demos, [scene_image([thing])], attribute(thing, rule), rule)
    if task == "vqa":
        family = QUESTION_FAMILIES[rng.integers(len(QUESTION_FAMILIES))]
        objects, question, answer = scene_question(rng, family)
        demos = tuple(vqa_example(rng, family) for _ in range(shots))
        prompt = [scene_image(objects), {"text": VQA_PROMPT.format(question=question)}]
        return Query(task, demos, prompt, answer, question)
    if task == "caption":
        thing = single_object(rng, held_out=True)
        shown = [single_object(rng) for _ in range(shots)]
        demos = tuple(line(scene_image([each]), f"{CAPTION_PROMPT} {caption([each])}") for each in shown)
        return Query(task, demos, [scene_image([thing]), {"text": CAPTION_PROMPT}], caption([thing]), "")
    raise ValueError(f"task: got {task!r}, need attr, vqa or caption")
