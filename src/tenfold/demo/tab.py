"""What every tab is made of: a frame, errors as one line, figures as pictures, foreign pages in a locked frame."""

from __future__ import annotations

import functools
import html
import inspect
import io
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from tenfold.core.errors import UserError
from tenfold.demo.shelf import Room

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tab:
    """One tab.

    Args:
        recipe: whose run it shows.
        title: on the tab.
        about: what one sees here, a sentence or two.
        build: puts the controls on the page; called inside the tab.
        needs_run: whether it has anything to show without one.
    """

    recipe: str
    title: str
    about: str
    build: Callable[[Room], None]
    needs_run: bool = True


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose errors are shown as one line: a user's mistake as it is, ours without its inside."""
    import gradio as gr

    def shown(error: Exception) -> Exception:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, UserError | ValueError):
            words = " ".join(str(error).split())[:500]
        else:
            traceback.print_exc(file=sys.stderr)
            words = f"This failed ({type(error).__name__}); the terminal of the demo says more."
        return gr.Error(html.escape(words), print_exception=False, duration=20)

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def streaming(*arguments: Any) -> Any:
            try:
                yield from function(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong, a person waits at the other end
                raise shown(error) from None

        return streaming

    @functools.wraps(function)
    def plain(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, a person waits at the other end
            raise shown(error) from None

    return plain


def handle(event: Callable[..., Any], room: Room, function: Callable[..., Any], inputs: Any, outputs: Any) -> Any:
    """Bind a handler to an event; those of one recipe run one after the other."""
    return event(
        guarded(function),
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id=room.recipe.name,
        api_visibility="private",
        show_progress="minimal",
    )


def picture_of(figure: Figure) -> Image.Image:
    """A matplotlib figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def untagged(text: str) -> str:
    """A text that a chat shows whole: what looks like a tag would be taken out of it."""
    return re.sub(r"<(?=[A-Za-z/!?])", "‹", text)


def figure_box(caption: str, *, height: int | None = None) -> Any:
    """A place for a picture, its caption above it and not upon it."""
    import gradio as gr

    gr.Markdown(f"**{caption}**")
    return gr.Image(show_label=False, format="png", interactive=False, buttons=["download"], height=height)


def chat_box(label: str, height: int, placeholder: str) -> Any:
    """A place for a talk, whose words are shown as they are: neither markup nor tags are read in them."""
    import gradio as gr

    return gr.Chatbot(
        label=label,
        height=height,
        render_markdown=False,
        allow_tags=False,
        feedback_options=None,
        buttons=["copy"],
        placeholder=placeholder,
    )


def framed(page: str, height: int) -> str:
    """A whole HTML page inside this one, in a frame without scripts, forms or access to anything.

    Args:
        page: the page.
        height: of the frame, in pixels.
    """
    return (
        f'<iframe sandbox="" srcdoc="{html.escape(page)}" title="result" '
        f'style="width:100%;height:{height}px;border:0;border-radius:8px"></iframe>'
    )


def missing(room: Room) -> str:
    """What stands in place of a tab that has no run."""
    command = html.escape(room.how_to_make)
    return (
        f'<div class="missing">No run of {html.escape(room.recipe.name)} here yet. Make one, about a minute: '
        f"<code>{command}</code>, then start the demo again.</div>"
    )
