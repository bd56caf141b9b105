"""One job at a time for one model, and nobody waits for it longer than a limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from tenfold.core.errors import UserError

T = TypeVar("T")
MOST_WAITING = 8  # jobs behind the one that runs
_END = object()


class Deadline:
    """When a job must be done; long jobs ask it between two steps.

    Args:
        seconds: from now.
        clock: seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._ends, self._left_alone = seconds, clock, clock() + seconds, False

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return 0.0 if self._left_alone else max(0.0, self._ends - self._clock())

    def stop(self) -> None:
        """Nobody waits any more."""
        self._left_alone = True

    def check(self) -> None:
        """Raises:
        UserError: the time is over.
        """
        if not self.left:
            raise self.error()

    def error(self) -> UserError:
        """What the person who waited is told."""
        return UserError(f"stopped after {self.seconds:g} seconds; ask for less, or try again when nobody else does")


class Worker:
    """A thread that does jobs in the order in which they come."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[tuple[Callable[[Deadline], Any], Deadline, Future[Any]]] = queue.Queue(MOST_WAITING)
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, job: Callable[[Deadline], T], seconds: float) -> T:
        """Do a job and give its result.

        Args:
            job: is given its deadline.
            seconds: the most that is waited, those before it included.
        Raises:
            UserError: too many wait, or the time is over. A job that does not look at its deadline then goes on to its
                end, and those behind it wait.
        """
        deadline = Deadline(seconds)
        future = self._submit(job, deadline)
        try:
            return future.result(seconds)
        except TimeoutError:
            raise deadline.error() from None
        finally:
            deadline.stop()

    def stream(self, job: Callable[[Deadline, Callable[[T], None]], None], seconds: float) -> Iterator[T]:
        """Do a job that tells something now and then, and give that as it comes; closing the iterator stops the job.

        Args:
            job: is given its deadline and what it tells by.
            seconds: as in `run`.
        """
        told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        deadline = Deadline(seconds)
        future = self._submit(lambda deadline: job(deadline, told.put), deadline)
        future.add_done_callback(lambda future: told.put(_END))
        try:
            while True:
                try:
                    item = told.get(timeout=deadline.left)
                except queue.Empty:
                    raise deadline.error() from None
                if item is _END:
                    future.result()
                    return
                yield item
        finally:
            deadline.stop()

    def _submit(self, job: Callable[[Deadline], T], deadline: Deadline) -> Future[T]:
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((job, deadline, future))
        except queue.Full:
            raise UserError(f"{MOST_WAITING} others wait for this model already; try again in a minute") from None
        return future

    def _work(self) -> None:
        while True:
            job, deadline, future = self._jobs.get()
            try:
                deadline.check()  # nobody waits for it any more
                future.set_result(job(deadline))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the job gets its error
                future.set_exception(error)
