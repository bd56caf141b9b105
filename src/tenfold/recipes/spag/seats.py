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
from tenfold.games.game import TIED, Episode, Turn, Verdict, episode_id, keyed_seed
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
    if run.recipe != "spag":
        raise UserError(f"{run.path} is a run of {run.recipe}, need one of spag")
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
    game = seat.game
    state, verdict = game.reset({"target_word": word}, seed), None
    id = episode_id(game.name, state.setup, seed)
    tell(f"You are the {role}." + (f" The word is {word}; do not say it." if role == "attacker" else ""))
    while verdict is None and len(state.turns) < game.plies(state):
        mover = game.to_move(state)
        if mover == role:
            try:
                text = storable(ask("> "))
            except EOFError:
                raise UserError("the game was left before its end") from None
        else:
            sampling = replace(seat.sampling, seed=keyed_seed(seed, id, len(state.turns)))
            ((reply,),) = complete_all(seat.speakers[mover], [game.observe(state, mover)], sampling)
            text = storable(reply.text)
            tell(f"{mover}: {plain(text)}")
        state = replace(state, turns=(*state.turns, Turn(mover, text)))
        verdict = game.verdict(state)
    verdict = verdict or Verdict(TIED, len(state.turns), "turns used up")
    tell(f"{verdict.outcome}: {verdict.reason}. The word was {word}.")
    names = {mover: "person" if mover == role else seat.name for mover in ROLES}
    return Episode(id, game.name, state.setup, seed, names, state.turns, verdict)


def plain(text: str) -> str:
    """What a model said, without anything that would steer a terminal."""
    shown = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in text[:SHOWN])
    return " ".join(shown.split()) or "(says nothing)"
