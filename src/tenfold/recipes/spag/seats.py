"""Who sits at a table of the command line: models of runs, pretrained ones, endpoints, the scripted teachers, a person."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tenfold.core.config import from_json
from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.games.experts import scripted_attacker, scripted_defender
from tenfold.games.files import load_lexicon
from tenfold.games.game import TIED, Episode, State, Turn, Verdict, episode_id, keyed_seed
from tenfold.games.referee import ROLES
from tenfold.games.self_play import storable
from tenfold.games.taboo import AdversarialTaboo
from tenfold.recipes.spag.config import Config, Table
from tenfold.recipes.spag.evaluation import main_chain
from tenfold.recipes.spag.players import CARD, Player, open_player
from tenfold.recipes.spag.training import SCRIPTED, model_folder
from tenfold.recipes.spag.world import LEXICON, make_game
from tenfold.text.chat import complete_all
from tenfold.text.endpoint import EndpointChatModel
from tenfold.text.messages import ChatModel, Sampling

SHOWN = 2000  # characters of an utterance that a terminal shows
AT_ENDPOINTS = Table(pack="default", form="chat", max_tokens=256, batch=64)


@dataclass(frozen=True)
class Seat:
    """Somebody who plays, in each role, and the game as they know it."""

    name: str
    speakers: dict[str, ChatModel]
    game: AdversarialTaboo
    sampling: Sampling
    concurrency: int


def run_config(run: Run) -> Config:
    """The config of a run of this recipe.

    Raises:
        UserError: another recipe's run.
    """
    run.need_recipe("spag")
    return from_json(Config, run.config, where=str(run.path / "config.json"))


def find_player(place: str) -> Player:
    """A run's last player, a player's own folder, or a pretrained model by its name or folder.

    Raises:
        UserError: none there.
    """
    path = Path(place)
    if (path / "run.json").is_file():
        run = Run.open(path)
        config = run_config(run)
        done = [name for name in main_chain(config) if (model_folder(path, config.seeds[0], name) / CARD).is_file()]
        if not done:
            raise UserError(f"no model in {path} yet; its training has not ended a stage")
        path = model_folder(path, config.seeds[0], done[-1])
    return open_player(path)


@contextmanager
def seated(place: str, temperature: float) -> Iterator[Seat]:
    """A seat by name: "scripted", URL#MODEL of an endpoint, or what `find_player` finds.

    Args:
        place: the name.
        temperature: of the sampling; 0 takes the likeliest utterance.
    """
    base_url, _, model = place.partition("#")
    if place == SCRIPTED:
        lexicon = load_lexicon(data_path(LEXICON))
        teachers: dict[str, ChatModel] = dict(
            zip(ROLES, (scripted_attacker(lexicon), scripted_defender(lexicon)), strict=True)
        )
        yield _seat(place, teachers, make_game(AT_ENDPOINTS), AT_ENDPOINTS, temperature)
    elif base_url.startswith(("http://", "https://")):
        if not model:
            raise UserError(f"model: got {place}, need URL#MODEL, such as http://localhost:8000/v1#NAME")
        endpoint = EndpointChatModel(model, base_url, concurrency=AT_ENDPOINTS.batch)
        yield _seat(model, dict.fromkeys(ROLES, endpoint), make_game(AT_ENDPOINTS), AT_ENDPOINTS, temperature)
    else:
        player = find_player(place)
        with player.seat() as chat:
            yield _seat(player.name, dict.fromkeys(ROLES, chat), player.game, player.card.table, temperature)


def _seat(name: str, speakers: dict[str, ChatModel], game: AdversarialTaboo, table: Table, temperature: float) -> Seat:
    sampling = Sampling(temperature=temperature, max_tokens=table.max_tokens, min_tokens=1)
    return Seat(name, speakers, game, sampling, table.batch)


def talk(
    seat: Seat,
    role: str,
    word: str,
    seed: int,
    *,
    ask: Callable[[str], str],
    tell: Callable[[str], None],
) -> Episode:
    """A person plays one game against a seat.

    Args:
        seat: the other side.
        role: the person's.
        word: the target.
        seed: of the model's draws.
        ask, tell: of the terminal.
    Returns:
        the game.
    Raises:
        UserError: the person left.
    """
    talked = Conversation.begin(seat, role, word, seed)
    tell(f"You are the {role}." + (f" The word is {word}; do not say it." if role == "attacker" else ""))
    while True:
        told, talked = len(talked.turns), talked.answered()
        for turn in talked.turns[told:]:
            tell(f"{turn.role}: {plain(turn.text)}")
        if talked.verdict is not None:
            break
        try:
            talked = talked.said(ask("> "))
        except EOFError:
            raise UserError("the game was left before its end") from None
    tell(talked.ending)
    return talked.episode


@dataclass(frozen=True)
class Conversation:
    """A game of a person against a seat, as far as it has gone.

    Args:
        seat: the other side.
        role: the person's.
        state: of the game.
        verdict: None while it goes on.
    """

    seat: Seat
    role: str
    state: State
    verdict: Verdict | None = None

    @classmethod
    def begin(cls, seat: Seat, role: str, word: str, seed: int) -> Conversation:
        """Before the first word; `seed` is of the model's draws."""
        return cls(seat, role, seat.game.reset({"target_word": word}, seed))

    @property
    def turns(self) -> tuple[Turn, ...]:
        return self.state.turns

    @property
    def word(self) -> str:
        return str(self.state.setup["target_word"])

    @property
    def to_move(self) -> str | None:
        """Whose turn it is; None at the end."""
        return None if self.verdict is not None else self.seat.game.to_move(self.state)

    def said(self, text: str) -> Conversation:
        """After the words of whoever moves."""
        game, mover = self.seat.game, self.seat.game.to_move(self.state)
        state = replace(self.state, turns=(*self.state.turns, Turn(mover, storable(text))))
        verdict = game.verdict(state)
        if verdict is None and len(state.turns) >= game.plies(state):
            verdict = Verdict(TIED, len(state.turns), "turns used up")
        return replace(self, state=state, verdict=verdict)

    def answered(self) -> Conversation:
        """After the seat's words; the same where the person moves or the game has ended."""
        mover = self.to_move
        if mover is None or mover == self.role:
            return self
        sampling = replace(self.seat.sampling, seed=keyed_seed(self.state.seed, self._id, len(self.turns)))
        messages = self.seat.game.observe(self.state, mover)
        ((reply,),) = complete_all(self.seat.speakers[mover], [messages], sampling)
        return self.said(reply.text)

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        assert self.verdict is not None
        return f"{self.verdict.outcome}: {self.verdict.reason}. The word was {self.word}."

    @property
    def episode(self) -> Episode:
        """The game that has ended."""
        assert self.verdict is not None
        names = {mover: "person" if mover == self.role else self.seat.name for mover in ROLES}
        return Episode(
            self._id, self.seat.game.name, self.state.setup, self.state.seed, names, self.turns, self.verdict
        )

    @property
    def _id(self) -> str:
        return episode_id(self.seat.game.name, self.state.setup, self.state.seed)


def plain(text: str) -> str:
    """What a model said, without anything that would steer a terminal."""
    shown = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text[:SHOWN])
    return " ".join(shown.split()) or "(says nothing)"
