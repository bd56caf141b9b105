"""Each tab's functions on runs of seconds, and what they refuse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import UserError
from tenfold.demo import abo, afm, deep_ssm, deer, ec_dit, kg_ssrl, meta_forecast, mm1, moe_vs_dense, spag
from tenfold.demo.shelf import Room
from tenfold.demo.worker import Deadline
from tenfold.recipes.spag.seats import SHOWN

Rooms = dict[str, Room]
HOSTILE = "<img src=x onerror=alert(1)>\x1b]0;x\x07 \u202e"


def opened(found: Rooms, name: str, open: Callable[[Path], Any]) -> Any:
    return found[name].opened(open)


# 01


def test_draw_gives_a_picture_and_a_map_of_the_experts(found: Rooms, deadline: Deadline) -> None:
    pipeline = opened(found, "ec-dit", ec_dit.open_pipeline)
    picture, maps = ec_dit.draw(pipeline, "a red circle", 2, 2, 0, deadline)
    again, _ = ec_dit.draw(pipeline, "a red circle", 2, 2, 0, deadline)
    other, _ = ec_dit.draw(pipeline, "a red circle", 2, 2, 1, deadline)
    assert picture.size[0] >= 200 and maps.size[0] > 200
    assert picture.tobytes() == again.tobytes() != other.tobytes()
    ec_dit.draw(pipeline, "zebra <b>\x1b $x$", 2, 1, 0, deadline)  # unknown words are read as one


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("", 2, 2, 0), "caption: got nothing"),
        (("a " * 151, 2, 2, 0), "need at most 300"),
        (("a " * 149, 2, 2, 0), "need at most .* shorten it"),
        (("a red circle", 99, 2, 0), "guidance: got"),
        (("a red circle", 2, 51, 0), "steps: got"),
        (("a red circle", 2, 0, 0), "steps: got"),
        (("a red circle", 2, 2, -1), "seed: got"),
        (("a red circle", 2, 2, None), "seed: got"),
    ],
)
def test_draw_refuses(found: Rooms, deadline: Deadline, given: tuple[Any, ...], line: str) -> None:
    with pytest.raises(UserError, match=line):
        ec_dit.draw(opened(found, "ec-dit", ec_dit.open_pipeline), *given, deadline)


def test_draw_stops_at_its_deadline(found: Rooms) -> None:
    with pytest.raises(UserError, match="stopped after"):
        ec_dit.draw(opened(found, "ec-dit", ec_dit.open_pipeline), "a red circle", 2, 2, 0, Deadline(0))


# 02


def test_chat_with_a_base_and_with_its_adapter(found: Rooms, deadline: Deadline) -> None:
    speakers = opened(found, "afm", afm.Speakers)
    names = [each.name for each in speakers.choices if "pretrained" not in each.name]
    assert sorted(names) == ["compressed", "compressed + adapter recovery", "context"]
    messages = afm.conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "the cat")
    assert [(each.role, each.content) for each in messages] == [("user", "a"), ("assistant", "b"), ("user", "the cat")]
    said = {}
    for name in ("compressed", "compressed + adapter recovery"):
        model = speakers.speaker(name)
        pieces = list(afm.reply(model, messages, 0, 8, 0, deadline))
        assert pieces and all(len(a) <= len(b) for a, b in pairwise(pieces))
        assert all(c in "\n\t" or c.isprintable() for c in pieces[-1])
        said[name] = model.name
    assert said["compressed + adapter recovery"].endswith(":adapter")


def test_a_chat_that_is_over_time_says_so(found: Rooms) -> None:
    model = opened(found, "afm", afm.Speakers).speaker("context")
    (*_, last) = afm.reply(model, afm.conversation([], "the cat"), 0, 64, 0, Deadline(0))
    assert last.endswith("(stopped: the time was over)")


@pytest.mark.parametrize("question", ["", None, "a" * 2001, ["a"]])
def test_chat_refuses(question: Any) -> None:
    with pytest.raises(UserError, match="question: got"):
        afm.conversation([], question)


def test_chat_reads_no_strange_history_and_no_unknown_model(found: Rooms) -> None:
    history = [{"role": "system", "content": "x"}, 3, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert [each.content for each in afm.conversation(history, "the cat")] == ["hi", "the cat"]
    with pytest.raises(UserError, match="who answers: got"):
        opened(found, "afm", afm.Speakers).speaker("/etc")


# 03


def test_curves_and_what_if_of_a_patient(found: Rooms) -> None:
    model, patients = opened(found, "deep-ssm", deep_ssm.open_first), opened(found, "deep-ssm", deep_ssm.open_patients)
    picture, rows = deep_ssm.curves(model, patients, patients.ids[0])
    assert picture.size[0] > 300
    assert [row[0] for row in rows] == [event.name for event in patients.events]
    picture, words = deep_ssm.whatif(model, patients, patients.ids[0], 1, 0, 3)
    assert "treated in slots 0 to 2" in words and words.endswith("no trial stands behind it.")
    for patient, strength, start, end, line in [
        ("nobody", 1, 0, 3, "patient: got"),
        (None, 1, 0, 3, "patient: got"),
        (patients.ids[0], 2, 0, 3, "strength: got"),
        (patients.ids[0], 1, 3, 3, "need the first below the second"),
        (patients.ids[0], 1, 0, 9999, "to slot: got"),
    ]:
        with pytest.raises(UserError, match=line):
            deep_ssm.whatif(model, patients, patient, strength, start, end)


# 04


def test_outlook_of_a_subject_with_variables_hidden(found: Rooms) -> None:
    learned = opened(found, "meta-forecast", meta_forecast.Learned)
    subject, variables = learned.histories.ids[0], learned.opened.inputs.variables
    picture, words = meta_forecast.outlook(learned, subject, [])
    assert picture.size[0] > 300 and words.startswith("P(")
    _, hidden = meta_forecast.outlook(learned, subject, list(variables))
    assert hidden.splitlines()[1].startswith("without ")
    tasks = meta_forecast.chosen_tasks(learned)
    assert tasks is not None and tasks.size[0] > 300
    for name, gone in [("nobody", []), (subject, ["nothing"]), (subject, [3])]:
        with pytest.raises(UserError, match="got"):
            meta_forecast.outlook(learned, name, gone)


# 05


def test_a_plan_and_texts_weighed_by_the_models(found: Rooms, deadline: Deadline) -> None:
    cells, notes = moe_vs_dense.planned("6.4B", "h100", 256, 64, 4, 2)
    assert cells[0] == ["", "6.4B", "6.4B/64E"] and "256 x H100" in notes
    models = opened(found, "moe-vs-dense", moe_vs_dense.Models)
    rows = moe_vs_dense.weighed(models, "the cat sat on a mat", deadline)
    assert {"dense-16-seconds-seed0", "moe-half-16-seconds-seed0"} <= {row[0] for row in rows}
    assert [float(row[3]) for row in rows] == sorted(float(row[3]) for row in rows)
    with pytest.raises(UserError, match="text: got nothing"):
        moe_vs_dense.weighed(models, " ", deadline)


@pytest.mark.parametrize(
    "given",
    [("6.5B", "h100", 8, 8, 4, 2), ("6.4B", "h1", 8, 8, 4, 2), ("6.4B", "h100", 0, 8, 4, 2), ("6.4B", "h100", 8, 10**9, 4, 2),
     ("6.4B", "h100", 8, 8, 0, 2), ("6.4B", "h100", 8, 8, 4, 99), ("6.4B", "h100", None, 8, 4, 2)],
)  # fmt: skip
def test_a_plan_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match="got"):
        moe_vs_dense.planned(*given)


# 06


def test_a_graph_answers_with_paths(found: Rooms) -> None:
    reasoner = opened(found, "kg-ssrl", kg_ssrl.open_reasoner)
    head, relation = kg_ssrl.examples(reasoner)[0]
    page, words = kg_ssrl.ask(reasoner, head, relation, 3, True)
    assert page.startswith("<!doctype html>") and words.startswith("1. ")
    for given, line in [
        ((HOSTILE, relation, 3, True), "unknown entity"),
        ((head, HOSTILE, 3, True), "unknown relation"),
        (("", relation, 3, True), "head: got nothing"),
        ((head, relation, 0, True), "answers: got"),
        ((head, relation, 1000, False), "answers: got"),
    ]:
        with pytest.raises(UserError, match=line):
            kg_ssrl.ask(reasoner, *given)


# 07


def test_a_game_of_taboo_in_both_roles(found: Rooms) -> None:
    table = opened(found, "spag", spag.Table)
    game = spag.begin(table, "defender", 0)
    chat, where = spag.told(game)
    if game.to_move is not None:
        assert [turn["role"] for turn in chat] == ["assistant"] and "You are the defender" in where
        assert game.word not in where
    game = spag.begin(table, "attacker", 0)
    assert game.turns == () and game.word in spag.told(game)[1]
    game = spag.go_on(game, f"what do you eat? {HOSTILE}")
    chat, where = spag.told(game)
    assert chat[0]["role"] == "user" and "\x1b" not in chat[0]["content"]
    while game.to_move is not None:
        game = spag.go_on(game, "what do you drink?")
    assert f"The word was {game.word}." in spag.told(game)[1]
    with pytest.raises(UserError, match="has ended"):
        spag.go_on(game, "more")
    assert len(chat[0]["content"]) < SHOWN


def test_saying_the_word_ends_the_game(found: Rooms) -> None:
    game = spag.begin(opened(found, "spag", spag.Table), "attacker", 3)
    game = spag.go_on(game, f"it is {game.word}")
    assert game.to_move is None and "attacker" in spag.told(game)[1]


@pytest.mark.parametrize(("text", "line"), [("", "your words: got nothing"), ("a" * 301, "at most 300"), (None, "got nothing")])  # fmt: skip
def test_taboo_refuses(found: Rooms, text: Any, line: str) -> None:
    table = opened(found, "spag", spag.Table)
    with pytest.raises(UserError, match=line):
        spag.go_on(spag.begin(table, "attacker", 0), text)
    with pytest.raises(UserError, match="role: got"):
        spag.begin(table, "referee", 0)
    with pytest.raises(UserError, match="no game yet"):
        spag.go_on(None, "hello")


# 08


def saved(path: Path, picture: Any, form: str = "PNG") -> str:
    Image.fromarray(picture).save(path, format=form)
    return str(path)


def test_a_picture_is_asked_about(found: Rooms, tmp_path: Path) -> None:
    model = opened(found, "mm1", mm1.find_model)
    picture, question = mm1.drawn(3)
    assert picture.shape == (mm1.SIDE, mm1.SIDE, 3) and question.endswith("?")
    assert (mm1.drawn(3)[0] == picture).all() and not (mm1.drawn(4)[0] == picture).all()
    read = mm1.read_picture(saved(tmp_path / "a.png", picture))
    assert (read == picture).all()
    answer = mm1.ask(model, read, question, 0)
    assert answer and answer == mm1.ask(model, read, question, 0) and answer.isprintable()
    assert mm1.ask(model, read, f"<image>{HOSTILE}\n\nQuestion: x", 0).isprintable()


def test_pictures_that_are_refused(tmp_path: Path) -> None:
    small = np.zeros((8, 8, 3), np.uint8)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(Path(saved(tmp_path / "b.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))).read_bytes()[:900])  # fmt: skip
    (tmp_path / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * (8 << 20))
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, format="PNG")
    (tmp_path / "bomb.png").write_bytes(bomb.getvalue())
    (tmp_path / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    for file in ("text.png", "cut.png", "large.png", "bomb.png", "page.svg", "absent.png", ""):
        with pytest.raises(UserError):
            mm1.read_picture(str(tmp_path / file))
    for other in (None, 3, ["a"], saved(tmp_path / "g.gif", small, "GIF")):
        with pytest.raises(UserError):
            mm1.read_picture(other)


# 09


def test_tools_are_decided_about(found: Rooms) -> None:
    folder = deer.own_model(found["deer"].run)
    chances, words = deer.decide(folder, deer.read_tools(deer.TOOLS), deer.EXAMPLES[0])
    assert sum(chances.values()) == pytest.approx(1) and words
    hostile = json.dumps([{"name": "x", "description": HOSTILE, "inputSchema": {"type": "object"}}])
    deer.decide(folder, deer.read_tools(hostile), HOSTILE)
    with pytest.raises(UserError, match="query: got nothing"):
        deer.decide(folder, deer.read_tools(deer.TOOLS), "")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "[3]", '["def f("]', "[" * 20_000, "a" * 40_001, '{"openapi": "3.0.0", "servers": [{"url": "http://127.0.0.1"}], "paths": {}}',
        json.dumps([{"name": "a"}] * 2), json.dumps([{"name": "", "inputSchema": {}}]), json.dumps([{"name": "a", "inputSchema": {"type": "string"}}]),
        json.dumps([{"name": f"t{i}", "inputSchema": {"type": "object"}} for i in range(65)]), None, 3,
    ],
)  # fmt: skip
def test_bad_tools_are_one_line(text: Any) -> None:
    with pytest.raises(UserError) as error:
        deer.read_tools(text)
    assert "tools" in str(error.value)


def test_tools_of_a_page_cannot_be_run() -> None:
    assert all(tool.fn is None for tool in deer.read_tools(deer.TOOLS))
    assert deer.days_between("2024-02-01", "2024-03-01") == 29
    assert (deer.multiply(6, 7), deer.count_letter("Strawberry", "R"), deer.fahrenheit(100)) == (42, 3, 212)


# 10


def test_a_prompt_is_improved_live(tmp_path: Path, deadline: Deadline) -> None:
    (tmp_path / "secret").write_text("secret")
    prompt = f"@{tmp_path / 'secret'}"  # a file on the command line, words and no more on a page
    asked = abo.asked_of("sim/navigate", "abo", prompt, 800, 0)
    seen: list[list[dict[str, Any]]] = []
    result = abo.search(asked, tmp_path / "run", deadline, seen.append)
    assert result.candidates[0].text == prompt
    rows, curve = abo.told(seen[-1], asked.start[0])
    assert curve is not None and rows[0][0].endswith("%")
    assert "given" in {row[1] for row in abo.told(seen[-1], asked.start[0])[0]} or len(rows) == abo.SHOWN
    assert result.best.text and "%" in abo.ending(result)
    assert abo.told([], "x") == ([], None)


@pytest.mark.parametrize(
    "given",
    [("bbh/navigate", "abo", "x", 800, 0), ("sim/navigate", "few-shot-cot", "x", 800, 0), ("sim/navigate", "abo", "", 800, 0),
     ("sim/navigate", "abo", "x" * 1001, 800, 0), ("sim/navigate", "abo", "x", 10**9, 0), ("sim/navigate", "abo", "x", 800, None)],
)  # fmt: skip
def test_a_search_refuses(given: tuple[Any, ...]) -> None:
    with pytest.raises(UserError, match="got"):
        abo.asked_of(*given)
