"""Forecasting every variable as pretraining: encoder, decoder, classifier, and the weights of the forecast tasks."""

# Shape legend: B batch, T history steps, H future steps, F variables (tasks), S state

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.nn.linear import init_generator

Kind = Literal["square", "abs"]
Normalization = Literal["softmax", "linear"]
TaskScale = Literal["variance", "none"]


class AuxTasks(Protocol):
    """Auxiliary losses of one model, whose weights are learned."""

    @property
    def names(self) -> Sequence[str]: ...
    def losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """One loss a task, [F], of the decoder's outputs."""
        ...


class ForecastModel(nn.Module):
    """An LSTM reads the history, another writes the future, and a logistic layer reads the outcome off the state.

    Args:
        n_features: F.
        state_size: S, of both LSTMs.
        horizon: H, steps forecast.
        use_mask_feature: the encoder reads the mask beside the values; False as in the authors' code.
        generator: of the initial weights; see `init_generator`.
    Source: Xue et al. 2020, arXiv 2407.19359, section 3.1; its released code.
    """

    def __init__(
        self,
        n_features: int,
        state_size: int = 10,
        horizon: int = 10,
        use_mask_feature: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("n_features", n_features), ("state_size", state_size), ("horizon", horizon)):
            if value < 1:
                raise ValueError(f"{name}: got {value}, need at least 1")
        generator = init_generator(generator)
        self.encoder = Encoder(n_features, state_size, use_mask_feature, generator)
        self.decoder = Decoder(n_features, state_size, horizon, generator)
        self.head = dense(state_size, 1, generator)

    @property
    def horizon(self) -> int:
        return self.decoder.horizon

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Args: x (B, T, F), finite; mask (B, T, F). Returns: the forecast (B, H, F), and logits of the outcome (B,)."""
        h, state = self.encoder(x, mask)
        return self.decoder(h, state), self.logits(h)

    def forecast(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The forecast alone, (B, H, F)."""
        return self.decoder(*self.encoder(x, mask))

    def classify(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of the outcome alone, (B,)."""
        return self.logits(self.encoder(x, mask)[0])

    def logits(self, h: Tensor) -> Tensor:
        """Args: h (B, S), of the encoder. Returns: (B,)."""
        return self.head(h).squeeze(-1)


class Encoder(nn.Module):
    """A one-layer LSTM with the conventions of Keras: one bias, 1 at the forget gate; Glorot and orthogonal weights."""

    def __init__(self, n_features: int, state_size: int, use_mask_feature: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.n_features = n_features
        self.use_mask_feature = use_mask_feature
        inputs = n_features * (2 if use_mask_feature else 1)
        # Made on the meta device first: the constructor would draw weights from the global state.
        lstm = nn.LSTM(inputs, state_size, batch_first=True, device="meta")
        self.lstm = lstm.to_empty(device=torch.get_default_device())
        weight_ih, weight_hh, bias, second_bias = self.lstm.parameters()
        _keras_init(weight_ih, weight_hh, bias, generator)
        nn.init.zeros_(second_bias).requires_grad_(False)  # Keras has one bias

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Args: x (B, T, F); mask (B, T, F). Returns: h_T (B, S), and (h_T, c_T)."""
        if x.ndim != 3 or x.shape[2] != self.n_features:
            raise ValueError(f"x: got shape {tuple(x.shape)}, need (B, T, {self.n_features}) (n_features)")
        if self.use_mask_feature:
            if mask is None or mask.shape != x.shape:
                got = None if mask is None else tuple(mask.shape)
                raise ValueError(f"mask: got {got}, need the shape of x {tuple(x.shape)} (use_mask_feature)")
            x = torch.cat([x, mask.to(x)], -1)
        _, (h, c) = self.lstm(x)
        return h[0], (h[0], c[0])


class Decoder(nn.Module):
    """An LSTM that is fed its own last output, and a linear layer that reads every variable off each step."""

    def __init__(self, n_features: int, state_size: int, horizon: int, generator: torch.Generator) -> None:
        super().__init__()
        self.horizon = horizon
        self.weight_ih = nn.Parameter(torch.empty(4 * state_size, state_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * state_size, state_size))
        self.bias = nn.Parameter(torch.empty(4 * state_size))
        _keras_init(self.weight_ih, self.weight_hh, self.bias, generator)
        self.out = dense(state_size, n_features, generator)

    def forward(self, h: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """Args: h (B, S), the first input, which is the first hidden state too; state (h, c). Returns: (B, H, F)."""
        # Input and hidden state are the same vector at every step, so their weights act as one matrix.
        weight = (self.weight_ih + self.weight_hh).t()
        c, hidden = state[1], []
        for _ in range(self.horizon):
            i, f, g, o = torch.addmm(self.bias, h, weight).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            hidden.append(h)
        return self.out(torch.stack(hidden, 1))


class TaskWeights(nn.Module):
    """Weights of tasks on the simplex, w = norm(κ).

    Args:
        n_tasks: F.
        normalization: "softmax", or "linear", softplus(κ) divided by its sum.
        init: κ at the start; None draws it from U(-0.05, 0.05).
        generator: of that draw; see `init_generator`.
    """

    def __init__(
        self,
        n_tasks: int,
        normalization: Normalization = "softmax",
        init: Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if n_tasks < 1:
            raise ValueError(f"n_tasks: got {n_tasks}, need at least 1")
        if normalization not in get_args(Normalization):
            raise ValueError(f"normalization: got {normalization!r}, need one of {', '.join(get_args(Normalization))}")
        self.normalization = normalization
        if init is None:
            kappa = torch.empty(n_tasks).uniform_(-0.05, 0.05, generator=init_generator(generator))
        else:
            kappa = torch.as_tensor(init, dtype=torch.get_default_dtype()).clone()
            if kappa.shape != (n_tasks,) or not kappa.isfinite().all():
                raise ValueError(f"init: got {list(init)}, need {n_tasks} finite numbers (n_tasks)")
        self.kappa = nn.Parameter(kappa)

    def forward(self) -> Tensor:
        """w, [F], positive, with sum 1."""
        return normalize_weights(self.kappa, self.normalization)


def normalize_weights(kappa: Tensor, normalization: Normalization = "softmax") -> Tensor:
    """The point of the simplex that κ stands for; see `TaskWeights`."""
    if normalization == "softmax":
        return kappa.softmax(-1)
    positive = F.softplus(kappa)
    return positive / positive.sum(-1, keepdim=True)


def forecast_losses(pred: Tensor, y: Tensor, my: Tensor, kind: Kind = "square") -> Tensor:
    """Mean error of each variable over its observed entries; 0 for a variable without any.

    Args:
        pred: (B, H, F).
        y: (B, H, F), read where observed only: elsewhere it may be anything, NaN too.
        my: (B, H, F), not 0 where y was observed.
        kind: "square" or "abs".
    Returns:
        L_i, [F].
    """
    error, observed = _errors(pred, y, my, kind)
    return error.sum((0, 1)) / observed.sum((0, 1)).clamp(min=1)


def weighted_forecast_loss(
    pred: Tensor,
    y: Tensor,
    my: Tensor,
    w: Tensor,
    weight_power: int = 1,
    *,
    kind: Kind = "square",
    scale: Tensor | None = None,
) -> Tensor:
    """The loss of the encoder and decoder under task weights.

    Args:
        pred, y, my, kind: as of `forecast_losses`.
        w: weights of the tasks, [F].
        weight_power: 1 is Σ w_i L_i, with a mean for each task; 2 weighs truth and forecast, ℓ(w_i y, w_i ŷ), and takes
            the mean of all observed entries together, as the authors' code does: with squares w_i² counts, and what is
            measured often counts more.
        scale: divisor of each task's loss, [F], such as `task_scale`; None is 1.
    Returns:
        A scalar; 0, with a warning, where nothing was observed.
    """
    if w.shape != pred.shape[-1:]:
        raise ValueError(
            f"w: got shape {tuple(w.shape)}, need [{pred.shape[-1]}], one weight for each variable of pred"
        )
    if weight_power not in (1, 2):
        raise ValueError(f"weight_power: got {weight_power}, need 1 or 2")
    if not my.any():
        warnings.warn("weighted_forecast_loss: the batch has no observed future; its loss is 0", stacklevel=2)
    divisor = torch.ones_like(w) if scale is None else scale
    if weight_power == 1:
        return (w / divisor * forecast_losses(pred, y, my, kind)).sum()
    error, observed = _errors(pred, y, my, kind)
    weight = w.square() if kind == "square" else w.abs()
    return (weight / divisor * error).sum() / observed.sum().clamp(min=1)


class ForecastTasks:
    """The forecast of each variable as a task.

    Args:
        names: of the variables.
        kind: of the loss.
        scale: divisor of each loss, [F]; None is 1.
        only_observed: entries that were not observed do not count; False takes y as it stands.
    """

    def __init__(
        self, names: Sequence[str], kind: Kind = "square", scale: Tensor | None = None, only_observed: bool = True
    ) -> None:
        if kind not in get_args(Kind):
            raise ValueError(f"kind: got {kind!r}, need one of {', '.join(get_args(Kind))}")
        self.names = tuple(names)
        self.kind = kind
        self.scale = scale
        self.only_observed = only_observed

    def losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """L_i divided by its scale, [F]."""
        y, my = self._future(outputs, batch)
        losses = forecast_losses(outputs, y, my, self.kind)
        return losses if self.scale is None else losses / self.scale

    def total(self, outputs: Tensor, batch: dict[str, Tensor], w: Tensor, weight_power: int = 1) -> Tensor:
        """See `weighted_forecast_loss`."""
        y, my = self._future(outputs, batch)
        return weighted_forecast_loss(outputs, y, my, w, weight_power, kind=self.kind, scale=self.scale)

    def _future(self, outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The steps that were forecast, of perhaps more."""
        y, my = (batch[name][:, : outputs.shape[1]] for name in ("y", "y_mask"))
        return y, my if self.only_observed else torch.ones_like(my)


def task_scale(y: Tensor, my: Tensor, kind: TaskScale = "variance") -> Tensor | None:
    """Divisors that make the losses of loud and quiet variables comparable.

    Args:
        y, my: futures of the training part, (N, H, F), and where they were observed.
        kind: "variance" of the observed entries, 1 for a variable that was never observed or never varies; "none".
    Returns:
        [F]; None for "none".
    """
    if kind not in get_args(TaskScale):
        raise ValueError(f"task_scale: got {kind!r}, need one of {', '.join(get_args(TaskScale))}")
    if kind == "none":
        return None
    observed = my.bool()
    count = observed.sum((0, 1)).clamp(min=1)
    value = torch.where(observed, y, 0.0)
    centred = torch.where(observed, value - value.sum((0, 1)) / count, 0.0)
    variance = centred.square().sum((0, 1)) / count
    return torch.where(variance > 1e-12, variance, 1.0)


def dense(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer as Keras starts it: Glorot weights, no bias at first."""
    # As the LSTM above; `skip_init` would take memory even where the default device is meta.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device=torch.get_default_device())
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _keras_init(weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, generator: torch.Generator) -> None:
    """Gates lie in the order i, f, g, o, in Keras called i, f, c, o."""
    size = weight_hh.shape[1]
    nn.init.xavier_uniform_(weight_ih, generator=generator)
    nn.init.orthogonal_(weight_hh, generator=generator)
    with torch.no_grad():
        bias.zero_()
        bias[size : 2 * size] = 1.0


def _errors(pred: Tensor, y: Tensor, my: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
    """ℓ of each entry, 0 where not observed; and where observed."""
    if not pred.shape == y.shape == my.shape:
        raise ValueError(f"pred, y, my: got shapes {tuple(pred.shape)}, {tuple(y.shape)}, {tuple(my.shape)}, need one")
    if kind not in get_args(Kind):
        raise ValueError(f"kind: got {kind!r}, need one of {', '.join(get_args(Kind))}")
    observed = my.bool()
    error = torch.where(observed, pred - y, 0.0)
    return error.square() if kind == "square" else error.abs(), observed
