"""Laws of the worker: one job at a time, in order, never waited for beyond the limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tenfold.core.errors import UserError
from tenfold.demo.worker import MOST_WAITING, Deadline, Worker


def test_jobs_run_one_after_the_other_and_give_results_and_errors() -> None:
    worker, running, most = Worker(), [0], [0]

    def job(deadline: Deadline) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.02)
        running[0] -= 1
        return 7

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(worker.run(job, 20))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, most[0]) == ([7] * 6, 1)

    def fail(deadline: Deadline) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        worker.run(fail, 20)
    assert worker.run(job, 20) == 7  # an error does not end the worker


def test_nobody_waits_beyond_the_limit_and_a_job_that_nobody_waits_for_is_not_begun() -> None:
    worker, free, begun = Worker(), threading.Event(), []

    def slow(deadline: Deadline) -> None:
        free.wait(20)

    started = time.monotonic()
    with pytest.raises(UserError, match=r"stopped after 0\.1 seconds"):
        worker.run(slow, 0.1)
    with pytest.raises(UserError, match=r"stopped after 0\.1 seconds"):
        worker.run(lambda deadline: begun.append(1), 0.1)
    assert time.monotonic() - started < 10
    free.set()
    assert worker.run(lambda deadline: "next", 20) == "next"
    assert begun == []


def test_a_full_queue_is_said_at_once() -> None:
    worker, free, started = Worker(), threading.Event(), threading.Event()

    def slow(deadline: Deadline) -> None:
        started.set()
        free.wait(20)

    threads = [threading.Thread(target=lambda: worker.run(slow, 30)) for _ in range(MOST_WAITING + 1)]
    threads[0].start()
    started.wait(10)
    for thread in threads[1:]:
        thread.start()
    until = time.monotonic() + 10
    while worker._jobs.qsize() < MOST_WAITING and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(UserError, match="others wait"):
        worker.run(slow, 30)
    free.set()
    for thread in threads:
        thread.join(20)


def test_a_stream_gives_what_is_told_and_its_error_last() -> None:
    worker = Worker()

    def job(deadline: Deadline, tell: Callable[[int], None]) -> None:
        tell(1)
        tell(2)
        raise ValueError("then")

    stream = worker.stream(job, 20)
    assert (next(stream), next(stream)) == (1, 2)
    with pytest.raises(ValueError, match="then"):
        next(stream)


def test_closing_a_stream_stops_its_job() -> None:
    worker, ended = Worker(), threading.Event()

    def job(deadline: Deadline, tell: Callable[[int], None]) -> None:
        try:
            while True:
                deadline.check()
                tell(1)
                time.sleep(0.01)
        finally:
            ended.set()

    stream = worker.stream(job, 60)
    assert next(stream) == 1
    stream.close()  # type: ignore[attr-defined]
    assert ended.wait(10)


def test_a_stream_ends_at_its_limit() -> None:
    def job(deadline: Deadline, tell: Callable[[int], None]) -> None:
        while deadline.left:
            time.sleep(0.01)

    with pytest.raises(UserError, match="stopped after"):
        list(Worker().stream(job, 0.2))


def test_a_deadline() -> None:
    now = [0.0]
    deadline = Deadline(2, clock=lambda: now[0])
    deadline.check()
    assert deadline.left == 2
    now[0] = 2.5
    assert deadline.left == 0
    with pytest.raises(UserError, match="stopped after 2 seconds"):
        deadline.check()
