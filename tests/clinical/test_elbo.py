"""The bound against the exact likelihood of a linear-Gaussian model, and the divergence against samples."""

# Shape legend: R rows (draws), T steps, Z latent, n = T Z

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from tenfold.clinical.elbo import ElboTerms
from tenfold.clinical.events import EventSpec
from tenfold.clinical.history import History
from tenfold.clinical.state_space import DeepStateSpace

Z, D, U, T = 2, 3, 1, 4
SETTINGS = {"obs_nmlp": 1, "stran_nmlp": 1, "ctran_nmlp": 1, "interv_nmlp": 1}


def linear_model(**switches: object) -> DeepStateSpace:
    """A model whose gates are shut: z_t = A z_(t-1) + B u_t + a + N(0, Q), x_t = C z_t + c + N(0, R)."""
    seed = torch.Generator().manual_seed(3)
    model = DeepStateSpace(D, U, [EventSpec("e", 1.0, 2)], Z, generator=seed, **SETTINGS, **switches).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=seed, dtype=torch.float64))
        for gated in (model.dynamics.state, model.dynamics.control):
            assert gated is not None
            last = gated.gate[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.fill_(-1e3)
        model.state_noise.copy_(torch.tensor([0.3, -0.4]))
        model.obs_noise.copy_(torch.tensor([-0.2, 0.1, -1.0]))
    return model


def patient(length: int) -> History:
    seed = torch.Generator().manual_seed(5)
    x = torch.randn(1, T, D, generator=seed, dtype=torch.float64)
    mask = torch.rand(1, T, D, generator=seed) < 0.6
    u = torch.rand(1, T, U, generator=seed, dtype=torch.float64).round()
    return History.check(x, mask, u, torch.tensor([length]), n_obs=D, n_interv=U)


def exact(model: DeepStateSpace, series: History) -> tuple[float, np.ndarray, np.ndarray]:
    """log p(x), and mean and precision of p(z | x), by one dense Gaussian over all steps."""
    steps = int(series.length)
    dynamics = model.dynamics
    assert dynamics.control is not None
    (a, a0), (c, c0) = (
        tuple(p.detach().numpy() for p in layer.parameters()) for layer in (dynamics.state.linear, model.emission)
    )
    push = dynamics.control(series.u[0]).detach().numpy()
    q, r = model.state_noise.exp().numpy(), model.obs_noise.exp().numpy()
    lag, shift = np.eye(steps * Z), np.zeros(steps * Z)
    noise = np.ones(steps * Z)
    for t in range(1, steps):
        now = slice(t * Z, (t + 1) * Z)
        lag[now, (t - 1) * Z : t * Z] = -a
        shift[now], noise[now] = a0 + push[t], q
    precision = lag.T @ np.diag(1 / noise) @ lag
    mean = np.linalg.solve(lag, shift)
    seen = series.mask[0, :steps].numpy().ravel()
    emit = np.kron(np.eye(steps), c)[seen]
    residual = (series.x[0, :steps].numpy() - c0).ravel()[seen] - emit @ mean
    spread = np.tile(r, steps)[seen]
    cov = emit @ np.linalg.inv(precision) @ emit.T + np.diag(spread)
    after = precision + emit.T @ np.diag(1 / spread) @ emit
    smooth = mean + np.linalg.solve(after, emit.T @ (residual / spread))
    return float(multivariate_normal(np.zeros(len(residual)), cov).logpdf(residual)), smooth, after


def expected_bound(model: DeepStateSpace, series: History, mu: Tensor, scale: Tensor) -> float:
    """E_q of the bound, exactly: it is quadratic in z, and so the mean over the 2 n points ±√n e_i."""
    n = T * Z
    points = math.sqrt(n) * torch.cat([torch.eye(n), -torch.eye(n)]).double().view(2 * n, T, Z)
    many = History(
        *(
            part.expand(2 * n, *part.shape[1:])
            for part in (series.x, series.mask, series.u, series.static, series.length, series.valid)
        )
    )
    q = (mu.expand(2 * n, -1, -1), scale.expand(2 * n, *scale.shape[1:]))
    with torch.no_grad():
        return float(sum(model.elbo_terms(many, q, points).reduce("sum").values()))


@pytest.mark.parametrize("length", [1, 3, T])
@pytest.mark.parametrize("analytic", [False, True])
def test_bound_with_the_smoothers_marginals_misses_the_likelihood_by_the_divergence(
    length: int, analytic: bool
) -> None:
    model, series = linear_model(cov="tril", analytic_kl=analytic), patient(length)
    likelihood, smooth, precision = exact(model, series)
    posterior = np.linalg.inv(precision)
    blocks = [posterior[t * Z : (t + 1) * Z, t * Z : (t + 1) * Z] for t in range(length)]
    mu, scale = torch.zeros(1, T, Z).double(), torch.eye(Z).double().repeat(1, T, 1, 1)
    mu[0, :length] = torch.from_numpy(smooth.reshape(length, Z))
    scale[0, :length] = torch.from_numpy(np.linalg.cholesky(np.stack(blocks)))
    trace = sum(np.trace(precision[t * Z : (t + 1) * Z, t * Z : (t + 1) * Z] @ block) for t, block in enumerate(blocks))
    log_det = sum(np.linalg.slogdet(block)[1] for block in blocks) + np.linalg.slogdet(precision)[1]
    gap = 0.5 * (trace - length * Z - log_det)
    assert gap > -1e-12
    assert expected_bound(model, series, mu, scale) == pytest.approx(likelihood - gap, abs=1e-9)


@pytest.mark.parametrize("infer_model", ["basic", "lr"])
@pytest.mark.parametrize("cov", ["diag", "tril"])
def test_any_posterior_stays_below_the_likelihood(infer_model: str, cov: str) -> None:
    for length in (1, T):
        model, series = linear_model(infer_model=infer_model, cov=cov), patient(length)
        mu, scale = model.inference(series)
        assert expected_bound(model, series, mu, scale) < exact(model, series)[0]


@pytest.mark.parametrize("cov", ["diag", "tril"])
def test_closed_divergence_equals_samples(cov: str) -> None:
    rows, series = 100_000, patient(T)
    many = History(
        *(
            part.expand(rows, *part.shape[1:])
            for part in (series.x, series.mask, series.u, series.static, series.length, series.valid)
        )
    )
    noise = torch.randn(rows, T, Z, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def divergence(analytic: bool) -> Tensor:
        model = linear_model(cov=cov, analytic_kl=analytic)
        with torch.no_grad():
            mu, scale = model.inference(series)
            q = (mu.expand(rows, -1, -1), scale.expand(rows, *scale.shape[1:]))
            terms = model.elbo_terms(many, q, noise)
        return -(terms.trans.sum(1) + terms.init + terms.ent.sum(1))

    closed, sampled = divergence(True), divergence(False)
    difference = closed - sampled
    assert abs(float(difference.mean())) < 4 * float(difference.std()) / math.sqrt(rows)
    assert float(closed.std()) < float(sampled.std())


def test_reductions_by_hand() -> None:
    valid = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    ones = valid.double()
    terms = ElboTerms(2 * ones[:, 1:], 3 * ones, 5 * ones[:, 0], 7 * ones, None, valid)
    assert {name: float(v) for name, v in terms.reduce("sum").items()} == pytest.approx(
        {"trans": 4 / 3, "emis": 4.0, "init": 10 / 3, "ent": 28 / 3}
    )
    assert {name: float(v) for name, v in terms.reduce("official").items()} == {
        "trans": 2.0,
        "emis": 3.0,
        "init": 5.0,
        "ent": 7.0,
    }


def test_missing_entries_keep_their_constant_in_the_official_reduction_alone() -> None:
    x, mask = torch.zeros(1, 1, D), torch.zeros(1, 1, D)
    args = (x, mask, torch.zeros(1, 1, U), torch.tensor([1]))
    events = [EventSpec("e", 1.0, 2)]
    assert DeepStateSpace(D, U, events, Z).elbo(*args)[1]["emis"].item() == 0
    official = DeepStateSpace(D, U, events, Z, elbo_reduction="official").elbo(*args)[1]["emis"]
    assert official.item() == pytest.approx(-0.5 * D * math.log(2 * math.pi))


def test_intervention_likelihood_joins_the_bound_where_it_is_forecast() -> None:
    series = patient(T)
    plain, forecast = linear_model(), linear_model(forecast_interv=True)
    noise = torch.randn(1, T, Z, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert plain.elbo_terms(series, plain.inference(series), noise).interv is None
    mu, scale = q = forecast.inference(series)
    found = forecast.elbo_terms(series, q, noise).interv
    assert found is not None
    mean = forecast.dynamics.next_interv((mu + scale * noise)[:, :-1])
    wanted = torch.distributions.Normal(mean, 1.0).log_prob(series.u[:, 1:]).sum(-1)
    assert torch.allclose(found, wanted, atol=1e-12)
    off = linear_model(forecast_interv=True, pretrain_interv=False)
    assert off.elbo_terms(series, off.inference(series), noise).interv is None
