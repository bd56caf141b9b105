"""Tab of moe-vs-dense: plan a cluster run, and hold a text against the run's models."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Any

import torch

from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, handle, missing
from tenfold.demo.worker import Deadline
from tenfold.lm.cost import SHAPES, MoEPlacement
from tenfold.lm.decoder import Decoder
from tenfold.lm.hardware import HARDWARE
from tenfold.lm.loglikelihood import loglikelihood
from tenfold.lm.planner import plan
from tenfold.text.tokenizer import Tokenizer

LONGEST = 1000  # characters of a text
MOST_MODELS = 8
EXAMPLE = "The old man went down to the river and sat under a tree."


def planned(
    shape: Any, hardware: Any, devices: Any, experts: Any, every: Any, top_k: Any
) -> tuple[list[list[str]], str]:
    """The plan's table, a row a quantity, and its notes.

    Raises:
        UserError: an unknown shape or device, numbers out of range.
    """
    placement = MoEPlacement(
        num_experts=limits.whole("experts", experts, 2, 1024),
        every=limits.whole("one sparse layer in", every, 1, 64),
        top_k=limits.whole("experts a token", top_k, 1, 8),
    )
    table = plan(
        limits.choice("backbone", shape, SHAPES),
        [placement],
        limits.choice("device", hardware, HARDWARE),
        limits.whole("devices", devices, 1, 4096),
    )
    return [list(line) for line in table.cells()], "\n".join([table.title, *table.notes])


class Models:
    """The run's models with their tokenizer, opened once."""

    def __init__(self, run: Path) -> None:
        folders = sorted(file.parent for file in run.glob(f"models/*/{CONFIG}"))[:MOST_MODELS]
        if not folders:
            raise UserError(f"{run} has no models; train it again")
        self.all = {
            folder.name: (Decoder.from_pretrained(folder, dtype=torch.float32).eval(), Tokenizer.load(folder))
            for folder in folders
        }


def weighed(models: Models, text: Any, deadline: Deadline) -> list[list[str]]:
    """How likely each model finds a text: model, parameters, those that one token meets, nats a character, perplexity a word.

    Raises:
        UserError: an empty or too long text.
    """
    words = limits.text("text", text, LONGEST)
    rows = []
    for name, (model, tokenizer) in models.all.items():
        deadline.check()
        ((total, _),) = loglikelihood(model, tokenizer, [("", words)])
        per_word = exp(min(50.0, -total / len(words.split())))
        rows.append(
            [
                name,
                f"{model.num_params(embedding=True):,}",
                f"{model.num_active_params(embedding=True):,}",
                f"{-total / len(words):.3f}",
                f"{per_word:,.0f}",
            ]
        )
    return sorted(rows, key=lambda row: float(row[3]))


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def asked(*given: Any) -> tuple[Any, str]:
        cells, notes = room.job(lambda deadline: planned(*given))
        header, *rows = cells
        return gr.Dataframe(value=rows, headers=[each or " " for each in header]), notes

    def read(text: str) -> list[list[str]]:
        return room.job(lambda deadline: weighed(room.opened(Models), text, deadline))

    gr.Markdown("### Plan a cluster run")
    with gr.Row():
        shape = gr.Dropdown(list(SHAPES), value="6.4B", label="Dense backbone")
        hardware = gr.Dropdown(list(HARDWARE), value="h100", label="Device")
        devices = gr.Number(256, label="Devices", precision=0, minimum=1, maximum=4096)
        experts = gr.Number(64, label="Experts", precision=0, minimum=2, maximum=1024)
        every = gr.Number(4, label="One sparse layer in", precision=0, minimum=1, maximum=64)
        top_k = gr.Number(2, label="Experts a token", precision=0, minimum=1, maximum=8)
    button = gr.Button("Plan", variant="primary", elem_id="moe-vs-dense-go")
    table = gr.Dataframe(label="Dense beside sparse", interactive=False, datatype="str", wrap=True)
    notes = gr.Textbox(label="Notes", lines=3, interactive=False)
    handle(button.click, room, asked, [shape, hardware, devices, experts, every, top_k], [table, notes])
    if not room.ready:
        gr.HTML(missing(room))
        return
    gr.Markdown("### Which of the run's models finds a text likelier?")
    with gr.Row():
        text = gr.Textbox(EXAMPLE, show_label=False, max_length=LONGEST, lines=2, scale=4)
        weigh = gr.Button("Weigh", variant="primary", scale=1, elem_id="moe-vs-dense-weigh")
    scores = gr.Dataframe(
        headers=["model", "parameters", "active", "nats a character", "perplexity a word"],
        datatype="str",
        interactive=False,
        wrap=True,
    )
    handle(weigh.click, room, read, [text], [scores])


TAB = Tab(
    "moe-vs-dense",
    "Dense or sparse",
    "What a mixture of experts costs beside a dense model of the same backbone: step time, memory and the fastest mesh, by a "
    "model of the hardware; and how likely the models that the run trained at equal seconds find a text of yours.",
    build,
    needs_run=False,
)
