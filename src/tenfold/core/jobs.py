"""Jobs side by side: one process a core, each on one thread, with one progress bar over all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tenfold.core.mesh import is_main

PLAIN_LINE_EVERY = 60.0  # seconds between lines where no terminal can show a bar

_done: Any = None  # seconds of work finished by all processes; set once in each worker
_interrupted = False  # whether this worker has seen Ctrl-C
_bar: Any = None  # (progress, task) where the jobs run in this process


def advance(seconds: float) -> None:
    """Tell the bar that `seconds` of the expected work are done; called by a job after each step."""
    if _done is not None:
        with _done.get_lock():
            _done.value += seconds
    if _bar is not None:
        progress, task = _bar
        progress.advance(task, seconds)


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    signal.signal(signal.SIGINT, _note_interrupt)
    _mask_interrupt(False)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _mask_interrupt(on: bool) -> None:
    """Let Ctrl-C wait. A process that starts meanwhile inherits this, so its imports are not torn."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK if on else signal.SIG_UNBLOCK, {signal.SIGINT})


def _note_interrupt(number: int, frame: object) -> None:
    global _interrupted
    _interrupted = True


def _in_worker(job: Callable[..., Any], *arguments: Any) -> Any:
    """Ctrl-C ends the job that runs and refuses those that already wait in this process; between jobs it is noted."""
    global _interrupted
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if _interrupted:
            raise KeyboardInterrupt
        return job(*arguments)
    except KeyboardInterrupt:
        _interrupted = True
        raise
    finally:
        signal.signal(signal.SIGINT, _note_interrupt)


def _end_with_parent() -> None:
    """A killed parent must not leave workers behind: they would write into the run that somebody resumes."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run_jobs(
    job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, workers: int, expected_seconds: float, title: str
) -> list[Any]:
    """Call `job(*arguments[i])` for every i, `workers` at a time.

    Args:
        job: a function of a module (it is sent to other processes); it may call `advance`.
        arguments: one tuple a call; they should be ordered longest first.
        workers: processes; 1 stays in this one.
        expected_seconds: what the calls will report to `advance`, together.
        title: shown beside the bar.
    Returns:
        the results, in the order of `arguments`.
    """
    if not arguments:
        return []
    if workers == 1:
        return _run_here(job, arguments, expected_seconds, title)
    context = multiprocessing.get_context("spawn")
    done = context.Value("d", 0.0)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[finished]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns) as progress,
        ProcessPoolExecutor(min(workers, len(arguments)), context, _start_worker, (done,)) as pool,
    ):
        bar = progress.add_task(title, total=expected_seconds, finished=f"0/{len(arguments)}")
        _mask_interrupt(True)
        try:
            futures = [pool.submit(_in_worker, job, *each) for each in arguments]  # starts the workers
        finally:
            _mask_interrupt(False)
        waiting = set(futures)
        begun = told = time.monotonic()
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                count = f"{len(futures) - len(waiting)}/{len(futures)}"
                progress.update(bar, completed=done.value, finished=count)
                now = time.monotonic()
                if (
                    not progress.console.is_terminal
                    and now - told > PLAIN_LINE_EVERY
                    and done.value > expected_seconds / 100
                ):
                    told, left = now, (now - begun) * (expected_seconds / done.value - 1)
                    share = min(1.0, done.value / expected_seconds)
                    print(f"{title}: {count} done, {share:.0%}, about {max(left, 0) / 60:.0f} min left", flush=True)
        except BaseException as error:
            # The terminal's Ctrl-C reached the workers too: one that still starts needs `done` until it has noted it.
            pool.shutdown(wait=isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        progress.update(bar, completed=expected_seconds)
    return [future.result() for future in futures]


def _run_here(
    job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], expected_seconds: float, title: str
) -> list[Any]:
    """One after the other in this process, with a bar on the main rank's terminal."""
    global _bar
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not is_main()) as progress:
        _bar = (progress, progress.add_task(title, total=expected_seconds))
        try:
            return [job(*each) for each in arguments]
        finally:
            _bar = None
