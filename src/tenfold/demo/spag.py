"""Tab of spag: a game of Adversarial Taboo against the run's player."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.demo import limits
from tenfold.demo.shelf import Room
from tenfold.demo.tab import Tab, chat_box, handle, untagged
from tenfold.recipes.spag.config import Words
from tenfold.recipes.spag.seats import Conversation, Seat, plain, seated
from tenfold.recipes.spag.world import open_world

LONGEST = 300  # characters of an utterance
ROLES = ("defender", "attacker")


class Table:
    """The run's player at its place, and the words that it never learned on."""

    def __init__(self, run: Path) -> None:
        self._stack = ExitStack()
        self.seat: Seat = self._stack.enter_context(seated(str(run), 1.0))
        self.words = list(open_world(Words()).held_out)


def begin(table: Table, role: Any, seed: Any) -> Conversation:
    """A new game; where the model attacks, it has spoken.

    Raises:
        UserError: no such role.
    """
    number = limits.whole("seed", seed, 0, 2**31 - 1)
    mine = limits.choice("role", role, ROLES)
    return Conversation.begin(table.seat, mine, random.Random(number).choice(table.words), number).answered()


def go_on(game: Conversation | None, text: Any) -> Conversation:
    """The game after your words and the model's.

    Raises:
        UserError: no game, a game that has ended, an empty or too long text.
    """
    if game is None:
        raise UserError("there is no game yet; begin one")
    if game.to_move is None:
        raise UserError("the game has ended; begin a new one")
    return game.said(limits.text("your words", text, LONGEST)).answered()


def told(game: Conversation) -> tuple[list[dict[str, str]], str]:
    """The game as a chat, and where it stands in a line."""
    mine = game.role
    turns = [
        {"role": "user" if turn.role == mine else "assistant", "content": untagged(f"{turn.role}: {plain(turn.text)}")}
        for turn in game.turns
    ]
    if game.to_move is None:
        return turns, game.ending
    if mine == "attacker":
        return (
            turns,
            f"You are the attacker. The word is “{game.word}”: make the defender say it, do not say it yourself.",
        )
    left = game.seat.game.max_turns - len(game.turns) // 2
    return turns, (
        "You are the defender. Do not say the secret word by accident. If you know it, say: I know the word! It is … "
        f"({left} turn{'s' * (left != 1)} left)"
    )


def build(room: Room) -> None:
    """The controls."""
    import gradio as gr

    def begun(role: str, seed: int) -> tuple[Any, ...]:
        game = room.job(lambda deadline: begin(room.opened(Table), role, seed), 90)
        return (game, *told(game), "")

    def said(game: Conversation | None, text: str) -> tuple[Any, ...]:
        after = room.job(lambda deadline: go_on(game, text), 90)
        return (after, *told(after), "")

    game = gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            role = gr.Radio(list(ROLES), value="defender", label="You are the", elem_id="spag-role")
            seed = gr.Number(0, label="Seed of the word", precision=0, minimum=0, maximum=2**31 - 1)
            button = gr.Button("New game", variant="primary", elem_id="spag-go")
            where = gr.Textbox(label="Where the game stands", lines=4, interactive=False, elem_id="spag-where")
        with gr.Column(scale=2):
            chat = chat_box(
                "Game",
                340,
                "The attacker knows a secret word and wants the defender to say it unawares; the defender may guess it once.",
            )
            with gr.Row():
                text = gr.Textbox(
                    show_label=False, placeholder="Your words", max_length=LONGEST, scale=4, elem_id="spag-words"
                )
                say = gr.Button("Say", scale=1, elem_id="spag-say")
    outputs = [game, chat, where, text]
    handle(button.click, room, begun, [role, seed], outputs)
    handle(say.click, room, said, [game, text], outputs)
    handle(text.submit, room, said, [game, text], outputs)


TAB = Tab(
    "spag",
    "Taboo",
    "Two players, one secret word: the attacker wants the defender to say it unawares, the defender wants to guess it. The model "
    "learned by imitation and then by playing itself. Play it in either role.",
    build,
)
