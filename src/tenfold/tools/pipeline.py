"""Samples from a chat model: write a signature and queries for a tool, check each pair, drop what is wrong, keep the rest."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tenfold.core.atomic import append_line
from tenfold.core.errors import UserError
from tenfold.text.chat_cache import CachedChatModel
from tenfold.text.concurrency import Gate, gather
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling
from tenfold.tools.calls import Call, CallError, parse_call
from tenfold.tools.samples import ToolExamples
from tenfold.tools.signatures import SignatureError, parse_signature
from tenfold.tools.tool import Tool, ToolRegistry

Drop = Literal["parse", "name", "unknown_arg", "missing_arg", "type", "llm_no", "duplicate", "ambiguous", "timeout"]
PAIRS, TRIES = 10, 5
NEAR, SHINGLE = 0.8, 3  # Jaccard similarity of word triples from which queries are near duplicates
_VERSION = 1  # of the wording: another one is another store

_WRITE = """Write one Python signature for the tool below and {pairs} different user requests with the call that answers each.
Rules: every parameter has a type; every argument of a call stands in its request or follows from it; requests differ in
wording, length and arguments.
Tool: {name}
For people: {description}
For models: {for_model}
{given}Answer with lines of JSON and nothing else: first {{"signature": "name(parameter: type, ...)"}}, then one line
{{"query": "...", "call": "name(parameter=value)"}} for each request."""
_CHECK = """Signature: {signature}
Request: {query}
Call: {call}
Does the call fit the signature, and does every argument stand in the request or follow from it? Answer yes or no."""


@dataclass
class PipelineReport:
    """What became of the pairs.

    Args:
        kept: pairs.
        dropped: pairs by the reason.
        failed: tools without a usable reply, by name, with the reason.
        calls: requests to the models in this run; what the store answers is not counted.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    calls: int = 0


class SamplePipeline:
    """Generates examples for tools, checks them by rule and by a model, and removes duplicates.

    Every reply is kept in a store the moment it comes, and every finished tool is one line of JSON, keyed by a hash of its
    texts: a killed run goes on without asking anything twice.

    Args:
        speaker: writes signatures and pairs.
        registry: the tools.
        checker: says yes or no to a pair; None: the speaker.
        cache_dir: where `replies.sqlite` and `tools.jsonl` lie.
        pairs: asked for, of each tool.
        concurrency: tools at a time.
        keep_ambiguous: keep queries that stand under two tools.
    Source: Gui et al. 2024, section 3.2; limits of the released code.
    """

    def __init__(
        self,
        speaker: ChatModel,
        registry: ToolRegistry,
        checker: ChatModel | None = None,
        cache_dir: str | Path = "deer-samples",
        *,
        pairs: int = PAIRS,
        concurrency: int = 8,
        keep_ambiguous: bool = False,
    ) -> None:
        if pairs < 1:
            raise ValueError(f"pairs: got {pairs}, need at least 1")
        self.registry, self.pairs, self.keep_ambiguous = registry, pairs, keep_ambiguous
        self.folder = Path(cache_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._gate = Gate(concurrency)
        self.report = PipelineReport()
        store = self.folder / "replies.sqlite"
        checker = checker or speaker
        self._speaker = CachedChatModel(_Counted(speaker, self.report), store)
        self._checker = CachedChatModel(_Counted(checker, self.report), store)
        self._lines = self.folder / "tools.jsonl"

    async def run(self, progress: Callable[[int, int], None] | None = None) -> list[ToolExamples]:
        """Examples of every tool that got some, in the order of the registry.

        Args:
            progress: told (finished tools, all tools).
        """
        done = self._finished()
        count = 0

        async def one(tool: Tool) -> dict[str, Any]:
            nonlocal count
            async with self._gate:
                key = self._key(tool)
                row = done.get(key)
                if row is None:
                    row = {"key": key, **await self._generate(tool)}
                    append_line(self._lines, json.dumps(row, ensure_ascii=False))
            count += 1
            if progress is not None:
                progress(count, len(self.registry))
            return row

        rows = await gather(one(tool) for tool in self.registry)
        return self._deduplicated(list(zip(self.registry, rows, strict=True)))

    def _key(self, tool: Tool) -> str:
        told = [_VERSION, self.pairs, self._speaker.identity, self._checker.identity, tool.name, tool.description, tool.signature if tool.source != "tool" else ""]  # fmt: skip
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def _finished(self) -> dict[str, dict[str, Any]]:
        """Lines of finished tools; a torn last line is as good as none."""
        found = {}
        for line in self._lines.read_text(encoding="utf-8").split("\n") if self._lines.is_file() else ():
            try:
                row = json.loads(line)
                found[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue
        return found

    async def _generate(self, tool: Tool) -> dict[str, Any]:
        """Ask for a tool's pairs, up to five times; check each."""
        given = f"Its signature: {tool.signature}\n" if tool.source != "tool" else ""
        text = _WRITE.format(pairs=self.pairs, name=tool.name, description=tool.description, for_model=tool.extra.get("description_for_model") or tool.description, given=given)  # fmt: skip
        failure = "parse"
        for attempt in range(TRIES):
            try:
                (reply,) = await self._speaker.complete(
                    [Message("user", text)], Sampling(max_tokens=2048, seed=attempt)
                )
            except (UserError, TimeoutError) as error:
                failure = f"timeout: {' '.join(str(error).split())[:200]}"
                continue
            try:
                written, pairs, broken = _read_reply(reply.text)
                signature = parse_signature(tool.signature if given else written)
            except (SignatureError, ValueError) as error:
                failure = f"parse: {' '.join(str(error).split())[:200]}"
                continue
            described = Tool(name=signature.name, description=tool.description, parameters=signature.parameters, returns=signature.returns, source="generated")  # fmt: skip
            verdicts = await gather(self._verdict(described, pair) for pair in pairs)
            kept = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict is None]
            dropped = Counter(verdict for verdict in verdicts if verdict is not None)
            dropped["parse"] += broken
            return {"name": tool.name, "signature": described.signature, "pairs": kept, "dropped": dict(+dropped)}
        return {"name": tool.name, "failed": failure}

    async def _verdict(self, tool: Tool, pair: Mapping[str, str]) -> Drop | None:
        """Why a pair is dropped; None keeps it."""
        order = list(tool.parameters["properties"])
        try:
            call = parse_call(pair["call"], order)
        except CallError:
            return "parse"
        if found := deterministic_fault(tool, call):
            return found
        text = _CHECK.format(signature=tool.signature, query=pair["query"], call=pair["call"])
        for attempt in range(TRIES):
            try:
                (reply,) = await self._checker.complete([Message("user", text)], Sampling(temperature=0.0, max_tokens=8, seed=attempt))  # fmt: skip
            except (UserError, TimeoutError):
                continue
            word = re.match(r"\W*(yes|no)\b", reply.text, re.IGNORECASE)
            if word:
                return None if word[1].lower() == "yes" else "llm_no"
        return "timeout"

    def _deduplicated(self, rows: Iterable[tuple[Tool, dict[str, Any]]]) -> list[ToolExamples]:
        rows = list(rows)
        report = self.report
        owners: dict[str, set[str]] = {}
        for tool, row in rows:
            for pair in row.get("pairs", ()):
                owners.setdefault(normal(pair["query"]), set()).add(tool.name)
        found = []
        for tool, row in rows:
            report.dropped.update(row.get("dropped", {}))
            if "failed" in row:
                report.failed[tool.name] = row["failed"]
                continue
            kept: list[tuple[str, str]] = []
            for pair in row["pairs"]:
                if not self.keep_ambiguous and len(owners[normal(pair["query"])]) > 1:
                    report.dropped["ambiguous"] += 1
                elif any(near(pair["query"], other) for other, _ in kept):
                    report.dropped["duplicate"] += 1
                else:
                    kept.append((pair["query"], pair["call"]))
            report.kept += len(kept)
            if kept:
                signature = parse_signature(row["signature"])
                described = Tool(name=signature.name, description=tool.description, parameters=signature.parameters, returns=signature.returns, source="generated", extra={"api_name": tool.name})  # fmt: skip
                found.append(ToolExamples(described, tuple(kept)))
        return found


def deterministic_fault(tool: Tool, call: Call) -> Drop | None:
    """What a rule finds wrong with a call."""
    if call.name != tool.name:
        return "name"
    for issue in tool.issues(call.arguments):
        return (
            "unknown_arg" if issue.code == "unknown_arg" else "missing_arg" if issue.code == "missing_arg" else "type"
        )
    return None


def normal(query: str) -> str:
    """A query without what makes no difference: Unicode forms, case, blanks."""
    return " ".join(unicodedata.normalize("NFKC", query).casefold().split())


def near(one: str, other: str) -> bool:
    """Whether two queries are the same, or nearly: Jaccard similarity of their word triples at least 0.8."""
    first, second = normal(one), normal(other)
    if first == second:
        return True
    a, b = _shingles(first), _shingles(second)
    return bool(a and b) and len(a & b) / len(a | b) >= NEAR


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def _read_reply(text: str) -> tuple[str, list[dict[str, str]], int]:
    """The signature, the pairs, and how many lines were neither."""
    signature, pairs, broken = "", [], 0
    for line in text.split("\n"):
        line = line.strip().rstrip(",")
        if not line.startswith("{"):
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            broken += 1
            continue
        if isinstance(row, dict) and isinstance(row.get("signature"), str):
            signature = row["signature"]
        elif isinstance(row, dict) and isinstance(row.get("query"), str) and isinstance(row.get("call"), str):
            pairs.append({"query": row["query"], "call": row["call"]})
        else:
            broken += 1
    if not pairs:
        raise ValueError("no line of JSON with a query and a call")
    return signature, pairs[: 2 * PAIRS], broken


class _Counted:
    """A model whose requests are counted."""

    def __init__(self, inner: ChatModel, report: PipelineReport) -> None:
        self.name, self._inner, self._report = inner.name, inner, report
        self.identity: str = getattr(inner, "identity", inner.name)

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        self._report.calls += 1
        return await self._inner.complete(messages, sampling, n)
