"""Tab of meta-forecast: which forecast tasks were chosen, and the outlook of a subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tenfold.clinical.task_weighting import WEIGHTS
from tenfold.core.panels import panels
from tenfold.demo import limits
from tenfold.demo.shelf import FIRST, Room
from tenfold.demo.tab import Tab, figure_box, handle, picture_of
from tenfold.demo.worker import Deadline
from tenfold.recipes.meta_forecast.config import SIMULATED
from tenfold.recipes.meta_forecast.figures import rounds_figure
from tenfold.recipes.meta_forecast.folder import Opened, read_history, read_model
from tenfold.recipes.meta_forecast.patients import Histories, test_histories
from tenfold.recipes.meta_forecast.runs import Choice, model_folder, open_run
from tenfold.recipes.meta_forecast.verbs import probabilities

SHOWN = 200  # subjects that can be chosen
SERIES = 6  # of the variables, those of the largest weights


class Learned:
    """A run's model with its weights and the subjects that it was scored on."""

    def __init__(self, run: Path) -> None:
        _, config = open_run(run)
        self.opened: Opened = read_model(model_folder(run, Choice(cohort=config.cohort[0])))
        histories, outcomes = test_histories(self.opened, config)
        self.histories: Histories = _first(histories, SHOWN)
        self.outcomes: NDArray[np.bool_] = outcomes[:SHOWN]
        file = self.opened.path / WEIGHTS
        self.weights = read_history(file) if file.is_file() else None

    @property
    def weight_of(self) -> dict[str, float]:
        """The last weight of every variable; all alike where none were learned."""
        names = self.opened.inputs.variables
        if self.weights is None:
            return dict.fromkeys(names, 1 / len(names))
        return dict(zip(self.weights[0], self.weights[1][-1].tolist(), strict=True))


def chosen_tasks(learned: Learned) -> Image.Image | None:
    """The weights of the tasks over the rounds; None where none were learned."""
    if learned.weights is None or len(learned.weights[1]) < 2:
        return None
    names, history = learned.weights
    planted = learned.opened.inputs.cohort in SIMULATED
    return picture_of(rounds_figure({"": [history]}, names, planted=planted))


def outlook(learned: Learned, subject: Any, hidden: Any) -> tuple[Image.Image, str]:
    """A subject's series, and the chance of the outcome, with and without the variables that are hidden.

    Args:
        hidden: names of variables that are taken for never measured.
    Raises:
        UserError: no such subject or variable.
    """
    histories = learned.histories
    name = limits.choice("subject", subject, histories.ids)
    row = histories.ids.index(name)
    variables = learned.opened.inputs.variables
    gone = [limits.choice("hidden", each, variables) for each in (hidden if isinstance(hidden, list) else [])]
    one = _rows(histories, slice(row, row + 1))
    (chance,) = probabilities(learned.opened, one)
    words = f"P({learned.opened.inputs.target}) = {chance:.1%}; what came: {'yes' if learned.outcomes[row] else 'no'}"
    if gone:
        kept = np.array([each not in gone for each in variables])
        masked = one.mask & kept
        without = replace(one, mask=masked, x=np.where(masked, one.x, np.float32(0)))
        (other,) = probabilities(learned.opened, without)
        words += f"\nwithout {', '.join(gone)}: {other:.1%}"
    return picture_of(_series(learned, one, gone)), words


def _series(learned: Learned, one: Histories, gone: list[str]) -> Any:
    """The variables of the largest weights over the steps of the history."""
    weight, variables = learned.weight_of, learned.opened.inputs.variables
    order = sorted(variables, key=lambda name: -weight[name])[:SERIES]
    figure, axes = panels(len(order), 3.1, 2.0)
    for axis, name in zip(axes, order, strict=True):
        column = variables.index(name)
        seen = one.mask[0, :, column]
        steps = np.arange(len(seen))
        colour = "#c7c7c7" if name in gone else "#1f77b4"
        axis.plot(steps[seen], one.x[0, seen, column], "o-", color=colour, markersize=3, linewidth=1)
        axis.set_title(f"{name}, weight {weight[name]:.2f}", fontsize=9, parse_math=False)
        axis.set_xlim(-0.5, len(seen) - 0.5)
        axis.tick_params(labelsize=7)
    return figure


def _rows(histories: Histories, rows: slice) -> Histories:
    return Histories(
        histories.x[rows], histories.mask[rows], histories.ids[rows], histories.time[rows], histories.empty
    )


def _first(histories: Histories, count: int) -> Histories:
    return _rows(histories, slice(0, count))


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def listed() -> tuple[Any, ...]:
        def job(deadline: Deadline) -> tuple[Any, ...]:
            learned = room.opened(Learned)
            picture, words = outlook(learned, learned.histories.ids[0], [])
            variables = list(learned.opened.inputs.variables)
            return learned.histories.ids, variables, chosen_tasks(learned), picture, words

        ids, variables, tasks, picture, words = room.job(job, FIRST)
        subject = gr.Dropdown(choices=ids, value=ids[0])
        return subject, gr.Dropdown(choices=variables, value=[]), tasks, picture, words

    def shown(subject: str, hidden: list[str]) -> tuple[Image.Image, str]:
        return room.job(lambda deadline: outlook(room.opened(Learned), subject, hidden))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            subject = gr.Dropdown([], label="Subject of the test set", elem_id="meta-forecast-subject")
            hidden = gr.Dropdown([], label="Hide variables", multiselect=True, info="as if they were never measured")
            button = gr.Button("Predict", variant="primary", elem_id="meta-forecast-go")
            words = gr.Textbox(label="Outlook", lines=3, interactive=False, elem_id="meta-forecast-words")
        with gr.Column(scale=2):
            picture = figure_box("Series of the subject: the variables of the largest weights")
    tasks = figure_box("Weights that training learned for the forecast tasks", height=360)
    room.first_look(listed, [subject, hidden, tasks, picture, words])
    handle(button.click, room, shown, [subject, hidden], [picture, words])
    handle(subject.input, room, shown, [subject, hidden], [picture, words])


TAB = Tab(
    "meta-forecast",
    "Outlook",
    "An encoder learned from forecasts of many variables before it saw the few labels of one outcome; how much each forecast "
    "counts was learned too. Choose a subject, and hide variables to see which it leans on.",
    build,
)
