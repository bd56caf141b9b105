"""What nobody knows the truth of, asked of a judge: are an optimizer's reflections valid, and were the steps carried out?"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tenfold.core.config import need
from tenfold.core.errors import UserError
from tenfold.prompts import roles
from tenfold.prompts.behaviour import Behaviour, steps_shown
from tenfold.prompts.candidates import Candidate
from tenfold.prompts.diagnostics import gains_of_edits, one_step_success
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.session import CACHE, Ask, Session
from tenfold.prompts.task import Task
from tenfold.text.budget import Budget
from tenfold.text.messages import ChatModel


async def judge_run(
    task: Task,
    target: ChatModel,
    judge: ChatModel,
    candidates: Sequence[Candidate],
    events: Sequence[Mapping[str, Any]],
    *,
    n: int = 50,
    seed: int = 0,
    budget: Budget | None = None,
    folder: Path | None = None,
    replies_of: Path | None = None,
) -> dict[str, Any]:
    """Have a judge label the reflections of a finished search, and whether its target carried the steps of a behaviour out.

    Args:
        task: of the search.
        target: its target, whose replies the judge sees.
        judge: labels; best not the model that wrote the reflections.
        candidates: the tree of the search.
        events: its journal.
        n: reflections at most, and as many (reply, step) pairs.
        seed: of all draws.
        budget, folder: as of a search.
        replies_of: the search's folder, so that no reply is asked for again.
    Returns:
        "judge_validity": share of reflections called valid, None where there is none; "judge_agreement": share of (reply,
        step) pairs where the judge says what the transcript's headings say, None without a behaviour; "judged": their
        numbers; "judge_unreadable": replies without a label; "one_step_success" by the judge's verdicts.
    """
    need("n", n, 1)
    if folder is not None and replies_of is not None:
        _copy_replies(replies_of, folder)
    session = Session(task, target, judge, budget=budget, seed=seed, folder=folder, optimizer_temperature=0.0)
    draw = random.Random(f"judged {seed}")
    reflections = [event for event in events if event["kind"] == "reflection"]
    chosen = [reflections[i] for i in sorted(draw.sample(range(len(reflections)), min(n, len(reflections))))]
    verdicts = await _valid(session, candidates, chosen)
    known = [verdict for verdict in verdicts if verdict is not None]
    steps = await _agreement(session, candidates, n, draw)
    agreed = [same for same in steps if same is not None]
    valid = {(e["candidate"], e["text"]): v for e, v in zip(chosen, verdicts, strict=True) if v is not None}
    edits = [c for c in candidates if (c.parent, c.reflection or "") in valid and _whole(session, candidates, c)]
    for child in edits:
        assert child.parent is not None
        await session.score([child, candidates[child.parent]], task.val, "val")
    return {
        "judge_validity": sum(known) / len(known) if known else None,
        "judge_agreement": sum(agreed) / len(agreed) if agreed else None,
        "judged": {"reflections": len(known), "steps": len(agreed), "judge": judge.name},
        "judge_unreadable": len(verdicts) + len(steps) - len(known) - len(agreed),
        "one_step_success": one_step_success(gains_of_edits(session, candidates, edits, valid)),
    }


async def _valid(
    session: Session, candidates: Sequence[Candidate], events: Sequence[Mapping[str, Any]]
) -> list[bool | None]:
    """Of each reflection whether the judge finds it in the replies that it was made of."""
    train = {example.id: example for example in session.task.train}
    asks = []
    for number, event in enumerate(events):
        text = candidates[event["candidate"]].text
        if unknown := [id for id in event["examples"] if id not in train]:
            raise UserError(f"events.jsonl: example {unknown[0]!r} is none of the task's training split")
        examples = [train[id] for id in event["examples"]]
        found = await session.outcomes([(text, example) for example in examples], "train")
        mistakes = [Mistake(e, o.text, o.feedback) for e, o in zip(examples, found, strict=True)]
        asks.append(Ask("judge", roles.judge_reason(text, mistakes, event["text"]), number))
    return [_label(reply, *roles.VALID) for reply in await session.ask(asks)]


async def _agreement(
    session: Session, candidates: Sequence[Candidate], n: int, draw: random.Random
) -> list[bool | None]:
    """Of (reply, step) pairs of the best behaviour whether the judge says what the headings say."""
    shown = [(c, b) for c in candidates if (b := Behaviour.of(c)) is not None and b.demo and c.scores.get("val")]
    if not shown:
        return []
    best, behaviour = max(shown, key=lambda pair: (pair[0].scores["val"]["mean"] or 0.0, -pair[0].id))
    val = list(session.task.val)
    pairs = [(i, step) for i in range(len(val)) for step in range(len(behaviour.steps))]
    some = sorted(draw.sample(pairs, min(n, len(pairs))))
    used = sorted({i for i, _ in some})
    found = await session.outcomes([(best.text, val[i]) for i in used], "val")
    replies = {i: outcome.text for i, outcome in zip(used, found, strict=True)}
    asks = [Ask("judge", roles.judge_step(s + 1, behaviour.steps[s], replies[i]), s) for i, s in some]
    said = [_label(reply, *roles.FOLLOWED) for reply in await session.ask(asks)]
    there = [steps_shown(replies[i], len(behaviour.steps))[s] for i, s in some]
    return [None if label is None else label is fact for label, fact in zip(said, there, strict=True)]


def _label(reply: str | None, yes: str, no: str) -> bool | None:
    """Which of two labels a judge gave; None where it gave neither."""
    label = (parse_tags(reply or "", "label") or [""])[0].strip().strip(".").casefold()
    return {yes: True, no: False}.get(label)


def _whole(session: Session, candidates: Sequence[Candidate], child: Candidate) -> bool:
    """Whether an edit and its parent were scored on all of val, so that nothing more is asked."""
    assert child.parent is not None
    both = (child, candidates[child.parent])
    return child.dropped is None and all((c.scores.get("val") or {}).get("n") == len(session.task.val) for c in both)


def _copy_replies(run: Path, folder: Path) -> None:
    if (folder / CACHE).exists() or not (run / CACHE).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(run / CACHE)) as source, closing(sqlite3.connect(folder / CACHE)) as copy:
        source.backup(copy)
