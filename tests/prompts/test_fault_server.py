"""A search against an endpoint that fails now and then ends with the same result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

import uvicorn

from tenfold.cli import main
from tenfold.prompts.behaviour import ABO
from tenfold.prompts.fault_server import KINDS, Faults, create_app
from tenfold.prompts.sim_worlds import sim_task
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.text.chat import EndpointChatModel, EndpointError, Message, RefusedError, Retry, Sampling, complete_all

MODELS = {"simulator-target": SimTarget(2), "simulator-optimizer": SimOptimizer(0.3, 2)}
QUICK = Retry(tries=12, base=0.001, cap=0.002)


@contextmanager
def served(faults: Faults) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(MODELS, faults), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def searched(faults: Faults, folder: Path | None = None) -> tuple[dict[str, Any], int]:
    task = sim_task("navigate", 2, (12, 12, 12))
    with served(faults) as url:
        target, optimizer = (EndpointChatModel(name, url, "none", retry=QUICK) for name in MODELS)
        result = ABO(target, optimizer, rounds=1, minibatch=8, verify=4, seed=1).optimize(task, ["Answer."])
        return result.to_json(), target.budget.spent.billed_calls


def test_ten_per_cent_of_faults_change_nothing() -> None:
    calm, _ = searched(Faults())
    rough, _ = searched(Faults(0.1, seed=3))
    assert rough == calm and calm["about"]["simulator"] is True
    assert calm["test"]["best"]["mean"] > calm["test"]["baseline"]["mean"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "slow"])
def test_every_fault_is_told_and_never_an_answer(kind: Any) -> None:
    asked = [
        Message(
            "user",
            "Q: If you follow these instructions, do you return to the starting point? Take 1 step.\nOptions:\n- Yes\n- No\nA:",
        )
    ]
    with served(Faults(1.0, (kind,))) as url:
        model = EndpointChatModel("simulator-target", url, "none", retry=Retry(tries=2, base=0.001))
        with pytest.raises(EndpointError, match="no answer after 2 tries"):
            complete_all(model, [asked])


def test_streams_models_and_unknown_names() -> None:
    task = sim_task("navigate", 2, (2, 2, 2))
    with served(Faults()) as url:
        plain, stream = (EndpointChatModel("simulator-target", url, "none", stream=each) for each in (False, True))
        said = [
            complete_all(model, [task.render("", task.train[0])], Sampling(temperature=0))[0][0].text
            for model in (plain, stream)
        ]
        assert said[0] == said[1] and "So the answer is" in said[0]
        with pytest.raises(RefusedError, match="does not exist; known: simulator-target"):
            complete_all(EndpointChatModel("other", url, "none"), [[Message("user", "x")]])
    assert asyncio.run(SimTarget(2).complete(task.render("", task.train[0])))[0].text == said[0]


def test_faults_check_themselves() -> None:
    with pytest.raises(ValueError, match=r"rate: got 2"):
        Faults(2.0)
    with pytest.raises(ValueError, match="kinds"):
        Faults(0.1, ("fire",))  # type: ignore[arg-type]


def test_a_served_model_is_the_same_at_any_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that was killed is resumed by a process whose server has another port."""
    ports = []

    @contextmanager
    def serving(name: str) -> Iterator[tuple[str, str]]:
        with served(Faults()) as url:
            ports.append(url)
            yield url, "simulator-target"

    monkeypatch.setattr("tenfold.recipes.abo.models.serving", serving)
    folder = tmp_path / "run"
    options = ["--task", "sim/navigate", "--train", "12", "--val", "10", "--test", "12", "--calls", "120", "--method", "apo", "--proposals", "4"]  # fmt: skip
    assert main(["abo", "optimize", *options, "--target-model", "serve:a", "--optimizer-model", "sim", "--out", str(folder)]) == 0  # fmt: skip
    before = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    assert main(["abo", "resume", str(folder)]) == 0
    assert (folder / "result.json").read_bytes() == before and len(set(ports)) == 2
