"""ToolDEER's catalogue and decision items, and BFCL's, as they are: faults are counted, nothing is silently mended away."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.lm.tasks import read_lines
from tenfold.tools.calls import Call, CallError, NotLiteralError, parse_call
from tenfold.tools.samples import Candidate, DecisionSample, ToolExamples
from tenfold.tools.signatures import SignatureError, parse_signature
from tenfold.tools.tool import Tool, check_name

FOLDER = "09-deer"
BFCL = ("simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance")


@dataclass(frozen=True)
class Faults:
    """What is wrong with a file of tools.

    Args:
        invalid_signatures: signatures that Python cannot read.
        unparsed_calls: calls that Python cannot read.
        unliteral_calls: calls that it can, with a value that is no literal (a name, a call).
        tools_without_example: tools that no query asks for.
        repeated_queries: different queries that stand there more than once.
    """

    invalid_signatures: int = 0
    unparsed_calls: int = 0
    unliteral_calls: int = 0
    tools_without_example: int = 0
    repeated_queries: int = 0


@dataclass(frozen=True)
class DeerData:
    """ToolDEER's data.

    Args:
        train, unseen: tools with examples; no tool is in both.
        nosearch_train, nosearch_dev: queries that need no tool.
        toolbench, toolcorpus: ready decision items on tools of other collections.
        faults: of "train" and "unseen".
    """

    train: tuple[ToolExamples, ...]
    unseen: tuple[ToolExamples, ...]
    nosearch_train: tuple[str, ...]
    nosearch_dev: tuple[str, ...]
    toolbench: tuple[DecisionSample, ...]
    toolcorpus: tuple[DecisionSample, ...]
    faults: Mapping[str, Faults]


def load(name: str = "deer", root: str | Path | None = None) -> Any:
    """Read a data set.

    Args:
        name: "deer" gives `DeerData`; "bfcl" gives {category: list of `BfclItem`}.
        root: the folder of the files, or the one that holds it as `09-deer`; None: as `tenfold data` finds it.
    Raises:
        UserError: an absent file (names its relative path), or a bad line (file:line).
    """
    if name == "deer":
        return _deer(root)
    if name == "bfcl":
        return {category: bfcl_items(category, root) for category in BFCL}
    raise UserError(f"data: got {name!r}, need deer or bfcl")


def read_tool(row: Mapping[str, Any], where: str = "row") -> ToolExamples:
    """A row of the catalogue; a signature that Python cannot read is mended.

    Raises:
        UserError: missing fields, or a signature beyond mending.
    """
    try:
        _check_row(row)
        text, name = row["api_function"], row["api_name"]
        try:
            signature = parse_signature(text)
        except SignatureError:
            signature = parse_signature(text, mend=True)
        # Names with blanks or dots have a signature without them: the call's name is what a model writes.
        extra = {"api_function": text, "api_name": name, "description_for_model": row.get("description_for_model", "")}
        if signature.mended:
            extra["mended"] = signature.mended
        tool = Tool(name=signature.name, description=row["description_for_human"], parameters=signature.parameters, returns=signature.returns, source="deer", extra=extra)  # fmt: skip
        return ToolExamples(tool, tuple((each["query"], each["call"]) for each in row.get("example", ())))
    except (KeyError, TypeError, ValueError) as error:
        said = f"no field {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{where}: {said}") from None


def _check_row(row: Any) -> None:
    """What every row of a catalogue has; the rest of its reading may rely on it."""
    if not isinstance(row, Mapping):
        raise ValueError(f"got {type(row).__name__}, need an object with api_name, description_for_human, api_function, example")  # fmt: skip
    for name in ("api_name", "description_for_human", "api_function"):
        if not isinstance(row[name], str):
            raise ValueError(f"{name}: got {type(row[name]).__name__}, need text")
    check_name(row["api_name"])
    pairs = row.get("example", ())
    if not isinstance(pairs, list | tuple) or not all(isinstance(each, Mapping) for each in pairs):
        raise ValueError("example: need a list of objects with query and call")
    if bad := [each for each in pairs if not isinstance(each["query"], str) or not isinstance(each["call"], str)]:
        raise ValueError(f"example: query and call must be text, got {str(bad[0])[:80]}")


def read_tools(path: str | Path) -> tuple[tuple[ToolExamples, ...], Faults]:
    """The tools of a file (JSON Lines, or a JSON list of rows), and what is wrong with them."""
    rows = list(_rows(Path(path)))
    entries = tuple(read_tool(row, f"{path}:{line}") for line, row in rows)
    return entries, count_faults([row for _, row in rows])


def count_faults(rows: Sequence[Mapping[str, Any]]) -> Faults:
    """Count the faults of catalogue rows."""
    queries: Counter[str] = Counter()
    signatures = empty = 0
    calls: Counter[str] = Counter()
    for row in rows:
        try:
            parse_signature(row["api_function"])
        except SignatureError:
            signatures += 1
        examples = row.get("example", ())
        empty += not examples
        for each in examples:
            queries[each["query"]] += 1
            calls[_fault(each["call"])] += 1
    repeated = sum(count > 1 for count in queries.values())
    return Faults(signatures, calls["syntax"], calls["literal"], empty, repeated)


def _fault(call: str) -> str:
    try:
        parse_call(call)
    except NotLiteralError:
        return "literal"
    except CallError:
        return "syntax"
    return ""


def _deer(root: str | Path | None) -> DeerData:
    files = {name: _file(f"{name}.jsonl", root) for name in ("tools_train", "tools_dev_unseen", "nosearch_train", "nosearch_dev", "toolbench_decision", "toolcorpus_decision")}  # fmt: skip
    train, train_faults = read_tools(files["tools_train"])
    unseen, unseen_faults = read_tools(files["tools_dev_unseen"])
    return DeerData(
        train,
        unseen,
        tuple(row["query"] for _, row in _rows(files["nosearch_train"])),
        tuple(row["query"] for _, row in _rows(files["nosearch_dev"])),
        decision_items(files["toolbench_decision"], "toolbench"),
        decision_items(files["toolcorpus_decision"], "toolcorpus"),
        {"train": train_faults, "unseen": unseen_faults},
    )


def decision_items(path: str | Path, source: str = "items") -> tuple[DecisionSample, ...]:
    """Ready decision items: rows of query, api_list, api_label, is_call.

    Several labels may be right; the target is the first that is offered, or the first.
    """
    items = []
    for line, row in _rows(Path(path)):
        try:
            candidates = tuple(_offered(each) for each in row["api_list"])
            names = [each.name for each in candidates]
            offered = [label for label in row["api_label"] if label in names]
            if row["is_call"]:
                items.append(DecisionSample(row["query"], "call", candidates, offered[0], Call(offered[0], {}), source=source))  # fmt: skip
            else:
                items.append(DecisionSample(row["query"], "no_call", candidates, row["api_label"][0], source=source))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(f"{path}:{line}: need query, api_list, api_label, is_call ({error})") from None
    return tuple(items)


def _offered(row: Mapping[str, Any]) -> Candidate:
    """A tool of another collection, with a signature made of its parameters' names."""
    parameters = row.get("parameters") or []
    if isinstance(parameters, str):
        try:
            parameters = ast.literal_eval(parameters)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            parameters = {}
    kinds = {"string": "str", "number": "float", "boolean": "bool", "integer": "int"}
    if isinstance(parameters, Mapping):
        names = [str(name) for name in parameters]
    else:
        names = [f"{each['name']}: {kinds.get(str(each.get('type', '')).lower(), 'str')}" for each in parameters]
    return Candidate(row["name"], row.get("description") or "", f"{row['name']}({', '.join(names)})")


@dataclass(frozen=True)
class BfclItem:
    """One question of BFCL: what is asked, the functions offered, and the accepted calls (none in irrelevance)."""

    id: str
    query: str
    functions: tuple[Mapping[str, Any], ...]
    truth: tuple[Mapping[str, Any], ...]


def bfcl_items(category: str, root: str | Path | None = None) -> list[BfclItem]:
    """A category of BFCL.

    Args:
        category: simple_python, multiple, parallel, parallel_multiple or irrelevance.
    """
    if category not in BFCL:
        raise UserError(f"bfcl: got category {category!r}, need {', '.join(BFCL)}")
    truths: dict[str, Any] = {}
    if category != "irrelevance":
        truths = {row["id"]: row["ground_truth"] for _, row in _rows(_file(f"bfcl/{category}_answers.jsonl", root))}
    path = _file(f"bfcl/{category}.jsonl", root)
    items = []
    for line, row in _rows(path):
        try:
            text = "\n".join(turn["content"] for turn in row["question"][0])
            items.append(BfclItem(row["id"], text, tuple(row["function"]), tuple(truths.get(row["id"], ()))))
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{path}:{line}: need id, question, function ({error})") from None
    return items


def _file(name: str, root: str | Path | None) -> Path:
    if root is None:
        try:
            return data.path(f"{FOLDER}/{name}")
        except UserError:
            raise UserError(f"data not found: {FOLDER}/{name}; get all of it: tenfold data get deer") from None
    for folder in (Path(root), Path(root) / FOLDER):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"data not found: {FOLDER}/{name} below {root}")


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if path.is_dir():
        raise UserError(f"{path} is a folder, need a file")
    if not path.is_file():
        raise UserError(f"file not found: {path}")
    if path.suffix == ".json":
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: no JSON: {error}") from None
        if not isinstance(rows, list):
            raise UserError(f"{path}: got {type(rows).__name__}, need a list of rows")
        return list(enumerate(rows, start=1))
    return list(read_lines(path))
