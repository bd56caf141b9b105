"""Tab of mm1: show a picture and ask about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError, printable
from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, handle
from tenfold.recipes.mm1.find_model import find_model
from tenfold.vision.images import decode
from tenfold.vision.interleaved import VQA_PROMPT, scene_question
from tenfold.vision.multimodal import MultimodalLM
from tenfold.vision.multimodal_generate import generate
from tenfold.vision.picture_refs import read_file
from tenfold.vision.scenes import render_scene

LONGEST = 300  # characters of a question
SIDE = 192  # pixels of a scene that is drawn here
EXAMPLES = (
    "how many objects are there?",
    "what colour is the circle?",
    "is there a red square?",
    "what is in the top left?",
)


def read_picture(file: Any) -> NDArray[np.uint8]:
    """An uploaded picture (H, W, 3).

    Args:
        file: its path, as the page gives it.
    Raises:
        UserError: none, too large, or no PNG, JPEG or WebP.
    """
    if not isinstance(file, str) or not file:
        raise UserError("picture: got none, choose a file or let one be drawn")
    path = Path(file)
    if path.is_file() and path.stat().st_size > limits.MOST_UPLOAD:
        raise UserError(f"picture: got {path.stat().st_size >> 20} MB, need at most {limits.MOST_UPLOAD >> 20}")
    return decode(read_file(path), "picture", max_pixels=limits.MOST_PIXELS)


def ask(model: MultimodalLM, picture: NDArray[np.uint8], question: Any, temperature: Any) -> str:
    """The model's answer.

    Raises:
        UserError: an empty or too long question, a number out of range.
    """
    words = limits.text("question", question, LONGEST)
    warmth = limits.number("temperature", temperature, 0, 2)
    document: list[dict[str, Any]] = [{"image": picture}, {"text": VQA_PROMPT.format(question=" ".join(words.split()))}]
    (answer,) = generate(model, [document], 32, ("\n", "Question"), warmth)
    return printable(answer.text.strip()) or "(says nothing)"


def drawn(number: Any) -> tuple[NDArray[np.uint8], str]:
    """A scene of the world that the model was trained on, and a question about it.

    Args:
        number: the scene's; any whole number.
    """
    rng = np.random.default_rng(limits.whole("scene", number, 0, 2**31 - 1))
    objects, question, _ = scene_question(rng)
    return render_scene(objects, SIDE), question


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def shown(number: int) -> tuple[Any, str, int]:
        picture, question = drawn(number)
        return picture, question, int(number) + 1

    def asked(file: str | None, question: str, temperature: float) -> str:
        picture = read_picture(file)
        return room.job(lambda deadline: ask(room.opened(find_model), picture, question, temperature))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            file = gr.Image(
                label="Picture: PNG, JPEG or WebP",
                type="filepath",
                format="png",
                image_mode="RGB",
                sources=["upload", "clipboard"],
                height=300,
                elem_id="mm1-picture",
            )
            with gr.Row():
                number = gr.Number(1, label="Scene", precision=0, minimum=0, maximum=2**31 - 1, min_width=80)
                draw = gr.Button("Draw a scene", elem_id="mm1-draw")
        with gr.Column(scale=1, min_width=280):
            question = gr.Textbox(EXAMPLES[0], label="Question", max_length=LONGEST, elem_id="mm1-question")
            gr.Examples([[each] for each in EXAMPLES], [question], label="Questions to try")
            temperature = gr.Slider(0, 1.5, 0, step=0.1, label="Temperature", info="0 takes the likeliest word")
            button = gr.Button("Ask", variant="primary", elem_id="mm1-go")
            answer = gr.Textbox(label="Answer", lines=2, interactive=False, elem_id="mm1-answer")
    handle(draw.click, room, shown, [number], [file, question, number])
    handle(button.click, room, asked, [file, question, temperature], [answer])
    handle(question.submit, room, asked, [file, question, temperature], [answer])


TAB = Tab(
    "mm1",
    "Look",
    "A picture encoder, a connector and a language model: show a picture and ask. A model of a short run knows its own world of "
    "coloured shapes, so let a scene be drawn; photographs need a longer run or a LLaVA folder.",
    build,
)
