"""Transcripts on disk: one finished episode a line, appended as it ends, whole after a crash at any moment."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from tenfold.core.errors import UserError
from tenfold.games.game import Episode, Turn, Verdict

VERSION = 1
SYNC_EVERY = 2.0  # seconds that a power cut can cost


class TranscriptStore:
    """A JSON Lines file of episodes with one writer and any number of readers.

    A last line that a crash left torn is dropped. Every line reaches the system when it is added and the disk at most
    two seconds later. Only the ids are held in memory; iterating reads the file.

    Args:
        path: the file, made where absent.
        read_only: open it without the writer's lock; it must exist.
    Raises:
        UserError: another process writes it, a damaged line before the last, a newer version, or no such file.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path, self.read_only = Path(path), read_only
        self._file: BinaryIO | None = None
        if read_only:
            if not self.path.is_file():
                raise UserError(f"transcripts not found: {self.path}; play games first")
            self._lock = None
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), blocking=False)
            try:
                self._lock.acquire()
            except Timeout:
                raise UserError(
                    f"{self.path}: another process writes it; wait for its end or take another file"
                ) from None
        try:
            self._ids = {str(row["id"]) for _, row in self._rows()}
            if not read_only:
                self._open()
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __iter__(self) -> Iterator[Episode]:
        for line, row in self._rows():
            yield episode_of(row, f"{self.path}:{line}")

    def add(self, episode: Episode) -> None:
        """Append an episode.

        Raises:
            ValueError: the store holds one of this id, is closed or read only.
        """
        if self._file is None:
            raise ValueError(f"store: got {self.path} closed or read only, need it open for writing")
        if episode.id in self._ids:
            raise ValueError(f"id: got {episode.id}, need one that {self.path} does not hold")
        self._file.write((json.dumps(row_of(episode), ensure_ascii=False) + "\n").encode())
        self._file.flush()
        self._ids.add(episode.id)
        if time.monotonic() - self._synced > SYNC_EVERY:
            self._sync()

    def close(self) -> None:
        """Bring everything to the disk and let another writer in."""
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> TranscriptStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        file = open(self.path, "ab")  # noqa: SIM115 - closed by `close`
        self._file, self._synced = file, time.monotonic()
        if file.tell() > self._whole:
            warnings.warn(f"{self.path}: its last line was torn by a crash and is dropped", stacklevel=3)
            file.truncate(self._whole)

    def _sync(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line numbers and objects of all whole lines."""
        self._whole = 0  # bytes of them
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield number, _parsed(line, f"{self.path}:{number}")
                self._whole += len(line)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {' '.join(str(error).split())[:80]}; the file is damaged") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise UserError(f"{where}: no episode: it lacks an id; the file is damaged or no store of transcripts")
    version = row.get("version")
    if version != VERSION:
        raise UserError(f"{where}: version {version!r}, this tenfold reads {VERSION}; use the one that wrote it")
    return row


def row_of(episode: Episode) -> dict[str, Any]:
    """The JSON object of an episode."""
    verdict = episode.verdict
    span = None if verdict.span is None else list(verdict.span)
    return {
        "id": episode.id,
        "game": episode.game,
        "setup": dict(episode.setup),
        "seed": episode.seed,
        "speakers": dict(episode.speakers),
        "turns": [_turn_row(turn) for turn in episode.turns],
        "verdict": {"outcome": verdict.outcome, "length": verdict.length, "reason": verdict.reason, "span": span},
        "version": VERSION,
    }


def _turn_row(turn: Turn) -> dict[str, Any]:
    """Its fields; tokens only where they were kept."""
    fields = vars(turn).items()
    return {name: value for name, value in fields if value is not None or name not in ("token_ids", "logprobs")}


def episode_of(row: Mapping[str, Any], where: str = "episode") -> Episode:
    """The episode of a JSON object.

    Raises:
        UserError: fields are missing or of another kind.
    """
    try:
        turns = tuple(_turn(each) for each in row["turns"])
        said = row["verdict"]
        span = None if said["span"] is None else (int(said["span"][0]), int(said["span"][1]))
        verdict = Verdict(str(said["outcome"]), int(said["length"]), str(said["reason"]), span)
        speakers = {str(role): str(name) for role, name in row["speakers"].items()}
        return Episode(row["id"], str(row["game"]), dict(row["setup"]), int(row["seed"]), speakers, turns, verdict)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{where}: no whole episode ({type(error).__name__}: {error}); the file is damaged") from None


def _turn(row: Mapping[str, Any]) -> Turn:
    for name in ("role", "text"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} of a turn is no text")
    ids, logs = row.get("token_ids"), row.get("logprobs")
    total = row.get("logprob_sum")
    return Turn(
        row["role"],
        row["text"],
        int(row.get("n_prompt", 0)),
        int(row.get("n_new", 0)),
        None if total is None else float(total),
        str(row.get("finish", "stop")),
        None if ids is None else tuple(map(int, ids)),
        None if logs is None else tuple(map(float, logs)),
    )
