"""Child processes for the tests of training: some are killed, some train together."""

from __future__ import annotations

import multiprocessing as mp
import socket
from typing import Any

import pytest

START = "import os, torch; os.environ.update(ENVIRONMENT); torch.set_num_threads(1)\n"


class Processes:
    """Runs source code in fresh processes that have torch imported already."""

    def __init__(self) -> None:
        self.context = mp.get_context("forkserver")
        self.context.set_forkserver_preload(["tenfold.core.fit", "torch._dynamo"])  # what takes seconds to import

    def start(self, source: str, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
        """Start `source` with `arguments` as its globals; returns the process."""
        # exec is the target, since a child cannot import test modules by name.
        names = {"__name__": "__main__", "ENVIRONMENT": environment or {}, **arguments}
        process = self.context.Process(target=exec, args=(START + source, names))
        process.start()
        return process

    def run(self, source: str, world: int = 1, timeout: float = 120, **arguments: Any) -> None:
        """Run `source` in `world` processes, as torchrun would; fails unless all end well."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        children = [
            self.start(
                source, {**launch, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else None, **arguments
            )
            for rank in range(world)
        ]
        for child in children:
            child.join(timeout)
        codes = [child.exitcode for child in children]
        for child in children:
            child.kill()
        assert codes == [0] * world


@pytest.fixture(scope="session")
def processes() -> Processes:
    return Processes()
