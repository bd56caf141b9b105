"""Games of a language model against itself: many at once here, beside one at a time and beside fixed batches with transformers.

    python benchmarks/games.py --threads 1 --out games.json

A two-layer Llama of width 256 and random weights; utterances of up to 16 tokens, drawn at temperature 1.2, the end made
likely enough that they differ in length; five turns of each side, the same words, the rules as the pack has them.
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from chat_endpoint import LATENCY, stub
from generation import twin
from rows import Row, clock, parser, row, time_of, write

from tenfold.core.timing import interleaved, ratio
from tenfold.games.experts import scripted_attacker, scripted_defender, spelling_clues
from tenfold.games.game import Episode, State
from tenfold.games.referee import judge
from tenfold.games.self_play import play
from tenfold.games.taboo import AdversarialTaboo
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.endpoint import EndpointChatModel
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

VOCABULARY, NEW, END_BIAS = 4096, 16, 3.8  # with the bias utterances have 7 tokens on average, one in ten all 16
GAMES, AT_ONCE, BATCH = 256, 256, 32
NAIVE_GAMES, BATCH_GAMES = 2, 32  # of the slower ways; their time is scaled to GAMES
SCRIPTED, SCRIPTED_BAR = 4000, 20_000 / 60  # games, games a second
JUDGED, JUDGE_BAR = 20_000, 50_000  # utterances, utterances a second
WIDE = 64  # games at a time over an endpoint
GAME = AdversarialTaboo()


@dataclass
class Slots:
    """Places in batches, and those of them that held a token somebody needed."""

    all: int = 0
    used: int = 0
    read: int = 0  # tokens of prompts among the used

    @property
    def waste(self) -> float:
        return 1 - self.used / max(1, self.all)


def setting() -> tuple[Decoder, Tokenizer]:
    tokenizer = train_tokenizer([inspect.getsource(module) for module in (argparse, inspect)], VOCABULARY)
    cfg = DecoderConfig(tokenizer.vocab_size, 256, 2, 4, 4, 64, 688, qk_norm=False, max_len=2048)
    return Decoder(cfg, torch.Generator().manual_seed(0)), tokenizer


def words(count: int) -> list[dict[str, str]]:
    return [{"target_word": f"word{index}"} for index in range(count)]


def ours(chat: LocalChatModel, count: int) -> list[Episode]:
    """So many games, all in one engine that has read nothing before."""
    chat.engine.forget()
    bias = {str(chat.tokenizer.end_id): END_BIAS}
    sampling = Sampling(temperature=1.2, top_k=50, max_tokens=NEW, min_tokens=1, logit_bias=bias)
    players = {"attacker": chat, "defender": chat}
    return list(play(GAME, players, words(count), seed=0, sampling=sampling, concurrency=AT_ONCE))


def counted(chat: LocalChatModel, slots: Slots) -> None:
    """Have an engine note what it computes."""
    batch: Any = chat.engine._batch
    read, decode = batch.read, batch.decode

    def reading(room: int) -> int:
        before = {id(each): each.done for each in batch.rows()}
        width = read(room)
        used = sum(each.done - before.get(id(each), each.reused) for each in batch.rows())
        slots.all, slots.used, slots.read = slots.all + width, slots.used + used, slots.read + used
        return int(width)

    def decoding() -> None:
        slots.all, slots.used = slots.all + len(batch.running), slots.used + len(batch.running)
        decode()

    batch.read, batch.decode = reading, decoding


class Transformers:
    """Games by `generate` on whole prompts."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer) -> None:
        assert tokenizer.end_id is not None
        self.model, self.tokenizer, self.slots, self.end = twin(model), tokenizer, Slots(), tokenizer.end_id

    def prompt(self, state: State) -> list[int]:
        told = [{"role": each.role, "content": each.content} for each in GAME.observe(state, GAME.to_move(state))]
        return self.tokenizer.apply_chat_template(told, add_generation_prompt=True)

    def say(self, states: Sequence[State]) -> list[State]:
        """The next utterance of every game, in one batch filled up on the left."""
        prompts = [self.prompt(state) for state in states]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        model: Any = self.model
        made = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=NEW,
            min_new_tokens=1,
            do_sample=True,
            temperature=1.2,
            top_k=50,
            eos_token_id=self.end,
            sequence_bias=[[[self.end], END_BIAS]],
        )[:, width:]
        replies = [reply[: reply.index(self.end)] if self.end in reply else reply for reply in made.tolist()]
        self.slots.all += made.shape[0] * (width + made.shape[1])
        self.slots.used += sum(map(len, prompts)) + sum(map(len, replies))
        return [GAME.step(state, self.tokenizer.decode(reply)) for state, reply in zip(states, replies, strict=True)]

    def one_at_a_time(self, count: int) -> None:
        for setup in words(count):
            state = GAME.reset(setup, 0)
            while GAME.verdict(state) is None:
                (state,) = self.say([state])

    def in_batches(self, count: int) -> None:
        """As the paper's code: every game of a batch to its last utterance."""
        states = [GAME.reset(setup, 0) for setup in words(count)]
        for start in range(0, count, BATCH):
            part = states[start : start + BATCH]
            for _ in range(GAME.plies(part[0])):
                part = self.say(part)


def against_transformers(repeats: int) -> list[Row]:
    torch.manual_seed(0)
    model, tokenizer = setting()
    theirs = Transformers(model, tokenizer)
    slots = Slots()
    with LocalChatModel(
        model, tokenizer, max_batch=2 * AT_ONCE, max_batch_tokens=2 * AT_ONCE * 768, prefill_chunk=2048
    ) as chat:
        runs = {
            "ours": lambda: ours(chat, GAMES),
            "one": lambda: theirs.one_at_a_time(NAIVE_GAMES),
            "batches": lambda: theirs.in_batches(BATCH_GAMES),
        }
        timings = interleaved(runs, repeats, warmup=1, clock=clock)
        counted(chat, slots)
        states = [game.state(ply) for game in ours(chat, GAMES) for ply in range(len(game.turns))]
    asked = sum(len(theirs.prompt(state)) for state in states)
    speed = {"ours": GAMES / timings["ours"].median, "one": NAIVE_GAMES / timings["one"].median,
             "batches": BATCH_GAMES / timings["batches"].median}  # fmt: skip
    rows, measured = [], time_of(torch.get_num_threads())
    for name, title, count, bar in (
        ("one", "one game at a time", NAIVE_GAMES, 8.0),
        ("batches", f"batches of {BATCH}, filled up on the left", BATCH_GAMES, 3.0),
    ):
        value = ratio(timings, name, "ours") * GAMES / count
        rows.append(
            row(
                f"games a second / {title}",
                value,
                f"{speed['ours']:.2f} against {speed[name]:.2f} a second of {measured}",
                bar,
            )
        )
    note = f"{slots.read} of {asked} tokens computed; the others were known from earlier prompts"
    rows.append(row("tokens of prompts / computed ones", asked / slots.read, note, 1 / 0.35))
    theirs.slots = Slots()
    theirs.in_batches(BATCH_GAMES)
    note = f"waste {100 * slots.waste:.1f} %, batches of {BATCH}: {100 * theirs.slots.waste:.1f} %"
    rows.append(row("share of batch slots that hold a token in need", 1 - slots.waste, note, 0.85))
    return rows


def over_an_endpoint() -> list[Row]:
    """Games over a server that takes 50 ms an answer: many under way, and one at a time; in wall time."""
    with stub(LATENCY) as url:
        one = utterances_a_second(url, 1, 2)
        many = median(utterances_a_second(url, WIDE, 2 * WIDE) for _ in range(3))
    note = f"{many:.0f} against {one:.1f} utterances a second"
    return [row(f"games over an endpoint / {WIDE} at a time, one", many / one, note, 40.0)]


def utterances_a_second(url: str, at_once: int, games: int) -> float:
    chat = EndpointChatModel("m", url, "none", concurrency=at_once)
    players = {"attacker": chat, "defender": chat}
    start = time.perf_counter()
    played = list(play(GAME, players, words(games), seed=0, concurrency=at_once))
    return sum(len(game.turns) for game in played) / (time.perf_counter() - start)


def without_a_model() -> list[Row]:
    """Games of scripted players and utterances judged, in CPU seconds."""
    lexicon = spelling_clues([setup["target_word"] for setup in words(500)])
    players = {"attacker": scripted_attacker(lexicon), "defender": scripted_defender(lexicon)}
    setups = [{"target_word": entry.word} for entry in lexicon] * math.ceil(SCRIPTED / len(lexicon))
    start = time.process_time()
    played = list(play(GAME, players, setups[:SCRIPTED], seed=0))
    speed = SCRIPTED / (time.process_time() - start)
    rows = [row("scripted players, games a CPU second / 333", speed / SCRIPTED_BAR, f"{60 * speed:.0f} a minute", 1.0)]
    for rules in ("official", "strict"):
        count, start = 0, time.process_time()
        while count < JUDGED:
            for game in played:
                count += judge(game.turns, game.setup["target_word"], 5, rules).length  # type: ignore[arg-type]
        speed = count / (time.process_time() - start)
        rows.append(row(f"{rules} referee, utterances a CPU second / 50 000", speed / JUDGE_BAR, f"{speed:.0f}", 1.0))
    return rows


def main() -> None:
    arguments = parser(__doc__.split("\n")[0], repeats=3).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [*against_transformers(arguments.repeats), *without_a_model(), *over_an_endpoint()]
    what = f"Adversarial Taboo of a random two-layer Llama against itself, utterances of up to {NEW} tokens."
    write(arguments.out, "Games of a model against itself", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
