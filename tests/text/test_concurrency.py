"""The gate holds its bound over tasks, loops and threads, and loses no place to a cancelled task."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable

import pytest

from tenfold.text.concurrency import Gate, gather


class Room:
    """Counts who is inside."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.inside, self.most, self.done = gate, 0, 0, 0
        self.lock = threading.Lock()

    async def visit(self, seconds: float = 0.0) -> None:
        async with self.gate:
            with self.lock:
                self.inside += 1
                self.most = max(self.most, self.inside)
            try:
                await asyncio.sleep(seconds)
            finally:
                with self.lock:
                    self.inside -= 1
                    self.done += 1


@pytest.mark.parametrize("places", [1, 3, 50])
def test_the_bound_holds_over_loops_in_threads(places: int) -> None:
    room = Room(Gate(places))
    together = threading.Barrier(4)
    seconds = 0.5 if places == 50 else 0.001  # long enough for loops that start late to meet inside

    def work() -> None:
        async def visits() -> None:
            await asyncio.gather(*(room.visit(seconds) for _ in range(20)))

        together.wait(20)
        asyncio.run(visits())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert room.done == 80
    assert room.most <= places
    assert places < 50 or room.most > 20


def test_cancelled_tasks_lose_no_place() -> None:
    async def run() -> None:
        chance = random.Random(0)
        room = Room(Gate(2))
        for _ in range(50):
            tasks = [asyncio.create_task(room.visit(0.0001)) for _ in range(8)]
            for task in chance.sample(tasks, 5):
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert room.inside == 0
        await asyncio.wait_for(asyncio.gather(*(room.visit() for _ in range(10))), 5)  # no place is missing
        assert room.most <= 2

    asyncio.run(run())


def test_a_place_granted_to_a_task_cancelled_at_that_moment_is_passed_on() -> None:
    async def run() -> None:
        gate = Gate(1)
        await gate.__aenter__()
        first, second = asyncio.create_task(gate.__aenter__()), asyncio.create_task(gate.__aenter__())
        await asyncio.sleep(0)
        await gate.__aexit__()  # grants the place to the first, which has not run since
        first.cancel()
        await asyncio.wait_for(second, 5)
        assert first.cancelled()

    asyncio.run(run())


def test_first_come_first_served() -> None:
    async def run() -> list[int]:
        gate, order = Gate(1), []

        async def visit(number: int) -> None:
            async with gate:
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(visit(i) for i in range(20)))
        return order

    assert asyncio.run(run()) == list(range(20))


def test_gather_keeps_the_order_and_ends_all_on_the_first_failure() -> None:
    ended: list[str] = []

    async def late(value: int, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return value

    async def fails(seconds: float, name: str) -> int:
        await asyncio.sleep(seconds)
        raise RuntimeError(name)

    async def slow() -> int:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")
        return 0

    async def ended_after(work: Awaitable[object]) -> None:
        with pytest.raises(RuntimeError, match="first"):
            await work
        assert ended == ["slow"]

    assert asyncio.run(gather(late(i, (4 - i) / 1000) for i in range(5))) == [0, 1, 2, 3, 4]
    assert asyncio.run(gather([])) == []  # type: ignore[arg-type]
    asyncio.run(ended_after(gather([slow(), fails(0.05, "second"), fails(0.001, "first")])))


def test_no_places() -> None:
    with pytest.raises(ValueError, match="places: got 0"):
        Gate(0)
