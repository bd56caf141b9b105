"""Traces as one web page: what was asked, found, decided, called, answered, and what went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.core.report import environment
from tenfold.tools.trace import Answer, Call, Candidates, Decision, Error, Event, ToolResult, Trace

LONGEST = 4000  # characters of one text that are shown


def view(traces: Trace | Sequence[Trace], path: str | Path = "trace.html", *, limit: int = 500) -> Path:
    """Write episodes as one self-contained page with filters; nothing is loaded from elsewhere.

    Args:
        traces: one or several.
        path: the page.
        limit: the first so many.
    Returns:
        its path.
    Raises:
        UserError: no episodes.
    """
    shown = [traces] if isinstance(traces, Trace) else list(traces)[:limit]
    if not shown:
        raise UserError("traces: got none to show; run an agent first")
    episodes = [
        {"trace": trace, "end": _end(trace), "lines": [_line(event) for event in trace.events]} for trace in shown
    ]
    ends = sorted({str(each["end"]) for each in episodes})
    html = environment().from_string(_PAGE).render(title="Episodes", episodes=episodes, ends=ends)
    write_atomic(Path(path), html.encode("utf-8", "replace"))
    return Path(path)


def _end(trace: Trace) -> str:
    if trace.events and isinstance(trace.events[-1], Error):
        return trace.events[-1].type
    if not trace.of(Decision) or trace.of(Decision)[0].choice != "search":
        return "answered without a search"
    return "called a tool" if trace.of(Call) else "no tool fitted"


def _line(event: Event) -> dict[str, Any]:
    """Title, text and chips of an event; chips are (text, chosen, note)."""
    if isinstance(event, Decision):
        known = event.logprobs or {}
        chips = [(choice, choice == event.choice, f"{100 * math.exp(min(0.0, known[choice])):.0f} %" if choice in known else "") for choice in event.choices]  # fmt: skip
        return {"kind": "decision", "title": "search or answer?" if event.stage == "search" else "which tool?", "chips": chips, "text": ""}  # fmt: skip
    if isinstance(event, Candidates):
        chips = [(name, False, f"{score:.2f}") for name, score in zip(event.names, event.scores, strict=True)]
        return {"kind": "candidates", "title": "found", "chips": chips, "text": "" if chips else "no tools"}
    if isinstance(event, Call):
        note = " (mended)" if event.repaired else ""
        return {"kind": "call", "title": f"call{note}", "chips": [], "text": f"{event.name} {json.dumps(event.arguments, ensure_ascii=False, indent=1)}"[:LONGEST]}  # fmt: skip
    if isinstance(event, ToolResult):
        title = f"{event.kind or 'error'}" if event.is_error else f"result, {event.seconds:.2f} s"
        return {
            "kind": "wrong" if event.is_error else "result",
            "title": title,
            "chips": [],
            "text": event.content[:LONGEST],
        }
    if isinstance(event, Answer):
        return {"kind": "answer", "title": "answer", "chips": [], "text": event.text[:LONGEST]}
    return {"kind": "wrong", "title": event.type, "chips": [], "text": event.message[:LONGEST]}


_PAGE = """{% extends "page.html" %}
{% block content %}
<style>
.episode { border: 1px solid var(--line); border-radius: .6rem; background: var(--card); padding: .8rem 1.1rem; margin: .9rem 0; }
.episode h2 { font-size: 1rem; margin: 0 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.event { display: grid; grid-template-columns: 9rem 1fr; gap: .8rem; padding: .3rem 0 .3rem .7rem; border-left: 3px solid var(--line); }
.event .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.event.call, .event.result { border-color: #3182bd; } .event.answer { border-color: #2ca02c; } .event.wrong { border-color: #d62728; }
.chip { display: inline-block; border: 1px solid var(--line); border-radius: .8rem; padding: 0 .6rem; margin: 0 .3rem .2rem 0; }
.chip.chosen { font-weight: 600; border-color: #3182bd; box-shadow: inset 0 0 0 1px #3182bd; }
form { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
[hidden] { display: none !important; }
</style>
<h1>{{ title }}</h1>
<p class="soft">A share on a choice is how likely the model was to write it, had it been free to write anything.</p>
<form id="filters">
<label>end <select name="end"><option value="">all</option>{% for end in ends %}<option>{{ end }}</option>{% endfor %}</select></label>
<label>word <input name="word" type="search"></label>
<output name="count">{{ episodes | length }} episode{{ "s" if episodes | length != 1 }}</output>
</form>
{% for episode in episodes %}
<article class="episode" data-end="{{ episode.end }}">
<h2>{{ episode.trace.query }} <span class="mark note">{{ episode.end }}</span></h2>
<p class="soft">{{ episode.trace.model }}, {{ episode.trace.steps }} repl{{ "ies" if episode.trace.steps != 1 else "y" }}, {{ episode.trace.prompt }} + {{ episode.trace.completion }} tokens, {{ "%.2f" | format(episode.trace.seconds) }} s</p>
{% for line in episode.lines %}
<div class="event {{ line.kind }}"><span class="soft">{{ line.title }}</span><span class="text">{% for text, chosen, note in line.chips %}<span class="chip{{ " chosen" if chosen }}">{{ text }}{% if note %} <span class="soft">{{ note }}</span>{% endif %}</span>{% endfor %}{{ line.text }}</span></div>
{% endfor %}
</article>
{% endfor %}
<script>
"use strict";
const form = document.getElementById("filters");
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("input", () => {
  const end = form.end.value, word = form.word.value.trim().toLowerCase();
  let count = 0;
  for (const episode of document.querySelectorAll(".episode")) {
    const shown = (!end || episode.dataset.end === end) && episode.textContent.toLowerCase().includes(word);
    episode.hidden = !shown;
    count += shown;
  }
  form.count.value = `${count} episode${count === 1 ? "" : "s"}`;
});
</script>
{% endblock %}
"""
