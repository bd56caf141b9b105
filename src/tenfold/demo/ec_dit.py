"""Tab of ec-dit: draw a picture of a caption and see which parts of it the experts worked on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, figure_box, handle, picture_of
from tenfold.demo.worker import Deadline
from tenfold.diffusion.allocation import heatmap_figure
from tenfold.recipes.ec_dit.folder import Pipeline, open_model
from tenfold.recipes.ec_dit.verbs import as_images, draw_with_maps, grid_of, sampling_of

MOST_STEPS = 50
EXAMPLES = ("a red circle", "a blue square and a green triangle", "two yellow triangles", "a purple square")


def open_pipeline(run: Path) -> Pipeline:
    """The run's model; words that it does not know are read as one unknown word."""
    return open_model(run, allow_unk=True)


def draw(
    pipeline: Pipeline, caption: Any, guidance: Any, steps: Any, seed: Any, deadline: Deadline
) -> tuple[Image.Image, Image.Image]:
    """A picture of a caption, and a map a sparse block of the experts that each patch got.

    Raises:
        UserError: an empty or too long caption, a number out of range, the end of the time.
    """
    words = limits.text("caption", caption, 300)
    sampling = sampling_of(
        pipeline, limits.number("guidance", guidance, 0, 20), limits.whole("steps", steps, 1, MOST_STEPS), None
    )
    place = limits.whole("seed", seed, 0, 2**31 - 1)
    layers = pipeline.model.config.sparse_layers
    pictures, maps = draw_with_maps(pipeline, (words,), sampling, place, watch=lambda number: deadline.check())
    figure = heatmap_figure(maps, images=as_images(pictures), captions=(words,), layers=layers)
    return Image.fromarray(grid_of(pictures)), picture_of(figure)


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def drawn(caption: str, guidance: float, steps: int, seed: int) -> tuple[Image.Image, Image.Image]:
        return room.job(
            lambda deadline: draw(room.opened(open_pipeline), caption, guidance, steps, seed, deadline), 120
        )

    with gr.Row():
        with gr.Column(scale=1):
            caption = gr.Textbox(EXAMPLES[0], label="Caption", max_length=300, elem_id="ec-dit-caption")
            steps = gr.Slider(1, MOST_STEPS, 20, step=1, label="Denoising steps")
            guidance = gr.Slider(0, 10, 3, step=0.5, label="Guidance", info="0 and 1: the caption is followed least")
            seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0, maximum=2**31 - 1)
            button = gr.Button("Draw", variant="primary", elem_id="ec-dit-go")
            gr.Examples([[each] for each in EXAMPLES], [caption], label="Captions to try")
        with gr.Column(scale=1):
            picture = figure_box("Picture", height=300)
    maps = figure_box("Experts that each patch got, block by block", height=330)
    inputs, outputs = [caption, guidance, steps, seed], [picture, maps]
    handle(button.click, room, drawn, inputs, outputs)
    handle(caption.submit, room, drawn, inputs, outputs)


TAB = Tab(
    "ec-dit",
    "Draw",
    "A diffusion transformer draws your caption. In its sparse blocks experts choose the patches that they work on, so "
    "compute goes where the picture needs it: the maps show how many experts each patch got at the last step.",
    build,
)
