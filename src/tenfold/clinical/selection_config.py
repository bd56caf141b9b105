"""Settings of task selection, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from tenfold.clinical.forecast_model import Kind, Normalization, TaskScale
from tenfold.clinical.hypergradient import HypergradientMode
from tenfold.clinical.inner_loop import Optimizer

LARGEST_STATE = 8192  # units of each LSTM: weights of 3 GB
OuterLabels = Literal["subsampled", "full"]
Mode = Literal[
    "autoselect",
    "supervised",
    "pretrain",
    "pretrain_subset",
    "cotrain",
    "random_subset",
    "top_k_of_weights",
    "correlation_filter",
    "uncertainty_weighting",
    "grad_cosine",
    "given_weights",
    "logistic",
    "boosting",
]


@dataclass(frozen=True)
class SelectConfig:
    """One task selection. A round is `inner_steps` forecast steps, `head_steps` head steps, and one step of the weights.

    Args:
        target: outcome to predict, a name of the data's `targets`; None is the first.
        label_percent: share of the labels that may be read, in (0, 100]; smaller shares lie within larger ones.
        outer_labels: "subsampled" cuts the validation labels to the same share; "full" takes all of them (official).
        hypergradient: mode of the weights' gradient; see `hypergradient`.
        rounds: of the nested loop.
        inner_steps: K_u, forecast steps of a round.
        head_steps: K_s, steps of the head in a round.
        lookahead: forecast batches after those steps that the hypergradient looks along; they move nothing.
        head_lookahead: supervised steps that follow them; 0 leaves the head fixed ("official_hessian" then takes as many
            as `lookahead`).
        inner_lr: α, rate of the lookahead; None is lr_unsupervised.
        inner_opt: optimizer of the lookahead; "adam" goes on from the state of the forecast steps.
        last_k: steps of the lookahead that count in "first_order" and "finite_diff"; None is all.
        unroll_chunk, rho: see `HypergradientOptions`.
        unit_gradient: divide the weights' gradient by its norm; False cuts it at norm 1.
        entropy_bonus: weight of the entropy of w in what the weights are trained for.
        normalization, init: of the weights; see `TaskWeights`.
        weight_power, loss: see `weighted_forecast_loss`.
        forecast_only_nonmask_values: only observed entries of the future count; False takes y as it stands.
        task_scale: divisor of each task's loss; see `task_scale`.
        state_size, use_mask_feature: of the network; see `ForecastModel`.
        horizon: steps forecast; None is all of the future there is.
        forecast_steps: forecast steps in all, alike in every mode; beyond the rounds the weights stay. None is
            rounds · inner_steps.
        batch_size: of series, and of labelled series where the encoder learns from them.
        lr_unsupervised, lr_supervised, lr_head, lr_weights: Adam's rates of the forecast steps, of training through
            encoder and head, of the head alone, and of the weights.
        clip_value: bound of each entry of a gradient.
        classifier_steps: steps of the final classifier.
        freeze_encoder: the final classifier is a fresh head on the pretrained encoder as it is; None: wherever there is
            one.
        use_best_encoder: keep the encoder, and the classifier, of the best validation figure: AUC-ROC, or without a head
            the forecast loss. Without, budgets are fixed. A validation set too small for the weights chooses nothing.
        refit_on_all: the final classifier learns from the validation labels too, unless they choose it or are "full".
        eval_every: steps between validations.
        save_every: rounds of `inner_steps` between checkpoints and log rows, where there is a run for them.
        include, exclude: tasks of "pretrain_subset", names or positions; one of the two.
        top_k: tasks of "random_subset", "top_k_of_weights" and "correlation_filter".
        cotrain_factor: weight of the supervised loss in "cotrain".
        folds: parts of all labelled series that take turns as validation, where that has fewer than 20 labels of a kind;
            1 lets all of them serve the head and the weights alike, which few labels need: a fold of 24 has 7 positives.
        seed: of weights, order and subsets.
    Source: Xue et al. 2020, arXiv 2407.19359; its released code has K_u = K_s = 300, 10 rounds, lr 1e-3 and, of the
        weights, 1e-2.
    """

    target: str | None = None
    label_percent: float = 100.0
    outer_labels: OuterLabels = "subsampled"
    hypergradient: HypergradientMode = "first_order"
    rounds: int = 60
    inner_steps: int = 4
    head_steps: int = 20
    lookahead: int = 4
    head_lookahead: int = 0
    inner_lr: float | None = None
    inner_opt: Optimizer = "sgd"
    last_k: int | None = None
    unroll_chunk: int | None = None
    rho: float = 0.1
    unit_gradient: bool = True
    entropy_bonus: float = 0.0
    normalization: Normalization = "softmax"
    init: tuple[float, ...] | None = None
    weight_power: int = 1
    loss: Kind = "square"
    forecast_only_nonmask_values: bool = True
    task_scale: TaskScale = "variance"
    state_size: int = 10
    use_mask_feature: bool = True
    horizon: int | None = None
    forecast_steps: int | None = None
    batch_size: int = 64
    lr_unsupervised: float = 1e-2
    lr_supervised: float = 1e-2
    lr_head: float = 3e-2
    lr_weights: float = 0.1
    clip_value: float = 5.0
    classifier_steps: int = 200
    freeze_encoder: bool | None = None
    use_best_encoder: bool = False
    refit_on_all: bool = True
    eval_every: int = 20
    save_every: int = 10
    include: tuple[str | int, ...] = ()
    exclude: tuple[str | int, ...] = ()
    top_k: int = 4
    cotrain_factor: float = 10.0
    folds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.label_percent <= 100:
            raise ValueError(f"label_percent: got {self.label_percent}, need a number in (0, 100]")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(map(str, choices))}")
        for name in _COUNTS:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if self.state_size > LARGEST_STATE:
            raise ValueError(f"state_size: got {self.state_size}, need at most {LARGEST_STATE}")
        for name in _POSITIVE:
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, need a finite number > 0")
        for name in ("head_lookahead", "entropy_bonus", "rho"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: got {getattr(self, name)}, need a finite number from 0")
        if self.forecast_steps is not None and self.forecast_steps < self.rounds * self.inner_steps:
            need = self.rounds * self.inner_steps
            raise ValueError(f"forecast_steps: got {self.forecast_steps}, need at least {need} (rounds · inner_steps)")
        if self.include and self.exclude:
            raise ValueError(f"include, exclude: got {self.include} and {self.exclude}, need one of them")

    @property
    def total_steps(self) -> int:
        return self.forecast_steps or self.rounds * self.inner_steps


_CHOICES = {
    "outer_labels": get_args(OuterLabels),
    "hypergradient": get_args(HypergradientMode),
    "inner_opt": get_args(Optimizer),
    "normalization": get_args(Normalization),
    "weight_power": (1, 2),
    "loss": get_args(Kind),
    "task_scale": get_args(TaskScale),
}
_COUNTS = (
    *("rounds", "inner_steps", "head_steps", "lookahead", "last_k", "unroll_chunk", "folds"),
    *("state_size", "horizon", "batch_size", "classifier_steps", "eval_every", "save_every", "top_k"),
)
_POSITIVE = ("inner_lr", "lr_unsupervised", "lr_supervised", "lr_head", "lr_weights", "clip_value", "cotrain_factor")
