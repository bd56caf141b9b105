"""Text readers, the split, the token cache and the windows."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.text import corpus
from tenfold.text.corpus import (
    Document,
    TokenWindows,
    english_texts,
    evaluation_batches,
    load_texts,
    split,
    stdlib_source,
    tokenize,
    train_tokenizer_cached,
)
from tenfold.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat\n"] * 10, 280)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffé\r\nline".encode())
    rows = "\n".join(json.dumps({"text": text, "id": i}) for i, text in enumerate(["one", "two\u2028three"])) + "\n"
    (tmp_path / "b.jsonl").write_text(rows)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    documents = load_texts([tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl.gz")])
    assert [document.text for document in documents] == ["é\r\nline", "one", "two\u2028three", "one", "two\u2028three"]
    assert documents[3].source == str(tmp_path / "c.jsonl.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, r"text not found: .*none.txt \(see README: data\)"),
        ("empty.txt", b" \n", "empty.txt is empty"),
        ("latin.txt", "naïve".encode("latin-1"), r"latin.txt is not UTF-8 \(byte 2\)"),
        ("x.jsonl", b'{"text": "a"}\n{text}\n', "x.jsonl line 2 is not JSON"),
        ("y.jsonl", b'{"text": "a"}\n{"body": "b"}\n', 'y.jsonl line 2 has no "text"'),
        ("z.jsonl", b'["text"]\n', 'z.jsonl line 1 has no "text"'),
        ("torn.jsonl.gz", gzip.compress(b'{"text": "abc"}', mtime=0)[:-9], "torn.jsonl.gz is not a whole gzip file"),
        ("bad.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:12] + b"\xff" * 20, "bad.txt.gz is not a whole gzip file"),
        ("plain.txt.gz", b"no gzip at all", "plain.txt.gz is not a whole gzip file"),
        ("deep.jsonl", b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", "deep.jsonl line 2 is not JSON"),
        ("half.jsonl", b'{"text": "ab\\ud800"}\n', r"half.jsonl line 1 is no Unicode text \(character 2\)"),
    ],
)
def test_faulty_files_are_named(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_texts([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_a_small_file_does_not_unpack_without_bound(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.txt.gz"
    bomb.write_bytes(gzip.compress(b"a" * (8 << 20)))
    with pytest.raises(UserError, match=r"bomb\.txt\.gz unpacks to more than 1000000 bytes"):
        load_texts([bomb], max_bytes=1_000_000)
    assert len(load_texts([bomb], max_bytes=8 << 20)[0].text) == 8 << 20


def test_standard_library() -> None:
    documents = stdlib_source()
    names = [document.source for document in documents]
    assert "dataclasses.py" in names
    assert names == sorted(names)
    assert not any(part in name.split("/") for name in names for part in ("test", "site-packages", "idlelib"))
    assert sum(len(document.text) for document in documents) > 5_000_000


def test_prepared_texts(data_dir: Path) -> None:
    train, validation = english_texts(data_dir)
    assert len({document.source for document in train}) == 7
    assert len(train) == 2006
    assert [Path(document.source).name for document in validation] == ["wikitext2_valid.txt"]


def test_split_takes_the_last_part_of_each_file() -> None:
    book = Document("line\n" * 100, "book")
    reviews = [Document(f"review {i}", "reviews") for i in range(40)]
    train, held_out = split([*reviews, book], 0.05)
    assert [document.text for document in held_out] == ["review 38", "review 39", "line\n" * 5]
    assert [document.text for document in train][:-1] == [f"review {i}" for i in range(38)]
    assert train[-1].text + held_out[-1].text == book.text


def test_split_takes_a_mark_near_the_cut_and_no_other() -> None:
    words = "ab " * 1000

    def held_out(text: str) -> int:
        return sum(len(document.text) for document in split([Document(text, "x")], 0.1)[1])

    assert held_out(words[:1440] + "\n" + words[1441:]) == 300  # the only line end is at 48 %
    assert held_out(words[:2650] + "\n" + words[2651:]) == 349
    assert held_out("a" * 1440 + "\n" + "a" * 1559) == 300
    assert held_out("a" * 98_000 + "\n" + "a" * 101_999) == 20_000


def test_split_without_line_ends_and_of_too_little() -> None:
    train, held_out = split([Document("a" * 100, "x")], 0.1)
    assert (len(train[0].text), len(held_out[0].text)) == (90, 10)
    with pytest.raises(UserError, match="too little to split off 5%"):
        split([Document("a", "x")])
    with pytest.raises(ValueError, match="validation: got 1"):
        split([Document("abc", "x")], 1.0)


def test_tokens_end_each_document(tokenizer: Tokenizer) -> None:
    documents = [Document("the cat", "a"), Document("sat", "b")]
    ids = tokenize(documents, tokenizer)
    expected = [*tokenizer.encode("the cat"), 2, *tokenizer.encode("sat"), 2]
    assert ids.tolist() == expected
    assert ids.dtype == np.uint16


def test_cache_is_used_and_keyed_by_content(tokenizer: Tokenizer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document("the cat", "a"), Document("sat", "b")]
    first = tokenize(documents, tokenizer)
    assert len(list(cache.rglob("*.npy"))) == 1
    tokenize([Document("the catsat", "a")], tokenizer)
    tokenize([Document("the cats", "a"), Document("at", "b")], tokenizer)
    assert len(list(cache.rglob("*.npy"))) == 3
    other = train_tokenizer(["a different text\n"] * 10, 280)
    tokenize(documents, other)
    assert len(list(cache.rglob("*.npy"))) == 4
    monkeypatch.setattr(Tokenizer, "encode_batch", None)  # a second encoding would fail
    assert np.array_equal(tokenize(documents, tokenizer), first)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"no array at all",
        lambda whole: whole[:-1],
        lambda whole: whole.replace(b"'<u2'", b"'<f2'"),
        lambda whole: whole.replace(b"False", b"F(lse"),
    ],
)
def test_a_damaged_cache_file_is_made_again(tokenizer: Tokenizer, cache: Path, damage: Callable) -> None:
    documents = [Document("the cat", "a"), Document("sat", "b")]
    first = tokenize(documents, tokenizer).tolist()
    (file,) = cache.rglob("*.npy")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert tokenize(documents, tokenizer).tolist() == first
    assert file.read_bytes() == whole


def test_without_cache_nothing_is_written(tokenizer: Tokenizer, cache: Path) -> None:
    tokenize([Document("the cat", "a")], tokenizer, cache=False)
    assert not cache.exists()


def test_trained_tokenizers_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document("the cat sat on the mat\n" * 5, "a")]
    one = train_tokenizer_cached(documents, 280)
    monkeypatch.setattr(corpus, "train_tokenizer", None)
    two = train_tokenizer_cached(documents, 280)
    assert one.encode("the cat") == two.encode("the cat")


def test_nothing_to_tokenize(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="got no documents"):
        tokenize([], tokenizer)
    with pytest.raises(UserError, match="no end-of-text token"):
        tokenize([Document("x", "a")], Tokenizer(tokenizer.backend))


def take(stream: TokenWindows, count: int) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(iter(stream), count))


def test_an_epoch_has_every_token_as_target_once() -> None:
    ids = np.arange(1, 42, dtype=np.uint16)  # 8 windows of 5, all used by batches of 2
    batches = take(TokenWindows(ids, 5, 2, seed=0), 4)
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    assert sorted(targets.tolist()) == list(range(2, 42))
    for batch in batches:
        assert batch["ids"].dtype == batch["targets"].dtype == torch.int64
        assert batch["ids"].shape == (2, 5)
        assert torch.equal(batch["ids"] + 1, batch["targets"])


def test_order_follows_seed_and_epoch() -> None:
    ids = np.arange(200, dtype=np.uint16)

    def starts(seed: int, count: int) -> list[int]:
        return [int(batch["ids"][0, 0]) for batch in take(TokenWindows(ids, 5, 1, seed), count)]

    epoch = (len(ids) - 1) // 5
    assert starts(1, 2 * epoch) == starts(1, 2 * epoch)
    assert starts(1, epoch) != starts(2, epoch)
    two = starts(1, 2 * epoch)
    assert two[:epoch] != two[epoch:]
    assert sorted(two[:epoch]) == sorted(two[epoch:])


@pytest.mark.parametrize("stop", [0, 1, 7, 13, 30])
def test_a_resumed_stream_yields_what_the_whole_one_does(stop: int) -> None:
    ids = np.arange(100, dtype=np.uint16)
    whole = take(TokenWindows(ids, 4, 3, seed=5), stop + 20)
    first = TokenWindows(ids, 4, 3, seed=5)
    take(first, stop)
    resumed = TokenWindows(ids, 4, 3, seed=5)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for expected, batch in zip(whole[stop:], take(resumed, 20), strict=True):
        assert torch.equal(expected["ids"], batch["ids"])
        assert torch.equal(expected["targets"], batch["targets"])


def test_ranks_share_a_batch() -> None:
    ids = np.arange(100, dtype=np.uint16)
    whole = take(TokenWindows(ids, 4, 4, seed=5), 10)
    parts = [take(TokenWindows(ids, 4, 4, seed=5, rank=rank, world=2), 10) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share["ids"] for share in shares]), batch["ids"])


def test_windows_refuse() -> None:
    with pytest.raises(UserError, match=r"text: got 20 tokens, need at least 21 \(batch 2 x sequence 10 \+ 1\)"):
        TokenWindows(np.zeros(20, dtype=np.uint16), 10, 2)
    with pytest.raises(ValueError, match="seq_len, batch_size: got 0"):
        TokenWindows(np.zeros(20, dtype=np.uint16), 0, 2)


@pytest.mark.parametrize("length", [2, 11, 12, 30])
def test_evaluation_sees_every_target_once_in_order(length: int) -> None:
    ids = np.arange(length, dtype=np.uint16)
    batches = list(evaluation_batches(ids, 5, 2))
    targets = torch.cat([batch["targets"].flatten() for batch in batches])
    inputs = torch.cat([batch["ids"].flatten() for batch in batches])
    kept = targets != -100
    assert targets[kept].tolist() == list(range(1, length))
    assert inputs[kept].tolist() == list(range(length - 1))
    with pytest.raises(UserError, match="got 1 tokens to evaluate on"):
        list(evaluation_batches(ids[:1], 5, 2))


def test_ranks_share_each_batch_between_them() -> None:
    ids = np.arange(1, 200, dtype=np.uint16)
    whole = iter(TokenWindows(ids, 8, 4, seed=3))
    parts = [iter(TokenWindows(ids, 8, 4, seed=3, rank=rank, world=2)) for rank in range(2)]
    for _ in range(8):  # beyond the end of the epoch
        batch = next(whole)
        assert torch.equal(torch.cat([next(part)["ids"] for part in parts]), batch["ids"])
    with pytest.raises(ValueError, match="batch_size: got 3"):
        TokenWindows(ids, 8, 3, rank=0, world=2)
