"""The SQLite file that replies are kept in: several processes write it, a foreign or damaged one is told in one line."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.text.messages import Message, Reply, Sampling, ToolCall, Usage

APPLICATION = int.from_bytes(b"tenf", "big")  # SQLite's mark of whose file it is
VERSION = 1
LONGEST = 32 << 20  # characters of a stored reply that are read
IN_MEMORY = 10_000  # requests whose replies are also kept in memory

_SCHEMA = f"""
CREATE TABLE replies (request BLOB, draw INTEGER, reply TEXT, PRIMARY KEY (request, draw));
CREATE TABLE models (identity TEXT PRIMARY KEY, name TEXT);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
_LATER = ("presence_penalty", "frequency_penalty", "logit_bias")


def request_key(identity: str, messages: Sequence[Message], sampling: Sampling) -> bytes:
    """The SHA-256 of a request: of the model, the messages and every field of the sampling.

    A field that is younger than the first stores counts only where it is set, so that their keys stay what they were.
    """
    drawn = {name: value for name, value in vars(sampling).items() if value or name not in _LATER}
    whole = [identity, list(messages), drawn]
    return hashlib.sha256(json.dumps(whole, default=_plain, sort_keys=True).encode()).digest()


class ReplyStore:
    """Replies by request and draw; safe from threads and processes.

    Args:
        path: the file, made where absent.
        read_only: never write; the file must exist.
    Raises:
        UserError: from here or any method: no such store, damaged, locked for long, or the disk is full.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._read_only = read_only
        self._memory: OrderedDict[bytes, list[Reply]] = OrderedDict()
        self._lock = threading.Lock()
        with self._lock:
            self._open()

    def get(self, request: bytes, n: int) -> list[Reply] | None:
        """The first n draws; None unless all are stored."""
        with self._lock:
            replies = self._memory.get(request, [])
            if len(replies) < n:
                with self._database() as database:
                    replies = self._remember(request, self._stored(database, request))
            else:
                self._memory.move_to_end(request)
        return replies[:n] if len(replies) >= n else None

    def put(self, request: bytes, replies: Sequence[Reply]) -> list[Reply]:
        """Store the draws that are not stored yet; returns each draw as it now stands."""
        with self._lock, self._database() as database:
            with database:
                database.execute("BEGIN IMMEDIATE")
                known = self._stored(database, request)
                rows = [(request, draw, _to_json(reply)) for draw, reply in enumerate(replies)][len(known) :]
                # REPLACE: a row that is there yet not known could not be read.
                database.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", rows)
            drawn = [*known, *replies[len(known) :]]
            self._remember(request, [replace(reply, cached=True) for reply in drawn])
        return drawn[: len(replies)]

    def add_model(self, identity: str, name: str) -> None:
        """Note whose replies the store holds."""
        with self._lock, self._database() as database:
            database.execute("INSERT OR IGNORE INTO models VALUES (?, ?)", (identity, name))

    def models(self) -> dict[str, str]:
        """Identity to name of the models whose replies are stored."""
        with self._lock, self._database() as database:
            return dict(database.execute("SELECT identity, name FROM models ORDER BY identity LIMIT 1000"))

    def _stored(self, database: sqlite3.Connection, request: bytes) -> list[Reply]:
        """The draws 0, 1, … up to the first that is absent or cannot be read."""
        query = "SELECT draw, reply FROM replies WHERE request = ? AND length(reply) <= ? ORDER BY draw"
        replies: list[Reply] = []
        for draw, text in database.execute(query, (request, LONGEST)):
            reply = _from_json(text)
            if draw != len(replies) or reply is None:
                break
            replies.append(reply)
        return replies

    def _remember(self, request: bytes, replies: list[Reply]) -> list[Reply]:
        if replies:
            self._memory[request] = replies
            self._memory.move_to_end(request)
            if len(self._memory) > IN_MEMORY:
                self._memory.popitem(last=False)
        return replies

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._told():
            if self._process != os.getpid():  # SQLite forbids to carry a connection over a fork
                self._open()
            yield self._connection

    def _open(self) -> None:
        with self._told():
            if not self._read_only:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "ro" if self._read_only else "rwc"
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=60,
                isolation_level=None,
                check_same_thread=False,
            )
            self._process = os.getpid()
            self._connection.execute("PRAGMA trusted_schema = OFF")
            if not self._read_only:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")  # two processes may be making the file
                    if not self._value("SELECT count(*) FROM sqlite_master") and not self._value(
                        "PRAGMA application_id"
                    ):
                        for statement in _SCHEMA.strip().split("\n"):
                            self._connection.execute(statement)
            if self._value("PRAGMA application_id") != APPLICATION:
                raise UserError(f"replies: {self.path} is a database of another program; give another path")
            if (version := self._value("PRAGMA user_version")) > VERSION:
                raise UserError(f"replies: {self.path} has version {version}, need {VERSION}; update tenfold")
            if not self._read_only:
                self._connection.execute("PRAGMA journal_mode = WAL")
                # A power cut may take the last replies, never the file: they are asked again.
                self._connection.execute("PRAGMA synchronous = NORMAL")

    def _value(self, query: str) -> int:
        return int(self._connection.execute(query).fetchone()[0])

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(f"replies: {self.path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"replies: {self.path} is damaged or no store ({error}); move it away") from error
        except OSError as error:
            raise UserError(f"replies: {self.path} cannot be used: {error.strerror}") from error


def _plain(value: Any) -> Any:
    """What JSON cannot write by itself."""
    if isinstance(value, Message | ToolCall):
        return vars(value)
    assert isinstance(value, bytes)  # a picture
    return {"bytes": base64.b64encode(value).decode()}


def _to_json(reply: Reply) -> str:
    row = {**vars(reply), "usage": vars(reply.usage), "tool_calls": [vars(call) for call in reply.tool_calls]}
    del row["cached"]
    return json.dumps(row)


def _from_json(text: str) -> Reply | None:
    """A stored reply; None where the text is not one."""
    try:
        row = json.loads(text)
        reply = Reply(
            row["text"],
            row["finish_reason"],
            Usage(int(row["usage"]["prompt"]), int(row["usage"]["completion"]), bool(row["usage"]["estimated"])),
            tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in row["tool_calls"]),
            None if row["token_ids"] is None else tuple(map(int, row["token_ids"])),
            None if row["logprobs"] is None else tuple(map(float, row["logprobs"])),
            cached=True,
            seconds=float(row["seconds"]),
        )
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        return None
    words = [reply.text, reply.finish_reason, *(word for call in reply.tool_calls for word in vars(call).values())]
    return reply if all(isinstance(word, str) for word in words) else None
