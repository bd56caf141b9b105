"""The last stage: a classifier on pretrained states, through the whole network, or on summaries of the history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tenfold.clinical.bilevel import ClippedAdam, encode, head_loss, predict, series_loss, trainable
from tenfold.clinical.binary_metrics import auc_roc
from tenfold.clinical.forecast_columns import Columns, summary_features
from tenfold.clinical.forecast_model import ForecastModel, dense
from tenfold.clinical.selection_config import SelectConfig
from tenfold.core.fit import TrainState, train_step
from tenfold.core.stream import ArrayStream

Tabular = Literal["logistic", "boosting"]


def train_classifier(
    net: ForecastModel, labelled: Columns, val: Columns | None, config: SelectConfig, *, freeze: bool
) -> None:
    """Train a fresh head, with the encoder as it is or together with it.

    Args:
        net: with `encoder` and `head`, a linear layer; changed in place.
        labelled: x, mask, label.
        val: the weights of the best AUC-ROC on it are kept; None keeps the last.
        config: settings.
        freeze: leave the encoder.
    """
    generator = torch.Generator().manual_seed(config.seed)
    net.head = dense(net.head.in_features, 1, generator).to(net.head.weight)
    model = nn.ModuleDict({"net": net})
    if freeze:
        moved, lr, loss = trainable(net.head), config.lr_head, head_loss
        whole = {"h": encode(net, labelled), "label": labelled["label"]}
        stream = ArrayStream(whole, len(labelled["label"]), shuffle=False)
    else:
        moved, lr, loss = [*trainable(net.encoder), *trainable(net.head)], config.lr_supervised, series_loss
        stream = ArrayStream(labelled, min(config.batch_size, len(labelled["label"])), seed=(config.seed, 2))
    state = TrainState(model, ClippedAdam(moved, lr, config.clip_value), stream=stream, seed=config.seed)
    best_score, best = -np.inf, None
    batches = iter(stream)
    for step in range(1, config.classifier_steps + 1):
        train_step(state, loss, [next(batches)])
        if val is not None and (step % config.eval_every == 0 or step == config.classifier_steps):
            score = auc_roc(val["label"].cpu().numpy(), predict(net, val).cpu().numpy())
            if score > best_score:
                best_score, best = score, {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if best is not None:
        net.load_state_dict(best)


def fit_tabular(kind: Tabular, labelled: Columns, seed: int) -> Callable[[Columns], NDArray[np.float64]]:
    """Logistic regression or gradient boosting on the last, mean, least and largest value of each variable.

    Args:
        kind: "logistic" or "boosting".
        labelled: x, mask, label.
        seed: of the boosting.
    Returns:
        A function from series to the chance of the outcome, [N].
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any
    if kind == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    else:
        model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, random_state=seed)
    model.fit(summary_features(labelled), labelled["label"].cpu().numpy().astype(int))
    return lambda columns: model.predict_proba(summary_features(columns))[:, 1]
