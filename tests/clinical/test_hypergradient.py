"""Hypergradients: exact ones against re-run training and closed forms, approximations against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from tenfold.clinical.forecast_model import ForecastModel, weighted_forecast_loss
from tenfold.clinical.hypergradient import hypergradient
from tenfold.clinical.inner_loop import adam_moments

TASKS, SIZE, RATE = 3, 4, 0.05
Params = dict[str, dict[str, Tensor]]


@pytest.fixture(autouse=True)
def float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclass
class Quadratic:
    """L_i = ½(φ - a_i)ᵀ A_i (φ - a_i), weighed by softmax(κ); validation ½‖φ - t‖²."""

    matrix: Tensor  # [tasks, size, size]
    centre: Tensor  # [tasks, size]
    target: Tensor
    start: Tensor
    kappa: Tensor

    @staticmethod
    def draw(seed: int = 0) -> Quadratic:
        g = torch.Generator().manual_seed(seed)
        root = torch.randn(TASKS, SIZE, SIZE, generator=g)
        matrix = root @ root.mT + 0.5 * torch.eye(SIZE)
        return Quadratic(matrix, *(torch.randn(s, generator=g) for s in ((TASKS, SIZE), SIZE, SIZE, TASKS)))

    def aux(self, phi: Tensor, kappa: Tensor) -> Tensor:
        error = phi - self.centre
        return (kappa.softmax(0) * torch.einsum("ti,tij,tj->t", error, self.matrix, error)).sum() / 2

    def val(self, phi: Tensor) -> Tensor:
        return (phi - self.target).square().sum() / 2

    def minimum(self, kappa: Tensor) -> Tensor:
        w = kappa.softmax(0)[:, None, None]
        return torch.linalg.solve((w * self.matrix).sum(0), (w * self.matrix @ self.centre[..., None]).sum(0))[:, 0]

    def hypergradient(self, mode: Any, **kw: Any) -> Tensor:
        settings: dict[str, Any] = {"params": self.start, "steps": 3, "lr": RATE, **kw}
        return hypergradient(mode, aux_loss=self.aux, val_loss=self.val, kappa=self.kappa, **settings)


class Lstm:
    """A tiny forecast problem: 4 variables, 5 steps of history, 3 to forecast, state 3."""

    def __init__(self, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.net = ForecastModel(4, 3, 3, generator=g)
        self.x = torch.randn(6, 5, 4, generator=g)
        self.mask = torch.rand(6, 5, 4, generator=g) < 0.7
        self.futures = [(torch.randn(6, 3, 4, generator=g), torch.rand(6, 3, 4, generator=g) < 0.7) for _ in range(10)]
        self.label = (torch.rand(6, generator=g) < 0.5).double()
        self.kappa = torch.randn(4, generator=g)

    def params(self, *parts: str) -> Params:
        return {
            part: {n: p for n, p in getattr(self.net, part).named_parameters() if p.requires_grad}
            for part in parts or ("encoder", "decoder")
        }

    def call(self, part: str, params: Params, *inputs: Any) -> Any:
        return functional_call(getattr(self.net, part), params.get(part, {}), inputs)

    def aux(self, params: Params, kappa: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        pred = self.call("decoder", params, *self.call("encoder", params, self.x, self.mask))
        return weighted_forecast_loss(pred, *batch, kappa.softmax(0))

    def val(self, params: Params) -> Tensor:
        h, _ = self.call("encoder", params, self.x, self.mask)
        return F.binary_cross_entropy_with_logits(self.call("head", params, h).squeeze(-1), self.label)

    def hypergradient(self, mode: Any, steps: int, **kw: Any) -> Tensor:
        settings: dict[str, Any] = {"params": self.params(), "lr": RATE, **kw}
        batches = self.futures[:steps]
        return hypergradient(mode, aux_loss=self.aux, val_loss=self.val, kappa=self.kappa, steps=batches, **settings)

    def central(self, train: Callable[[Lstm, Tensor], None], seed: int = 0) -> Tensor:
        """dL_val/dκ by training twice for every weight, with torch's own optimizers."""
        found = torch.zeros(4)
        for i in range(4):
            for sign in (1, -1):
                again = Lstm(seed)
                kappa = self.kappa.clone()
                kappa[i] += sign * 1e-5
                train(again, kappa)
                with torch.no_grad():
                    found[i] += sign * again.val({}) / 2e-5
        return found


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def forecasting(problem: Lstm) -> list[nn.Parameter]:
    return [p for part in ("encoder", "decoder") for p in getattr(problem.net, part).parameters() if p.requires_grad]


def train_with(optimizer: torch.optim.Optimizer, problem: Lstm, kappa: Tensor, steps: int) -> None:
    for batch in problem.futures[:steps]:
        optimizer.zero_grad()
        problem.aux({}, kappa, batch).backward()
        optimizer.step()


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_unrolled_is_the_derivative_of_training(steps: int, opt: Any) -> None:
    problem = Lstm()

    def train(again: Lstm, kappa: Tensor) -> None:
        # With the usual eps the first step of Adam is the sign of the gradient, and its derivative all rounding.
        adam = torch.optim.Adam(forecasting(again), RATE, eps=1e-2)
        train_with(torch.optim.SGD(forecasting(again), RATE) if opt == "sgd" else adam, again, kappa, steps)

    found = problem.hypergradient("unrolled", steps, opt=opt, eps=1e-2)
    assert relative(found, problem.central(train)) < 1e-5


def test_unrolled_goes_on_from_an_adam_under_way() -> None:
    problem = Lstm()

    def train(again: Lstm, kappa: Tensor) -> torch.optim.Adam:
        adam = torch.optim.Adam(forecasting(again), RATE, eps=1e-3)
        train_with(adam, again, problem.kappa, 4)  # the first steps know nothing of the change
        train_with(adam, again, kappa, 3)
        return adam

    expected = problem.central(lambda again, kappa: (train(again, kappa), None)[1])
    adam = torch.optim.Adam(forecasting(problem), RATE, eps=1e-3)
    train_with(adam, problem, problem.kappa, 4)
    moments = adam_moments(adam, forecasting(problem))
    found = problem.hypergradient("unrolled", 3, opt="adam", eps=1e-3, moments=moments)
    assert relative(found, expected) < 1e-5


def test_unrolled_goes_through_head_steps_that_leave_the_encoder() -> None:
    problem = Lstm()

    def train(again: Lstm, kappa: Tensor) -> None:
        train_with(torch.optim.SGD(forecasting(again), RATE), again, kappa, 2)
        head = torch.optim.SGD(again.net.head.parameters(), 0.3)
        for _ in range(3):
            head.zero_grad()
            again.val({}).backward()
            head.step()

    settings: dict[str, Any] = {
        "params": problem.params("encoder", "decoder", "head"),
        "train_loss": problem.val,
        "train_steps": 3,
        "train_lr": 0.3,
        "train_keys": ["head"],
    }
    expected = problem.central(train)
    assert relative(problem.hypergradient("unrolled", 2, **settings), expected) < 1e-5
    assert relative(problem.hypergradient("hessian_fixed", 2, **settings), expected) < 1e-5
    del settings["train_keys"]
    assert relative(problem.hypergradient("unrolled", 2, **settings), expected) > 1e-3


@pytest.mark.parametrize("opt", ["sgd", "adam"])
def test_chunks_change_nothing_but_memory(opt: Any) -> None:
    problem = Lstm()
    whole = problem.hypergradient("unrolled", 8, opt=opt)
    for chunk in (1, 3, 99):
        found = problem.hypergradient("unrolled", 8, opt=opt, unroll_chunk=chunk)
        torch.testing.assert_close(found, whole, rtol=1e-10, atol=0)

    def peak(**kw: Any) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            problem.hypergradient("unrolled", 8, opt=opt, **kw)
        events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda e: e.start_ns())
        return int(np.cumsum([e.nbytes() for e in events]).max())

    assert peak(unroll_chunk=2) < 0.5 * peak()


def test_one_step_of_first_order_is_exact() -> None:
    toy, problem = Quadratic.draw(), Lstm()
    torch.testing.assert_close(
        toy.hypergradient("first_order", steps=1), toy.hypergradient("unrolled", steps=1), rtol=1e-10, atol=1e-14
    )
    torch.testing.assert_close(
        problem.hypergradient("first_order", 1), problem.hypergradient("unrolled", 1), rtol=1e-10, atol=1e-14
    )


def test_first_order_is_a_sum_over_the_steps_looked_back_on() -> None:
    toy = Quadratic.draw()
    phi, kept = toy.start, []
    kappa = toy.kappa.clone().requires_grad_()
    for _ in range(4):
        at = phi.detach().requires_grad_()
        (g,) = torch.autograd.grad(toy.aux(at, kappa), at, create_graph=True)
        kept.append(g)
        phi = phi - RATE * g.detach()
    v = phi - toy.target
    for last_k in (1, 2, 4, 9):
        expected = sum(torch.autograd.grad(-RATE * g @ v, kappa, retain_graph=True)[0] for g in kept[-last_k:])
        torch.testing.assert_close(toy.hypergradient("first_order", steps=4, last_k=last_k), expected)


def test_finite_differences_come_to_first_order() -> None:
    problem = Lstm()
    exact = problem.hypergradient("first_order", 3, last_k=2)
    assert relative(problem.hypergradient("finite_diff", 3, last_k=2, epsilon=1e-3), exact) < 1e-4
    assert relative(problem.hypergradient("finite_diff", 3, last_k=2), exact) < 1e-2


@pytest.mark.parametrize("settings", [{}, {"solver": "neumann", "iterations": 1500}])
def test_implicit_is_the_derivative_of_the_minimum(settings: dict[str, Any]) -> None:
    toy = Quadratic.draw()
    kappa = toy.kappa.clone().requires_grad_()
    (expected,) = torch.autograd.grad(toy.val(toy.minimum(kappa)), kappa)
    found = toy.hypergradient("implicit", params=toy.minimum(toy.kappa), **settings)
    assert relative(found, expected) < 1e-8


def test_implicit_solves_with_what_rho_adds() -> None:
    toy = Quadratic.draw()
    phi = toy.minimum(toy.kappa)
    w = toy.kappa.softmax(0)
    matrix = (w[:, None, None] * toy.matrix).sum(0) + 0.7 * torch.eye(SIZE)
    x = torch.linalg.solve(matrix, phi - toy.target)
    kappa = toy.kappa.clone().requires_grad_()
    g = (kappa.softmax(0)[:, None, None] * toy.matrix @ (phi - toy.centre)[..., None]).sum(0)[:, 0]
    (expected,) = torch.autograd.grad(-g @ x, kappa)
    assert relative(toy.hypergradient("implicit", params=phi, rho=0.7), expected) < 1e-8


def test_the_fixed_chain_is_exact_for_sgd() -> None:
    toy, problem = Quadratic.draw(), Lstm()
    assert relative(toy.hypergradient("hessian_fixed", steps=5), toy.hypergradient("unrolled", steps=5)) < 1e-10
    assert relative(problem.hypergradient("hessian_fixed", 3), problem.hypergradient("unrolled", 3)) < 1e-10


def test_the_official_chain_takes_hessians_from_ones() -> None:
    toy = Quadratic.draw()
    w = toy.kappa.softmax(0)
    jacobian_w = torch.diag(w) - torch.outer(w, w)
    hessian = (w[:, None, None] * toy.matrix).sum(0)
    path = [toy.start]
    for _ in range(3):
        path.append(path[-1] - RATE * (w[:, None] * (toy.matrix @ (path[-1] - toy.centre)[..., None])[..., 0]).sum(0))
    chains = {"ones": torch.ones(SIZE, SIZE), "identity": torch.eye(SIZE)}
    expected = {}
    for name, one in chains.items():
        beta, total = path[3] - toy.target, torch.zeros(TASKS)
        for phi in reversed(path[:3]):
            mixed = (toy.matrix @ (phi - toy.centre)[..., None])[..., 0].T @ jacobian_w  # ∂G/∂κ, [size, tasks]
            total = total - RATE * beta @ mixed
            beta = beta @ (one - RATE * hessian)
        expected[name] = total
    found = toy.hypergradient("official_hessian")
    assert relative(found, expected["ones"]) < 1e-10
    assert relative(toy.hypergradient("hessian_fixed"), expected["identity"]) < 1e-10
    assert relative(found, expected["identity"]) > 0.1  # the flaw


def test_the_official_chain_starts_from_the_last_supervised_batch() -> None:
    toy = Quadratic.draw()

    def supervised(phi: Tensor) -> Tensor:
        return (phi - 2 * toy.target).square().sum()

    settings: dict[str, Any] = {"train_loss": supervised, "train_steps": 1, "train_lr": 0.1}
    found = toy.hypergradient("official_hessian", steps=1, **settings)
    w = toy.kappa.softmax(0)
    mixed = (toy.matrix @ (toy.start - toy.centre)[..., None])[..., 0].T @ (torch.diag(w) - torch.outer(w, w))
    after = toy.start - RATE * (w[:, None] * (toy.matrix @ (toy.start - toy.centre)[..., None])[..., 0]).sum(0)
    beta = 2 * (after - 2 * toy.target)
    beta = beta @ (torch.ones(SIZE, SIZE) - 0.1 * 2 * torch.eye(SIZE))
    assert relative(found, -RATE * beta @ mixed) < 1e-10


def test_the_official_approximation_knows_one_number_of_the_target() -> None:
    problem = Lstm()
    params = problem.params()
    flat = [p for part in params.values() for p in part.values()]
    kappa = problem.kappa.clone().requires_grad_()
    train_with(torch.optim.SGD(forecasting(problem), RATE), problem, problem.kappa, 2)  # up to the last step
    *g, of_kappa = torch.autograd.grad(problem.aux({}, kappa, problem.futures[2]), [*flat, kappa])
    with torch.no_grad():
        for p, each in zip(flat, g, strict=True):
            p -= RATE * each
    v = torch.autograd.grad(problem.val({}), flat, allow_unused=True)
    rates = np.concatenate([1 / each.numpy().ravel() for each in g])[:, None] * of_kappa.numpy()
    weight = np.concatenate(
        [np.zeros(p.numel()) if a is None else a.numpy().ravel() for a, p in zip(v, flat, strict=True)]
    )
    expected = np.clip(weight @ np.clip(rates, -1e4, 1e4), -1e4, 1e4)
    found = Lstm().hypergradient("official_approx", 3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)
    assert abs(cosine(found, of_kappa)) > 0.999  # but for the clips that act
    assert abs(cosine(Lstm().hypergradient("unrolled", 3), of_kappa)) < 0.95


def test_the_official_direction_is_the_same_for_every_target() -> None:
    toy = Quadratic.draw()
    kappa = toy.kappa.clone().requires_grad_()
    (of_kappa,) = torch.autograd.grad(toy.aux(toy.start, kappa), kappa)
    for target in torch.randn(5, SIZE, generator=torch.Generator().manual_seed(1)):
        toy.target = target
        # No clip acts here: the flaw is not theirs.
        assert abs(cosine(toy.hypergradient("official_approx", steps=1), of_kappa)) == pytest.approx(1, abs=1e-12)


def test_the_official_approximation_survives_entries_that_no_loss_reads() -> None:
    kappa = torch.zeros(2)
    found = hypergradient(
        "official_approx",
        aux_loss=lambda p, k: (k.softmax(0) * p[:2].square()).sum(),
        val_loss=lambda p: p.square().sum(),
        params=torch.tensor([1.0, 2.0, 3.0]),
        kappa=kappa,
        steps=1,
        lr=0.1,
    )
    assert found.isfinite().all()


MODES = ["unrolled", "first_order", "finite_diff", "implicit", "official_approx", "official_hessian", "hessian_fixed"]


@pytest.mark.parametrize("mode", MODES)
def test_tasks_in_another_order_give_their_gradients_in_that_order(mode: Any) -> None:
    toy, order = Quadratic.draw(), torch.tensor([2, 0, 1])
    other = Quadratic(toy.matrix[order], toy.centre[order], toy.target, toy.start, toy.kappa[order])
    torch.testing.assert_close(other.hypergradient(mode), toy.hypergradient(mode)[order])
    twins = Quadratic(toy.matrix[[0, 1, 1]], toy.centre[[0, 1, 1]], toy.target, toy.start, torch.zeros(3))
    g = twins.hypergradient(mode)
    assert g[1] == pytest.approx(float(g[2]), rel=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_parameters_come_in_any_form_and_stay_as_they_are(mode: Any) -> None:
    toy = Quadratic.draw()
    start = nn.Parameter(toy.start.clone())
    in_list = hypergradient(
        mode,
        aux_loss=lambda p, k, _: toy.aux(torch.cat([p[0], p[1]["b"]]), k),
        val_loss=lambda p: toy.val(torch.cat([p[0], p[1]["b"]])),
        params=[start[:1], {"b": start[1:]}],
        kappa=toy.kappa,
        steps=["any", "batch", "at all"],
        lr=RATE,
    )
    torch.testing.assert_close(in_list, toy.hypergradient(mode))
    assert torch.equal(start, toy.start) and start.grad is None and not in_list.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(toy.hypergradient(mode), in_list)


@pytest.mark.parametrize("mode", MODES)
def test_weights_and_parameters_that_do_not_enter_are_named(mode: Any) -> None:
    toy = Quadratic.draw()
    common: dict[str, Any] = {"params": toy.start, "kappa": toy.kappa, "steps": 2, "lr": RATE}
    with pytest.raises(ValueError, match="task weights do not enter the auxiliary loss"):
        hypergradient(mode, aux_loss=lambda p, _: p.square().sum(), val_loss=toy.val, **common)
    with pytest.raises(ValueError, match="val_loss: the parameters do not enter it"):
        hypergradient(mode, aux_loss=toy.aux, val_loss=lambda _: torch.ones(()), **common)


@pytest.mark.parametrize("mode", ["unrolled", "first_order", "hessian_fixed"])
def test_weights_apart_from_the_parameters_have_gradient_zero(mode: Any) -> None:
    toy = Quadratic.draw()
    g = hypergradient(
        mode,
        aux_loss=lambda p, k: p.square().sum() + k.sum(),
        val_loss=toy.val,
        params=toy.start,
        kappa=toy.kappa,
        steps=2,
        lr=RATE,
    )
    assert torch.equal(g, torch.zeros(TASKS))


def test_unrolled_refuses_dropout() -> None:
    toy = Quadratic.draw()
    with pytest.raises(ValueError, match="draws random numbers"):
        hypergradient(
            "unrolled",
            aux_loss=lambda p, k: toy.aux(F.dropout(p, 0.5), k),
            val_loss=toy.val,
            params=toy.start,
            kappa=toy.kappa,
            steps=2,
            lr=RATE,
        )


@pytest.mark.parametrize("mode", ["unrolled", "first_order", "implicit", "hessian_fixed"])
def test_second_derivatives_of_torchs_lstm_in_float32(mode: Any) -> None:
    exact = Lstm().hypergradient(mode, 3)
    problem = Lstm()
    problem.net.float()
    for name in ("x", "label", "kappa"):
        setattr(problem, name, getattr(problem, name).float())
    problem.futures = [(y.float(), my) for y, my in problem.futures]
    assert relative(problem.hypergradient(mode, 3, tolerance=1e-6).double(), exact) < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "exact"}, "mode: got 'exact', need one of unrolled, first_order"),
        ({"opt": "rmsprop"}, "opt: got 'rmsprop', need one of sgd, adam"),
        ({"mode": "hessian_fixed", "opt": "adam"}, "opt: got 'adam', need 'sgd' for hessian_fixed"),
        ({"steps": 0}, "steps: got 0, need at least 1"),
        ({"steps": []}, r"steps: got \[\], need at least 1"),
        ({"lr": 0.0}, "lr: got 0.0"),
        ({"last_k": 0}, "last_k: got 0, need at least 1"),
        ({"unroll_chunk": 0}, "unroll_chunk: got 0"),
        ({"epsilon": 0.0}, "epsilon: got 0.0"),
        ({"rho": -1.0}, "rho: got -1.0"),
        ({"solver": "lu"}, "solver: got 'lu', need one of cg, neumann"),
        ({"train_steps": 2}, "train_loss: got None"),
        ({"train_steps": 1, "train_loss": torch.sum, "train_keys": ["head"]}, r"train_keys: got \['head'\]"),
        ({"moments": []}, "moments: got 0, need 1"),
    ],
)
def test_bad_input(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quadratic.draw().hypergradient(**{"mode": "unrolled", **settings})
