"""Parts of a batch, each with its own patients at risk, make the loss of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenfold.clinical import state_space, survival_model
from tenfold.clinical.events import EventSpec
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_baselines import SurvivalBaseline, baseline_loss

EVENTS = (EventSpec("a", 1.0, 5), EventSpec("b", 2.0, 3, weight=0.5))
Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]


def state_space_model() -> tuple[torch.nn.Module, Loss]:
    def loss(model: Any, batch: Any, mesh: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        return dssm_loss(model, batch, generator=torch.Generator().manual_seed(3), mesh=mesh)

    return DeepStateSpace(3, 1, EVENTS, 3, generator=torch.Generator().manual_seed(0)).double(), loss


def baseline() -> tuple[torch.nn.Module, Loss]:
    model = SurvivalBaseline(3, 1, EVENTS, z_dim=3, generator=torch.Generator().manual_seed(0))
    return model.double(), baseline_loss


@pytest.mark.parametrize("build", [state_space_model, baseline])
def test_losses_of_the_parts_average_to_that_of_the_whole(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(1)
    batch = {
        "x": torch.randn(6, 4, 3, generator=draw, dtype=torch.float64),
        "mask": torch.rand(6, 4, 3, generator=draw) < 0.5,
        "u": torch.rand(6, 4, 1, generator=draw, dtype=torch.float64).round(),
        "length": torch.tensor([4, 2, 0, 4, 1, 3]),
        "slot": torch.tensor([[1, 1], [2, 3], [5, 2], [4, 1], [3, 3], [2, 2]]),
        "observed": torch.rand(6, 2, generator=draw) < 0.5,
        "at_risk": torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [1, 1]], dtype=torch.bool),
        "tail": torch.zeros(6, 2, dtype=torch.int64),
    }
    model, loss = build()
    whole, gradient = gradients(model, *loss(model, batch)[:1])

    parts = [{name: column.tensor_split(2)[rank] for name, column in batch.items()} for rank in (0, 1)]
    counted: list[list[Tensor]] = [[], []]
    for turn in ("count", "sum"):
        losses, sums = [], []
        for rank, part in enumerate(parts):
            each = iter([sum(pair) for pair in zip(*counted, strict=True)] if turn == "sum" else [])

            def over_both(value: Tensor, mesh: Any, rank: int = rank, each: Any = each, turn: str = turn) -> Tensor:
                if turn == "count":
                    counted[rank].append(value.clone())
                    return value
                return next(each)

            monkeypatch.setattr(survival_model, "sum_over_batch", over_both)
            for module in (survival_model, state_space):
                monkeypatch.setattr(module, "batch_coordinate", lambda mesh, rank=rank: (rank, 2))
            value, slope = gradients(model, *loss(model, part, mesh=object())[:1])
            losses.append(value)
            sums.append(slope)
    assert sum(losses) / 2 == pytest.approx(whole, rel=1e-12)
    for name, tensor in gradient.items():
        torch.testing.assert_close(sum(slope[name] for slope in sums) / 2, tensor, msg=name)
    assert losses[0] != pytest.approx(losses[1])


def gradients(model: torch.nn.Module, loss: Tensor) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
