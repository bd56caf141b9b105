"""The nested loop: forecast steps, head steps, a step of the task weights; whole at every step, so that it can resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from tenfold.clinical.binary_metrics import auc_roc
from tenfold.clinical.forecast_columns import Columns, Labels
from tenfold.clinical.forecast_model import AuxTasks, ForecastModel, ForecastTasks, TaskWeights, normalize_weights
from tenfold.clinical.hypergradient import hypergradient
from tenfold.clinical.inner_loop import adam_moments
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.task_weighting import FixedWeights, UncertaintyWeights, cosine_weights
from tenfold.core import checkpoint
from tenfold.core.fit import TrainState, train_step
from tenfold.core.interrupt import Interrupt
from tenfold.core.stream import ArrayStream

Outer = Literal["hypergradient", "cosine", "none"]
Loss = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Any]]]


class RunFolder(checkpoint.RewindableRun, Protocol):
    """What the loop needs of a run."""

    def log(self, step: int, **metrics: Any) -> None: ...


class ClippedAdam(torch.optim.Adam):
    """Adam that cuts each entry of a gradient at ±clip_value, as the authors' code does."""

    handles_clipping = True

    def __init__(self, params: Any, lr: float, clip_value: float = 5.0) -> None:
        super().__init__(params, lr=lr)
        self.clip_value = clip_value

    def step(self, closure: Any = None) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        torch._foreach_clamp_min_(grads, -self.clip_value)
        torch._foreach_clamp_max_(grads, self.clip_value)
        return super().step(closure)


@dataclass
class BilevelState(TrainState):
    """The forecast training, which counts the steps, with all that takes turns with it; one checkpoint holds everything.

    Args:
        head: training of the head; its model is the same.
        outer: training of the weights.
        labelled: series for steps that go through encoder and head.
        history: the weights before each round and after the last.
        best: score and weights of the best network so far, if it is kept.
    """

    head: TrainState = field(kw_only=True)
    outer: TrainState = field(kw_only=True)
    labelled: ArrayStream | None = field(kw_only=True, default=None)
    history: list[Tensor] = field(kw_only=True, default_factory=list)
    best: dict[str, Any] = field(kw_only=True, default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in (("head", self.head), ("outer", self.outer))}
        for part in parts.values():
            del part["model"]
        labelled = None if self.labelled is None else self.labelled.state_dict()
        return {**super().state_dict(), **parts, "labelled": labelled, "history": self.history, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, part in (("head", self.head), ("outer", self.outer)):
            part.load_state_dict({**state[name], "model": state["model"]})
        if self.labelled is not None:
            self.labelled.load_state_dict(state["labelled"])
        self.history, self.best = list(state["history"]), dict(state["best"])


@dataclass
class Pretraining:
    """Forecast pretraining under task weights, of which all modes are cases.

    Args:
        net: a ForecastModel, or any module with such an `encoder`, `decoder` and `head`.
        weights: gives w [F].
        tasks: the auxiliary losses.
        unlabelled: x, mask, y, y_mask of all training series.
        labels: None where no label is read.
        config: settings.
        outer: what moves the weights after each round.
        cotrain: add the supervised loss to every forecast step.
    """

    net: ForecastModel
    weights: TaskWeights | FixedWeights | UncertaintyWeights
    tasks: AuxTasks
    unlabelled: Columns
    labels: Labels | None
    config: SelectConfig
    outer: Outer = "none"
    cotrain: bool = False

    def __post_init__(self) -> None:
        config = self.config
        model = nn.ModuleDict({"net": self.net, "weights": self.weights})
        forecasting = [*trainable(self.net.encoder), *trainable(self.net.decoder)]
        if isinstance(self.weights, UncertaintyWeights):
            forecasting += trainable(self.weights)
        groups: list[dict[str, Any]] = [{"params": forecasting}]
        if self.cotrain:
            groups.append({"params": trainable(self.net.head), "lr": config.lr_supervised})
        heading = trainable(self.net.head)
        if self.supervises_encoder:
            heading = [*trainable(self.net.encoder), *heading]
        weighed = trainable(self.weights) or heading  # fixed weights have nothing to move
        labelled = None
        if self.labels is not None and (self.cotrain or self.supervises_encoder):
            pool = self.labels.labelled
            size = min(config.batch_size, len(pool["label"]))
            labelled = ArrayStream(pool, size, seed=(config.seed, 1))
        self.state = BilevelState(
            model,
            ClippedAdam(groups, config.lr_unsupervised, config.clip_value),
            stream=ArrayStream(self.unlabelled, config.batch_size, seed=(config.seed, 0)),
            seed=config.seed,
            head=TrainState(model, ClippedAdam(heading, config.lr_head, config.clip_value), seed=config.seed),
            outer=TrainState(model, torch.optim.Adam(weighed, config.lr_weights), seed=config.seed),
            labelled=labelled,
        )
        self._series: Iterator[Columns] | None = None
        self._features: tuple[int, Columns] | None = None

    @property
    def supervises_encoder(self) -> bool:
        """Whether head steps move the encoder too."""
        return self.outer == "hypergradient" and self.config.hypergradient == "official_hessian"

    def run(self, run: RunFolder | None = None, name: str = "pretraining") -> BilevelState:
        """All steps from wherever the state stands; a run gets log rows and checkpoints at ends of rounds, and resumes.

        Ctrl-C finishes the step, saves, and raises KeyboardInterrupt.
        """
        if run is not None:
            checkpoint.resume(run, self.state, name)
        with Interrupt() as interrupt:
            while self.advance():
                rounds, within = divmod(self.state.step, self.config.inner_steps)
                due = not within and not rounds % self.config.save_every and self.phase() == "forecast"
                if run is not None and (due or self.phase() == "done" or interrupt.requested):
                    checkpoint.save(run, self.state, name)
                    run.log(self.state.step, model=name, loss=self.state.last_loss, round=rounds)
                if interrupt.requested:
                    raise KeyboardInterrupt
        if self.state.best:
            self.net.load_state_dict(self.state.best["weights"])
        return self.state

    def phase(self) -> Literal["forecast", "head", "outer", "done"]:
        """What comes next: a function of the three step counts."""
        state, config = self.state, self.config
        round_ = state.outer.step
        if self.outer != "none" and round_ < config.rounds:
            if state.step < (round_ + 1) * config.inner_steps:
                return "forecast"
            if self.outer == "hypergradient" and state.head.step < (round_ + 1) * config.head_steps:
                return "head"
            return "outer"
        return "forecast" if state.step < config.total_steps else "done"

    def advance(self) -> bool:
        """One step of whatever comes next; False where nothing does."""
        phase = self.phase()
        if phase == "done":
            return False
        if not self.state.history:
            self.state.history.append(self.weights().detach().clone())
        {"forecast": self._forecast_step, "head": self._head_step, "outer": self._outer_step}[phase]()
        return True

    def _forecast_step(self) -> None:
        def loss(model: nn.Module, batches: tuple[Columns, Columns | None]) -> tuple[Tensor, dict[str, Any]]:
            batch, labelled = batches
            value = self.auxiliary(self.net.decoder(*self.net.encoder(batch["x"], batch["mask"])), batch)
            if labelled is not None:
                value = value + self.config.cotrain_factor * supervised_loss(self.net, labelled)
            return value, {"weight": len(batch["x"])}

        labelled = next(iter(self.state.labelled)) if self.cotrain and self.state.labelled is not None else None
        train_step(self.state, loss, [(self._draw(), labelled)])
        if self.config.use_best_encoder and self.outer == "none" and self.state.step % self.config.eval_every == 0:
            self._keep_best(self._validation_score())

    def auxiliary(self, outputs: Tensor, batch: Columns, w: Tensor | None = None) -> Tensor:
        """The weighted auxiliary loss; without w, of the weights as they are now."""
        if isinstance(self.weights, UncertaintyWeights):
            return self.weights.total(self.tasks.losses(outputs, batch))
        w = self.weights().detach() if w is None else w
        if isinstance(self.tasks, ForecastTasks):
            return self.tasks.total(outputs, batch, w, self.config.weight_power)
        return (w**self.config.weight_power * self.tasks.losses(outputs, batch)).sum()

    def _head_step(self) -> None:
        if self.state.labelled is not None:
            train_step(self.state.head, series_loss, [next(iter(self.state.labelled))])
            return
        assert self.labels is not None
        if self._features is None or self._features[0] != self.state.step:  # the encoder stands still in this phase
            series, _ = self.labels.of_round(self.state.outer.step)
            self._features = self.state.step, {"h": encode(self.net, series), "label": series["label"]}
        train_step(self.state.head, head_loss, [self._features[1]])

    def _outer_step(self) -> None:
        assert self.labels is not None
        _, outer = self.labels.of_round(self.state.outer.step)
        if self.outer == "cosine":
            self._cosine_step(outer)
        else:
            g = self._hypergradient(outer)
            if self.config.unit_gradient and (norm := torch.linalg.vector_norm(g)) > 0:
                g = g / norm
            train_step(self.state.outer, _along, [g - self.config.entropy_bonus * self._entropy_gradient()])
        self.state.history.append(self.weights().detach().clone())
        if self.config.use_best_encoder and not self.labels.folds:
            self._keep_best(self._validation_score())

    def _hypergradient(self, outer: Columns) -> Tensor:
        config, net, weights = self.config, self.net, self.weights
        assert isinstance(weights, TaskWeights)
        supervised = config.head_lookahead or (config.lookahead if self.supervises_encoder else 0)
        params = {name: named(getattr(net, name)) for name in ("encoder", "decoder", *(["head"] if supervised else []))}
        flat = [p for part in params.values() for p in part.values()]

        def aux_loss(p: Any, kappa: Tensor, batch: Columns) -> Tensor:
            state = functional_call(net.encoder, p["encoder"], (batch["x"], batch["mask"]))
            outputs = functional_call(net.decoder, p["decoder"], state)
            return self.auxiliary(outputs, batch, normalize_weights(kappa, weights.normalization))

        def classify(p: Any, batch: Columns) -> Tensor:
            h, _ = functional_call(net.encoder, p["encoder"], (batch["x"], batch["mask"]))
            logits = functional_call(net.head, p.get("head", {}), (h,)).squeeze(-1)
            return F.binary_cross_entropy_with_logits(logits, batch["label"])

        series = self.state.labelled
        train = self.labels.of_round(self.state.outer.step)[0] if self.labels is not None else {}
        return hypergradient(
            config.hypergradient,
            aux_loss=aux_loss,
            val_loss=lambda p: classify(p, outer),
            params=params,
            kappa=weights.kappa,
            steps=[self._draw() for _ in range(config.lookahead)],
            lr=config.inner_lr or config.lr_unsupervised,
            opt=config.inner_opt,
            last_k=config.last_k or config.lookahead,
            unroll_chunk=config.unroll_chunk,
            rho=config.rho,
            train_loss=classify,
            train_steps=[train if series is None else next(iter(series)) for _ in range(supervised)],
            train_lr=config.lr_head,
            train_keys=(("encoder", "head") if self.supervises_encoder else ("head",)) if supervised else None,
            moments=adam_moments(self.state.optimizer, flat) if config.inner_opt == "adam" else None,
        )

    def _entropy_gradient(self) -> Tensor:
        assert isinstance(self.weights, TaskWeights)
        w = self.weights()
        return torch.autograd.grad(torch.special.entr(w).sum(), self.weights.kappa)[0]

    def _cosine_step(self, outer: Columns) -> None:
        """Move the weights a tenth of the way to what this batch says."""
        assert isinstance(self.weights, FixedWeights)
        batch = self._draw()

        def losses() -> Tensor:
            return self.tasks.losses(self.net.decoder(*self.net.encoder(batch["x"], batch["mask"])), batch)

        w = cosine_weights(losses, lambda: supervised_loss(self.net, outer), trainable(self.net.encoder))
        self.weights.w = torch.lerp(self.weights.w, w, 0.1)
        self.state.outer.step += 1

    def _draw(self) -> Columns:
        if self._series is None:
            assert self.state.stream is not None
            self._series = iter(self.state.stream)
        batch: Columns = next(self._series)
        return batch

    @torch.no_grad()
    def _validation_score(self) -> float:
        """Higher is better: AUC-ROC of the head, or minus the forecast loss where no head is trained."""
        assert self.labels is not None
        val = self.labels.val
        if self.outer == "hypergradient" or self.cotrain:
            return auc_roc(val["label"].cpu().numpy(), predict(self.net, val).cpu().numpy())
        return -float(self.auxiliary(self.net.decoder(*self.net.encoder(val["x"], val["mask"])), val))

    def _keep_best(self, score: float) -> None:
        if not self.state.best or score > self.state.best["score"]:
            weights = {name: tensor.detach().clone() for name, tensor in self.net.state_dict().items()}
            self.state.best = {"score": score, "weights": weights}


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Trainable parameters in the module's order."""
    return list(named(module).values())


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def supervised_loss(net: ForecastModel, batch: Columns) -> Tensor:
    """Cross-entropy of the outcome, through encoder and head."""
    logits = net.head(net.encoder(batch["x"], batch["mask"])[0]).squeeze(-1)
    return F.binary_cross_entropy_with_logits(logits, batch["label"])


def series_loss(model: Any, batch: Columns) -> tuple[Tensor, dict[str, Any]]:
    """`supervised_loss` as the training step wants it."""
    return supervised_loss(model["net"], batch), {"weight": len(batch["label"])}


def head_loss(model: Any, batch: Columns) -> tuple[Tensor, dict[str, Any]]:
    """Cross-entropy of the outcome from encoded series "h"."""
    logits = model["net"].head(batch["h"]).squeeze(-1)
    return F.binary_cross_entropy_with_logits(logits, batch["label"]), {"weight": len(batch["label"])}


@torch.no_grad()
def encode(net: ForecastModel, columns: Columns, chunk: int = 4096) -> Tensor:
    """States of all series, [N, S], a chunk at a time."""
    parts = zip(columns["x"].split(chunk), columns["mask"].split(chunk), strict=True)
    return torch.cat([net.encoder(x, mask)[0] for x, mask in parts])


@torch.no_grad()
def predict(net: ForecastModel, columns: Columns) -> Tensor:
    """Chance of the outcome, [N]."""
    return net.head(encode(net, columns)).squeeze(-1).sigmoid()


def _along(model: Any, g: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """A loss whose gradient is g."""
    return (model["weights"].kappa * g).sum(), {"weight": 1}
