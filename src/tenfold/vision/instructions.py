"""Tasks to be tuned on: questions about scenes, signs to read, several scenes at once, easy-VQA; and their tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.config import need, read_json
from tenfold.core.errors import UserError
from tenfold.vision.interleaved import QUESTION_FAMILIES, VQA_PROMPT, Query, question_about, scene_image, scene_question
from tenfold.vision.scenes import random_sign
from tenfold.vision.scenes_reasoning import FAMILIES, ask, draw_scenes

Segments = list[dict[str, Any]]
TASKS = ("scenes", "reading", "several", "easy_vqa")
SIGN_QUESTION = "what does the sign say?"


@dataclass(frozen=True)
class Instructions(Sequence[Segments]):
    """Questions with their answers as documents; only answers are learnt from.

    Args:
        tasks: of `TASKS`, taken in turn.
        seed: example i depends on (seed, i) alone.
        size: examples in an epoch.
        worked: share of "several" in which the steps come before the answer.
        demos: most demonstrations before a question of "several": of the same family, with worked answers where its own is;
            as many as are drawn from 0 to this.
        turns: most questions of "scenes" and "easy_vqa" about one picture, one after the other as in a conversation; in the
            training part.
        part: "train" or "test".
        easy: the folder of easy-VQA's data, for that task.
    """

    tasks: tuple[str, ...]
    seed: int
    size: int
    worked: float = 0.0
    demos: int = 0
    turns: int = 1
    part: str = "train"
    easy: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.tasks) - set(TASKS) or not self.tasks:
            raise ValueError(f"tasks: got {unknown or self.tasks}, need some of {', '.join(TASKS)}")
        if self.part not in ("train", "test"):
            raise ValueError(f"part: got {self.part!r}, need train or test")
        need("worked", self.worked, 0, 1)
        need("demos", self.demos, 0)
        need("turns", self.turns, 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.size:
            raise IndexError(index)
        query = self.query(index)
        return learnt(query)

    def query(self, index: int) -> Query:
        """The example as a question to be answered."""
        task = self.tasks[index % len(self.tasks)]
        rng = np.random.default_rng([self.seed, 2 if self.part == "train" else 3, index])
        if task in ("scenes", "easy_vqa") and self.turns > 1 and self.part == "train":
            return conversation(task, rng, self.turns, self.easy)
        if task != "several" or not (self.worked or self.demos):
            return make_query(task, rng, easy=self.easy, part=self.part)
        worked = bool(rng.random() < self.worked)
        query = make_query(task, rng, worked=worked)
        return with_demos(query, int(rng.integers(self.demos + 1)), rng, worked=worked)


def with_demos(query: Query, shots: int, rng: np.random.Generator, *, worked: bool) -> Query:
    """A question of "several" after answered questions of its family."""
    demos: list[Segments] = []
    while len(demos) < shots:
        drawn = make_query("several", rng, worked=worked)
        if drawn.note == query.note:
            demos.append(answered(drawn))
    return replace(query, demos=tuple(demos))


def conversation(task: str, rng: np.random.Generator, turns: int, easy: str | None = None) -> Query:
    """Questions of "scenes" or "easy_vqa" about one picture, which goes before the first of them.

    Args:
        turns: how many at most, each of another family as far as there are some; of a scene never two of one family.
    """
    if task == "scenes":
        first = make_query(task, rng)
        objects = first.prompt[0]["image"]["scene"]
        queries = [first]
        for family in rng.permutation([each for each in QUESTION_FAMILIES if each != first.note])[: turns - 1]:
            if found := question_about(objects, str(family), rng):
                question, answer = found
                queries.append(_asked([], question, answer, str(family)))
    else:
        questions = easy_questions(easy, "train")
        image = questions[rng.integers(len(questions))][2]
        about = _by_image(easy)[image]
        drawn = [questions[about[i]][:2] for i in rng.permutation(len(about))]
        queries = [_asked([], question, answer, easy_family(question, answer)) for question, answer in drawn]
        firsts = {query.note: query for query in reversed(queries)}  # of each family
        queries = sorted(queries, key=lambda query: query is not firsts[query.note])[:turns]
        queries[0] = replace(queries[0], prompt=[{"image": image}, *queries[0].prompt])
    return replace(queries[-1], demos=tuple(answered(query) for query in queries[:-1]))


@cache
def _by_image(easy: str | None) -> dict[str, list[int]]:
    """Which questions of the training part are about each picture."""
    found: dict[str, list[int]] = {}
    for index, (_, _, image) in enumerate(easy_questions(easy, "train")):
        found.setdefault(image, []).append(index)
    return found


def answered(query: Query) -> Segments:
    """A question with its answer, as a document of its own."""
    return [*query.prompt, {"text": f" {query.answer}\n"}]


def learnt(query: Query) -> Segments:
    """A query after its demonstrations; only answers are learnt from."""
    told = []
    for document in (*query.demos, answered(query)):
        *asked, answer = document
        told += [{**segment, "loss": False} if "text" in segment else segment for segment in asked]
        told.append(answer)
    return told


def make_query(
    task: str, rng: np.random.Generator, *, worked: bool = False, easy: str | None = None, part: str = "train"
) -> Query:
    """One question of a task; its note is the family."""
    if task == "scenes":
        family = QUESTION_FAMILIES[rng.integers(len(QUESTION_FAMILIES))]
        objects, question, answer = scene_question(rng, family)
        return _asked([scene_image(objects)], question, answer, family)
    if task == "reading":
        sign = random_sign(rng, 3 if part == "test" else int(rng.integers(1, 4)))
        return _asked([{"image": {"sign": sign}}], SIGN_QUESTION, sign["word"], "reading")
    if task == "several":
        family = FAMILIES[rng.integers(len(FAMILIES))]
        scenes = draw_scenes(family, rng, int(rng.integers(2, 5)))
        asked = ask(family, scenes)
        answer = asked.worked if worked else asked.answer
        return _asked([scene_image(scene) for scene in scenes], asked.question, answer, family)
    if task == "easy_vqa":
        questions = easy_questions(easy, part)
        question, answer, image = questions[rng.integers(len(questions))]
        return _asked([{"image": image}], question, answer, easy_family(question, answer))
    raise ValueError(f"task: got {task!r}, need one of {', '.join(TASKS)}")


def final_answer(text: str) -> str:
    """What a worked answer ends with."""
    return text.rpartition(" so ")[2].strip()


_EASY: dict[tuple[str | None, str], list[tuple[str, str, str]]] = {}


def easy_family(question: str, answer: str) -> str:
    """What a question of easy-VQA asks for."""
    if answer in ("yes", "no"):
        return "yes or no"
    return "colour" if "color" in question else "shape"


def easy_questions(folder: str | None, part: str) -> list[tuple[str, str, str]]:
    """(question, answer, picture's path) of easy-VQA, from the installed package `easy_vqa` or a folder of its data.

    Raises:
        UserError: neither is there.
    """
    if (folder, part) not in _EASY:
        root = Path(folder) if folder else _easy_package()
        file = root / part / "questions.json"
        if not file.is_file():
            raise UserError(f"data not found: {file}; pip install easy-vqa==1.0, or give the folder of its data")
        rows = read_json(file)
        images = root / part / "images"
        try:
            _EASY[folder, part] = [(str(q), str(a), str(images / f"{int(i)}.png")) for q, a, i in rows]
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{file}: need a list of [question, answer, number of the picture] ({error})") from None
    return _EASY[folder, part]


def _easy_package() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data not found: easy-VQA; pip install easy-vqa==1.0, or give the folder of its data")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _asked(images: Segments, question: str, answer: str, note: str) -> Query:
    prompt = [*images, {"text": VQA_PROMPT.format(question=question)}]
    return Query("vqa", (), prompt, answer, note)
