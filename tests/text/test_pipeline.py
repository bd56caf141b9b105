"""The chain drops what each step should, says so, and keeps the rest in order; packing keeps every token."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream
from tenfold.text.corpus import Document, load_texts
from tenfold.text.pipeline import EOS_ID, Mixture, PrepareConfig, Record, pack, prepare, write_jsonl
from tenfold.text.quality import QualityLimits
from tenfold.text.tokenizer import train_tokenizer

QUESTION = "If a hen lays two eggs on each of five days, how many eggs are in the nest that no fox has found?"


def prose(name: str) -> str:
    """Sixty words, the first forty of them told apart by the name."""
    return (
        " ".join(f"{name}{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(40)) + " and the cat sat on the mat" * 3
    )


BENCHMARKS = {"quiz": [QUESTION]}
DOCUMENTS = [
    Document(f"<html><body><nav><a href=x>Home</a></nav><p>{prose('page')}</p></body></html>", "web"),
    Document("<html><body><nav><a href=x>Home</a></nav></body></html>", "web"),
    Document(prose("mail") + " Write to a@b.com or call (555) 123-4567.", "mail"),
    Document(prose("page").upper(), "mail"),
    Document("Too short.", "notes"),
    Document(prose("quiz") + f"\n{QUESTION}\n" + prose("more"), "notes"),
    Document("x = 1  # <html>\n", "tool.py"),
    Document("half a pair \ud800", "notes"),
]


def test_each_step_by_hand() -> None:
    kept, report = prepare(DOCUMENTS, PrepareConfig(quality_exempt=("*.py",)), benchmarks=BENCHMARKS)
    mail = prose("mail") + " Write to [EMAIL] or call [PHONE]."
    assert kept == [
        Record(prose("page"), "web", "web#0"),
        Record(mail, "mail", "mail#0"),
        Record("x = 1  # <html>\n", "tool.py", "tool.py#0"),
    ]
    steps = {step.step: step for step in report.steps}
    assert list(steps) == ["html", "pii", "dedup", "quality", "decontaminate"]
    assert {name: (step.documents_in, step.documents_out) for name, step in steps.items()} == {
        "html": (8, 6),
        "pii": (6, 6),
        "dedup": (6, 5),
        "quality": (5, 4),
        "decontaminate": (4, 3),
    }
    assert {name: step.reasons for name, step in steps.items()} == {
        "html": {"empty": 1, "not_unicode": 1},
        "pii": {},
        "dedup": {"duplicate": 1},
        "quality": {"too_short": 1},
        "decontaminate": {"quiz": 1},
    }
    assert steps["pii"].found == {"email": 1, "card": 0, "ip": 0, "phone": 1}
    assert (steps["dedup"].examples[0].id, steps["dedup"].examples[0].detail) == ("mail#1", "of web#0")
    ngram = "if a hen lays two eggs on each of five days how many"
    assert steps["decontaminate"].examples[0].detail == f"item 0, 1 times: {ngram}"
    assert steps["html"].characters_in == sum(len(document.text) for document in DOCUMENTS)
    assert steps["decontaminate"].characters_out == sum(len(record.text) for record in kept)
    for before, after in itertools.pairwise(report.steps):
        assert (before.documents_out, before.characters_out) == (after.documents_in, after.characters_in)
    json.dumps(report.to_dict())


def test_steps_can_be_left_out() -> None:
    config = PrepareConfig(html="never", pii="keep", dedup=False, quality=None, decontaminate=False)
    kept, report = prepare(DOCUMENTS[:-1], config)
    assert [record.text for record in kept] == [document.text for document in DOCUMENTS[:-1]]
    assert [step.step for step in report.steps] == ["html"]


def test_documents_with_personal_data_can_be_dropped() -> None:
    config = PrepareConfig(pii="drop", decontaminate=False, examples=0)
    kept, report = prepare(DOCUMENTS, config)
    assert [record.id for record in kept] == ["web#0", "notes#1"]
    assert report.steps[1].reasons == {"pii": 1}
    assert all(step.examples == () for step in report.steps)


def test_the_hooks_reach_the_quality_step() -> None:
    config = PrepareConfig(decontaminate=False, classifier_threshold=2.0)
    texts = [Document(prose(name), "x") for name in ("one", "two", "three")]
    kept, report = prepare(texts, config, blocked_words=["TWOaa"], classifier=lambda text: 3.0 - text.count("oneaa"))
    assert [record.id for record in kept] == ["x#0", "x#2"]
    assert report.steps[-1].reasons == {"blocked_words": 1}
    _, report = prepare(texts, config, classifier=lambda text: 2.0 - text.count("oneaa"))
    assert report.steps[-1].reasons == {"classifier": 1}


def test_common_usage_is_counted_over_the_corpus() -> None:
    texts = [Document(f"{prose(f'n{i}x')} {QUESTION}", "x") for i in range(10)]
    config = PrepareConfig(common_usage=10, dedup=False, quality=QualityLimits(max_word_length=20))
    kept, _ = prepare(texts, config, benchmarks=BENCHMARKS)
    assert len(kept) == 10
    kept, report = prepare(texts[1:], config, benchmarks=BENCHMARKS)
    assert not kept
    assert len(report.steps[-1].examples) == 3


def test_nothing_comes_of_nothing() -> None:
    kept, report = prepare([], benchmarks=BENCHMARKS)
    assert kept == []
    assert all(step.documents_in == step.documents_out == 0 for step in report.steps)


def test_files_come_back(tmp_path: Path) -> None:
    records = [Record("one\u2028line\n", "a.txt", "a.txt#0"), Record("Größe 😀", "b", "b#0")]
    write_jsonl(tmp_path / "x.jsonl", records)
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows == [{"text": r.text, "source": r.source, "id": r.id} for r in records]
    assert [document.text for document in load_texts([tmp_path / "x.jsonl"])] == [record.text for record in records]


def test_real_documents(data_dir: Path) -> None:
    folder = data_dir / "02-afm"
    reviews = load_texts([folder / "text" / "movie_reviews.jsonl.gz"])[600:800]
    question = json.loads((folder / "gsm8k_test_a.jsonl").read_text(encoding="utf-8").split("\n")[5])["question"]
    documents = [*reviews, Document(reviews[3].text.replace("film", "movie"), "copy"), Document(question * 3, "leak")]
    kept, report = prepare(documents)
    dropped = {example.id.split("#")[0]: example.reason for step in report.steps for example in step.examples}
    assert dropped["copy"] == "duplicate"
    assert dropped["leak"] == "gsm8k"
    assert len(kept) >= 198


def test_default_benchmarks_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="data not found: gsm8k_test_a"):
        prepare(DOCUMENTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"html": "sometimes"}, "html: got 'sometimes', need one of auto, always, never"),
        ({"pii": "hide"}, "pii: got 'hide', need one of mask, drop, keep"),
        ({"examples": -1}, "examples: got -1, need at least 0"),
        ({"common_usage": 0}, "common_usage: got 0, need at least 1"),
    ],
)
def test_faulty_config(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareConfig(**fields)


def test_a_row_by_hand() -> None:
    rows = pack([[5, 6, 7], [8]], 3)
    assert [row.tokens.tolist() for row in rows] == [[5, 6, 7, EOS_ID], [8, EOS_ID, 0, 0]]
    assert [row.segment_ids.tolist() for row in rows] == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert pack([[5, 6, 7], [8]], 3, separator=None, document_mask=False)[0].tokens.tolist() == [5, 6, 7, 8]
    assert pack([], 3) == []
    assert train_tokenizer(["a b c"] * 10, 272).eos_id == EOS_ID


@pytest.mark.parametrize("mode", ["concat", "first_fit"])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_packing_keeps_every_token(mode: str, length: int) -> None:
    generator = np.random.default_rng(length)
    docs = [generator.integers(3, 99, size=generator.integers(1, 40)).tolist() for _ in range(50)]
    rows = pack(iter(docs), length, mode=mode)  # type: ignore[arg-type]
    assert all(len(row.tokens) == length + 1 for row in rows)
    real = [token for row in rows for token in row.tokens[row.segment_ids > 0].tolist()]
    joined = [token for doc in docs for token in [*doc, EOS_ID]]
    assert real == joined if mode == "concat" else sorted(real) == sorted(joined)


def test_a_mixture_of_texts_resumes() -> None:
    def mixture() -> Mixture:
        return Mixture([["a", "b", "c"], ["x", "y"]], [3, 1], seed=5)

    whole = list(itertools.islice(mixture(), 40))
    assert sum(text in "xy" for text in whole) == 10
    first = mixture()
    assert list(itertools.islice(first, 13)) == whole[:13]
    resumed = mixture()
    resumed.load_state_dict(first.state_dict())
    assert list(itertools.islice(resumed, 27)) == whole[13:]
    assert isinstance(first.sources[0], ArrayStream)
