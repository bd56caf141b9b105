"""Task adapters on one running server: many streams at once, each asking for its own adapter, scored by task and adapter."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any

import torch
import tyro

from tenfold.align.small_tasks import TASK_SETS
from tenfold.align.verifiers import Task
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm.material import HELD_OUT_SEED, SPREAD
from tenfold.recipes.afm.opening import open_model, place_of, recovery_of, with_adapters
from tenfold.recipes.afm.post_config import at_least
from tenfold.recipes.afm.printing import print_rows
from tenfold.recipes.afm.verb_run import ANEW, Flat, Goes, asked_of, working_in

RECOVERED = "recovery"
MOST_SHOWN = 48  # answers in the report, about


@dataclass(frozen=True)
class SwapJob:
    """What `swap` is asked.

    Args:
        model: the base, as for `serve`.
        adapters: NAME=FOLDER of each; named "extract" and "summarize" after the task that they learned.
        items: held-out requests of each task; each goes to the base, to its recovery adapter where it has one, and to every
            adapter.
        streams: under way at a time.
        max_tokens: of an answer.
        seed: of the requests.
        materialize: as for `serve`.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    adapters: tuple[str, ...] = ()
    items: int = 16
    streams: int = 32
    max_tokens: int = 48
    seed: int = 0
    materialize: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "items", "streams", "max_tokens")
        names = [each.partition("=")[0] for each in self.adapters]
        if unknown := set(names) - set(TASK_SETS):
            raise ValueError(f"adapters: got {', '.join(sorted(unknown))}, need NAME=FOLDER of {', '.join(TASK_SETS)}")


@dataclass(frozen=True)
class Answered:
    """One streamed answer.

    Args:
        task: what was asked.
        model: which model of the server.
        score: by the task's own check.
        text: of the answer.
        first, whole: seconds until its first words and its end.
    """

    task: Task
    model: str
    score: float
    text: str
    first: float
    whole: float


def swap(job: Annotated[SwapJob, Flat] = SwapJob(), going: Goes = ANEW) -> None:
    """Ask one server for several adapters at once; score base, right and wrong adapter; the base's bytes stay the same."""
    job, run = asked_of("swap", job, going)
    if not job.adapters:
        raise UserError("adapters: got none, give NAME=FOLDER of what `tenfold afm adapter` left")
    place_of(job.model)
    decoder, tokenizer = open_model(job.model, job.materialize)
    recovery = recovery_of(job.model)
    given = [*job.adapters, *([] if recovery is None else [f"{RECOVERED}={recovery}"])]
    names = with_adapters(decoder, given)
    with working_in("swap", job, run, going, "afm swap: adapters of one server") as run:
        before = digest(decoder)
        tasks = [
            task
            for name in TASK_SETS
            if name in names
            for task in TASK_SETS[name](SPREAD * job.seed + HELD_OUT_SEED, job.items, "held_out")
        ]
        with (
            LocalChatModel(decoder, tokenizer, "base", max_batch=job.streams) as local,
            served([local, *map(local.with_adapter, names)]) as url,
        ):
            begun = time.perf_counter()
            answers = asyncio.run(ask_all(url, tasks, ["base", *(f"base:{name}" for name in names)], job))
            seconds = time.perf_counter() - begun
        if digest(decoder) != before:
            raise RuntimeError("the base's weights changed while its adapters were served")
        show(run, job, answers, seconds)
    print_rows(f"{job.model}: share of the task done", score_rows(answers))


def digest(decoder: Decoder) -> str:
    """SHA-256 of all weights and tables of a decoder but its adapters'."""
    found = hashlib.sha256()
    for name, tensor in sorted(decoder.state_dict().items()):
        if not {"lora_A", "lora_B"} & set(name.split(".")):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@contextmanager
def served(models: Sequence[LocalChatModel]) -> Iterator[str]:
    """A server of the models on a free port of this machine, in a thread; gives its address."""
    import socket
    import threading

    import uvicorn

    from tenfold.lm.serve import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app({each.name: each for each in models})
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


async def ask_all(url: str, tasks: Sequence[Task], models: Sequence[str], job: SwapJob) -> list[Answered]:
    """Every task asked of every model, streamed, the models by turns, so many at a time."""
    try:
        import openai
    except ImportError:
        raise UserError('swap asks by OpenAI\'s client: pip install "tenfold[tools]"') from None
    free = asyncio.Semaphore(job.streams)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=3600) as client:

        async def one(task: Task, model: str) -> Answered:
            async with free:
                begun, first, text = time.perf_counter(), 0.0, ""
                stream = await client.chat.completions.create(
                    model=model,
                    messages=[{"role": "user", "content": turn.content} for turn in task.messages],
                    max_tokens=job.max_tokens,
                    temperature=0.0,
                    stream=True,
                )
                async for chunk in stream:
                    said = chunk.choices[0].delta.content or ""
                    if said and not text:
                        first = time.perf_counter() - begun
                    text += said
                return Answered(task, model, task.check(text), text, first, time.perf_counter() - begun)

        return await asyncio.gather(*(one(task, model) for task in tasks for model in models))


def score_rows(answers: Sequence[Answered]) -> list[dict[str, Any]]:
    """A line a model: its mean score on each task."""
    kinds = list(dict.fromkeys(each.task.kind for each in answers))
    return [
        {
            "model": model,
            **{
                kind: fmean(each.score for each in answers if each.model == model and each.task.kind == kind)
                for kind in kinds
            },
        }
        for model in dict.fromkeys(each.model for each in answers)
    ]


def show(run: Run, job: SwapJob, answers: Sequence[Answered], seconds: float) -> None:
    """Summary, scores and some answers in the run."""
    rows = score_rows(answers)
    by_model = {row["model"]: row for row in rows}
    words = [
        f"{kind}: {by_model['base'][kind]:.2f} by the base, {by_model[f'base:{kind}'][kind]:.2f} by its adapter"
        for kind in rows[0]
        if kind != "model"
    ]
    run.text(
        "summary",
        f"{len(answers)} answers through one server, {job.streams} streams at a time, in {seconds:.0f} s. Mean score: "
        f"{'; '.join(words)}. The base's bytes are the same before and after.",
    )
    run.table("scores", rows, note="Share of the fields that are right, of the facts that are told; held-out requests.")
    firsts, wholes = [sorted(getattr(each, name) for each in answers) for name in ("first", "whole")]
    half = len(answers) // 2
    run.table(
        "times",
        [{"streams": job.streams, "median s to first words": firsts[half], "median s to the end": wholes[half]}],
    )
    run.table(
        "answers",
        [
            {"model": each.model, "task": each.task.kind, "answer": each.text[:200], "score": each.score}
            for each in answers[:: max(1, len(answers) // MOST_SHOWN)]
        ],
    )


VERBS = {"swap": swap}
