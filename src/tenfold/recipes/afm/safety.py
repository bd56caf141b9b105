"""How safe a model answers: requests to refuse and look-alikes to answer, asked here or of a running server, and a model card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from tenfold.align.safety_categories import Categories, read_categories
from tenfold.align.safety_report import Judged, SafetyReport, judge_safety, shown
from tenfold.align.safety_requests import RED_TEAM, Request, draw_requests, read_requests
from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.lm.chat_eval import Question, ask
from tenfold.recipes.afm.model_card import card
from tenfold.recipes.afm.opening import place_of
from tenfold.recipes.afm.post_config import at_least
from tenfold.recipes.afm.printing import print_rows
from tenfold.recipes.afm.safety_set import NOTE
from tenfold.recipes.afm.serving import DEFAULT_MODEL, opened
from tenfold.recipes.afm.verb_run import ANEW, Flat, Goes, asked_of, working_in
from tenfold.text.messages import ChatModel, Message, Sampling

SHOWN = 400  # characters of a request and an answer in the report
CARD = "model-card.md"


@dataclass(frozen=True)
class SafetyJob:
    """What `safety` is asked.

    Args:
        model: as for `chat`; with an endpoint, the model's name there.
        requests: red-team list, JSON Lines of prompt or messages, category, expect (refuse or answer), and where known
            secret; none: requests made from the categories, then the list that comes with tenfold.
        categories: JSON file of categories; none: the one that comes with tenfold.
        endpoint: base URL of an OpenAI-compatible server to ask instead (key: OPENAI_API_KEY).
        adapter: folder of an adapter that works on the model.
        count: requests made from the categories, half of them to refuse.
        system: a system turn before requests that have none.
        max_tokens: of an answer.
        seed: of the requests made.
    """

    model: Annotated[str, tyro.conf.Positional] = DEFAULT_MODEL
    requests: str | None = None
    categories: str | None = None
    endpoint: str | None = None
    adapter: str | None = None
    count: int = 128
    system: str = ""
    max_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 2, "count")
        at_least(self, 1, "max_tokens")


def safety(job: Annotated[SafetyJob, Flat] = SafetyJob(), going: Goes = ANEW) -> None:
    """Count violations and over-refusals of a model's likeliest answers, by category and by attack; write a model card."""
    job, run = asked_of("safety", job, going)
    categories = read_categories(job.categories)
    requests = requests_of(job, categories)
    if job.endpoint is None:
        place_of(job.model)  # a model that is missing is told before there is a run
    elif job.adapter is not None:
        raise UserError(
            "--adapter: a server is asked for an adapter by the model's name, MODEL:ADAPTER; drop --adapter"
        )
    with working_in("safety", job, run, going, f"afm safety: {job.model}") as run:
        report = answered(job, run, requests, categories)
        show(run, report)
        write_atomic(run.path / CARD, model_card(job, run))
    print_rows(f"{job.model}: safety", report.rows())
    print(f"{run.path / CARD}")


def requests_of(job: SafetyJob, categories: Categories) -> list[Request]:
    """The user's list, or requests made from the categories and, with the categories that come along, their list."""
    if job.requests is not None:
        return read_requests(job.requests, categories)
    made = draw_requests(categories, job.seed, job.count)
    return made + (read_requests(RED_TEAM, categories) if job.categories is None else [])


def answered(job: SafetyJob, run: Run, requests: list[Request], categories: Categories) -> SafetyReport:
    """The answers, each kept in the run as it comes, judged."""
    before = (Message("system", job.system),) if job.system else ()
    questions = [
        Question(each.id, each.messages if each.messages[0].role == "system" else (*before, *each.messages))
        for each in requests
    ]
    sampling = Sampling(temperature=0.0, max_tokens=job.max_tokens)
    with _asked(job) as model:
        replies = ask(model, questions, sampling, run.path / "answers" / "replies.jsonl")
    return judge_safety(requests, [reply.text for reply in replies], categories)


def model_card(job: SafetyJob, run: Run) -> str:
    """The card of the model that was asked; of one on this machine also what it is and, where a run made it, how."""
    if job.endpoint is not None:
        return card(run, run.path, job.model)
    place = place_of(job.model)
    maker = Run.open(place.parent) if (place.parent / "run.json").is_file() else None
    return card(run, place, maker.path.name if maker else place.name, maker=maker)


def show(run: Run, report: SafetyReport) -> None:
    """Summary, tables and figure of the run."""
    from tenfold.recipes.afm.post_figures import safety_figure  # matplotlib takes a second to import

    run.text(
        "summary",
        f"Of {len(report.judged)} requests: violations {shown(report.violations)}; over-refusals {shown(report.over_refusals)}.",
    )
    run.table("by category", report.rows(), note=NOTE)
    run.figure("by category", safety_figure(report), caption="95 % intervals; grey: none asked.")
    run.table("by attack", [_by_attack(row) for row in report.rows(by=lambda request: request.attack)])
    run.table("answers", [_row(each) for each in report.judged])


@contextmanager
def _asked(job: SafetyJob) -> Iterator[ChatModel]:
    if job.endpoint is None:
        given = [] if job.adapter is None else [f"safety={job.adapter}"]
        with opened(job.model, given, materialize=True) as (local, *adapted):
            yield adapted[0] if adapted else local
        return
    from tenfold.text.chat import EndpointChatModel

    yield EndpointChatModel(job.model, base_url=job.endpoint, api_key=os.environ.get("OPENAI_API_KEY") or "none")


def _by_attack(row: dict[str, Any]) -> dict[str, Any]:
    return {"attack" if name == "category" else name: value for name, value in row.items()}


def _row(each: Judged) -> dict[str, Any]:
    said = " / ".join(f"{turn.role}: {turn.content}" for turn in each.request.messages)
    return {
        "request": said[:SHOWN],
        "category": each.request.category,
        "to": "refuse" if each.request.refuse else "answer",
        "answer": each.text[:SHOWN],
        "verdict": "violation" if each.violated else "over-refusal" if each.over_refused else "",
    }


VERBS = {"safety": safety}
