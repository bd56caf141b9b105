"""A search as one self-contained page: the prompt, how far to trust it, the tree with word differences, curve, cost, diagnostics."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.core.atomic import write_atomic
from tenfold.core.report import environment
from tenfold.prompts.candidates import Candidate
from tenfold.prompts.result import Result
from tenfold.prompts.word_diff import word_diff

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NODES = 400  # of the tree; the worst beyond it are left to result.json
REASONS = {
    "no_tags": "no prompt in the reply",
    "empty": "empty",
    "same": "the same as its parent",
    "seen": "met before",
    "too_long": "too long",
    "null_byte": "holds a null byte",
    "placeholder": "holds the placeholder",
    "digits": "holds digits",
    "answer_pasted": "quotes a training example",
    "not_followed": "its steps were not followed",
    "context_length": "longer than the model reads",
    "cut_short": "the reply was cut short",
    "less_likely": "makes the targets less likely than others",
}


def write_report(result: Result, path: Path) -> Path:
    """Write the page; everything that models wrote is escaped."""
    nodes, left = _tree(result)
    html = (
        environment()
        .from_string(_PAGE)
        .render(
            title=f"Prompt search: {result.task}, {result.method}",
            result=result,
            test=result.test,
            about=result.about,
            warnings=result.warnings(),
            curse=val_against_test(result.test["optimism"]),
            nodes=nodes,
            left=left,
            curve=_picture(result),
            cost=_cost_rows(result),
            diagnostics=diagnostic_rows(result.diagnostics),
            changed=word_diff(result.baseline.text, result.best.text) if result.best.id != result.baseline.id else None,
        )
    )
    write_atomic(path, _visible(html).encode("utf-8", "replace"))
    return path


def curve_figure(result: Result) -> Figure:
    """Best mean on val over the requests to the target; the test score beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    points = [(row["target_calls"], row["best_val"]) for row in result.curve if row["best_val"] is not None]
    if points:
        axes.step(*zip(*points, strict=True), where="post", marker="o", markersize=4, label="best on val")
    for name, colour in (("baseline", "0.5"), ("best", "tab:green")):
        score = result.test.get(name)
        if score and score["mean"] is not None:
            axes.axhspan(score["low"], score["high"], color=colour, alpha=0.12, linewidth=0)
            axes.axhline(score["mean"], color=colour, linestyle="--", linewidth=1.2, label=f"{name} on test, 95 %")
    axes.set(xlabel="requests to the target", ylabel="score", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def val_against_test(optimism: float | None) -> str | None:
    """How far val was from test for the chosen prompt, in words."""
    if optimism is None:
        return None
    if optimism > 0.0005:
        return f"Val says {optimism:.3f} more than test for the chosen prompt (the winner's curse)"
    if optimism < -0.0005:
        return f"Val says {-optimism:.3f} less than test for the chosen prompt (chance: test was the easier split)"
    return "Val and test agree for the chosen prompt"


def _picture(result: Result) -> str:
    buffer = io.BytesIO()
    curve_figure(result).savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _tree(result: Result) -> tuple[list[dict[str, Any]], int]:
    """The candidates depth first, children behind their parents, with the words that changed."""
    children: dict[int | None, list[Candidate]] = {}
    for candidate in result.candidates:
        children.setdefault(candidate.parent, []).append(candidate)
    path = set()
    node: Candidate | None = result.best
    while node is not None:
        path.add(node.id)
        node = None if node.parent is None else result.candidates[node.parent]
    nodes: list[dict[str, Any]] = []
    stack = [(candidate, 0) for candidate in reversed(children.get(None, []))]
    while stack:
        candidate, depth = stack.pop()
        parent = None if candidate.parent is None else result.candidates[candidate.parent]
        nodes.append(
            {
                "candidate": candidate,
                "val": candidate.scores.get("val"),
                "depth": min(depth, 8),
                "parent": parent,
                "diff": None
                if parent is None or candidate.dropped == "empty"
                else word_diff(parent.text, candidate.text),
                "on_path": candidate.id in path,
                "reason": REASONS.get(candidate.dropped or "", candidate.dropped),
            }
        )
        stack += [(child, depth + 1) for child in reversed(children.get(candidate.id, []))]
    if len(nodes) <= MOST_NODES:
        return nodes, 0
    kept = [node for node in nodes if node["on_path"] or node["candidate"].dropped is None][:MOST_NODES]
    return kept, len(nodes) - len(kept)


def _cost_rows(result: Result) -> list[dict[str, Any]]:
    return [{"side": side, **result.cost[side]} for side in ("target", "optimizer")]


def diagnostic_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(measure, figure, what it means), for people."""
    rows: list[tuple[str, str, str]] = []

    def add(name: str, value: Any, meaning: str) -> None:
        rows.append(
            (name, "n/a" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value), meaning)
        )

    for what in ("reflections", "prompts"):
        part = found.get(what) or {}
        if part.get("n"):
            add(
                f"{what}: mean similarity",
                part["mean"],
                f"of all pairs, word 3-grams; 1 is the same text each time; {part['n']} texts",
            )
            add(f"{what}: distinct", part["distinct"], "share of clusters joined at 0.9; low means repetition")
    if "reflection_correctness" in found:
        add(
            "reflection correctness (simulator)",
            found["reflection_correctness"],
            "share of reflections that name a true cause of their errors; the truth is the simulator's",
        )
    if found.get("causes"):
        add(
            "causes blamed",
            ", ".join(f"{name} {count}" for name, count in found["causes"].items()),
            "by the words of the reflections",
        )
    for name in ("prior_bias", "nmi", "nmi_p"):
        if name in found:
            add(name.replace("_", " "), found[name], _MEANINGS[name])
    judged = found.get("judged") or {}
    if judged.get("reflections"):
        add("judge: reflections valid", found["judge_validity"], f"share of {judged['reflections']} that {judged['judge']} finds in the replies they were made of")  # fmt: skip
    if judged.get("steps"):
        add("judge: agrees on steps", found["judge_agreement"], f"share of {judged['steps']} (reply, step) pairs where {judged['judge']} says what the headings say")  # fmt: skip
    if found.get("judge_unreadable"):
        add("judge: replies without a label", found["judge_unreadable"], "counted in neither share")
    step = found.get("one_step_success") or {}
    if step.get("n"):
        for kind in ("valid", "invalid", "all"):
            if step.get(kind) is not None:
                add(
                    f"one-step success, reflection {kind}" if kind != "all" else "one-step success, all edits",
                    step[kind],
                    f"share of edits with a gain on val at p < 0.05; {step['n'] if kind == 'all' else step['n_' + kind]} edits",
                )
    for id, rate in (found.get("following") or {}).items():
        if rate["n"]:
            per = ", ".join(f"{value:.2f}" for value in rate["steps"])
            add(f"following rate, candidate {id}", rate["rate"], f"by step: {per}; {rate['n']} replies")
    noise = found.get("paraphrase_sensitivity")
    if noise:
        verdict = {
            True: "the gain is within paraphrase noise",
            False: "the gain is larger than paraphrase noise",
            None: "no gain to compare",
        }[noise["within_noise"]]
        add(
            "paraphrase sensitivity, std",
            noise["std"],
            f"of val over {noise['n']} paraphrases, range {noise['range']:.3f}; {verdict}",
        )
    again = found.get("repeats")
    if again:
        add("repeats, std of the mean", again["std"], f"the best prompt asked {again['repeats']} times on {again['n']} val examples: {100 * again['changed']:.0f} % of scores and {100 * again['worded']:.0f} % of replies change")  # fmt: skip
    if found.get("dropped"):
        add(
            "proposals dropped",
            ", ".join(f"{REASONS.get(k, k)} {v}" for k, v in found["dropped"].items()),
            "they were never scored",
        )
    return rows


_MEANINGS = {
    "prior_bias": "1: reflections on real errors are those on none; 0: wholly different",
    "nmi": "what reflections tell of the true causes; 0: nothing",
    "nmi_p": "of the permutation test",
}


def _visible(html: str) -> str:
    """Control and direction marks made visible, so that a prompt cannot change how the page reads."""
    return "".join(f"\\u{ord(char):04x}" if _is_mark(char) else char for char in html)


def _is_mark(char: str) -> bool:
    return char not in "\n\t" and unicodedata.category(char)[0] == "C"


def table_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A row a search for tables of several."""
    return [
        {
            "task": r.task,
            "method": r.method,
            "seed": r.seed,
            "val": r.best.scores["val"]["mean"],
            "test": r.test["best"]["mean"],
            "baseline": None if r.test["baseline"] is None else r.test["baseline"]["mean"],
            "target calls": r.cost["target"]["calls"],
            "optimizer calls": r.cost["optimizer"]["calls"],
        }
        for r in results
    ]


_PAGE = """{% extends "page.html" %}
{% macro pieces(diff) %}{% for kind, text in diff %}{% if kind == "same" %}{{ text }}{% elif kind == "new" %}<ins>{{ text }}</ins>{% else %}<del>{{ text }}</del>{% endif %}{% endfor %}{% endmacro %}
{% macro score(row) %}{% if row and row.mean is not none %}{{ "%.3g" | format(row.mean) }} <span class="soft inline">[{{ "%.3g" | format(row.low) }}, {{ "%.3g" | format(row.high) }}], {{ row.n }} examples</span>{% else %}–{% endif %}{% endmacro %}
{% block content %}
<style>
.prompt { white-space: pre-wrap; overflow-wrap: anywhere; font: .9rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; margin: .5rem 0; unicode-bidi: isolate; }
ins { background: var(--yes-ground); color: var(--yes); text-decoration: none; border-radius: .2rem; }
del { background: var(--no-ground); color: var(--no); border-radius: .2rem; }
.node { border-left: .25rem solid var(--line); padding: .1rem 0 .1rem .8rem; margin: .5rem 0; }
.node.path { border-color: var(--yes); }
.node.dropped { opacity: .6; }
.soft.inline { display: inline; }
.depth1 { margin-left: 1.2rem; } .depth2 { margin-left: 2.4rem; } .depth3 { margin-left: 3.6rem; } .depth4 { margin-left: 4.8rem; }
.depth5 { margin-left: 6rem; } .depth6 { margin-left: 7.2rem; } .depth7 { margin-left: 8.4rem; } .depth8 { margin-left: 9.6rem; }
</style>
<h1>{{ title }}</h1>
<p class="soft">{{ about.description }} Target {{ about.target }}, optimizer {{ about.optimizer }}, seed {{ result.seed }}. {{ about.sizes.train }} examples to learn from, {{ about.sizes.val }} to choose by, {{ about.sizes.test }} to test on.</p>
{% if about.simulator %}<p><span class="mark one">simulator</span> A simulated model took part: these figures say nothing about language models.</p>{% endif %}
{% for line in warnings %}<p><span class="mark no">warning</span> {{ line }}</p>
{% endfor %}<p class="summary">
{% if result.best.id == result.baseline.id %}No prompt was found that is better than the one given: test {{ score(test.best) }}.
{% else %}On test the found prompt scores {{ score(test.best) }}, the best given one {{ score(test.baseline) }}{% if test.difference is not none %}: a difference of {{ "%+.3f" | format(test.difference) }}{% if test.p_value is not none %}, McNemar p = {{ "%.3g" | format(test.p_value) }}{% endif %}{% if test.ci95 %}, 95 % interval {{ "%+.3f" | format(test.ci95[0]) }} … {{ "%+.3f" | format(test.ci95[1]) }}{% endif %}{% endif %}.
{% endif %}</p>
<p class="soft">{% if curse %}{{ curse }}. {% endif %}The search ended: {{ result.ended }}. Test was looked at {{ "once" if test.looks == 1 else "%d times, so it is no fair test any more" | format(test.looks) }}.</p>
<h2>The prompt</h2>
<div class="prompt" dir="auto">{{ result.best.text or "(no words: the question alone)" }}</div>
<p class="soft">Candidate {{ result.best.id }}, about {{ test.prompt_tokens.best }} tokens (estimated){% if test.per_1000_prompt_tokens is not none %}; {{ "%.3g" | format(test.per_1000_prompt_tokens) }} of score per 1000 prompt tokens{% endif %}.</p>
{% if changed %}<details><summary>Word by word against the given prompt</summary><div class="prompt" dir="auto">{{ pieces(changed) }}</div></details>{% endif %}
{% if result.missed %}<h2>What the target got wrong</h2>
<p class="soft">Under this prompt, on val and train; long texts lose their middle. Examples of test are never shown.</p>
<div class="scroll" tabindex="0"><table>
<tr><th>example</th><th class="wide">input</th><th class="wide">reply</th><th>read as the answer</th><th>expected</th></tr>
{% for row in result.missed %}<tr><td>{{ row.split }}: {{ row.id | string | truncate(60) }}</td>{% for text in (row.input, row.reply, row.read, row.target) %}<td dir="auto" style="white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate">{% if text is none %}<span class="soft inline">nothing could be read</span>{% else %}{{ text }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}<h2>Curve</h2>
<figure><img src="{{ curve }}" width="614" alt="best score on val over requests to the target"><figcaption>Bands: Wilson 95 % intervals on test.</figcaption></figure>
<h2>Cost</h2>
<div class="scroll" tabindex="0"><table>
<tr><th>model</th><th class="n">requests</th><th class="n">prompt tokens</th><th class="n">reply tokens</th><th class="n">of them estimated</th></tr>
{% for row in cost %}<tr><td>{{ row.side }}</td><td class="n">{{ row.calls | number }}</td><td class="n">{{ row.prompt_tokens | number }}</td><td class="n">{{ row.completion_tokens | number }}</td><td class="n">{{ row.estimated | number }}</td></tr>
{% endfor %}</table></div>
<p class="soft">{% if result.cost.usd %}{{ "%.3g" | format(result.cost.usd) if result.cost.usd < 1000 else "%.0f" | format(result.cost.usd) }} US dollars. {% endif %}Every request counts once; what further tries cost stands in bill.jsonl.</p>
<h2>Diagnostics</h2>
{% if diagnostics %}<div class="scroll" tabindex="0"><table>
<tr><th>measure</th><th class="n">figure</th><th class="wide">what it means</th></tr>
{% for name, value, meaning in diagnostics %}<tr><td>{{ name }}</td><td class="n" style="white-space: normal">{{ value }}</td><td>{{ meaning }}</td></tr>
{% endfor %}</table></div>{% else %}<p>None.</p>{% endif %}
<h2>The tree of prompts</h2>
<p class="soft">{{ result.candidates | length }} prompts; a green edge leads to the chosen one{% if left %}; {{ left }} more stand in result.json{% endif %}. <ins>New words</ins>, <del>words of the parent that went</del>.</p>
{% for node in nodes %}
<div class="node depth{{ node.depth }}{{ " path" if node.on_path }}{{ " dropped" if node.reason }}">
<p class="soft"><b>{{ node.candidate.id }}</b> {{ node.candidate.op }}, step {{ node.candidate.step }}{% if node.parent %}, from {{ node.parent.id }}{% endif %} · val {{ score(node.val) }}{% if node.val and node.val.format_errors %}, {{ node.val.format_errors }} unreadable{% endif %}{% if node.reason %} <span class="mark no">dropped: {{ node.reason }}</span>{% endif %}</p>
{% if node.candidate.reflection %}<p class="soft" dir="auto">because: {{ node.candidate.reflection }}</p>{% endif %}
<details{{ " open" if node.on_path and node.candidate.text }}><summary>{{ (node.candidate.text or "(no words)") | truncate(90) }}</summary>
<div class="prompt" dir="auto">{% if node.diff %}{{ pieces(node.diff) }}{% else %}{{ node.candidate.text }}{% endif %}</div></details>
</div>
{% endfor %}
{% endblock %}
"""
