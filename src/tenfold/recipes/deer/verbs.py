"""What a user does: build samples, generate them with a model, evaluate a model, run an agent."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from tenfold.core.config import from_json, need
from tenfold.core.errors import UserError, printable
from tenfold.core.interrupt import terminated_as_interrupted
from tenfold.core.run import Run
from tenfold.recipes.deer import learners
from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.experiment import FIELDS, FLOORS, model_folder
from tenfold.recipes.deer.reporting import report as write_report
from tenfold.recipes.deer.terminal import APPROVE, counts, print_episode
from tenfold.text.chat import complete_all
from tenfold.text.endpoint import EndpointChatModel
from tenfold.text.messages import ChatModel, Message, Sampling
from tenfold.tools.agent import DecisionAgent, EpisodeInterrupted, Policy
from tenfold.tools.ast_match import ast_match
from tenfold.tools.data import BFCL, BfclItem, bfcl_items, load, read_tools
from tenfold.tools.decider import ChatDecider
from tenfold.tools.executor import Executor, LocalExecutor, SubprocessExecutor
from tenfold.tools.formats import FileFormat, export
from tenfold.tools.formats import read as read_file
from tenfold.tools.metrics import evaluate_decisions
from tenfold.tools.pipeline import SamplePipeline
from tenfold.tools.sampler import Mode, ToolSampler
from tenfold.tools.samples import BuildReport, build_samples
from tenfold.tools.sources import open_tools
from tenfold.tools.tool import SIDE_EFFECT, UNMARKED, Tool, ToolRegistry
from tenfold.tools.viewer import view

DEFAULT_MODEL = "smollm2-135m-instruct"


def build(
    tools: Path | None = None,
    /,
    out: Path = Path("samples.jsonl"),
    general: Path | None = None,
    format: FileFormat = "samples",
    mode: Mode | Literal["mix"] = "mix",
    k: int = 5,
    call_ratio: float = 0.6,
    n_clusters: int = 30,
    embed: str = "tfidf-svd",
    seed: int = 42,
) -> None:
    """Build decision samples from tools with examples; no model is asked.

    Args:
        tools: JSON Lines of api_name, description_for_human, api_function, example, or ToolDEER's own JSON list; none: the
            catalogue of ToolDEER.
        out: where they go.
        general: queries that need no tool, a line each, or JSON Lines with a "query"; none: ToolDEER's, where the tools are.
        format: samples (ours), tooldeer (markers), sharegpt, openai (messages).
        mode: how candidates are drawn.
        k: candidates.
        call_ratio: share of queries whose tool is among them.
        n_clusters: of k-means.
        embed: what tools are clustered by: tfidf-svd, or a sentence encoder's name or folder.
        seed: of draws and order.
    """
    _may_write("--out", out, tools, general)
    need("--k", k, 1)
    need("--n-clusters", n_clusters, 1)
    need("--call-ratio", call_ratio, 0, 1)
    if tools is None:
        data = load("deer")
        entries, queries = data.train, list(data.nosearch_train)
    else:
        entries, queries = read_tools(tools)[0], []
    _check_pool([entry.tool for entry in entries], "the catalogue" if tools is None else str(tools), k, call_ratio)
    if general is not None:
        queries = _queries(general)
    sampler, found = ToolSampler(mode, k=k, n_clusters=n_clusters, seed=seed, embed=embed), BuildReport()
    samples = build_samples(entries, queries, call_ratio=call_ratio, sampler=sampler, seed=seed, report=found)
    export(samples, out, format)
    print(f"{len(samples)} samples: {counts(found.kept)}")
    print(f"dropped: {counts(found.dropped) or 'none'}; candidates filled from other clusters: {sum(sampler.report.filled.values())}")  # fmt: skip
    if found.unfit:
        print(f"kept, though their calls do not fit the tool's signature: {counts(found.unfit)}")
    print(out)


def generate(
    tools: str,
    /,
    model: str = DEFAULT_MODEL,
    checker: str | None = None,
    out: Path = Path("generated.jsonl"),
    folder: Path = Path("deer-samples"),
    pairs: int = 10,
    keep_ambiguous: bool = False,
) -> None:
    """Have a chat model write queries and calls for tools, check them, and keep the right ones; a killed run goes on.

    Args:
        tools: a file of tools, mcp:COMMAND, or the URL of an OpenAPI document.
        model: a pretrained model, a run or model folder, or URL#MODEL of an endpoint.
        checker: another model that says yes or no to each pair; none: the same.
        out: tools with their examples, for `build`.
        folder: where replies and finished tools are kept.
        pairs: asked for, of each tool.
        keep_ambiguous: keep queries that stand under two tools.
    """
    import json

    from tenfold.core.atomic import write_atomic

    need("--pairs", pairs, 1)
    _may_write("--out", out, tools)
    with ExitStack() as stack:
        registry = stack.enter_context(open_tools(tools))
        speaker = stack.enter_context(_chat(model))
        other = None if checker is None else stack.enter_context(_chat(checker))
        pipeline = SamplePipeline(speaker, registry, other, folder, pairs=pairs, keep_ambiguous=keep_ambiguous)
        found = asyncio.run(
            pipeline.run(lambda done, every: print(f"{done}/{every} tools", file=sys.stderr, flush=True))
        )
    rows = [{"api_name": each.tool.extra.get("api_name", each.tool.name), "description_for_human": each.tool.description, "description_for_model": each.tool.description, "api_function": each.tool.signature, "example": [{"query": query, "call": call} for query, call in each.examples]} for each in found]  # fmt: skip
    write_atomic(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    report = pipeline.report
    print(f"{report.kept} pairs of {len(found)} tools kept; dropped: {counts(report.dropped) or 'none'}")
    for name, reason in report.failed.items():
        print(f"no usable reply for {printable(name)}: {printable(reason)}")
    print(f"{report.calls} requests; {out}")


def eval_(
    model: str,
    /,
    decisions: Path | None = None,
    format: FileFormat = "samples",
    bfcl: bool = False,
    limit: int | None = None,
    demonstrations: int = 0,
    official: bool = False,
    arguments: bool = False,
) -> None:
    """Evaluate a model's decisions, or its calls on BFCL.

    Args:
        model: a run or model folder, a pretrained model, or URL#MODEL of an endpoint.
        decisions: a file of samples; none: ToolBench's and ToolCorpus' ready items.
        format: of that file.
        bfcl: calls on BFCL's five categories in place of decisions.
        limit: the first so many of each.
        demonstrations: solved samples that a language model is shown first.
        official: score as the released code: names by substring, searches by ended generations.
        arguments: have a language model also write the calls, and compare their arguments as BFCL does; of your own samples.
    """
    need("--limit", limit, 1)
    if arguments and decisions is None:
        raise UserError("--arguments: need --decisions FILE; ToolBench's and ToolCorpus' items say no right arguments")
    need("--demonstrations", demonstrations, 0)
    if bfcl:
        with _chat(model) as speaker:
            for category in BFCL:
                items = bfcl_items(category)[:limit]
                print(f"{category:<20} {_share(_bfcl(speaker, items), len(items))}")
        return
    if decisions is not None:
        sets = {decisions.name: read_file(decisions, format)}
        if not sets[decisions.name]:
            raise UserError(f"{decisions}: has no samples; tenfold deer build makes some")
    else:
        data = load("deer")
        sets = {"toolbench": list(data.toolbench), "toolcorpus": list(data.toolcorpus)}
    shown = learners.demonstrations(sets[next(iter(sets))], demonstrations)
    with _decider(model, shown) as decider:
        if arguments and not isinstance(decider, ChatDecider):
            raise UserError(f"--arguments: {model}: a ranker decides but cannot write calls; take a language model")
        for name, samples in sets.items():
            asked = [sample for sample in samples if sample not in shown][:limit]
            predictions, _ = learners.timed(decider, asked, arguments=arguments)
            figures = evaluate_decisions(asked, predictions, name_match="substring" if official else "equal", strict_official=official)  # fmt: skip
            print(f"{printable(name)}, {len(asked)} samples")
            for metric in ("P_NoSearch", "P_Search", "P_DS", "P_NoCall", "P_Call", "P_DC"):
                if figures["n"][metric]:
                    low, high = figures["ci95"][metric]
                    print(f"  {metric:<11} {100 * figures[metric]:6.1f} %   ({100 * low:.1f} – {100 * high:.1f}, n = {figures['n'][metric]})")  # fmt: skip
            if written := figures["n"]["argument_accuracy"]:
                print(f"  arguments   {_share(round(written * figures['argument_accuracy']), written)}, {100 * figures['schema_valid']:.1f} % valid")  # fmt: skip


def agent(
    query: str,
    /,
    tools: str | None = None,
    model: str = DEFAULT_MODEL,
    k: int = 5,
    max_steps: int = 8,
    allow: tuple[str, ...] = (),
    approve: Literal["ask", "never", "always"] = "ask",
    sandbox: bool = False,
    tool_timeout: float | None = None,
    trace: Path | None = None,
    html: Path | None = None,
) -> None:
    """Answer one query with tools; every decision, call and result is shown.

    Args:
        query: of the user.
        tools: a JSON or Python file of tools, mcp:COMMAND, or the URL or file of an OpenAPI document.
        model: a run or model folder, a pretrained model, or URL#MODEL of an endpoint.
        k: candidates shown to the model.
        max_steps: replies of the model at most.
        allow: tools with side effects that need no asking.
        approve: calls of other tools with side effects: ask at the terminal, never, or always. A Python function has side
            effects where its file says `NAME.side_effects = True`. One whose file says nothing is run unasked, but not
            with `never`, which runs only those whose file says `NAME.side_effects = False`.
        sandbox: run Python functions each in a confined process.
        tool_timeout: seconds that a call may take; none: 60, in the sandbox 10.
        trace: a JSON file of the episode.
        html: a page of it.
    """
    if tools is None:
        raise UserError("--tools: need a file of tools, mcp:COMMAND, or the URL or file of an OpenAPI document")
    need("--k", k, 1)
    need("--max-steps", max_steps, 1)
    need("--tool-timeout", tool_timeout, 0, above=True)
    _may_write("--trace", trace, tools)
    _may_write("--html", html, tools, trace)
    with ExitStack() as stack:
        registry = stack.enter_context(open_tools(tools))
        if unknown := [name for name in allow if name not in registry]:
            raise UserError(
                f"--allow: no tool {printable(unknown[0])}; there are {', '.join(map(printable, registry.names[:12]))}"
            )
        speaker = stack.enter_context(_chat(model))
        if approve == "never":
            registry = ToolRegistry(tool.model_copy(update={"tags": (*tool.tags, SIDE_EFFECT)}) if UNMARKED in tool.tags else tool for tool in registry)  # fmt: skip
        policy = Policy(approve=APPROVE[approve], allow=frozenset(allow))
        answering = DecisionAgent(speaker, registry, k=k, max_steps=max_steps, policy=policy, executor=_executor(sandbox, tool_timeout))  # fmt: skip
        interruption = None
        try:
            with terminated_as_interrupted():
                episode = answering.run(query)
        except EpisodeInterrupted as stop:  # what it did until then may be what it is interrupted for
            episode, interruption = stop.trace, stop
    print_episode(episode)
    if trace is not None:
        print(episode.save(trace))
    if html is not None:
        print(view(episode, html))
    if interruption is not None:
        raise interruption
    if episode.answer is None:
        raise UserError("the episode ended without an answer")


def report(run: Path, /) -> None:
    """Write the report of a run anew.

    Args:
        run: a run folder whose stages are done.
    """
    opened = Run.open(run)
    config = _run_config(opened)
    names = [f"seed{seed}-{stage}" for seed in config.seeds for stage in (FLOORS, *config.arms)]
    left = [name for name in names if not opened.done(name)]
    if left:
        raise UserError(f"{run}: {len(left)} of {len(names)} stages are not done; tenfold deer train --resume {run}")
    write_report(config, opened, [opened.load_stage(name, FIELDS) for name in names])
    opened.finish()
    print(run / "report.html")


def _executor(sandbox: bool, timeout: float | None) -> Executor:
    if not sandbox:
        return LocalExecutor(60 if timeout is None else timeout)
    timeout = 10 if timeout is None else timeout
    return SubprocessExecutor(timeout, cpu_s=max(10, math.ceil(timeout)))


def _may_write(option: str, place: Path | None, *inputs: str | Path | None) -> None:
    """UserError unless a file can be written there that is none of the inputs."""
    if place is None:
        return
    if place.is_dir() or not place.parent.is_dir():
        raise UserError(f"{option}: {place} cannot be written: need a file in a folder that exists")
    for other in inputs:
        if other is not None and (place == other or (os.path.exists(other) and place.exists() and place.samefile(other))):  # fmt: skip
            raise UserError(f"{option}: {place} is another file of this command, which would be lost; name a new one")


def _check_pool(tools: Sequence[Tool], where: str, k: int, call_ratio: float) -> None:
    """UserError unless k candidates can be drawn from these tools, with the right one and without it."""
    if not tools:
        raise UserError(f"{where}: no tools")
    if twice := [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]:
        raise UserError(f"{where}: two tools are named {printable(twice[0])!r}; rename or drop one")
    most = len(tools) if call_ratio == 1 else len(tools) - 1  # without the right one there is one less
    if k > most:
        remedy = f"use --k {most} or fewer" if most else "give two or more, or --k 1 --call-ratio 1"
        raise UserError(f"--k: got {k}: {where}: {len(tools)} tool{'s' if len(tools) != 1 else ''}; {remedy}")


def _queries(path: Path) -> list[str]:
    from tenfold.core import packed
    from tenfold.lm.tasks import read_lines

    if path.is_dir():
        raise UserError(f"--general: {path} is a folder, need a file")
    if not path.is_file():
        raise UserError(f"file not found: {path}")
    if path.suffix == ".jsonl":
        return [str(row["query"]) for _, row in read_lines(path) if "query" in row]
    return [line.rstrip("\n") for line in packed.lines(path) if line.strip()]


def _run_config(run: Run) -> Config:
    run.need_recipe("deer")
    return from_json(Config, run.config, where=str(run.path / "config.json"))


def _folder(place: str) -> str:
    """A run's model of its first seed and arm; other places stand for themselves."""
    path = Path(place)
    if not (path / "run.json").is_file():
        return place
    run = Run.open(path)
    config = _run_config(run)
    folder = model_folder(path, config.seeds[0], config.arms[0])
    if not (folder / learners.CARD).is_file():
        raise UserError(f"no model in {path}: its training has not ended, or its features need an encoder")
    return str(folder)


@contextmanager
def _chat(place: str) -> Iterator[ChatModel]:
    base_url, _, name = place.partition("#")
    if base_url.startswith(("http://", "https://")):
        if not name:
            raise UserError(f"--model: got {place}, need URL#MODEL, such as http://localhost:8000/v1#NAME")
        yield EndpointChatModel(name, base_url)
        return
    with learners.chat_model(_folder(place), Path(place).name) as chat:
        yield chat


@contextmanager
def _decider(place: str, shown: Sequence[Any]) -> Iterator[learners.Decider]:
    if place.startswith(("http://", "https://")):
        with _chat(place) as speaker:
            yield ChatDecider(speaker, shown)
        return
    with learners.decider(_folder(place), shown) as found:
        yield found


def _bfcl(speaker: ChatModel, items: Sequence[BfclItem]) -> int:
    """How many items are right."""
    from tenfold.lm.bfcl_calls import parse_calls

    asked = [([Message("user", item.query)], Sampling(temperature=0.0, max_tokens=512, tools=tuple(ToolRegistry.from_bfcl(item.functions).to_openai(strict=False)))) for item in items]  # fmt: skip
    replies = complete_all(speaker, [messages for messages, _ in asked], [sampling for _, sampling in asked])
    right = 0
    for item, (reply,) in zip(items, replies, strict=True):
        try:
            calls = [{_named(call.name, item): call.arguments} for call in parse_calls(reply)]
        except ValueError:
            calls = []
        right += bool(ast_match(calls, item.truth, item.functions))
    return right


def _named(name: str, item: BfclItem) -> str:
    """The function's own name, of which APIs see an alias."""
    return ToolRegistry.from_bfcl(item.functions).original(name)


def _share(right: int, count: int) -> str:
    from tenfold.core.statistics import wilson

    found = wilson(right, count)
    return f"{100 * found.value:5.1f} %   ({100 * found.low:.1f} – {100 * found.high:.1f}, n = {count})"


VERBS = {"build": build, "generate": generate, "eval": eval_, "agent": agent, "report": report}
