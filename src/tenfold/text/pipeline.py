"""Raw documents to training text: HTML, personal data, near-duplicates, quality, benchmarks; then packed rows.

The order and the steps are AFM's (arXiv 2407.21075, section on data); `prepare` is the whole chain.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tenfold.core.atomic import replacing
from tenfold.core.stream import ArrayStream, Mixture, PackedRow, Packer
from tenfold.text.corpus import Document
from tenfold.text.decontaminate import Decontaminator, default_benchmarks
from tenfold.text.dedup import MinHashDeduper
from tenfold.text.html import clean_html, is_html
from tenfold.text.pii import pii_filter
from tenfold.text.quality import LIMITS, QualityLimits, quality_filter
from tenfold.text.tokenizer import SPECIAL_TOKENS

__all__ = ["Example", "Mixture", "PrepareConfig", "Record", "Report", "StepReport", "pack", "prepare", "write_jsonl"]

EOS_ID = SPECIAL_TOKENS.index("</s>")


@dataclass(frozen=True)
class PrepareConfig:
    """What each step does.

    Args:
        html: which documents are web pages: those that look like it, all, or none.
        pii: mask personal data, drop documents that hold any, or keep them as they are.
        region: country of phone numbers that name none.
        dedup: drop near-duplicates, whatever their source.
        quality: limits; None skips the step.
        quality_exempt: sources that skip it, as file-name patterns: the limits are for prose, not for code ("*.py").
        max_blocked: occurrences of blocked words that a document may have.
        classifier_threshold: least score of the classifier.
        decontaminate: drop documents that hold part of a benchmark.
        common_usage, all_orders: see `Decontaminator`.
        examples: dropped documents that the report shows for each reason.
    """

    html: Literal["auto", "always", "never"] = "auto"
    pii: Literal["mask", "drop", "keep"] = "mask"
    region: str = "US"
    dedup: bool = True
    quality: QualityLimits | None = LIMITS
    quality_exempt: tuple[str, ...] = ()
    max_blocked: int = 0
    classifier_threshold: float = 0.5
    decontaminate: bool = True
    common_usage: int = 1000
    all_orders: bool = False
    examples: int = 3

    def __post_init__(self) -> None:
        for name, known in (("html", ("auto", "always", "never")), ("pii", ("mask", "drop", "keep"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(known)}")
        for name, least in (("max_blocked", 0), ("common_usage", 1), ("examples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least {least}")


DEFAULT = PrepareConfig()


@dataclass(frozen=True)
class Record(Document):
    """A document of the output; its id is its source and its number there, from 0."""

    id: str


@dataclass(frozen=True)
class Example:
    """A dropped document: its id, why it went, and its first 100 characters."""

    id: str
    reason: str
    detail: str
    start: str


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Args:
        step: its name.
        documents_in, documents_out, characters_in, characters_out: before and after.
        reasons: documents dropped, by reason.
        found: personal data found, by kind.
        examples: the first dropped documents of each reason, in order.
    """

    step: str
    documents_in: int
    documents_out: int
    characters_in: int
    characters_out: int
    reasons: dict[str, int]
    found: dict[str, int]
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """What the steps did, in their order."""

    steps: tuple[StepReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as lists and dicts, for JSON."""
        return asdict(self)


class _Verdict(NamedTuple):
    """What a step says of one document: its text from now on, or None and the reason."""

    text: str | None
    reason: str = ""
    detail: str = ""
    found: Mapping[str, int] = {}


_Step = Callable[[Sequence[Record]], Iterable[_Verdict]]


def prepare(
    documents: Iterable[Document],
    config: PrepareConfig = DEFAULT,
    *,
    benchmarks: Mapping[str, Iterable[str]] | None = None,
    blocked_words: Collection[str] = (),
    classifier: Callable[[str], float] | None = None,
) -> tuple[list[Record], Report]:
    """Clean and filter a corpus: HTML, personal data, near-duplicates, quality, benchmarks.

    Deterministic: the same documents give the same records in the same order. The n-grams that documents share with
    benchmarks are counted over the documents that reach the last step.

    Args:
        documents: read once; the whole corpus is held in memory, since duplicates are looked for across it.
        config: what the steps do.
        benchmarks: items of each by its name; None takes the GSM8K test part and IFEval from the data folder.
        blocked_words, classifier: see `quality_filter`.
    Returns:
        the records that are kept, in the order of their documents; what each step did.
    Raises:
        UserError: a package or a benchmark file is missing.
    """
    steps: dict[str, _Step] = {"html": lambda records: (_body(record, config) for record in records)}
    if config.pii != "keep":
        steps["pii"] = lambda records: (_without_pii(record, config) for record in records)
    if config.dedup:
        steps["dedup"] = _first_of_each
    if config.quality is not None:
        steps["quality"] = lambda records: (_good(record, config, blocked_words, classifier) for record in records)
    if config.decontaminate:
        items = default_benchmarks() if benchmarks is None else benchmarks
        decontaminator = Decontaminator(items, common_usage=config.common_usage, all_orders=config.all_orders)
        steps["decontaminate"] = lambda records: _uncontaminated(records, decontaminator)
    records = _numbered(documents)
    reports = []
    for name, step in steps.items():
        records, report = _apply(name, step, records, config.examples)
        reports.append(report)
    return records, Report(tuple(reports))


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Write {"text", "source", "id"} a line, as `load_texts` reads it; the file appears whole or not at all."""
    with replacing(Path(path)) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            row = {"text": record.text, "source": record.source, "id": record.id}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def pack(
    docs: Iterable[Sequence[int]],
    T: int,
    *,
    separator: int | None = EOS_ID,
    document_mask: bool = True,
    mode: Literal["concat", "first_fit"] = "concat",
) -> list[PackedRow]:
    """Rows of T + 1 tokens that hold every document's tokens once, in order; the last row is padded.

    For an endless, resumable stream of batches see `packed_batches`, which takes the same options.

    Args:
        docs: token ids of each document.
        T: tokens a model sees of a row; the last T are their targets.
        separator: token put after every document; `</s>` of our tokenizer by default, None for none.
        document_mask: number the documents in a row and restart positions, so that attention can stay inside each.
        mode: see `Packer`.
    """
    documents = list(docs)
    if not documents:
        return []
    stream = ArrayStream(documents, shuffle=False, epochs=1)
    return list(Packer(stream, T, mode, document_mask=document_mask, separator=separator))


def _numbered(documents: Iterable[Document]) -> list[Record]:
    counts: Counter[str] = Counter()
    records = []
    for document in documents:
        records.append(Record(document.text, document.source, f"{document.source}#{counts[document.source]}"))
        counts[document.source] += 1
    return records


def _apply(name: str, step: _Step, records: Sequence[Record], examples: int) -> tuple[list[Record], StepReport]:
    kept: list[Record] = []
    reasons: Counter[str] = Counter()
    found: Counter[str] = Counter()
    shown: list[Example] = []
    for record, verdict in zip(records, step(records), strict=True):
        found.update(verdict.found)
        if verdict.text is not None:
            kept.append(replace(record, text=verdict.text))
            continue
        reasons[verdict.reason] += 1
        if reasons[verdict.reason] <= examples:
            shown.append(Example(record.id, verdict.reason, verdict.detail, record.text[:100]))
    report = StepReport(
        name,
        documents_in=len(records),
        documents_out=len(kept),
        characters_in=sum(len(record.text) for record in records),
        characters_out=sum(len(record.text) for record in kept),
        reasons=dict(reasons),
        found=dict(found),
        examples=tuple(shown),
    )
    return kept, report


def _body(record: Record, config: PrepareConfig) -> _Verdict:
    page = config.html == "always" or (config.html == "auto" and is_html(record.text))
    text = clean_html(record.text) if page else record.text
    if not text.strip():
        return _Verdict(None, "empty")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which neither files nor tokenizers take
        return _Verdict(None, "not_unicode")
    return _Verdict(text)


def _without_pii(record: Record, config: PrepareConfig) -> _Verdict:
    assert config.pii != "keep"
    text, counts = pii_filter(record.text, config.pii, region=config.region)
    return _Verdict(text, "pii", ", ".join(kind for kind, count in counts.items() if count), counts)


def _first_of_each(records: Sequence[Record]) -> Iterator[_Verdict]:
    groups = MinHashDeduper().groups(record.text for record in records)
    for index, first in enumerate(groups.tolist()):
        record = records[index]
        yield _Verdict(record.text) if index == first else _Verdict(None, "duplicate", f"of {records[first].id}")


def _good(
    record: Record,
    config: PrepareConfig,
    blocked_words: Collection[str],
    classifier: Callable[[str], float] | None,
) -> _Verdict:
    if any(fnmatchcase(record.source, pattern) for pattern in config.quality_exempt):
        return _Verdict(record.text)
    assert config.quality is not None
    keep, reason = quality_filter(
        record.text,
        config.quality,
        blocked_words=blocked_words,
        max_blocked=config.max_blocked,
        classifier=classifier,
        threshold=config.classifier_threshold,
    )
    return _Verdict(record.text) if keep else _Verdict(None, reason or "")


def _uncontaminated(records: Sequence[Record], decontaminator: Decontaminator) -> Iterator[_Verdict]:
    decontaminator.count(record.text for record in records)
    for record in records:
        hit = decontaminator.check(record.text)
        yield (
            _Verdict(record.text)
            if hit is None
            else _Verdict(None, hit.benchmark, f"item {hit.item}, {hit.count} times: {hit.ngram}")
        )
