"""The text of a run: sources, their cleaning and split, one tokenizer, and token files that the run keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.core import packed
from tenfold.core.atomic import write_atomic
from tenfold.core.config import read_json
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.core.stream import Batcher, Mixture, Stream
from tenfold.recipes.afm.config import Data, Mix, Stage
from tenfold.text.corpus import Document, TokenWindows, english_texts, load_texts, split, stdlib_source
from tenfold.text.decontaminate import default_benchmarks
from tenfold.text.pipeline import PrepareConfig, prepare
from tenfold.text.token_file import read_tokens, write_tokens
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

ENGLISH = "02-afm/text"  # where the English texts lie below TENFOLD_DATA or the cache
GSM8K = "02-afm/gsm8k_train.jsonl.gz"
PIECE = 20_000  # characters: longer documents are cut into about chapters, so that the cleaning steps see those
VALIDATION = 0.05
# The limits on words are for prose: code and sums would not pass.
CLEANING = PrepareConfig(quality_exempt=("*.py", "*gsm8k*"))
FOREIGN_CHARACTERS = 60_000  # of the text that no source resembles


@dataclass(frozen=True)
class Corpus:
    """What the stages read.

    Args:
        source: what was read, in words, for the report.
        tokenizer: of all sources.
        train, validation: token ids (N,) of each source that is present.
        foreign: text of another kind than all sources, to validate on only; None where there is none.
        steps: what each cleaning step dropped, for the report.
    """

    source: str
    tokenizer: Tokenizer
    train: dict[str, NDArray[np.unsignedinteger]]
    validation: dict[str, NDArray[np.unsignedinteger]]
    foreign: str | None
    steps: list[dict[str, Any]]

    def shares(self, mix: Mix) -> dict[str, float]:
        """Share of each source that is present, summing to 1.

        Raises:
            UserError: none of the mixture's sources is present.
        """
        wanted = {name: getattr(mix, name) for name in self.train if getattr(mix, name) > 0}
        if not wanted:
            raise UserError(f"mix: none of its sources is there; present: {', '.join(self.train)}")
        total = sum(wanted.values())
        return {name: share / total for name, share in wanted.items()}

    def batches(self, stage: Stage, seed: int, *, rank: int = 0, world: int = 1) -> Stream:
        """Endless batches of a stage: every row from one source, the sources in the exact ratio of the mixture."""
        shares = self.shares(stage.mix)
        rows = [TokenWindows(self.train[name], stage.length, 1, seed + n) for n, name in enumerate(shares)]
        mixture = Mixture(rows, list(shares.values()), seed)
        return Batcher(mixture, stage.rows, collate=join, rank=rank, world=world)

    def validation_rows(self, name: str, length: int, most: int) -> Tensor:
        """Rows of length + 1 validation tokens of a source, at most so many, spread evenly over it; int64.

        Raises:
            UserError: less text than one row.
        """
        try:
            return windows(self.validation[name], length, most)
        except ValueError:
            held_out = len(self.validation[name])
            raise UserError(
                f"text: {held_out} tokens of {name} to validate on, need {length + 1}; give more text"
            ) from None


def windows(ids: NDArray[np.integer], length: int, most: int | None = None) -> Tensor:
    """Rows of length + 1 tokens that overlap by one, int64 (rows, length + 1).

    Args:
        most: rows at most, spread evenly; None takes all.
    Raises:
        ValueError: fewer tokens than one row.
    """
    count = (len(ids) - 1) // length
    if count < 1:
        raise ValueError(f"ids: got {len(ids)} tokens, need at least {length + 1}")
    starts = np.unique(np.linspace(0, count - 1, min(count, most or count)).astype(np.int64)) * length
    return torch.from_numpy(ids[starts[:, None] + np.arange(length + 1)].astype(np.int64))


def join(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of one row into one batch."""
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def find_text(data: Data) -> None:
    """Refuse text that is not there or cannot be read.

    Raises:
        UserError: which, and what to do.
    """
    if data.tokenizer is not None:
        vocabulary = Tokenizer.load(data.tokenizer).vocab_size
        for path in data.text if data.tokens else ():
            read_tokens(path, vocab_size=vocabulary)
    if data.source == "english":
        data_path(ENGLISH)
    elif data.source == "files" and not data.tokens:
        load_texts(data.text)


def write_corpus(data: Data, folder: Path) -> None:
    """Read, split, clean and encode the text, and leave it in `folder` for `open_corpus`.

    Token files of the user stay where they are.

    Raises:
        UserError: text not found or empty, a tokenizer of another vocabulary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if data.tokens:
        assert data.tokenizer is not None
        tokenizer = Tokenizer.load(data.tokenizer)
        for path in data.text:
            read_tokens(path, vocab_size=tokenizer.vocab_size)
        source = f"token files {', '.join(path.name for path in data.text)}"
        _write_index(folder, tokenizer, source, {"prose": [str(path.resolve()) for path in data.text]})
        return
    source, documents = _sources(data)
    parts = {name: split(found, VALIDATION) for name, found in documents.items()}
    train = {name: _thin(_pieces(first), data.megabytes) for name, (first, _) in parts.items()}
    held_out = {name: _thin(_pieces(last), VALIDATION * data.megabytes) for name, (_, last) in parts.items()}
    steps: list[dict[str, Any]] = []
    if data.clean:
        train, steps = _clean(train)
    if data.tokenizer is None:
        texts = [document.text for found in train.values() for document in found]
        tokenizer = train_tokenizer(texts, data.vocabulary)
    else:
        tokenizer = Tokenizer.load(data.tokenizer)
    for name in train:
        for kind, found in (("train", train[name]), ("validation", held_out[name])):
            write_tokens(folder / f"{kind}-{name}.bin", encoded(found, tokenizer), tokenizer.vocab_size)
    _write_index(folder, tokenizer, source, {name: [] for name in train}, steps, _foreign(data))


def open_corpus(folder: Path) -> Corpus:
    """What `write_corpus` left; token ids are mapped from their files."""
    tokenizer = Tokenizer.load(folder)
    index = read_json(folder / "corpus.json")
    train: dict[str, NDArray[np.unsignedinteger]] = {}
    validation: dict[str, NDArray[np.unsignedinteger]] = {}
    for name, files in index["files"].items():
        if files:
            ids = [read_tokens(path, vocab_size=tokenizer.vocab_size) for path in files]
            cuts = [round(len(part) * (1 - VALIDATION)) for part in ids]
            train[name] = _joined([part[:cut] for part, cut in zip(ids, cuts, strict=True)])
            validation[name] = _joined([part[cut:] for part, cut in zip(ids, cuts, strict=True)])
        else:
            train[name] = read_tokens(folder / f"train-{name}.bin", vocab_size=tokenizer.vocab_size)
            validation[name] = read_tokens(folder / f"validation-{name}.bin", vocab_size=tokenizer.vocab_size)
    return Corpus(index["source"], tokenizer, train, validation, index["foreign"], index["steps"])


def characters() -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Shakespeare by characters: ids of the first 90 % to train on, of the last 10 % to validate on, their number.

    Raises:
        UserError: the file is absent.
    """
    text = data_path(f"{ENGLISH}/shakespeare.txt").read_text(encoding="utf-8")
    alphabet = sorted(set(text))
    number = {character: i for i, character in enumerate(alphabet)}
    ids = np.array([number[character] for character in text])
    cut = int(0.9 * len(ids))
    return ids[:cut], ids[cut:], len(alphabet)


def _joined(parts: list[NDArray[np.unsignedinteger]]) -> NDArray[np.unsignedinteger]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _write_index(
    folder: Path,
    tokenizer: Tokenizer,
    source: str,
    files: dict[str, list[str]],
    steps: Sequence[dict[str, Any]] = (),
    foreign: str | None = None,
) -> None:
    """The tokenizer, and what `open_corpus` must know; a source without files of the user lies in the folder."""
    tokenizer.save(folder)
    index = {"source": source, "steps": list(steps), "files": files, "foreign": foreign}
    write_atomic(folder / "corpus.json", json.dumps(index, ensure_ascii=False))


def _sources(data: Data) -> tuple[str, dict[str, list[Document]]]:
    if data.source == "files":
        return ", ".join(path.name for path in data.text), {"prose": load_texts(data.text)}
    code = {"code": stdlib_source()}
    if data.source == "stdlib" or (data.source == "auto" and not _present(ENGLISH)):
        return "source code of the running Python's standard library", code
    prose = english_texts(data_path(ENGLISH).parents[1])[0]
    words = "six novels, 2000 film reviews, source code of Python's standard library"
    if not _present(GSM8K):
        return words, {"prose": prose, **code}
    return f"{words}, GSM8K's training part", {"prose": prose, **code, "maths": grade_school_maths(data_path(GSM8K))}


def _present(name: str) -> bool:
    try:
        data_path(name)
    except UserError:
        return False
    return True


def grade_school_maths(path: Path) -> list[Document]:
    """Question and worked answer of every row as one text, without the calculator's marks (<<48/2=24>>).

    Raises:
        UserError: a damaged file, or a row without question and answer.
    """
    try:
        rows = [json.loads(line) for line in packed.unpacked(path).decode().splitlines()]
        texts = [f"{row['question']}\n{re.sub('<<.*?>>', '', row['answer'])}" for row in rows]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"text: {path} is not GSM8K in JSON lines ({type(error).__name__}); fetch it again") from error
    return [Document(text, path.name) for text in texts]


def _foreign(data: Data) -> str | None:
    """The start of WikiText-2's validation part; never trained on."""
    if data.source == "files" or not _present(ENGLISH):
        return None
    return english_texts(data_path(ENGLISH).parents[1])[1][0].text[:FOREIGN_CHARACTERS]


def _pieces(documents: Iterable[Document]) -> list[Document]:
    """Longer documents in pieces that end before an empty line, or else a line end or a space, in their second half."""
    pieces = []
    for document in documents:
        rest = document.text
        while len(rest) > PIECE:
            found = (rest.rfind(mark, PIECE // 2, PIECE) for mark in ("\n\n", "\n", " "))
            cut = next((at for at in found if at >= 0), PIECE)
            pieces.append(Document(rest[:cut], document.source))
            rest = rest[cut:]
        pieces.append(Document(rest, document.source))
    return pieces


def _thin(documents: list[Document], megabytes: float) -> list[Document]:
    """Every so manieth document, so that about that much text is left; 0 megabytes: all."""
    total = sum(len(document.text) for document in documents)
    keep = max(1, round(len(documents) * min(1.0, megabytes * 1e6 / total))) if megabytes else len(documents)
    return [documents[i * len(documents) // keep] for i in range(keep)]


def _clean(documents: dict[str, list[Document]]) -> tuple[dict[str, list[Document]], list[dict[str, Any]]]:
    """The cleaning chain over all sources together, since copies are looked for across them."""
    try:
        benchmarks = default_benchmarks()
    except UserError:
        benchmarks = {}  # where the benchmarks are not on this machine, no model can be scored on them
    flat = [(name, document) for name, found in documents.items() for document in found]
    owner = {document.source: name for name, document in flat}
    config = CLEANING if benchmarks else PrepareConfig(quality_exempt=CLEANING.quality_exempt, decontaminate=False)
    records, report = prepare((document for _, document in flat), config, benchmarks=benchmarks or None)
    kept: dict[str, list[Document]] = {name: [] for name in documents}
    for record in records:
        kept[owner[record.source]].append(record)
    if empty := [name for name, found in kept.items() if not found]:
        raise UserError(f"text: nothing of {', '.join(empty)} passes the cleaning; leave it out with --no-data.clean")
    return kept, [step_row(step) for step in report.to_dict()["steps"]]


def step_row(step: dict[str, Any]) -> dict[str, Any]:
    """A row of the report's table from what a cleaning step says of itself."""
    dropped = ", ".join(f"{reason} {count}" for reason, count in step["reasons"].items())
    masked = ", ".join(f"{kind} {count}" for kind, count in step["found"].items() if count)
    return {
        "step": step["step"],
        "documents in": step["documents_in"],
        "documents out": step["documents_out"],
        "characters out": step["characters_out"],
        "dropped": dropped or "none",
        "masked": masked or "none",
    }


def encoded(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterable[list[int]]:
    """Token ids of each document with the end-of-text token behind it."""
    if tokenizer.eos_id is None:
        raise UserError("tokenizer: it has no end-of-text token, which closes each document")
    for start in range(0, len(documents), 256):
        for ids in tokenizer.encode_batch([document.text for document in documents[start : start + 256]]):
            yield [*ids, tokenizer.eos_id]
