"""Samples of the decision tree: a query, its candidates, the branch that is right, and how they are built from tools."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.tools.calls import Call, CallError, parse_call
from tenfold.tools.tool import Tool

if TYPE_CHECKING:
    from tenfold.tools.sampler import ToolSampler

Branch = Literal["no_search", "call", "no_call"]
BRANCHES: tuple[Branch, ...] = ("no_search", "call", "no_call")


@dataclass(frozen=True)
class Candidate:
    """A tool as a model is shown it."""

    name: str
    description: str
    signature: str

    @classmethod
    def of(cls, tool: Tool) -> Candidate:
        """What a model is shown of a tool."""
        return cls(tool.name, tool.description, tool.signature)


@dataclass(frozen=True)
class DecisionSample:
    """One query and what is right.

    Args:
        query: of the user.
        branch: no_search (answer from own knowledge), call (one of the candidates fits) or no_call (none fits).
        candidates: what the search found, in the order in which it is shown; none for no_search.
        target: the tool that fits; of no_call the one that would, if known.
        call: of branch call.
        response: of the tool; None where it is not known.
        answer: to the user; None where it is not known.
        source: where the query comes from. It and the target are no part of the transcript, nor of equality.
    """

    query: str
    branch: Branch
    candidates: tuple[Candidate, ...] = ()
    target: str | None = field(default=None, compare=False)  # of a call its name; of no_call no transcript tells it
    call: Call | None = None
    response: str | None = None
    answer: str | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.branch not in BRANCHES:
            raise ValueError(f"branch: got {self.branch!r}, need {', '.join(BRANCHES)}")
        names = self.names
        if len(set(names)) < len(names):
            raise ValueError(f"candidates: got {names}, need different names")
        if "none" in names:
            raise ValueError("candidates: a tool is named 'none', which says that none fits; give it another name")
        if (self.branch == "no_search") != (not names):
            raise ValueError(
                f"candidates: got {len(names)} for branch {self.branch}, need none for no_search, else some"
            )
        if self.branch == "call" and (self.target not in names or self.call is None or self.call.name != self.target):
            raise ValueError(f"target: got {self.target!r}, need a candidate and a call of it")
        if self.branch == "no_call" and self.target in names:
            raise ValueError(f"target: {self.target!r} is a candidate, need branch call")
        if self.branch != "call" and (self.call is not None or self.response is not None):
            raise ValueError(f"call, response: got one for branch {self.branch}, need none")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the candidates."""
        return tuple(candidate.name for candidate in self.candidates)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, in a fixed order."""
        call = None if self.call is None else {"name": self.call.name, "arguments": dict(self.call.arguments)}
        return {
            "query": self.query,
            "branch": self.branch,
            "target": self.target,
            "candidates": [vars(candidate) for candidate in self.candidates],
            "call": call,
            "response": self.response,
            "answer": self.answer,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> DecisionSample:
        """Read back what `to_json` wrote."""
        call = row.get("call")
        return cls(
            row["query"],
            row["branch"],
            tuple(
                Candidate(each["name"], each["description"], each["signature"]) for each in row.get("candidates", ())
            ),
            row.get("target"),
            None if call is None else Call(call["name"], call["arguments"]),
            row.get("response"),
            row.get("answer"),
            row.get("source", ""),
        )


@dataclass(frozen=True)
class ToolExamples:
    """A tool of a catalogue with queries that it answers.

    Args:
        tool: of the catalogue.
        examples: pairs of a query and its call in Python, as they came.
    """

    tool: Tool
    examples: tuple[tuple[str, str], ...] = ()


@dataclass
class BuildReport:
    """What became of the pairs.

    Args:
        kept: samples by branch.
        dropped: pairs by the reason: parse (Python cannot read the call), name (of another tool).
        unfit: pairs that were kept though their call does not fit the tool's signature: unknown_arg, missing_arg.
    """

    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    unfit: Counter[str] = field(default_factory=Counter)


def build_samples(
    tools: Iterable[ToolExamples | Mapping[str, Any]],
    general: Iterable[str | Mapping[str, Any]],
    *,
    call_ratio: float = 0.6,
    sampler: ToolSampler,
    seed: int = 42,
    report: BuildReport | None = None,
) -> list[DecisionSample]:
    """Samples in all three branches, in a random order that depends on the seed alone.

    All pairs are shuffled; the first share becomes Call, the rest NoCall; in mode "mix" each of these is cut into parts
    by the sampler's ratio, one for each way of drawing candidates.

    Args:
        tools: with their examples, or rows of ToolDEER's catalogue.
        general: queries that need no tool, or rows with a "query".
        call_ratio: share of the pairs that become Call, in [0, 1].
        sampler: draws candidates; it takes these tools as its pool where it has none.
        seed: of the order.
        report: filled with counts.
    Source: Gui et al. 2024, section 3; the released builder does not run as published.
    """
    from tenfold.tools.data import read_tool

    if not 0 <= call_ratio <= 1:
        raise ValueError(f"call_ratio: got {call_ratio}, need a share in [0, 1]")
    entries = [each if isinstance(each, ToolExamples) else read_tool(each) for each in tools]
    report = BuildReport() if report is None else report
    if not sampler.fitted:
        sampler.fit([entry.tool for entry in entries])
    pairs = _pairs(entries, report)
    random.Random(f"pairs {seed}").shuffle(pairs)
    calls = int(call_ratio * len(pairs) + 1e-9)
    samples = []
    for branch, part in (("call", pairs[:calls]), ("no_call", pairs[calls:])):
        include = branch == "call"
        for (tool, query, call), mode in zip(part, sampler.modes(len(part)), strict=True):
            drawn = sampler.sample(tool.name, include, mode=mode)
            candidates = tuple(Candidate.of(each) for each in drawn)
            samples.append(DecisionSample(query, "call" if include else "no_call", candidates, tool.name, call if include else None, source=mode))  # fmt: skip
    for each in general:
        row = {"query": each} if isinstance(each, str) else each
        samples.append(DecisionSample(row["query"], "no_search", source=str(row.get("source", ""))))
    report.kept.update(sample.branch for sample in samples)
    random.Random(f"order {seed}").shuffle(samples)
    return samples


def _pairs(entries: Sequence[ToolExamples], report: BuildReport) -> list[tuple[Tool, str, Call]]:
    pairs = []
    for entry in entries:
        order = list(entry.tool.parameters.get("properties") or {})
        for query, text in entry.examples:
            try:
                call = parse_call(text, order, literal=False)
            except CallError:
                report.dropped["parse"] += 1
                continue
            if call.name != entry.tool.name:
                report.dropped["name"] += 1
                continue
            codes = {issue.code for issue in entry.tool.issues(call.arguments)}
            report.unfit.update([code for code in ("unknown_arg", "missing_arg") if code in codes][:1])
            pairs.append((entry.tool, query, call))
    return pairs


def write_samples(path: str | Path, samples: Iterable[DecisionSample]) -> None:
    """Write samples as JSON Lines, whole or not at all."""
    lines = (json.dumps(sample.to_json(), ensure_ascii=False) + "\n" for sample in samples)
    write_atomic(Path(path), "".join(lines).encode("utf-8", "surrogatepass"))


def read_samples(path: str | Path) -> list[DecisionSample]:
    """Read what `write_samples` wrote.

    Raises:
        UserError: absent, or a bad line (file:line).
    """
    from tenfold.lm.tasks import read_lines

    if not Path(path).is_file():
        raise UserError(f"file not found: {path}; tenfold deer build makes one")
    samples = []
    for line, row in read_lines(Path(path)):
        try:
            samples.append(DecisionSample.from_json(row))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            said = f"no field {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}:{line}: {said}; need rows of tenfold deer build") from None
    return samples
