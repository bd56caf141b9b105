"""Tab of deep-ssm: a patient's survival curves, and what a plan of treatment would go with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tenfold.clinical.events import EventTimeDataset
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.core.errors import UserError
from tenfold.demo import limits
from tenfold.demo.shelf import FIRST, Room
from tenfold.demo.tab import Tab, figure_box, handle, picture_of
from tenfold.demo.worker import Deadline
from tenfold.recipes.deep_ssm import figures
from tenfold.recipes.deep_ssm.config import Config
from tenfold.recipes.deep_ssm.folder import Opened
from tenfold.recipes.deep_ssm.reporting import draw, only_at_risk
from tenfold.recipes.deep_ssm.verbs import (
    open_model,
    parse_plan,
    run_of,
    survival_of,
    test_patients,
    whatif_curves,
    whatif_events,
)

SHOWN = 200  # patients that can be chosen
DRAWS = 40  # states of the band


def open_first(run: Path) -> Opened:
    """The run's own model of its first cohort."""
    config: Config = run_of(run)[1]
    return open_model(run, config.cohorts[0])


def open_patients(run: Path) -> EventTimeDataset:
    """The first test patients of that cohort."""
    opened = open_first(run)
    patients = test_patients(run, opened)
    return patients.subset(list(range(min(SHOWN, len(patients)))))


def curves(opened: Opened, patients: EventTimeDataset, patient: Any) -> tuple[Image.Image, list[list[str]]]:
    """Survival curves of one patient, and the chance of each event by its horizon.

    Raises:
        UserError: no such patient.
    """
    one = _one(patients, patient)
    whole = survival_of(opened, one)
    if isinstance(opened.model, DeepStateSpace):
        bands = draw(opened.model, one.batch(), DRAWS)
    else:
        bands = {name: curve[None] for name, curve in whole.items()}
    names = [f"patient {one.ids[0]}"]
    figure = figures.patient_figure(opened.events, only_at_risk(whole, one), only_at_risk(bands, one), names)
    rows = [
        [
            event.name,
            f"{event.n_slots * event.slot_hours:g} h",
            f"{1 - whole[event.name][0, -1]:.1%}" if one.at_risk[0, place] else "–",
            _outcome(one, place),
        ]
        for place, event in enumerate(one.events)
    ]
    return picture_of(figure), rows


def whatif(
    opened: Opened, patients: EventTimeDataset, patient: Any, strength: Any, start: Any, end: Any
) -> tuple[Image.Image, str]:
    """Survival with a plan of treatment, without any, and as forecast.

    Args:
        strength: of every intervention while it lasts, 0 to 1.
        start, end: slots of the plan, from 0; the treatment is given in start..end-1.
    Raises:
        UserError: no such patient, a model without interventions, numbers out of range.
    """
    one = _one(patients, patient)
    events = whatif_events(opened)
    slots = max(event.n_slots for event in opened.events)
    first, last = limits.whole("from slot", start, 0, slots), limits.whole("to slot", end, 0, slots)
    if first >= last:
        raise UserError(f"from slot, to slot: got {first} and {last}, need the first below the second")
    given = limits.number("strength", strength, 0, 1)
    values = ",".join(f"{given if first <= slot < last else 0:g}" for slot in range(slots))
    plan = [f"{name}={values}" for name in opened.inputs.interventions]
    forced = parse_plan(plan, opened.inputs.interventions, slots)
    name = f"treated in slots {first} to {last - 1}" if last - first > 1 else f"treated in slot {first}"
    means = whatif_curves(opened, one, name, forced)
    lines = [
        f"{event.name} within {event.n_slots * event.slot_hours:g} h: "
        + ", ".join(f"{key} {1 - each[event.name][-1]:.1%}" for key, each in means.items())
        for event in events
    ]
    lines.append("What such patients had in the training data, not what treatment does: no trial stands behind it.")
    return picture_of(figures.whatif_figure(events, means)), "\n".join(lines)


def _one(patients: EventTimeDataset, patient: Any) -> EventTimeDataset:
    name = limits.choice("patient", patient, patients.ids)
    return patients.subset([patients.ids.index(name)])


def _outcome(one: EventTimeDataset, place: int) -> str:
    """What became of the patient, in words."""
    if not one.at_risk[0, place]:
        return "had it before"
    hours = one.time_hours[0, place]
    return f"came after {hours:.0f} h" if one.observed[0, place] else f"not seen in {hours:.0f} h"


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def listed() -> tuple[Any, Any, Any, Any]:
        def job(deadline: Deadline) -> tuple[list[str], int, list[list[str]] | None, Image.Image]:
            opened, patients = room.opened(open_first), room.opened(open_patients)
            picture, rows = curves(opened, patients, patients.ids[0])
            return patients.ids, max(event.n_slots for event in opened.events), rows, picture

        ids, slots, rows, picture = room.job(job, FIRST)
        slider = gr.Slider(minimum=0, maximum=slots, value=slots)
        return gr.Dropdown(choices=ids, value=ids[0]), slider, picture, rows

    def shown(patient: str) -> tuple[Image.Image, list[list[str]]]:
        return room.job(lambda deadline: curves(room.opened(open_first), room.opened(open_patients), patient))

    def asked(patient: str, strength: float, start: int, end: int) -> tuple[Image.Image, str]:
        return room.job(
            lambda deadline: whatif(room.opened(open_first), room.opened(open_patients), patient, strength, start, end)
        )

    with gr.Row():
        with gr.Column(scale=1, min_width=360):
            patient = gr.Dropdown([], label="Patient of the test set", elem_id="deep-ssm-patient")
            table = gr.Dataframe(
                headers=["event", "within", "chance", "what came"],
                datatype="str",
                interactive=False,
                wrap=True,
                buttons=[],
                column_widths=["28%", "21%", "20%", "31%"],
            )
        with gr.Column(scale=2):
            picture = figure_box("Survival curves. Bands: the state at the trigger is uncertain")
    gr.Markdown("### What if the patient were treated?")
    with gr.Row():
        with gr.Column(scale=1, min_width=360):
            strength = gr.Slider(0, 1, 1, step=0.1, label="Strength of the treatment")
            start = gr.Slider(0, 24, 0, step=1, label="from slot")
            end = gr.Slider(0, 24, 24, step=1, label="to slot", elem_id="deep-ssm-end")
            button = gr.Button("What if?", variant="primary", elem_id="deep-ssm-go")
            note = gr.Textbox(label="Chance of each event", lines=4, interactive=False)
        with gr.Column(scale=2):
            plan = figure_box("With the plan, without any treatment, as forecast")
    room.first_look(listed, [patient, end, picture, table])
    handle(patient.input, room, shown, [patient], [picture, table])
    handle(button.click, room, asked, [patient, strength, start, end], [plan, note])


TAB = Tab(
    "deep-ssm",
    "Survival",
    "A state-space model reads a patient's trajectory up to a trigger and tells when each of several events comes. Choose a "
    "patient, then force a plan of treatment on the hours after it.",
    build,
)
