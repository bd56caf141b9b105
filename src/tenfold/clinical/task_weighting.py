"""Weights of tasks: what each mode starts from, fixed, drawn, ranked, or read off gradients; files of weights."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.clinical.binary_metrics import auc_roc
from tenfold.clinical.forecast_columns import Columns, Labels, summary_features
from tenfold.clinical.forecast_model import TaskWeights
from tenfold.clinical.selection_config import Mode, SelectConfig
from tenfold.core.model_folder import listed

WEIGHTS = "weights.csv"  # of a model folder


class FixedWeights(nn.Module):
    """Weights that no optimizer moves.

    Args:
        w: [F], not negative, not all 0; they are divided by their sum.
    """

    w: Tensor

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        if w.ndim != 1 or not (w.isfinite().all() and (w >= 0).all() and w.any()):
            raise ValueError(f"w: got {w.tolist()}, need finite numbers from 0, one of them > 0")
        self.register_buffer("w", w / w.sum())

    def forward(self) -> Tensor:
        return self.w


class UncertaintyWeights(nn.Module):
    """The log-variance s_i of every task, learned with the network: Σ exp(-s_i) L_i + s_i.

    Source: Kendall, Gal and Cipolla 2018, Eq. 10.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(n_tasks))

    def forward(self) -> Tensor:
        """The share of each task, [F]."""
        return (-self.log_variance).softmax(-1)

    def total(self, losses: Tensor) -> Tensor:
        return ((-self.log_variance).exp() * losses + self.log_variance).mean()


def task_weights(
    mode: Mode, names: Sequence[str], labels: Labels, config: SelectConfig, given: Mapping[str, float]
) -> TaskWeights | FixedWeights | UncertaintyWeights:
    """The weights that a mode starts from."""
    count = len(names)
    if mode == "autoselect":
        generator = torch.Generator().manual_seed(config.seed)
        return TaskWeights(count, config.normalization, config.init, generator=generator)
    if mode == "uncertainty_weighting":
        return UncertaintyWeights(count)
    if mode == "pretrain_subset":
        return FixedWeights(subset_weights(names, config.include, config.exclude))
    if mode == "random_subset":
        return FixedWeights(random_weights(count, config.top_k, config.seed))
    if mode == "correlation_filter":
        return FixedWeights(top_weights(correlation_scores(labels.labelled), config.top_k))
    if mode in ("top_k_of_weights", "given_weights"):
        if list(given) != list(names):
            raise ValueError(
                f"weights: got {len(given)} weights of {listed(given, 3)}, need {count}, of {listed(names, 3)}"
            )
        w = torch.tensor(list(given.values()))
        return FixedWeights(top_weights(w, config.top_k) if mode == "top_k_of_weights" else w)
    return FixedWeights(torch.ones(count))


def subset_weights(
    names: Sequence[str], include: Sequence[str | int] = (), exclude: Sequence[str | int] = ()
) -> Tensor:
    """Equal weights on some tasks.

    Args:
        names: of all tasks.
        include, exclude: names or positions; one of the two.
    Raises:
        ValueError: both or neither given, an unknown task, or none left.
    """
    if bool(include) == bool(exclude):
        raise ValueError(f"include, exclude: got {tuple(include)} and {tuple(exclude)}, need one of them")
    chosen = torch.zeros(len(names))
    for task in include or exclude:
        chosen[_position(names, task)] = 1.0
    if exclude:
        chosen = 1.0 - chosen
    if not chosen.any():
        raise ValueError(f"exclude: got all {len(names)} tasks, need one left")
    return chosen


def top_weights(score: Tensor, k: int) -> Tensor:
    """Equal weights on the k tasks of the highest score; ties go to the earlier task."""
    if not 1 <= k <= len(score):
        raise ValueError(f"top_k: got {k}, need 1..{len(score)} (tasks)")
    chosen = torch.zeros(len(score))
    chosen[score.argsort(descending=True, stable=True)[:k].cpu()] = 1.0
    return chosen


def random_weights(n_tasks: int, k: int, seed: int) -> Tensor:
    """Equal weights on k tasks drawn without replacement."""
    return top_weights(torch.from_numpy(np.random.default_rng(seed).permutation(n_tasks)), k)


def correlation_scores(labelled: Columns) -> Tensor:
    """How well each variable alone ranks the outcome: |AUC - 1/2| of its last or mean value, the larger, [F]."""
    features = summary_features(labelled)
    label = labelled["label"].cpu().numpy()
    width = labelled["x"].shape[2]
    auc = np.array([auc_roc(label, column) for column in features[:, : 2 * width].T])
    return torch.from_numpy(np.abs(auc - 0.5).reshape(2, width).max(0))


def cosine_weights(losses: Callable[[], Tensor], target: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """w_i ∝ max(0, cos(∇L_i, ∇L_s)) over the parameters; equal weights where no task agrees with the target.

    Args:
        losses: the tasks' losses, [F].
        target: the supervised loss.
        parameters: of the encoder.
    """
    aim = torch.cat([g.flatten() for g in torch.autograd.grad(target(), parameters)])
    values = losses()
    cosines = []
    for value in values:
        g = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        flat = torch.cat(
            [
                torch.zeros_like(p).flatten() if each is None else each.flatten()
                for each, p in zip(g, parameters, strict=True)
            ]
        )
        cosines.append(torch.nn.functional.cosine_similarity(flat, aim, dim=0))
    agreeing = torch.stack(cosines).clamp(min=0).detach()
    return agreeing / agreeing.sum() if agreeing.any() else torch.full_like(agreeing, 1 / len(agreeing))


def weights_csv(names: Sequence[str], history: NDArray[np.float64]) -> str:
    """Lines of task, weight (all its digits) and round."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "weight", "round"])
    for number, weights in enumerate(history):
        writer.writerows([name, repr(float(w)), number] for name, w in zip(names, weights, strict=True))
    return text.getvalue()


def read_weights_csv(text: str) -> tuple[list[str], NDArray[np.float64]]:
    """The names and the history [rounds, F] of `weights_csv`.

    Raises:
        ValueError: other columns, or rounds that are not whole.
    """
    reader = csv.DictReader(io.StringIO(text))
    try:
        columns, lines = set(reader.fieldnames or ()), list(reader)
    except csv.Error as error:
        raise ValueError(f"weights: no comma-separated text ({error})") from None
    if not {"task", "weight", "round"} <= columns:
        raise ValueError("weights: need columns task, weight, round")
    names = list(dict.fromkeys(line["task"] for line in lines))
    rounds = len(lines) // max(len(names), 1)
    if [line["task"] for line in lines] != names * rounds:
        raise ValueError(f"weights: got {len(lines)} lines of {len(names)} tasks, need every task once a round")
    try:
        weights = [float(line["weight"] or "") for line in lines]
    except ValueError as error:
        raise ValueError(f"weights: {str(error)[:80]}, need a number in each line") from None
    return names, np.array(weights).reshape(rounds, len(names))


def _position(names: Sequence[str], task: str | int) -> int:
    if isinstance(task, str):
        if task not in names:
            raise ValueError(f"subset: got task {task!r}, need one of {', '.join(names)}")
        return list(names).index(task)
    if not 0 <= task < len(names):
        raise ValueError(f"subset: got task {task}, need 0..{len(names) - 1}")
    return task
