"""Files of the paper's authors: round trips, both JSON forms under either name, and what is wrong with some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.games.credit import GameRow
from tenfold.games.files import (
    load_lexicon,
    load_official_games,
    load_sft,
    load_target_words,
    load_training_rows,
    official_game,
    save_training_rows,
    write_rows,
)
from tenfold.text.messages import Message

GAMES = [
    {
        "history": [
            {"role": "attacker", "content": "It grows\non trees."},
            {"role": "defender", "content": "An apple?"},
            {"role": "attacker", "content": "late"},
        ],
        "target_word": "apple",
        "max_turns": 5,
    },
    {"history": [], "target_word": "pear", "max_turns": 3},
]


@pytest.mark.parametrize("name", ["games.json", "games.jsonl"])
def test_official_games_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_rows(GAMES, path)
    episodes = load_official_games(path)
    assert [official_game(episode) for episode in episodes] == GAMES
    assert [(e.verdict.outcome, e.verdict.length) for e in episodes] == [("attacker wins", 2), ("tied game", 0)]
    assert episodes[0].speakers == {"attacker": name, "defender": name}
    other = path.with_suffix(".json" if name.endswith("l") else ".jsonl")
    path.rename(other)  # a wrong name does not matter
    assert [official_game(episode) for episode in load_official_games(other)] == GAMES


def test_games_on_one_word_are_told_apart(tmp_path: Path) -> None:
    write_rows([*GAMES, *GAMES], tmp_path / "games.json")
    assert len({episode.id for episode in load_official_games(tmp_path / "games.json")}) == 4


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_training_rows_round_trip(name: str, tmp_path: Path) -> None:
    rows = [
        GameRow("told", "said", 0.25, "attacker", 1.5),
        GameRow((Message("system", "rules"), Message("user", "hm")), "said", -1.0, "defender"),
        GameRow("question", "answer", sft=True),
    ]
    save_training_rows(rows, tmp_path / name)
    assert load_training_rows(tmp_path / name) == rows
    assert load_sft(tmp_path / name)[2] == rows[2]


def test_rows_have_the_authors_columns(tmp_path: Path) -> None:
    save_training_rows(
        [GameRow("told", "said", 0.25, "attacker", 1.5), GameRow("q", "a", sft=True)], tmp_path / "r.json"
    )
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {"query": "told", "target": "said", "reward": 0.25, "role": "attacker", "weight": 1.5},
        {"query": "q", "target": "a", "type": "sft", "weight": 1.0},
    ]


def test_fine_tuning_rows_of_every_kind(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add {input}.", "input": "1 and 2", "output": " 3 "},
        {"instruction": "Sing.", "input": "", "output": "La"},
        {"instruction": "Say nothing.", "input": "", "output": " "},
        {"prompt": "p", "answer": "a"},
        {"query": "q", "target": "t"},
    ]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)))
    alpaca, plain, *others = load_sft(tmp_path / "sft.jsonl")
    assert alpaca.target == "3" and alpaca.sft
    assert alpaca.query.endswith("### Instruction:\nAdd {input}.\n\n### Input:\n1 and 2\n\n### Response:")  # type: ignore[union-attr]
    assert plain.query.endswith("### Instruction:\nSing.\n\n### Response:") and "Input" not in plain.query  # type: ignore[union-attr]
    assert others == [GameRow("p", "a", sft=True), GameRow("q", "t", sft=True)]


def test_instructions_with_several_instances_and_as_a_chat(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "instances": [{"input": "1 and 2", "output": "3"}, {"input": "", "output": "0"}]},
        {"instruction": "Sing.", "output": "La"},
    ]
    (tmp_path / "sft.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain, chat = load_sft(tmp_path / "sft.jsonl"), load_sft(tmp_path / "sft.jsonl", chat=True)
    assert [row.target for row in plain] == [row.target for row in chat] == ["3", "0", "La"]
    assert [row.query for row in chat] == [
        (Message("user", "Add.\n\n1 and 2"),),
        (Message("user", "Add."),),
        (Message("user", "Sing."),),
    ]


def test_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("apple\n\n pear \napple\n")
    with pytest.warns(UserWarning, match="1 words come again"):
        assert load_target_words(path) == ["apple", "pear"]
    path.write_text("apple\npear")
    assert load_target_words(path, top=1) == ["apple"]


@pytest.mark.parametrize(
    ("load", "content", "message"),
    [
        (load_target_words, None, r"spag: no target words at .*; pass --words <file> \(one word per line\)"),
        (load_target_words, b" \n", "has no words"),
        (load_target_words, b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
        (load_lexicon, None, "file not found"),
        (load_lexicon, b'{"word": "a", "clues": []}', ":1: need a new word and clues"),
        (load_lexicon, b'{"word": "a", "clues": ["b"]}\n{"word": "a", "clues": ["c"]}', ":2: need a new word"),
        (load_official_games, b'[{"history": []', r"not JSON: .* \(byte 15\); is the file cut off\?"),
        (load_official_games, b'{"a": 1}\n{"b"', r":2: not JSON: .* \(byte 13\)"),
        (load_official_games, b"[1]", "row 1: got int, need an object"),
        (load_official_games, "[\u201c]".encode(), r"\(byte 1\)"),
        (load_official_games, b'[{"history": 3}]', "row 1: history: got int, need a list"),
        (load_official_games, b'[{"history": [{"role": "attacker"}]}]', "row 1: history: .*need role and content"),
        (load_official_games, b'[{"history": [], "target_word": "", "max_turns": 5}]', "row 1: target: got ''"),
        (load_official_games, b'[{"history": [], "target_word": "a", "max_turns": "5"}]', "row 1: max_turns: got '5'"),
        (load_official_games, b'[{"history": [{"role": "defender", "content": ""}], "target_word": "a", "max_turns": 5}]', "row 1: history: utterance 1: got role 'defender'"),
        (load_official_games, b"[" * 100_000, "not JSON"),
        (load_training_rows, b'[{"query": "a"}]', r"need query \(or prompt\) and target \(or answer\)"),
        (load_training_rows, b'[{"query": "a", "target": "b", "reward": "x"}]', "need query"),
        (load_training_rows, b'[{"query": [{"role": "x"}], "target": "b"}]', "need query"),
        (load_sft, b'[{"instruction": 1, "output": "b"}]', "instruction, input, output: need texts"),
        (load_sft, b'[{"instruction": "a", "instances": [7, {"output": 1}]}]', "instruction, input, output: need texts"),
        (load_training_rows, b'[{"query": "a", "target": "b", "reward": NaN}]', "reward, weight: got nan, 1.0, need finite"),
        (load_training_rows, b'[{"query": "a", "target": "b", "weight": 1' + b"0" * 400 + b"}]", "need query"),
        (load_sft, b'[{"instruction": "a", "output": " "}]', "no row has an answer"),
        (load_sft, b"\xff", r"is not UTF-8 \(byte 0\)"),
    ],
)  # fmt: skip
def test_faulty_files(load: Callable, content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
