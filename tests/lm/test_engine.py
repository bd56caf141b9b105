"""Requests that join and leave a running batch get the tokens they would get alone."""

from __future__ import annotations

import dataclasses
import random
import threading
import time

import pytest
import torch

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.engine import Engine, request_seed
from tenfold.lm.generate import generate
from tenfold.lm.kv_cache import KVCache
from tenfold.lm.request import Finished, NewToken, Request
from tenfold.lm.running_batch import FILLED
from tenfold.lm.sampling import SamplingRule
from tenfold.lm.slots import Slots
from tenfold.lm.token_stream import EngineBusyError, EngineClosedError
from tenfold.nn.moe import MoEConfig

CFG = DecoderConfig(vocab_size=50, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=32, max_len=160)
SPARSE = dataclasses.replace(CFG, moe=MoEConfig(24, 16, num_experts=4))
GREEDY = SamplingRule(temperature=0)


@pytest.fixture(params=[True, False], ids=["block", "places"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Every test with keys and values laid out as on an accelerator and as on a CPU."""
    laid_out: bool = request.param
    monkeypatch.setitem(Engine.__init__.__kwdefaults__, "block", laid_out)
    return laid_out


def decoder(cfg: DecoderConfig = CFG) -> Decoder:
    model = Decoder(cfg, torch.Generator().manual_seed(0)).double()
    model.embed_tokens.weight.data *= 4
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 50, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def fill(slots: Slots, k_BGSd: torch.Tensor) -> None:
    """Store keys, and as many values, in the first layer of the first slots."""
    for slot, k in enumerate(k_BGSd.unsqueeze(1)):
        cache = slots.batch(slot, [0], [k.shape[2]])
        assert isinstance(cache, KVCache)
        cache.layer(0).append(k, k)


def keys(slots: Slots, slot: int, count: int) -> torch.Tensor:
    cache = slots.batch(slot, [count], [1])
    assert isinstance(cache, KVCache)
    return cache.layer(0).k[0, :, :count]


def answers(engine: Engine, requests: list[Request]) -> list[list[int]]:
    streams = [engine.submit(request) for request in requests]
    return [[token.id for token in stream] for stream in streams]


@pytest.mark.parametrize("cfg", [CFG, SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_greedy_equals_generate_in_every_batch(cfg: DecoderConfig, max_batch: int) -> None:
    model = decoder(cfg)
    prompts = [prompt(length, length) for length in (1, 40, 7, 90, 3, 25, 12)]
    expected = [generate(model, [ids], max_new_tokens=9, temperature=0).ids[0] for ids in prompts]
    with Engine(model, max_batch=max_batch, prefill_chunk=8) as engine:
        assert answers(engine, [Request(ids, 9, GREEDY) for ids in prompts]) == expected


def test_draws_depend_on_the_request_alone() -> None:
    model = decoder()
    requests = [
        Request(prompt(5 + i, i), 6 + i, SamplingRule(0.8, top_k, top_p), seed=i)
        for i, (top_k, top_p) in enumerate([(None, None), (5, None), (None, 0.7), (9, 0.9), (None, None), (5, None)])
    ]
    with Engine(model, max_batch=4) as engine:
        together = answers(engine, requests)
    with Engine(model, max_batch=1) as engine:
        assert [answers(engine, [request])[0] for request in reversed(requests)] == together[::-1]
        other = answers(engine, [dataclasses.replace(requests[0], seed=99)])[0]
    assert other != together[0]


def test_requests_that_come_late_and_leave_early() -> None:
    """A row that leaves is filled by the last one, a prompt is being read meanwhile: nobody's tokens change."""
    model = decoder()
    generator = torch.Generator().manual_seed(3)
    requests = []
    for i in range(40):
        length, new = (int(torch.randint(1, high, (), generator=generator)) for high in (60, 30))
        requests.append(Request(prompt(length, i), new, SamplingRule(0.9), seed=i))
    expected = []
    for request in requests:
        with Engine(model, max_batch=1) as alone:
            expected += answers(alone, [request])
    with Engine(model, max_batch=5, max_batch_tokens=640, prefill_chunk=4) as engine:
        streams = []
        for i, request in enumerate(requests):
            streams.append(engine.submit(request))
            if i % 7 == 0:
                time.sleep(0.01)
        assert [[token.id for token in stream] for stream in streams] == expected
        assert engine.load() == (0, 0)
        assert len(engine._batch.slots.tokens) * engine._batch.slots.length <= 640


def test_a_prompt_that_was_seen_before_is_not_computed_again() -> None:
    model, shared = decoder(), prompt(60)
    with Engine(model, max_batch=3) as engine:
        first = engine.submit(Request([*shared, 1, 2], 8, GREEDY))
        one = [token.id for token in first]
        assert first.finish == Finished("length", 0)
        again = engine.submit(Request([*shared, 1, 2], 8, GREEDY))
        assert [token.id for token in again] == one
        assert again.finish == Finished("length", 61)  # all but the last token, whose logits are wanted
        longer = engine.submit(Request([*shared, 1, 2, *one], 4, GREEDY))
        expected = generate(model, [[*shared, 1, 2, *one]], max_new_tokens=4, temperature=0).ids[0]
        assert [token.id for token in longer] == expected
        assert longer.finish is not None
        assert longer.finish.cached_tokens == 62 + 7  # the last token of an answer is never fed back


def test_a_prompt_that_branches_off_leaves_the_whole_behind() -> None:
    """Prompts that part ways at every length, with answers between them, are answered as by themselves."""
    model, stem = decoder(), prompt(60)
    prompts = [[*stem[:length], 7, *prompt(5, length)] for length in (20, 55, 40, 59, 22, 55, 38)] + [stem]
    expected = [generate(model, [ids], max_new_tokens=9, temperature=0).ids[0] for ids in prompts]
    with Engine(model, max_batch=3, prefill_chunk=8) as engine:
        assert answers(engine, [Request(stem, 9, GREEDY)]) == expected[-1:]
        for ids, reply in zip(prompts, expected, strict=True):
            assert answers(engine, [Request(ids, 9, GREEDY)]) == [reply]
        assert answers(engine, [Request(ids, 9, GREEDY) for ids in prompts]) == expected


def test_two_running_requests_share_a_prefix() -> None:
    model, shared = decoder(), prompt(40)
    expected = [generate(model, [[*shared, i]], max_new_tokens=20, temperature=0).ids[0] for i in range(3)]
    with Engine(model, max_batch=3) as engine:
        assert answers(engine, [Request([*shared, i], 20, GREEDY) for i in range(3)]) == expected


def test_stop_minimum_form_and_until() -> None:
    model, ids = decoder(), prompt(6)
    free = generate(model, [ids], max_new_tokens=10, temperature=0).ids[0]
    stop = frozenset(free[2:3])
    first = free.index(free[2]) + 1
    with Engine(model) as engine:
        stream = engine.submit(Request(ids, 10, GREEDY, stop=stop))
        assert [token.id for token in stream] == free[:first]
        assert stream.finish == Finished("stop")
        later = [token.id for token in engine.submit(Request(ids, 10, GREEDY, stop=stop, min_new_tokens=8))]
        assert not stop & set(later[:8])
        formed = engine.submit(Request(ids, 4, GREEDY, allowed=lambda new: [7, 9] if len(new) % 2 else None))
        assert {token.id for token in list(formed)[1::2]} <= {7, 9}
        until = engine.submit(Request(ids, 10, GREEDY, until=lambda token: token == free[4]))
        assert [token.id for token in until] == free[: free.index(free[4]) + 1]


def test_a_temperature_too_small_for_float32_is_greedy() -> None:
    model, ids = decoder().float(), prompt(6)
    with Engine(model) as engine:
        greedy = [token.id for token in engine.submit(Request(ids, 10, GREEDY))]
        for rule in (SamplingRule(1e-39), SamplingRule(1e-320), SamplingRule(1.0, top_p=1e-320)):
            assert [token.id for token in engine.submit(Request(ids, 10, rule))] == greedy


def test_cancelled_requests_make_room_for_others_that_wait() -> None:
    with Engine(decoder(), max_waiting=2) as engine:
        for stream in [engine.submit(Request(prompt(6), 4, GREEDY)) for _ in range(2)]:
            stream.cancel()
        assert len(list(engine.submit(Request(prompt(6), 4, GREEDY)))) == 4


def test_log_probabilities_are_the_models() -> None:
    model, ids = decoder(), prompt(6)
    with Engine(model) as engine:
        tokens = list(engine.submit(Request(ids, 5, SamplingRule(0.7, 5), seed=1, top_logprobs=3)))
    new = [token.id for token in tokens]
    logs = model(torch.tensor([ids + new]))[0, len(ids) - 1 : -1].log_softmax(-1).detach()
    for token, log in zip(tokens, logs, strict=True):
        assert token.logprob == pytest.approx(float(log[token.id]), abs=1e-9)
        values, index = log.topk(3)
        assert [id for id, _ in token.top] == index.tolist()
        assert [value for _, value in token.top] == pytest.approx(values.tolist(), abs=1e-9)


def test_cancel_frees_the_place() -> None:
    model = decoder()
    with Engine(model, max_batch=1) as engine:
        started = threading.Event()
        seen: list[object] = []

        def listener(event: object) -> None:
            seen.append(event)
            started.set()

        endless = engine.submit(Request(prompt(4), 150, GREEDY), listener)
        assert started.wait(5)
        queued = engine.submit(Request(prompt(4), 150, GREEDY))
        queued.cancel()
        endless.cancel()
        assert len(answers(engine, [Request(prompt(5), 3, GREEDY)])[0]) == 3
        assert list(queued) == []
        assert queued.finish == Finished("cancelled")
        assert seen[-1] == Finished("cancelled")
        assert len(seen) < 150


def test_an_error_of_the_caller_ends_its_own_request_alone() -> None:
    model, ids = decoder(), prompt(5)

    def fails(token: int) -> bool:
        raise RuntimeError("caller")

    with Engine(model) as engine:
        bad = [engine.submit(Request(ids, 50, GREEDY, **{name: fails})) for name in ("until", "allowed")]  # type: ignore[arg-type]
        good = engine.submit(Request(ids, 9, GREEDY))
        for stream in bad:
            with pytest.raises(RuntimeError, match="caller"):
                list(stream)
        assert [token.id for token in good] == generate(model, [ids], max_new_tokens=9, temperature=0).ids[0]


def test_an_error_of_the_model_reaches_every_listener_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = decoder(), prompt(5)
    expected = generate(model, [ids], max_new_tokens=9, temperature=0).ids[0]
    whole = model.hidden
    calls = [0]

    def hidden(*args: object, **options: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 4:
            raise MemoryError("no room")
        return whole(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden", hidden)
    with Engine(model, compiled="off") as engine:
        with pytest.raises(MemoryError):
            list(engine.submit(Request(ids, 9, GREEDY)))
        assert [token.id for token in engine.submit(Request(ids, 9, GREEDY))] == expected


def test_refuses() -> None:
    model = decoder()
    with Engine(model, max_batch=1, max_batch_tokens=64, max_waiting=1) as engine:
        with pytest.raises(ValueError, match=r"got 150 \+ 11 = 161 tokens, the model takes at most max_len = 160"):
            engine.submit(Request(prompt(150), 11))
        with pytest.raises(ValueError, match="got 70 tokens, the engine holds at most 64"):
            engine.submit(Request(prompt(60), 10))
        with pytest.raises(ValueError, match=r"ids: got token 50, need 0\.\.49"):
            engine.submit(Request([50], 1))
    with pytest.raises(EngineClosedError):
        engine.submit(Request([1], 1))


def test_too_many_that_wait_are_refused() -> None:
    gate = threading.Event()
    with Engine(decoder(), max_batch=1, max_waiting=2) as engine:
        engine.submit(Request([1], 2, until=lambda token: gate.wait(5) and False), lambda event: None)
        while engine.load() != (1, 0):
            time.sleep(0.001)
        for _ in range(2):
            engine.submit(Request([1], 1))
        with pytest.raises(EngineBusyError, match="2 requests wait already"):
            engine.submit(Request([1], 1))
        gate.set()


def test_closing_ends_what_runs() -> None:
    engine = Engine(decoder(), max_batch=1)
    streams = [engine.submit(Request(prompt(3), 150, GREEDY)) for _ in range(3)]
    for _ in range(5):
        assert engine.step()
    engine.close()
    assert not engine.step()
    for stream in streams:
        list(stream)
    assert {stream.finish.reason for stream in streams if stream.finish} <= {"cancelled", "length"}
    assert streams[-1].finish == Finished("cancelled")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": []}, "ids: got an empty prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens: got 0"),
        ({"min_new_tokens": 3}, "min_new_tokens: got 3, need 0..2"),
        ({"top_logprobs": -1}, "top_logprobs: got -1"),
    ],
)
def test_requests_refuse(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request(**{"ids": [1], "max_new_tokens": 2, **options})


def test_slots_keep_their_tokens_through_growth_swaps_and_copies(block: bool) -> None:
    slots = Slots(CFG, 8, 2048, torch.float64, torch.device("cpu"), block=block)
    slots.reserve(2, 64)
    k = torch.randn(2, CFG.n_kv_heads, 5, CFG.head_dim, dtype=torch.float64)
    fill(slots, k)
    slots.tokens[:2] = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    slots.swap(0, 1)
    slots.reserve(5, 200)
    assert slots.length >= 200
    assert slots.tokens[:2] == [[6, 7, 8, 9, 10], [1, 2, 3, 4, 5]]
    slots.copy(1, 4, 3)
    held = [keys(slots, slot, 5) for slot in range(5)]
    assert torch.equal(held[0], k[1])
    assert torch.equal(held[1], k[0])
    assert torch.equal(held[4][:, :3], k[0, :, :3])
    assert slots.longest_prefix([1, 2, 3, 9]) == (1, 3)
    assert slots.longest_prefix([6, 7]) == (0, 1)
    assert slots.longest_prefix([40]) == (0, 0)
    assert not slots.fits(9, 1)
    with pytest.raises(ValueError, match="slots: got 8 of 300 tokens"):
        slots.reserve(8, 300)


def test_a_slot_is_emptied_without_the_loss_of_what_ended_last(block: bool) -> None:
    slots = Slots(CFG, 4, 256, torch.float64, torch.device("cpu"), block=block)
    slots.reserve(4, 64)
    k = torch.randn(4, CFG.n_kv_heads, 2, CFG.head_dim, dtype=torch.float64)
    fill(slots, k)

    def held(slot: int) -> torch.Tensor:
        return keys(slots, slot, 2)

    slots.tokens = [[n, n] for n in range(4)]
    for slot in (2, 1, 3):  # slot 0 still runs
        slots.leave(slot)
    slots.clear(1)  # that of slot 2 ended first
    assert slots.tokens == [[0, 0], [], [1, 1], [3, 3]] and torch.equal(held(2), k[1]) and torch.equal(held(3), k[3])
    slots.tokens[1] = [4, 4]
    slots.leave(1)
    slots.clear(1)
    assert slots.tokens == [[0, 0], [], [4, 4], [3, 3]] and torch.equal(held(0), k[0])
    slots.clear(1)
    assert slots.tokens == [[0, 0], [], [4, 4], [3, 3]], "an empty one is taken as it is"


def test_players_of_many_games_go_on_with_what_they_read() -> None:
    """Each player's turn ends before the other's, and its slot is not the next one's as long as others are free."""
    games = 4
    views = {(game, side): [*range(24), 30 + side, 40 + game] for game in range(games) for side in (0, 1)}
    with Engine(decoder(), max_batch=2 * games, max_batch_tokens=2 * games * 64, prefill_chunk=64) as engine:
        for turn in range(4):
            asked = {game: views[game, turn % 2] for game in range(games)}
            streams = {game: engine.submit(Request(ids, 3, GREEDY)) for game, ids in asked.items()}
            for game, stream in streams.items():
                said = [token.id for token in stream]
                assert stream.finish is not None
                if turn > 1:  # but what its side said last, which was not fed back, and what the other one did
                    assert stream.finish.cached_tokens == len(asked[game]) - 2
                views[game, turn % 2] = [*asked[game], *said, 49]


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_prefix_is_that_of_a_loop_over_all_tokens(seed: int) -> None:
    draw = random.Random(seed)
    slots = Slots(CFG, 8, 2048, torch.float64, torch.device("cpu"), block=True)
    slots.reserve(8, 64)
    common = draw.choices(range(3), k=60)
    for slot in range(8):
        kept = draw.randrange(60)
        slots.tokens[slot] = common[:kept] + draw.choices(range(3), k=draw.randrange(5))
        slots.adapters[slot] = draw.choice([None, "a"])
    for adapter in (None, "a"):
        ids = tuple(common[: draw.randrange(1, 60)])
        lengths = [
            next(
                (i for i, (x, y) in enumerate(zip(tokens, ids[:-1], strict=False)) if x != y),
                min(len(tokens), len(ids) - 1),
            )
            if owner == adapter
            else 0
            for tokens, owner in zip(slots.tokens, slots.adapters, strict=True)
        ]
        best = max(lengths)
        assert slots.longest_prefix(ids, adapter) == (lengths.index(best) if best else 0, best)


def test_prompts_of_other_lengths_are_not_filled_up_to_the_longest(
    monkeypatch: pytest.MonkeyPatch, block: bool
) -> None:
    model = decoder()
    lengths = [90, 3, 4, 88, 3, 2, 30, 31]
    slots: list[int] = []
    with Engine(model, max_batch=8, prefill_chunk=2048) as engine:
        read = engine._batch.read

        def counted(room: int) -> int:
            slots.append(read(room))
            return slots[-1]

        monkeypatch.setattr(engine._batch, "read", counted)
        answers(engine, [Request(prompt(length, length), 3, GREEDY) for length in lengths])
    assert sum(lengths) <= sum(slots) <= (FILLED if block else 1) * sum(lengths)


def test_seeds_depend_on_every_part() -> None:
    assert request_seed(0, "a", 1) == request_seed(0, "a", 1)
    assert (
        len({request_seed(0), request_seed(1), request_seed(0, "a"), request_seed(0, "a", 1), request_seed(0, "a1")})
        == 5
    )
    assert isinstance(NewToken(1), NewToken)
