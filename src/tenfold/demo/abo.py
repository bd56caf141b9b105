"""Tab of abo: improve a prompt and watch the search."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tenfold.core.panels import panels
from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, figure_box, handle, picture_of
from tenfold.demo.worker import Deadline
from tenfold.prompts.journal import read_journal
from tenfold.prompts.result import Result
from tenfold.recipes.abo.asked import Asked, models_of, search_of, task_of

LONGEST = 1000  # characters of a prompt
METHODS = ("abo", "apo", "opro", "ape")
TASKS = ("sim/object_counting", "sim/navigate")
SHOWN = 12  # prompts of the table
SECONDS = 120.0


def asked_of(task: Any, method: Any, prompt: Any, calls: Any, seed: Any) -> Asked:
    """What the page asks for, as the command line does.

    Raises:
        UserError: an unknown task or method, an empty or too long prompt, a number out of range.
    """
    return Asked(
        task=limits.choice("task", task, TASKS),
        method=limits.choice("method", method, METHODS),
        target_model="sim",
        optimizer_model="sim",
        start=(limits.text("prompt", prompt, LONGEST),),
        calls=limits.whole("calls", calls, 200, 3000),
        keep=1,
        seed=limits.whole("seed", seed, 0, 1000),
        budget_seconds=SECONDS,
    )


def search(asked: Asked, folder: Path, deadline: Deadline, tell: Callable[[list[dict[str, Any]]], None]) -> Result:
    """Run a search; its journal is told now and then.

    Raises:
        UserError: a budget that is too small.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            tell(read_journal(folder))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        task = task_of(asked)
        with models_of(asked) as models:
            # The words themselves: on the command line a prompt that begins with @ names a file to read.
            result = search_of(asked, models, task, folder).optimize(task, list(asked.start))
    finally:
        done.set()
        watcher.join()
    tell(read_journal(folder))
    return result


def told(events: list[dict[str, Any]], given: str) -> tuple[list[list[str]], Image.Image | None]:
    """Prompts so far, the best first, and the curve of the best one.

    Args:
        events: of the search's journal.
        given: the prompt that it began with.
    """
    scores: dict[str, dict[str, Any]] = {}
    texts = {"0": ("given", given)}
    for event in events:
        if event["kind"] == "candidate":
            texts[str(event["id"])] = (event["op"], event["text"])
        elif event["kind"] == "selected":
            scores |= {id: score for id, score in event["scores"].items() if score}
    rows = [
        (score["mean"], [f"{score['mean']:.1%}", texts[id][0], texts[id][1][:400]])
        for id, score in scores.items()
        if id in texts
    ]
    steps = [event for event in events if event["kind"] == "step" and event["best_val"] is not None]
    if not steps:
        return [], None
    figure, (axis,) = panels(1, 4.6, 2.8)
    axis.plot(
        [each["target_calls"] for each in steps],
        [100 * each["best_val"] for each in steps],
        "o-",
        drawstyle="steps-post",
    )
    axis.set(xlabel="questions asked of the target", ylabel="right, % of the validation set", ylim=(0, 102))
    return [row for _, row in sorted(rows, key=lambda each: -each[0])][:SHOWN], picture_of(figure)


def ending(result: Result) -> str:
    """The outcome in words."""
    test, best = result.test, result.test["best"]
    if result.best.id == result.baseline.id:
        return f"No prompt was found that is better than yours: {best['mean']:.1%} of the test questions are right."
    return (
        f"Test: {best['mean']:.1%} right [{best['low']:.1%}, {best['high']:.1%}], with your prompt "
        f"{test['baseline']['mean']:.1%}. {result.ended.capitalize()}."
    )


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def searched(task: str, method: str, prompt: str, calls: int, seed: int) -> Iterator[tuple[Any, ...]]:
        asked = asked_of(task, method, prompt, calls, seed)
        results: list[Result] = []

        def job(deadline: Deadline, tell: Callable[[list[dict[str, Any]]], None]) -> None:
            with tempfile.TemporaryDirectory() as folder:
                results.append(search(asked, Path(folder), deadline, tell))

        yield [], None, "searching …", ""
        for events in room.stream(job, SECONDS + 60):
            rows, curve = told(events, asked.start[0])
            yield rows, curve, f"searching … {len(events)} events", ""
        (result,) = results
        yield rows, curve, ending(result), result.best.text or "(no words)"

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            task = gr.Dropdown(list(TASKS), value=TASKS[0], label="Task")
            method = gr.Dropdown(list(METHODS), value=METHODS[0], label="Method", elem_id="abo-method")
            prompt = gr.Textbox(
                "Let's think step by step.",
                label="Prompt to begin with",
                max_length=LONGEST,
                lines=3,
                elem_id="abo-prompt",
            )
            calls = gr.Slider(200, 3000, 800, step=100, label="Calls to the target")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=1000)
            button = gr.Button("Search", variant="primary", elem_id="abo-go")
        with gr.Column(scale=2):
            curve = figure_box("Best prompt so far", height=300)
            outcome = gr.Textbox(label="Outcome", lines=2, interactive=False, elem_id="abo-outcome")
            best = gr.Textbox(label="Best prompt", lines=4, max_lines=12, interactive=False, buttons=["copy"])
    tree = gr.Dataframe(
        headers=["validation", "made by", "prompt"],
        datatype="str",
        interactive=False,
        wrap=True,
        label="Prompts that were scored",
        column_widths=["12%", "13%", "75%"],
    )
    handle(button.click, room, searched, [task, method, prompt, calls, seed], [tree, curve, outcome, best])


TAB = Tab(
    "abo",
    "Prompts",
    "A search rewrites your prompt and keeps what scores better. Both models here are simulators, which answer at once: the "
    "figures say how the methods search, and nothing about language models. `tenfold abo optimize` takes real ones.",
    build,
    needs_run=False,
)
