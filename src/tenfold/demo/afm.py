"""Tab of afm: chat with a model of the chain, with or without an adapter, or with a pretrained one that is here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError, printable
from tenfold.core.model_folder import CONFIG
from tenfold.demo import limits
from tenfold.demo.shelf import FIRST, Room
from tenfold.demo.tab import Tab, chat_box, handle, untagged
from tenfold.demo.worker import Deadline
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.pretrained import list_models
from tenfold.recipes.afm.opening import ADAPTERS
from tenfold.recipes.afm.serving import DEFAULT_MODEL, answer, opened
from tenfold.text.messages import Message, Sampling

LONGEST = 2000  # characters of a question
MOST_TURNS = 20  # of a conversation that are read
MOST_TOKENS = 256


@dataclass(frozen=True)
class Choice:
    """Who answers.

    Args:
        name: on the list.
        model: what `opened` opens.
        adapter: its folder; None: the base.
    """

    name: str
    model: str
    adapter: str | None = None


def choices(run: Path) -> list[Choice]:
    """Those that can chat: the run's models and their adapters, the most finished first, and a pretrained one that is here."""
    found = []
    if any(each.name == DEFAULT_MODEL and each.present for each in list_models()):
        found.append(Choice(f"{DEFAULT_MODEL} (pretrained)", DEFAULT_MODEL))
    folders = sorted(
        (file.parent for file in run.glob(f"models/*/{CONFIG}")), key=lambda folder: folder.stat().st_mtime
    )
    for folder in reversed(folders):
        found.append(Choice(folder.name, str(folder)))
        adapters = sorted(each for each in (folder / ADAPTERS).glob("*") if each.is_dir())
        found += [Choice(f"{folder.name} + adapter {each.name}", str(folder), str(each)) for each in adapters]
    return found


def conversation(history: Any, question: Any) -> list[Message]:
    """The messages of a chat so far, with a new question.

    Args:
        history: of the page: dictionaries of role and content.
    Raises:
        UserError: an empty or too long question.
    """
    asked = limits.text("question", question, LONGEST)
    messages = []
    for turn in list(history or [])[-2 * MOST_TURNS :]:
        if isinstance(turn, dict) and turn.get("role") in ("user", "assistant"):
            messages.append(
                Message(turn["role"], limits.text("history", content_of(turn.get("content")), 8000, empty=True))
            )
    return [*messages, Message("user", asked)]


def content_of(content: Any) -> Any:
    """The text of a turn; the page may send it as a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content


def reply(
    model: LocalChatModel, messages: list[Message], temperature: Any, most: Any, seed: Any, deadline: Deadline
) -> Iterator[str]:
    """The answer so far, longer with every piece; it ends at the deadline.

    Raises:
        UserError: a number out of range, a conversation longer than the model reads.
    """
    sampling = Sampling(
        temperature=limits.number("temperature", temperature, 0, 2),
        top_p=0.9,
        max_tokens=limits.whole("longest answer", most, 1, MOST_TOKENS),
        seed=limits.whole("seed", seed, 0, 2**31 - 1),
    )
    said = ""
    with closing(answer(model, messages, sampling)) as pieces:
        for piece in pieces:
            said += printable(piece, keep="\n\t", unseen=None)
            yield said
            if not deadline.left:
                yield said + " … (stopped: the time was over)"
                return
    yield said or "(says nothing)"


class Speakers:
    """The models that were asked, one open at a time: they are the largest of the demo."""

    def __init__(self, run: Path) -> None:
        self.choices = choices(run)
        self._open: tuple[str, LocalChatModel] | None = None
        self._stack = ExitStack()

    def speaker(self, name: Any) -> LocalChatModel:
        """Who is named so on the list.

        Raises:
            UserError: nobody.
        """
        named = {each.name: each for each in self.choices}
        chosen = named[limits.choice("who answers", name, named)]
        if self._open is not None and self._open[0] == chosen.name:
            return self._open[1]
        self._open = None
        self._stack.close()
        given = [] if chosen.adapter is None else [f"adapter={chosen.adapter}"]
        base, *adapted = self._stack.enter_context(opened(chosen.model, given, max_batch=1, compiled="off"))
        self._open = chosen.name, adapted[0] if adapted else base
        return self._open[1]


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def listed() -> Any:
        names = room.job(lambda deadline: [each.name for each in room.opened(Speakers).choices], FIRST)
        if not names:
            raise UserError(f"{room.run} has no model; {room.how_to_make}")
        return gr.Dropdown(choices=names, value=names[0])

    def said(
        question: str, history: Any, who: str, temperature: float, most: int, seed: int
    ) -> Iterator[tuple[str, list[dict[str, str]]]]:
        messages = conversation(history, question)
        shown = [{"role": each.role, "content": untagged(each.content)} for each in messages]

        def job(deadline: Deadline, tell: Callable[[str], None]) -> None:
            speaker = room.opened(Speakers).speaker(who)
            ends = Deadline(deadline.left - 10)  # what was said by then is shown, with a word that it was stopped
            for text in reply(speaker, messages, temperature, most, seed, ends):
                deadline.check()
                tell(text)

        yield "", [*shown, {"role": "assistant", "content": "…"}]
        for text in room.stream(job, 90):
            yield "", [*shown, {"role": "assistant", "content": untagged(text)}]

    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            who = gr.Dropdown([], label="Who answers", elem_id="afm-who")
            temperature = gr.Slider(0, 1.5, 0.7, step=0.1, label="Temperature", info="0 takes the likeliest word")
            most = gr.Slider(8, MOST_TOKENS, 96, step=8, label="Longest answer, tokens")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
        with gr.Column(scale=2):
            chat = chat_box(
                "Chat",
                380,
                "Write a question below. Models of a short run are small: they have the form of an answer, not its sense.",
            )
            with gr.Row():
                question = gr.Textbox(
                    show_label=False, placeholder="Your question", max_length=LONGEST, scale=4, elem_id="afm-question"
                )
                button = gr.Button("Ask", variant="primary", scale=1, elem_id="afm-go")
            gr.ClearButton([chat], value="Begin anew", size="sm")
    inputs = [question, chat, who, temperature, most, seed]
    room.first_look(listed, [who])
    handle(button.click, room, said, inputs, [question, chat])
    handle(question.submit, room, said, inputs, [question, chat])


TAB = Tab(
    "afm",
    "Chat",
    "Models along one chain, from raw text: pre-trained, pruned, aligned, palettized, with adapters. Ask the same question of "
    "a base and of its adapter, or of a pretrained model where one is on this machine.",
    build,
)
