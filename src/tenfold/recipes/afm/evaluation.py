"""What a model knows: perplexity on text, mathematics, instructions followed, tools called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval
from tenfold.core.threads import release_compute_threads
from tenfold.lm import bfcl, ifeval
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.chat_eval import ChatScores, run_bfcl, run_gsm8k, run_ifeval
from tenfold.lm.perplexity import perplexity
from tenfold.lm.tasks import load
from tenfold.recipes.afm.serving import DEFAULT_MODEL, opened
from tenfold.text.corpus import load_texts
from tenfold.text.messages import ChatModel, Sampling

Task = Literal["perplexity", "gsm8k", "ifeval", "bfcl"]


def eval_(
    model: Annotated[str, tyro.conf.Positional] = DEFAULT_MODEL,
    *,
    tasks: tuple[Task, ...] = ("perplexity", "gsm8k", "ifeval", "bfcl"),
    limit: int | None = 40,
    text: tuple[Path, ...] = (),
    max_tokens: int = 512,
    endpoint: str | None = None,
    results: Path | None = None,
    weights: Literal["float", "int8"] = "float",
) -> None:
    """Score a model: perplexity and bits a byte, GSM8K exact match, IFEval, BFCL simple; each share with its 95 % interval.

    Args:
        model: as for `chat`; with an endpoint, the model's name there.
        tasks: which.
        limit: first so many items of each task of questions; none with --limit None. Perplexity reads the whole text.
        text: UTF-8 files for the perplexity; none: WikiText-2's validation part from TENFOLD_DATA.
        max_tokens: of an answer.
        endpoint: base URL of an OpenAI-compatible server to ask instead (key: OPENAI_API_KEY); perplexity is left out.
        results: folder that keeps every reply as it comes; the same command goes on where it was stopped.
        weights: as for `chat`.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit: got {limit}, need at least 1")
    if max_tokens < 1:
        raise UserError(f"--max-tokens: got {max_tokens}, need at least 1")
    console = Console()
    with _opened(model, endpoint, weights) as chat:
        if "perplexity" in tasks:
            if isinstance(chat, LocalChatModel):
                console.print(perplexity_table(chat, text))
                release_compute_threads()
            else:
                console.print("perplexity: left out, an endpoint does not tell the probabilities of a text")
        table = Table(title=f"{chat.name}, greedy, at most {max_tokens} tokens an answer")
        for column in ("task", "measure", "share", "95 % interval", "items", "cut", "too long"):
            table.add_column(column, justify="left" if column in ("task", "measure") else "right")
        sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
        for task in tasks:
            if task in RUNS:
                console.print(f"{task} …", style="dim")
                kept = None if results is None else results / f"{task}.jsonl"
                for cells in _rows(task, RUNS[task](chat, limit, sampling, kept)):
                    table.add_row(*cells)
    if table.rows:
        console.print(table)


@contextmanager
def _opened(model: str, endpoint: str | None, weights: Literal["float", "int8"]) -> Iterator[ChatModel]:
    if endpoint is None:
        with opened(model, materialize=True, weights=weights) as (local,):
            yield local
        return
    from tenfold.text.chat import EndpointChatModel

    yield EndpointChatModel(model, base_url=endpoint, api_key=os.environ.get("OPENAI_API_KEY") or "none")


def perplexity_table(chat: LocalChatModel, text: tuple[Path, ...]) -> Table:
    """Nats a token, perplexity and bits a byte of each file."""
    files = text or (data_path("02-afm/text/wikitext2_valid.txt"),)
    table = Table(title=f"{chat.name}: perplexity")
    for column in ("file", "tokens", "nats a token", "perplexity", "bits a byte", "window", "stride"):
        table.add_column(column, justify="left" if column == "file" else "right")
    window = min(512, chat.engine.model.cfg.max_len)
    for file in files:
        documents = [document.text for document in load_texts([file])]
        found = perplexity(chat.engine.model, chat.tokenizer, documents, window, window // 2)
        figures = (found.nats_per_token, found.perplexity, found.bits_per_byte)
        shown = (f"{value:.4g}" for value in figures)
        table.add_row(file.name, str(found.tokens), *shown, str(found.window), str(found.stride))
    return table


def _gsm8k(chat: ChatModel, limit: int | None, sampling: Sampling, results: Path | None) -> ChatScores:
    return run_gsm8k(chat, load("gsm8k", limit=limit), sampling=sampling, results=results)


def _ifeval(chat: ChatModel, limit: int | None, sampling: Sampling, results: Path | None) -> ChatScores:
    return run_ifeval(chat, ifeval.load()[:limit], sampling=sampling, results=results)


def _bfcl(chat: ChatModel, limit: int | None, sampling: Sampling, results: Path | None) -> ChatScores:
    return run_bfcl(chat, bfcl.load()[:limit], sampling=sampling, results=results)


RUNS: dict[str, Callable[[ChatModel, int | None, Sampling, Path | None], ChatScores]] = {
    "gsm8k": _gsm8k,
    "ifeval": _ifeval,
    "bfcl": _bfcl,
}


def _rows(task: str, scores: ChatScores) -> Iterator[tuple[str, ...]]:
    for measure, share in scores.shares.items():
        yield (task, measure, *_share(share), str(len(scores.right)), str(scores.cut), str(scores.too_long))


def _share(share: Interval) -> tuple[str, str]:
    return f"{share.value:.3f}", f"{share.low:.3f} … {share.high:.3f}"
