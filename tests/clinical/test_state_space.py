"""Laws of the state-space model: masks, padding, order, leakage, gradients, draws, files and bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tenfold.clinical.events import EventSpec
from tenfold.clinical.posterior import combine, reverse
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.state_space_config import StateSpaceConfig, StateSpaceSwitches
from tenfold.core.errors import UserError
from tenfold.core.fit import TrainState, train_step

B, T, D, U, G = 6, 7, 4, 2, 3
EVENTS = (EventSpec("a", 1.0, 5), EventSpec("b", 2.0, 3, weight=0.5))
POSTERIORS = [("basic", "diag"), ("basic", "tril"), ("l", "diag"), ("r", "diag"), ("r", "tril"), ("lr", "diag")]
POSTERIORS += [("lr", "tril"), ("st", "diag"), ("st", "tril")]


def model(seed: int = 0, **switches: object) -> DeepStateSpace:
    settings = {"z_dim": 3, "n_static": G} | switches
    return DeepStateSpace(D, U, EVENTS, generator=torch.Generator().manual_seed(seed), **settings).double().eval()  # type: ignore[arg-type]


def batch(seed: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(B, T, D, generator=draw, dtype=torch.float64),
        "mask": torch.rand(B, T, D, generator=draw) < 0.6,
        "u": torch.rand(B, T, U, generator=draw, dtype=torch.float64).round(),
        "length": torch.tensor([7, 5, 0, 7, 1, 3]),
        "static": torch.randn(B, G, generator=draw, dtype=torch.float64),
        "slot": torch.tensor([[1, 1], [2, 3], [5, 2], [4, 1], [3, 3], [2, 2]]),
        "observed": torch.rand(B, 2, generator=draw) < 0.5,
        "at_risk": torch.rand(B, 2, generator=draw) < 0.8,
        "tail": torch.zeros(B, 2, dtype=torch.int64),
    }


def outputs(net: DeepStateSpace, data: dict[str, Tensor]) -> list[Tensor]:
    """All that a batch determines: posterior, bound, loss, curves."""
    args = [data[name] for name in ("x", "mask", "u", "length", "static")]
    bound = net.elbo(*args, generator=torch.Generator().manual_seed(0))[0]
    loss = dssm_loss(net, data, generator=torch.Generator().manual_seed(0))[0]
    survival = net.survival(data).values(), net.survival(data, n_samples=3).values()
    return [*net.posterior(*args), bound, loss, *survival[0], *survival[1]]


@pytest.mark.parametrize(("infer_model", "cov"), POSTERIORS)
def test_what_is_masked_or_padded_changes_nothing_bit_for_bit(infer_model: str, cov: str) -> None:
    net, data = model(infer_model=infer_model, cov=cov), batch()
    padded = torch.arange(T) >= data["length"][:, None]
    hidden = ~data["mask"] | padded[..., None]
    changed = data | {
        "x": torch.where(hidden, math.nan, data["x"]),
        "u": torch.where(padded[..., None], 9.0, data["u"]),
        "mask": data["mask"] | padded[..., None],
    }
    for one, other in zip(outputs(net, data), outputs(net, changed), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("infer_model", ["basic", "lr", "st"])
def test_longer_padding_changes_nothing(infer_model: str) -> None:
    for reduction in ("sum", "official"):
        net, data = model(infer_model=infer_model, elbo_reduction=reduction, feed_mask=False), batch()
        longer = dict(data)
        for name in ("x", "mask", "u"):
            longer[name] = torch.cat([data[name], data[name][:, :2]], 1)
        for one, other in zip(net.survival(data).values(), net.survival(longer).values(), strict=True):
            assert torch.allclose(one, other, atol=1e-14)
        noise = torch.randn(B, T + 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = []
        for given, steps in ((data, T), (longer, T + 2)):
            history = net._history(given)
            terms = net.elbo_terms(history, net.inference(history), noise[:, :steps]).reduce(net.config.elbo_reduction)
            found.append({name: float(value.detach()) for name, value in terms.items()})
        assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("head", ["per_event", "official", "exponential", "cox"])
def test_patients_do_not_know_each_other(head: str) -> None:
    net, data = model(head=head, infer_model="lr"), batch()
    order = torch.tensor([3, 0, 5, 2, 1, 4])
    shuffled, alone = ({name: part[rows] for name, part in data.items()} for rows in (order, torch.tensor([3])))
    for n_samples in (0, 4):
        whole = net.hazards(data, n_samples=n_samples)
        for name in ("a", "b"):
            assert torch.allclose(net.hazards(shuffled, n_samples=n_samples)[name], whole[name][order], atol=1e-14)
            assert torch.allclose(net.hazards(alone, n_samples=n_samples)[name], whole[name][3:4], atol=1e-14)


@pytest.mark.parametrize("infer_model", ["basic", "r", "lr", "st"])
def test_predictions_read_nothing_after_the_trigger(infer_model: str) -> None:
    net, data = model(infer_model=infer_model, context_len_to_trigger=4), batch()
    later = dict(data)
    for name in ("x", "u", "mask"):
        later[name] = torch.cat([data[name][:, :4], (1 - data[name][:, 4:].double()).to(data[name].dtype)], 1)
    for one, other in zip(net.survival(data).values(), net.survival(later).values(), strict=True):
        assert torch.equal(one, other)
    bounds = [
        net.elbo(*(d[n] for n in ("x", "mask", "u", "length", "static")), generator=torch.Generator().manual_seed(0))[0]
        for d in (data, later)
    ]
    assert not torch.equal(*bounds)  # the bound may see the whole window
    short = model(infer_model=infer_model, sys_id_len=4)
    parts = {name: part[:, :4] if name in ("x", "u", "mask") else part for name, part in data.items()}
    parts["length"] = data["length"].clamp(max=4)
    one, other = (
        short.elbo(*(d[n] for n in ("x", "mask", "u", "length", "static")), generator=torch.Generator().manual_seed(0))
        for d in (data, parts)
    )
    assert torch.equal(one[0], other[0])


def test_what_each_posterior_reads() -> None:
    """A change at step 4 shows before it, after it or on both sides, as the recurrent networks look."""
    data = batch()
    data["length"] = torch.full((B,), T)
    changed = data | {"x": data["x"].clone(), "mask": torch.ones_like(data["mask"])}
    data = data | {"mask": changed["mask"]}
    changed["x"][:, 4] += 1.0
    steps = {"basic": (False, True), "l": (False, True), "r": (True, False), "lr": (True, True), "st": (True, True)}
    for kind, (before, after) in steps.items():
        net = model(infer_model=kind)
        first, second = (
            net.posterior(*(d[n] for n in ("x", "mask", "u", "length", "static")))[0] for d in (data, changed)
        )
        moved = (first != second).any(-1)
        assert moved[:, 4].all()
        assert bool(moved[:, :4].all()) == bool(moved[:, :4].any()) == before
        assert bool(moved[:, 5:].all()) == bool(moved[:, 5:].any()) == after


def test_a_patient_without_a_visit_starts_from_the_prior() -> None:
    for cov in ("diag", "tril"):
        net, data = model(cov=cov), batch()
        mu, scale = net.posterior(*(data[name] for name in ("x", "mask", "u", "length", "static")))
        unit = torch.ones(3).double() if cov == "diag" else torch.eye(3).double()
        assert not mu[2].any() and torch.equal(scale[2], unit.expand_as(scale[2]))
        states = net.dynamics.roll_out(torch.zeros(1, 3).double(), 5)
        head = net.hazard_head.get_submodule("networks").get_submodule("0")
        assert torch.allclose(net.hazards(data)["a"][2], head(states)[0, :, 0].sigmoid(), atol=1e-14)


def test_combination_of_two_gaussians() -> None:
    left, right = (
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])),
        (torch.tensor([4.0, 3.0]), torch.tensor([2.0, 1.0])),
    )
    mu, sigma = combine(left, right, rule="precision")
    assert mu.tolist() == pytest.approx([(1 / 1 + 4 / 4) / (1 + 1 / 4), (0 / 4 + 3 / 1) / (1 / 4 + 1)])
    assert (1 / sigma.square()).tolist() == pytest.approx([1.25, 1.25])
    mu, sigma = combine(left, right, rule="official")
    assert mu.tolist() == pytest.approx([6 / 3, 6 / 3]) and sigma.tolist() == pytest.approx([2 / 3, 2 / 3])


def test_turning_a_series_around_twice_gives_it_back() -> None:
    x, length = torch.arange(8.0).view(2, 4, 1), torch.tensor([4, 2])
    assert reverse(x, length)[..., 0].tolist() == [[3, 2, 1, 0], [5, 4, 6, 7]]
    assert torch.equal(reverse(reverse(x, length), length), x)


@pytest.mark.parametrize("head", ["per_event", "official", "exponential", "cox"])
@pytest.mark.parametrize("reuse_encoding", [True, False])
def test_every_parameter_learns(head: str, reuse_encoding: bool) -> None:
    for infer_model, cov in POSTERIORS:
        net = model(
            head=head,
            infer_model=infer_model,
            cov=cov,
            reuse_encoding=reuse_encoding,
            forecast_interv=True,
            noise_trainable=True,
            use_jitter=True,
            analytic_kl=cov == "diag",
        )
        dssm_loss(net, batch())[0].backward()
        still = [name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert still == []


def test_settings_reach_the_loss() -> None:
    data, seed = batch(), torch.Generator()

    def parts(net: DeepStateSpace, kl_weight: float = 1.0) -> tuple[float, dict[str, float]]:
        loss, metrics = dssm_loss(net, data, kl_weight=kl_weight, generator=seed.manual_seed(0))
        return float(loss.detach()), {name: float(value) for name, value in metrics.items()}

    loss, plain = parts(model())
    assert plain["elbo"] == pytest.approx(plain["emis"] - plain["kl"]) and plain["weight"] == B
    nll = plain["nll/a"] + 0.5 * plain["nll/b"]
    assert loss == pytest.approx(nll - 0.01 * plain["elbo"])
    assert parts(model(), 0.25)[0] == pytest.approx(nll - 0.01 * (plain["emis"] - 0.25 * plain["kl"]))
    assert parts(model(sys_id_weight=3.0))[0] == pytest.approx(nll - 3 * plain["elbo"])
    assert parts(model(state_only_loss=True))[0] == pytest.approx(nll + 0.01 * plain["kl"])
    official = parts(model(elbo_reduction="official"))
    assert official[0] == pytest.approx(nll - official[1]["elbo"])
    wide = parts(model(obs_noise_init=4.0))[1]
    seen = float((data["mask"] & (torch.arange(T) < data["length"][:, None])[..., None]).sum()) / B
    constant = 0.5 * seen * math.log(2 * math.pi)
    assert wide["emis"] == pytest.approx((plain["emis"] + constant) / 4 - constant - 0.5 * seen * math.log(4))


def test_a_step_of_training_lowers_the_loss_and_is_repeatable() -> None:
    runs = []
    for _ in range(2):
        net = model().train()
        state = TrainState(net, torch.optim.Adam(net.parameters(), 1e-2), seed=3)
        runs.append([train_step(state, dssm_loss, [batch()], clip_norm=5.0)["loss"] for _ in range(20)])  # type: ignore[arg-type]
    assert runs[0] == runs[1] and runs[0][-1] < runs[0][0] - 0.1


def test_networks_see_all_steps_at_once() -> None:
    """One call a network for the bound; only the Markov roll-out goes step by step."""
    net, calls = model(forecast_interv=True, infer_model="lr"), dict[str, int]()

    def count(name: str) -> object:
        return lambda *_: calls.__setitem__(name, calls.get(name, 0) + 1)

    watched = {"rnn": net.inference.forward_rnn, "emission": net.emission, "state": net.dynamics.state}
    for name, module in watched.items():
        assert isinstance(module, nn.Module)
        module.register_forward_hook(count(name))  # type: ignore[arg-type]
    dssm_loss(net, batch())
    assert calls == {"rnn": 1, "emission": 1, "state": 1 + 5}


def test_draws_are_those_of_the_posterior_at_the_trigger() -> None:
    net, data = model(cov="tril"), batch()
    mu, scale = net.posterior(*(data[name] for name in ("x", "mask", "u", "length", "static")))
    noise = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    start = mu[0, 6] + noise[:, 0] @ scale[0, 6].T
    network = net.hazard_head.get_submodule("networks").get_submodule("1")
    hazards = network(net.dynamics.roll_out(start, 3)).squeeze(-1).sigmoid()
    wanted = (1 - hazards).cumprod(1).mean(0)
    assert torch.allclose(net.survival(data, n_samples=50)["b"][0, 1:], wanted, atol=1e-12)
    assert torch.equal(net.survival(data, n_samples=50)["b"], net.survival(data, n_samples=50)["b"])


@pytest.mark.parametrize("head", ["per_event", "official"])
def test_what_if_feeds_the_interventions_it_is_given(head: str) -> None:
    net, data = model(head=head, forecast_interv=True), batch()
    none, all_of_it = torch.zeros(5, U).double(), torch.ones(5, U).double()
    assert not torch.allclose(net.simulate(data, none)["a"], net.simulate(data, all_of_it)["a"])
    assert torch.equal(net.simulate(data, none)["b"], net.simulate(data, none.expand(B, -1, -1))["b"])
    mixed = torch.stack([none if row % 2 else all_of_it for row in range(B)])
    found = net.simulate(data, mixed)["a"]
    assert torch.allclose(found[::2], net.simulate(data, all_of_it)["a"][::2], atol=1e-14)
    assert torch.allclose(found[1::2], net.simulate(data, none)["a"][1::2], atol=1e-14)
    late = torch.cat([none[:3], all_of_it[3:]])
    assert torch.equal(net.simulate(data, late)["a"][:, :4], net.simulate(data, none)["a"][:, :4])
    if head == "per_event":  # forcing the forecast itself changes nothing
        state, forced = net._at_trigger(net._history(data))[0], []
        for k in range(5):
            forced.append(net.dynamics.next_interv(state))
            state = net.dynamics.roll_out(state, 1, forced[k][:, None])[:, 0]
        assert torch.allclose(net.simulate(data, torch.stack(forced, 1))["a"], net.survival(data)["a"], atol=1e-12)


def test_weights_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = model(0), model(0), model(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.emission.get_submodule("0").weight, other.emission.get_submodule("0").weight)  # type: ignore[arg-type]


def test_folder_gives_the_model_back(tmp_path: Path) -> None:
    net, data = model(forecast_interv=True, noise_trainable=True, context_len_to_trigger=5), batch()
    net.save_pretrained(tmp_path)
    again = DeepStateSpace.from_pretrained(tmp_path).eval()
    assert again.config == net.config
    assert torch.equal(again.survival(data)["a"], net.survival(data)["a"])
    content = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"z_dim": 4}, "tensors do not fit"),
        ({"obs_nmlp": 10**9}, "more layers"),
        ({"ctran_nmlp": 10**9}, "more layers"),
        ({"interv_nmlp": 10**9}, "more layers"),
        ({"z_dim": 10**9}, "config.json: got sizes that no weights have"),
        ({"z_dim": 10**30}, "config.json: got sizes that no weights have"),
        ({"kind": "Cox"}, "kind: got 'Cox'"),
        ({"infer_model": "x"}, "infer_model"),
        ({"events": []}, "events"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message):
            DeepStateSpace.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"infer_model": "both"}, "infer_model: got 'both', need one of basic, l, r, lr, st"),
        ({"cov": "full"}, "cov: got 'full', need one of diag, tril"),
        ({"head": "mine"}, "head: got 'mine', need one of per_event, official, exponential, cox"),
        ({"combine": "mean"}, "combine: got 'mean', need one of precision, official"),
        ({"elbo_reduction": "mean"}, "elbo_reduction: got 'mean', need one of sum, official"),
        ({"em_act": "tanh"}, "em_act: got 'tanh', need one of linear, sigmoid"),
        ({"z_dim": 0}, "z_dim: got 0, need at least 1"),
        ({"hazard_nmlp": 0}, "hazard_nmlp: got 0, need at least 1"),
        ({"n_interv": -1}, "n_interv: got -1, need at least 0"),
        ({"context_len_to_trigger": 0}, "context_len_to_trigger: got 0"),
        ({"obs_noise_init": 0.0}, "obs_noise_init: got 0.0"),
        ({"sys_id_weight": -1.0}, "sys_id_weight: got -1.0"),
        ({"n_interv": 0, "forecast_interv": True}, "forecast_interv: got True with n_interv = 0"),
        ({"events": ()}, "events: got none, need at least one EventSpec"),
        ({"events": (EVENTS[0], EVENTS[0])}, "events: got a, a, need names that differ"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateSpaceConfig(**({"n_obs": D, "n_interv": U, "events": EVENTS} | settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(B, T, D + 1)}, r"x: got shape \(6, 7, 5\), need \(B, T, 4\)"),
        ({"x": torch.zeros(B, 0, D)}, r"x: got shape \(6, 0, 4\), need at least one step"),
        ({"mask": torch.zeros(B, T, 1)}, r"mask: got shape \(6, 7, 1\), need \(6, 7, 4\) beside x \(6, 7, 4\)"),
        ({"u": None}, r"u: got None, need shape \(6, 7, 2\)"),
        ({"u": torch.zeros(B, T, 1)}, r"u: got shape \(6, 7, 1\), need \(6, 7, 2\) beside x"),
        ({"static": None}, r"static: got None, need shape \(6, 3\)"),
        ({"length": torch.full((B,), T + 1)}, r"length: got 8\.\.8, need 0\.\.7"),
        ({"length": torch.full((B,), -1)}, r"length: got -1\.\.-1, need 0\.\.7"),
        ({"length": torch.tensor([1])}, r"length: got shape \(1,\), need \(6,\)"),
        ({"mask": None}, "need 'mask' too"),
    ],
)
def test_batches_that_do_not_fit(change: dict[str, Tensor | None], message: str) -> None:
    data = {name: part for name, part in (batch() | change).items() if part is not None}  # type: ignore[operator]
    for call in (model().hazards, lambda given: dssm_loss(model(), given)):
        with pytest.raises(ValueError, match=message):
            call(data)


def test_interventions_that_do_not_fit() -> None:
    data, future = batch(), torch.zeros(5, U).double()
    with pytest.raises(ValueError, match=r"u_future: got shape \(4, 2\), need \(6, 5, 2\) or \(5, 2\)"):
        model().simulate(data, future[:4])
    with pytest.raises(ValueError, match="need reuse_encoding or forecast_interv"):
        model(reuse_encoding=False).simulate(data, future)
    with pytest.raises(ValueError, match="'cox' does not"):
        model(head="cox").simulate(data, future)
    plain = DeepStateSpace(D, 0, EVENTS, 3).double()
    with pytest.raises(ValueError, match=r"need a model that has some \(n_interv = 0\)"):
        plain.simulate(data | {"u": torch.zeros(B, T, 0)}, future)
    with pytest.raises(ValueError, match=r"u: got shape \(6, 7, 2\), need no columns"):
        plain.survival(data)
    assert plain.survival({name: part for name, part in data.items() if name != "u"})["a"].shape == (B, 6)
    with pytest.raises(ValueError, match="n_samples: got -1"):
        plain.hazards(data, n_samples=-1)


def test_an_infinite_loss_stops() -> None:
    data = batch()
    data["x"][0, 0], data["mask"][0, 0] = math.inf, True
    with pytest.raises(FloatingPointError, match="loss is"):
        dssm_loss(model(), data)


def test_all_censored_and_none_at_risk_are_finite() -> None:
    data = batch() | {"observed": torch.zeros(B, 2, dtype=torch.bool)}
    assert torch.isfinite(dssm_loss(model(), data)[0])
    assert torch.isfinite(dssm_loss(model(), data | {"at_risk": torch.zeros(B, 2)})[0])


def test_events_on_different_grids_get_start_states_of_their_own() -> None:
    switches = StateSpaceSwitches(z_dim=3, head="auto")
    assert switches.sized(D, U, EVENTS).head == "official"
    assert switches.sized(D, U, EVENTS[:1]).head == "per_event"
    assert switches.sized(D, U, [EventSpec("a", 2.0, 5), EventSpec("b", 2.0, 3)]).head == "per_event"
    with pytest.raises(ValueError, match="head: got 'auto', which only"):
        model(head="auto")


def test_drawn_laws_are_what_the_average_is_of() -> None:
    simulator = HmmIcuSim()
    model = DeepStateSpace(6, 1, simulator.events, 4, generator=torch.Generator().manual_seed(0))
    batch = simulator.dataset(5, 0).batch()
    with torch.no_grad():
        drawn, mean = model.drawn_laws(batch, 7), model.laws(batch, n_samples=7)
    assert drawn["death"].log_stay.shape == (7, 5, 24)
    assert torch.equal(drawn["death"].average().log_stay, mean["death"].log_stay)
    with pytest.raises(ValueError, match="n_samples: got 0, need at least 1"):
        model.drawn_laws(batch, 0)
