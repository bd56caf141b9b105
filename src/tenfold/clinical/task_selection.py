"""Pretrain on the forecasts that serve one outcome, then classify: the method, and all that it is compared with."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tenfold.clinical.bilevel import Outer, Pretraining, RunFolder, predict
from tenfold.clinical.binary_metrics import binary_metrics
from tenfold.clinical.forecast_columns import FUTURE, HISTORY, Columns, Labels, check_both, joined, read_columns
from tenfold.clinical.forecast_data import ForecastDataset, Reading
from tenfold.clinical.forecast_model import AuxTasks, ForecastModel, ForecastTasks, task_scale
from tenfold.clinical.outcome_classifier import Tabular, fit_tabular, train_classifier
from tenfold.clinical.pretrained import with_weights
from tenfold.clinical.selection_config import Mode, SelectConfig
from tenfold.clinical.task_weighting import WEIGHTS, read_weights_csv, task_weights, weights_csv
from tenfold.core.atomic import write_atomic
from tenfold.core.config import from_json, read_object, to_json
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG, listed, write_folder

Data = Mapping[str, Any] | Iterable[Mapping[str, Any]]


class AutoSelect:
    """Forecast tasks weighed by what they do for one outcome, an encoder pretrained on them, and its classifier.

    Args:
        config: settings; None takes the defaults.
        names: of the variables; None numbers them.
        model: a network with `encoder`, `decoder` and a linear `head`, copied before it is trained; None makes a
            `ForecastModel`.
        tasks: auxiliary losses of the decoder's outputs; None forecasts every variable.
        run: folder for log rows and checkpoints, from which a fit that was cut off goes on.
        device: where to train.
        reading: how the series were made of measurements; its `fill` holds for every NaN of a history, in training and
            after. None fills, unless the training histories hold 0 wherever nothing was observed.
        **fields: of the config.
    Attributes:
        weights_: the weight of every task.
        history_: weights before each round and after the last, [rounds + 1, F].
        encoder_: the trained encoder.
        reading_: how it reads a series, kept with it.
        classes_: 0 and 1.
    Source: Xue et al. 2020, arXiv 2407.19359.
    """

    classes_: NDArray[np.int64] = np.array([0, 1])

    def __init__(
        self,
        config: SelectConfig | None = None,
        *,
        names: Sequence[str] | None = None,
        model: nn.Module | None = None,
        tasks: AuxTasks | None = None,
        run: RunFolder | None = None,
        device: str | torch.device = "cpu",
        reading: Reading | None = None,
        **fields: Any,
    ) -> None:
        self.config = dataclasses.replace(config or SelectConfig(), **fields)
        self.names = None if names is None else tuple(names)
        self.model = model
        self.tasks = tasks
        self.run = run
        self.device = torch.device(device)
        self.reading = reading
        self.reading_ = reading or Reading()
        self.weights_: dict[str, float] = {}
        self.history_: NDArray[np.float64] = np.empty((0, 0))
        self._net: ForecastModel | None = None

    def fit(self, unlabelled: Data, labelled: Data, val: Data) -> AutoSelect:
        """Learn weights, encoder and classifier.

        Args:
            unlabelled: x, mask, y, y_mask of training series; no label of theirs is read.
            labelled: x, mask and label of those whose label may be read.
            val: x, mask and label for the weights; where it has fewer than 20 labels of a kind, parts of all labelled
                series take turns.
        """
        return self._fit("autoselect", unlabelled, labelled, val)

    @property
    def encoder_(self) -> nn.Module:
        return self._fitted().encoder

    def predict_proba(self, X: Mapping[str, Any] | ArrayLike | Tensor) -> NDArray[np.float64]:
        """Chances of both classes, [N, 2].

        Args:
            X: a mapping with x and mask, [N, T, F], scaled as in training; or the values alone, NaN where missing.
        """
        net = self._fitted()
        if not isinstance(X, Mapping):
            x = torch.as_tensor(X)
            X = {"x": x, "mask": ~x.isnan()}
        positive = predict(net, self._columns("X", X, HISTORY)).double().cpu().numpy()
        return np.stack([1 - positive, positive], -1)

    def transfer(
        self,
        new_target: Data,
        val: Data | None = None,
        *,
        unlabelled: Data | None = None,
        freeze_encoder: bool | None = None,
    ) -> AutoSelect:
        """The same selection for another outcome: a new classifier, and a new encoder where there are new series.

        With the same labels and another `freeze_encoder` it is the other use of one encoder.

        Args:
            new_target: x, mask and label of the other outcome.
            val: chooses the classifier where the config says so, or is learned from too, as in `fit`.
            unlabelled: series to pretrain a new encoder on under the weights learned; None keeps the encoder.
            freeze_encoder: in place of the config's.
        """
        other = copy.copy(self)
        if freeze_encoder is not None:
            other.config = dataclasses.replace(self.config, freeze_encoder=freeze_encoder)
        if unlabelled is not None:
            return other._fit("given_weights", unlabelled, new_target, new_target if val is None else val)
        other._net = copy.deepcopy(self._fitted())
        labelled = self._labelled("new_target", new_target)
        if val is None:
            other._classify(labelled, None, "given_weights")
        else:
            other._finish(Labels.of(labelled, self._labelled("val", val), self.config.folds), "given_weights")
        return other

    def save(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors and weights.csv (task, weight, round).

        Raises:
            ValueError: no fit yet; a network of one's own, which config.json could not rebuild; a scaling that is not finite.
        """
        net, folder = self._fitted(), Path(folder)
        if not isinstance(net, ForecastModel):
            raise ValueError(f"model: got {type(net).__name__}, need a ForecastModel; keep the state_dict of your own")
        tasks = tuple(self.weights_)
        saved = _Saved(self.config, self.reading_, self.names, net.encoder.n_features, net.horizon, tasks)
        write_folder(folder, to_json(saved), net.state_dict())
        write_atomic(folder / WEIGHTS, weights_csv(tasks, self.history_))

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> AutoSelect:
        """What `save` wrote.

        Raises:
            UserError: files that are missing or damaged, or of something else.
        """
        folder = Path(folder)
        saved = from_json(_Saved, read_object(folder / CONFIG), where=str(folder / CONFIG))
        config = saved.config
        loaded = cls(config, names=saved.names, reading=saved.reading, device=device)
        sizes = (saved.n_features, config.state_size, saved.horizon, config.use_mask_feature)
        try:
            net = with_weights(folder, lambda: ForecastModel(*sizes), 1)
            names, history = read_weights_csv((folder / WEIGHTS).read_text(encoding="utf-8"))
            if tuple(names) != saved.tasks:
                raise ValueError(
                    f"{WEIGHTS}: got weights of {listed(names, 3)}, need those of {listed(saved.tasks, 3)}"
                )
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: not a saved AutoSelect ({type(error).__name__}: {reason})") from error
        loaded._net, loaded.history_ = net.to(loaded.device), history
        loaded.weights_ = dict(zip(names, history[-1].tolist(), strict=True)) if names else {}
        return loaded

    def _fit(self, mode: Mode, unlabelled: Data, labelled: Data, val: Data) -> AutoSelect:
        config, given = self.config, self.weights_
        if mode == "supervised" and config.freeze_encoder:
            raise ValueError("freeze_encoder: got True, need pretrained weights: mode 'supervised' has none")
        self.reading_ = self.reading or Reading()
        series = self._columns("unlabelled", unlabelled, (*HISTORY, *FUTURE))
        if self.reading is None:
            self.reading_ = Reading(fill=bool(series["x"][~series["mask"]].any()))
        needs_future = config.use_best_encoder and mode not in ("autoselect", "cotrain", "supervised")
        columns = (*HISTORY, "label", *(FUTURE if needs_future else ()))
        labels = Labels.of(self._labelled("labelled", labelled), self._labelled("val", val, columns), config.folds)
        self.weights_, self.history_ = {}, np.empty((0, 0))
        self._net = self._network(series["x"].shape[2], self._horizon(series["y"].shape[1]))
        if mode != "supervised":
            if mode == "top_k_of_weights":
                given = self._pretrain("autoselect", copy.deepcopy(self._net), series, labels, given, "selection")
            self._pretrain(mode, self._net, series, labels, given, "pretraining")
        self._finish(labels, mode)
        return self

    def _pretrain(
        self, mode: Mode, net: ForecastModel, series: Columns, labels: Labels, given: Mapping[str, float], name: str
    ) -> dict[str, float]:
        """Pretrain `net` under the weights of a mode; returns them as they end."""
        config, tasks = self.config, self._tasks(series)
        weights = task_weights(mode, tasks.names, labels, config, given).to(self.device)
        outer: Outer = {"autoselect": "hypergradient", "grad_cosine": "cosine"}.get(mode, "none")  # type: ignore[assignment]
        pretraining = Pretraining(net, weights, tasks, series, labels, config, outer, cotrain=mode == "cotrain")
        state = pretraining.run(self.run, name)
        history = [*state.history, weights().detach()] if outer == "none" else state.history
        self.history_ = torch.stack(history).double().cpu().numpy()
        self.weights_ = dict(zip(tasks.names, self.history_[-1].tolist(), strict=True))
        return self.weights_

    def _finish(self, labels: Labels, mode: Mode) -> None:
        """The final classifier, from the labels that it may read."""
        config = self.config
        chooses = config.use_best_encoder and not labels.folds
        everything = config.refit_on_all and not chooses and config.outer_labels != "full"
        self._classify(labels.everything() if everything else labels.labelled, labels.val if chooses else None, mode)

    def _classify(self, labelled: Columns, val: Columns | None, mode: Mode) -> None:
        freeze = mode != "supervised" if self.config.freeze_encoder is None else self.config.freeze_encoder
        train_classifier(self._fitted(), labelled, val, self.config, freeze=freeze)

    def _network(self, n_features: int, horizon: int) -> ForecastModel:
        if self.model is not None:
            return cast(ForecastModel, copy.deepcopy(self.model).to(self.device))
        config, generator = self.config, torch.Generator().manual_seed(self.config.seed)
        net = ForecastModel(n_features, config.state_size, horizon, config.use_mask_feature, generator)
        return net.to(self.device)

    def _tasks(self, series: Columns) -> AuxTasks:
        if self.tasks is not None:
            return self.tasks
        config, width = self.config, series["y"].shape[2]
        names = self.names or tuple(map(str, range(width)))
        if len(names) != width:
            raise ValueError(f"names: got {len(names)} names of tasks, need {width} (variables of the data)")
        scale = task_scale(series["y"], series["y_mask"], config.task_scale)
        return ForecastTasks(names, config.loss, scale, config.forecast_only_nonmask_values)

    def _horizon(self, future: int) -> int:
        horizon = self.config.horizon or future
        if horizon > future:
            raise ValueError(f"horizon: got {horizon}, need 1..{future} (steps of the future in the data)")
        return horizon

    def _labelled(self, what: str, data: Data, columns: Sequence[str] = (*HISTORY, "label")) -> Columns:
        read = self._columns(what, data, columns)
        check_both(self.config.target or "label", read["label"])
        return read

    def _columns(self, what: str, data: Data, names: Sequence[str]) -> Columns:
        return {
            name: column.to(self.device)
            for name, column in read_columns(what, data, names, fill=self.reading_.fill).items()
        }

    def _fitted(self) -> ForecastModel:
        if self._net is None:
            raise ValueError("AutoSelect: got no fit, need fit before its encoder is used")
        return self._net


@dataclass(frozen=True)
class _Saved:
    """What config.json says of a fitted AutoSelect: all that weights and tables beside it do not."""

    config: SelectConfig
    reading: Reading
    names: tuple[str, ...] | None
    n_features: int
    horizon: int
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.reading.scaling is not None:
            self.reading.scaling.check("reading.scaling")


@dataclass(frozen=True)
class Result:
    """What one mode did.

    Args:
        mode: its name.
        metrics: auc_roc, auc_pr, brier and ece on the test part; empty without one.
        weights: the weight of every task; empty where nothing was forecast.
        history: weights before each round and after the last.
        proba: chance of the outcome of every test row.
        rows: the test rows.
        labels: how many labels were read to train and to choose, and the share of positives.
        estimator: the fitted network; None for the baselines without one.
    """

    mode: Mode
    metrics: dict[str, float]
    weights: dict[str, float]
    history: NDArray[np.float64]
    proba: NDArray[np.float64]
    rows: NDArray[np.int64]
    labels: dict[str, float]
    estimator: AutoSelect | None = field(repr=False)


def fit_mode(
    mode: Mode,
    data: ForecastDataset,
    config: SelectConfig | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    model: nn.Module | None = None,
    tasks: AuxTasks | None = None,
    run: RunFolder | None = None,
    device: str | torch.device = "cpu",
) -> Result:
    """Train one mode on the training part and measure it, once, on the test part; every mode goes this way.

    Labels are read of the rows `data.labelled` permits, and of the test rows at the end.

    Args:
        mode: "autoselect"; "supervised", encoder and head end to end; "pretrain", all tasks alike; "pretrain_subset",
            of config.include or exclude; "cotrain"; "random_subset"; "top_k_of_weights", alike on the largest weights
            that autoselect finds; "correlation_filter"; "uncertainty_weighting"; "grad_cosine"; "given_weights";
            "logistic" and "boosting", on summaries of the history.
        data: with the outcome config.target.
        config: settings.
        weights: of "given_weights", such as another outcome's.
        model, tasks, run, device: see `AutoSelect`.
    Raises:
        ValueError: an unknown mode, and all that the config and the data may have wrong.
    """
    config = config or SelectConfig()
    if mode not in get_args(Mode):
        raise ValueError(f"mode: got {mode!r}, need one of {', '.join(get_args(Mode))}")
    if (mode == "given_weights") != (weights is not None):
        raise ValueError(f"weights: got {weights}, need them for mode 'given_weights' and no other")
    target = config.target or data.targets[0]
    config = dataclasses.replace(config, target=target)
    parts = data.split(target)
    labelled = data.batch(data.labelled(target, config.label_percent, seed=config.seed), target)
    outer = data.labelled(target, config.label_percent, part="valid", seed=config.seed, minimum=1)
    val = data.batch(parts["valid"] if config.outer_labels == "full" else outer, target)
    test = data.batch(parts["test"])
    estimator = None
    if mode in get_args(Tabular):
        everything = config.refit_on_all and config.outer_labels != "full"
        known = read_columns("labelled", joined(labelled, val) if everything else labelled, (*HISTORY, "label"))
        chance = fit_tabular(cast(Tabular, mode), known, config.seed)
        proba = chance(read_columns("test", test, HISTORY))
    else:
        estimator = AutoSelect(
            config, names=data.features, model=model, tasks=tasks, run=run, device=device, reading=data.reading
        )
        estimator.weights_ = dict(weights or {})
        estimator._fit(mode, data.batch(data.split()["train"]), labelled, val)
        proba = estimator.predict_proba(test)[:, 1]
    return Result(
        mode=mode,
        metrics=binary_metrics(data.label(target, parts["test"]), proba) if len(proba) else {},
        weights={} if estimator is None else estimator.weights_,
        history=np.empty((0, 0)) if estimator is None else estimator.history_,
        proba=proba,
        rows=parts["test"],
        labels=_counts(labelled, val),
        estimator=estimator,
    )


def _counts(labelled: Columns, val: Columns) -> dict[str, float]:
    label = torch.cat([labelled["label"], val["label"]])
    return {"train": len(labelled["label"]), "valid": len(val["label"]), "positive": float(label.mean())}
