"""The file of replies: what goes in comes out, from many processes, after a kill, and never from a foreign file."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.text.messages import Message, Reply, Sampling, ToolCall, Usage
from tenfold.text.reply_store import ReplyStore, request_key

WHOLE = Reply("é\x00\n", "length", Usage(3, 4, True), (ToolCall("1", "f", "{}"),), (1, 2), (-0.1, -1e-9), seconds=0.25)
PLAIN = Reply("ok", "stop", Usage(1, 1))
KEY = request_key("m", [Message("user", "hello")], Sampling())


def stored(reply: Reply) -> Reply:
    return dataclasses.replace(reply, cached=True)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "replies?.db"
    store = ReplyStore(path)
    assert store.get(KEY, 1) is None
    assert store.put(KEY, [WHOLE, PLAIN]) == [WHOLE, PLAIN]
    for each in (store, ReplyStore(path), ReplyStore(path, read_only=True)):
        assert each.get(KEY, 2) == [stored(WHOLE), stored(PLAIN)]
        assert each.get(KEY, 1) == [stored(WHOLE)]
        assert each.get(KEY, 3) is None


def test_the_first_reply_stands(tmp_path: Path) -> None:
    one, two = ReplyStore(tmp_path / "r.db"), ReplyStore(tmp_path / "r.db")
    one.put(KEY, [PLAIN])
    other = dataclasses.replace(PLAIN, text="other")
    assert two.put(KEY, [other, other]) == [stored(PLAIN), other]
    assert one.get(KEY, 2) == two.get(KEY, 2) == [stored(PLAIN), stored(other)]


def test_models_are_noted(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "r.db")
    store.add_model("id", "name")
    store.add_model("id", "name")
    assert ReplyStore(tmp_path / "r.db", read_only=True).models() == {"id": "name"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Sampling)])
def test_every_field_of_the_sampling_is_in_the_key(field: str) -> None:
    other: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.5, "top_k": 3, "max_tokens": 9, "min_tokens": 1, "stop": ("x",), "seed": 0, "logprobs": True,
        "response_format": {"type": "json_object"}, "tools": ({"a": 1},), "tool_choice": "auto", "choices": ("a",),
        "presence_penalty": 1.0, "frequency_penalty": 1.0, "logit_bias": {"1": 1.0},
    }  # fmt: skip
    needed: dict[str, Any] = {"tools": ({"a": 1},)} if field == "tool_choice" else {}
    keys = [request_key("m", [], Sampling(**needed)), request_key("m", [], Sampling(**{**needed, field: other[field]}))]
    assert keys[0] != keys[1]


def test_every_part_of_the_request_is_in_the_key() -> None:
    call = ToolCall("1", "f", "{}")
    conversations = [
        [],
        [Message("user", "ab")],
        [Message("system", "ab")],
        [Message("user", "a"), Message("user", "b")],
        [Message("user", "ab", images=(b"\x89PNG",))],
        [Message("user", "ab", images=("data:image/png;base64,iVBORw==",))],
        [Message("assistant", "ab", tool_calls=(call,))],
        [Message("assistant", "ab", tool_calls=(dataclasses.replace(call, arguments="{ }"),))],
        [Message("tool", "ab", tool_call_id="1")],
        [Message("tool", "ab")],
    ]
    keys = {request_key(identity, row, Sampling()) for row in conversations for identity in ("m", "n")}
    assert len(keys) == 2 * len(conversations)
    assert request_key("m", [], Sampling(temperature=1)) == request_key("m", [], Sampling(temperature=1.0))


def test_the_key_by_its_gold_value() -> None:
    """Gold value: a change of the key's form makes every store worthless, so it is never an accident."""
    assert KEY.hex() == "a3335fe7ee4460e1c21b7352a59216ac3e1a096495e6a7bc3c22a9041a3f83db"


def sabotage(path: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(path) as database:
        database.execute(statement, values)
    database.close()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"text": 5}', "[" * 100_000, "x" * 100])
def test_a_damaged_entry_is_asked_again_and_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.db"
    ReplyStore(path).put(KEY, [PLAIN, PLAIN])
    sabotage(path, "UPDATE replies SET reply = ? WHERE draw = 0", text)
    store = ReplyStore(path)
    assert store.get(KEY, 1) is None
    new = dataclasses.replace(PLAIN, text="new")
    store.put(KEY, [new])
    assert ReplyStore(path).get(KEY, 2) == [stored(new), stored(PLAIN)]


def test_draws_after_one_that_is_gone_do_not_take_its_place(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    ReplyStore(path).put(KEY, [PLAIN, WHOLE])
    sabotage(path, "DELETE FROM replies WHERE draw = 0")
    assert ReplyStore(path).get(KEY, 1) is None


def test_wrong_types_in_an_entry_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    ReplyStore(path).put(KEY, [WHOLE])
    for old, new in (
        ('"length"', "7"),
        ('"name": "f"', '"name": null'),
        ("[1, 2]", '["a"]'),
        ("0.25", "[]"),
        ('"prompt": 3', '"prompt": {}'),
    ):
        broken = tmp_path / "broken.db"
        shutil.copy(path, broken)
        sabotage(broken, "UPDATE replies SET reply = replace(reply, ?, ?)", old, new)
        assert ReplyStore(broken).get(KEY, 1) is None, old


def test_an_entry_beyond_all_size_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ReplyStore(tmp_path / "r.db").put(KEY, [PLAIN])
    monkeypatch.setattr("tenfold.text.reply_store.LONGEST", 10)
    assert ReplyStore(tmp_path / "r.db").get(KEY, 1) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database at all, only text that is long enough", "is damaged or no store .*; move it away"),
        (b"SQLite format 3\x00" + b"\xff" * 4096, "is damaged or no store|cannot be used"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_files_that_are_no_database(tmp_path: Path, content: bytes, said: str, read_only: bool) -> None:
    path = tmp_path / "r.db"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        ReplyStore(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "r.db"
    sabotage(path, "CREATE TABLE replies (request, draw, reply)")
    before = path.read_bytes()
    with pytest.raises(UserError, match="is a database of another program; give another path"):
        ReplyStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    ReplyStore(tmp_path / "r.db")
    sabotage(tmp_path / "r.db", "PRAGMA user_version = 2")
    with pytest.raises(UserError, match="has version 2, need 1; update tenfold"):
        ReplyStore(tmp_path / "r.db")


def test_damage_inside_the_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    store = ReplyStore(path)
    for i in range(200):
        store.put(request_key(str(i), [], Sampling()), [dataclasses.replace(PLAIN, text="x" * 500)])
    store._connection.close()
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xaa" * (len(content) - 8192)
    path.write_bytes(content)

    def read_all() -> None:
        for i in range(200):
            ReplyStore(path).get(request_key(str(i), [], Sampling()), 1)

    with pytest.raises(UserError, match="damaged or no store") as caught:
        read_all()
    assert "\n" not in str(caught.value)


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "r.db"):
        with pytest.raises(UserError, match="cannot be used"):
            ReplyStore(path)
    with pytest.raises(UserError, match="cannot be used"):
        ReplyStore(tmp_path / "absent.db", read_only=True)
    assert not (tmp_path / "absent.db").exists()


WRITER = """
import os, sys
from tenfold.text.messages import *
from tenfold.text.reply_store import ReplyStore, request_key
name = sys.argv[1]
store = ReplyStore("r.db")
for i in range(30):
    [reply] = store.put(request_key(str(i), [], Sampling()), [Reply(name, "stop", Usage(1, 1))])
    print(i, reply.text)
if name == "killed":
    os.kill(os.getpid(), 9)
"""


def test_processes_write_one_file_and_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, name], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "killed")
    ]
    outputs = [writer.communicate(timeout=120)[0].splitlines() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, -9]
    assert outputs[0] == outputs[1]
    assert all(len(lines) == 30 for lines in outputs[:2])
    store = ReplyStore(tmp_path / "r.db")
    for i in range(30):
        (reply,) = store.get(request_key(str(i), [], Sampling()), 1) or []
        assert f"{i} {reply.text}" == outputs[0][i]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_the_file_anew(tmp_path: Path) -> None:
    code = """
    import os
    from tenfold.text.messages import *
    from tenfold.text.reply_store import ReplyStore
    store = ReplyStore("r.db")
    before = store._connection
    if os.fork() == 0:
        store.put(b"key", [Reply("child", "stop", Usage(1, 1))])
        os._exit(7 if store._connection is not before else 1)
    print(os.waitstatus_to_exitcode(os.wait()[1]), store.get(b"key", 1)[0].text)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout.strip() == "7 child", run.stderr


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.text.reply_store.IN_MEMORY", 3)
    store = ReplyStore(tmp_path / "r.db")
    keys = [bytes([i]) for i in range(5)]
    for key in keys:
        store.put(key, [PLAIN])
    assert list(store._memory) == keys[2:]
    store.get(keys[2], 1)  # used now, so the next to go is another
    store.put(b"new", [PLAIN])
    assert list(store._memory) == [keys[4], keys[2], b"new"]
    assert all(store.get(key, 1) == [stored(PLAIN)] for key in keys)
