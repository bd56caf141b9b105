"""Self-play: many games at once between chat models, each utterance drawn with random numbers of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tenfold.games.game import ERROR, TIED, Episode, Game, State, Verdict, episode_id, keyed_seed
from tenfold.games.store import TranscriptStore
from tenfold.text.endpoint_errors import ContextLengthError, EndpointError, RefusedError
from tenfold.text.messages import ChatModel, Reply, Sampling

SELF_PLAY = Sampling(temperature=1.2, top_k=50, max_tokens=256, min_tokens=1)  # the paper's
LONGEST = 20_000  # characters of an utterance that are kept

Setup = Mapping[str, Any]


@dataclass(frozen=True)
class OpponentPool:
    """Several models that take turns in one role, such as earlier checkpoints; one plays a game to its end.

    Args:
        models: oldest first.
        choice: "uniform" draws one by the game's id, "latest" takes the last.
    """

    models: Sequence[ChatModel]
    choice: Literal["uniform", "latest"] = "uniform"

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("models: got none, need at least one")
        if self.choice not in ("uniform", "latest"):
            raise ValueError(f"choice: got {self.choice!r}, need 'uniform' or 'latest'")

    def pick(self, id: str) -> ChatModel:
        """The model that plays the game `id`."""
        return self.models[-1 if self.choice == "latest" else keyed_seed("pool", id) % len(self.models)]


Speaker = ChatModel | OpponentPool


def play(
    game: Game,
    speakers: Mapping[str, Speaker],
    setups: Iterable[Setup],
    *,
    seed: int,
    sampling: Sampling = SELF_PLAY,
    store: TranscriptStore | str | Path | None = None,
    concurrency: int = 1024,
    resume: bool = True,
    early_stop: bool = True,
) -> Iterator[Episode]:
    """Play one game for each setup, many at a time, and hand them out as they end.

    What is said depends on (seed, episode, ply) and the models alone, not on concurrency or order. A conversation that a
    model finds too long is told again without its oldest rounds. A game whose model gives no answer after all tries has
    the outcome "error" and is not stored, so that it is played again; a model that refuses (a wrong key, a bad
    request) stops everything.

    Args:
        game: what is played.
        speakers: who plays each role.
        setups: read as games begin; an equal setup that comes again is another game.
        seed: of all random numbers.
        sampling: how utterances are drawn; with `logprobs` the tokens are kept too.
        store: where finished games are appended.
        concurrency: games under way at a time; models bound their own requests besides.
        resume: leave out games that the store holds.
        early_stop: end a game at its verdict; False plays all utterances, as the paper's code does.
    Yields:
        new episodes only; those of the store are read from it.
    Raises:
        ValueError: speakers for other roles, concurrency below 1, a store with episodes and `resume=False`.
    """
    if set(speakers) != set(game.roles):
        raise ValueError(f"speakers: got {', '.join(sorted(speakers)) or 'none'}, need {', '.join(game.roles)}")
    if concurrency < 1:
        raise ValueError(f"concurrency: got {concurrency}, need at least 1")
    return _play(game, speakers, setups, seed, sampling, store, concurrency, resume, early_stop)


def _play(
    game: Game,
    speakers: Mapping[str, Speaker],
    setups: Iterable[Setup],
    seed: int,
    sampling: Sampling,
    store: TranscriptStore | str | Path | None,
    concurrency: int,
    resume: bool,
    early_stop: bool,
) -> Iterator[Episode]:
    kept = TranscriptStore(store) if isinstance(store, str | Path) else store
    try:
        if kept is not None and len(kept) and not resume:
            raise ValueError(f"store: got {kept.path} with {len(kept)} episodes, need an empty one or resume=True")
        known = () if kept is None else kept
        begun = ((id, state) for id, state in first_states(game, setups, seed) if id not in known)
        table = _Table(game, speakers, seed, sampling, early_stop)
        with closing(_in_thread(table, begun, concurrency)) as episodes:
            for episode in episodes:
                if kept is not None and episode.verdict.outcome != ERROR:
                    kept.add(episode)
                yield episode
    finally:
        if kept is not None and kept is not store:
            kept.close()


def first_states(game: Game, setups: Iterable[Setup], seed: int) -> Iterator[tuple[str, State]]:
    """The id and the first state of every game that `play` plays of these setups."""
    repeats: Counter[str] = Counter()
    for setup in setups:
        state = game.reset(setup, seed)
        first = episode_id(game.name, state.setup, seed)
        yield episode_id(game.name, state.setup, seed, repeats[first]) if repeats[first] else first, state
        repeats[first] += 1


@dataclass(frozen=True)
class _Table:
    """Where games are played, all by the same models and settings."""

    game: Game
    speakers: Mapping[str, Speaker]
    seed: int
    sampling: Sampling
    early_stop: bool

    async def episode(self, id: str, state: State) -> Episode:
        game, first = self.game, state
        players = {
            role: speaker.pick(id) if isinstance(speaker, OpponentPool) else speaker
            for role, speaker in self.speakers.items()
        }
        verdict = None
        try:
            while len(state.turns) < game.plies(state) and not (verdict and self.early_stop):
                role = game.to_move(state)
                reply = await self._reply(players[role], id, state, role)
                state = _said(game, state, reply, self.sampling.logprobs)
                verdict = game.verdict(state)
        except EndpointError as error:
            if isinstance(error, RefusedError) and not isinstance(error, ContextLengthError):
                raise
            verdict = Verdict(ERROR, len(state.turns), str(error))
        names = {role: player.name for role, player in players.items()}
        verdict = verdict or Verdict(TIED, len(state.turns), "turns used up")
        return Episode(id, game.name, first.setup, first.seed, names, state.turns, verdict)

    async def _reply(self, player: ChatModel, id: str, state: State, role: str) -> Reply:
        sampling = replace(self.sampling, seed=keyed_seed(self.seed, id, len(state.turns)))
        rounds = len(self.game.roles)
        while True:
            try:
                return (await player.complete(self.game.observe(state, role), sampling))[0]
            except ContextLengthError:
                if len(state.turns) <= rounds:
                    raise
                state = replace(state, turns=state.turns[rounds:])  # whole rounds, so that it stays this role's move


def _said(game: Game, state: State, reply: Reply, keep_tokens: bool) -> State:
    """The state behind a reply, with what it cost noted in its turn."""
    after = game.step(state, storable(reply.text))
    logs = reply.logprobs if keep_tokens else None
    turn = replace(
        after.turns[-1],
        n_prompt=reply.usage.prompt,
        n_new=reply.usage.completion,
        logprob_sum=None if logs is None else sum(logs),
        finish=reply.finish_reason,
        token_ids=reply.token_ids if logs is not None else None,
        logprobs=logs if reply.token_ids is not None else None,
    )
    return replace(after, turns=(*after.turns[:-1], turn))


def storable(text: str) -> str:
    """An utterance as it is kept: bounded, and without half a surrogate pair, which has no UTF-8."""
    return text[:LONGEST].encode("utf-8", "replace").decode("utf-8")


def _in_thread(table: _Table, begun: Iterable[tuple[str, State]], concurrency: int) -> Generator[Episode, None, None]:
    """Run the games in an event loop of their own, so that this also works where one runs already (a notebook)."""
    ended: queue.SimpleQueue[Episode | BaseException | None] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    room = asyncio.Semaphore(concurrency)  # games under way or ended and not yet taken

    async def one(id: str, state: State) -> None:
        ended.put(await table.episode(id, state))

    async def all_games() -> None:
        async with asyncio.TaskGroup() as group:
            for id, state in begun:
                await room.acquire()
                group.create_task(one(id, state))

    main = loop.create_task(all_games())

    def serve() -> None:
        asyncio.set_event_loop(loop)
        outcome: BaseException | None = None
        try:
            loop.run_until_complete(main)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that asked
            outcome = error
        finally:
            with suppress(RuntimeError):
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            ended.put(outcome)

    thread = threading.Thread(target=serve, name="tenfold-games", daemon=True)
    thread.start()
    try:
        while (item := ended.get()) is not None:
            if isinstance(item, BaseException):
                raise _first(item)
            yield item
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(room.release)
    finally:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(main.cancel)
        thread.join()


def _first(error: BaseException) -> BaseException:
    """What went wrong first in a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
