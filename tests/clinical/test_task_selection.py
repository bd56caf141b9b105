"""AutoSelect and its rivals: one way for all of them, no label but the permitted, the same seed the same weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.clinical.forecast_data import ForecastDataset, Reading
from tenfold.clinical.forecast_model import ForecastModel
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.clinical.selection_config import Mode, SelectConfig
from tenfold.clinical.series import Scaling, forward_fill
from tenfold.clinical.task_selection import AutoSelect, Result, fit_mode
from tenfold.clinical.task_weighting import read_weights_csv, weights_csv
from tenfold.core.errors import UserError
from tenfold.core.run import Run

SIM = PlantedForecast(history=6, horizon=3)
DATA = SIM.sample(100, 80, 40, labelled=60, seed=0)
SMALL = SelectConfig(
    rounds=2, inner_steps=2, head_steps=2, lookahead=2, batch_size=16, state_size=3, classifier_steps=20
)
GIVEN = {name: float(i) for i, name in enumerate(DATA.features)}


def run(mode: Mode, data: ForecastDataset = DATA, **fields: Any) -> Result:
    extra: dict[str, Any] = {"include": (0, "r2")} if mode == "pretrain_subset" else {}
    given = GIVEN if mode == "given_weights" else None
    return fit_mode(mode, data, dataclasses.replace(SMALL, **extra, **fields), weights=given)


def columns(label: bool, part: str = "train") -> dict[str, Tensor]:
    return DATA.batch(DATA.split("outcome" if label else None)[part], "outcome" if label else None)


def fitted(**fields: Any) -> AutoSelect:
    estimator = AutoSelect(SMALL, names=DATA.features, **fields)
    return estimator.fit(columns(False), columns(True), columns(True, "valid"))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_mode_goes_one_way(mode: Mode) -> None:
    result = run(mode)
    assert result.metrics.keys() == {"auc_roc", "auc_pr", "brier", "ece"}
    assert result.proba.shape == (40,) and ((result.proba > 0) & (result.proba < 1)).all()
    assert result.labels == {
        "train": 60,
        "valid": 80,
        "positive": pytest.approx(DATA.label("outcome", [*range(60), *range(100, 180)]).mean()),
    }
    if mode in ("supervised", "logistic", "boosting"):
        assert not result.weights
    else:
        assert list(result.weights) == list(DATA.features)
        assert sum(result.weights.values()) == pytest.approx(1, abs=1e-6)
        assert result.history.shape[1] == 16
    again = run(mode)
    assert np.array_equal(result.proba, again.proba) and np.array_equal(result.history, again.history)
    counts = {"pretrain_subset": 2, "random_subset": 4, "top_k_of_weights": 4, "correlation_filter": 4}
    if mode in counts:
        assert sorted(set(result.weights.values())) == [0, pytest.approx(1 / counts[mode])]


class Guarded(ForecastDataset):
    """Raises where a label outside the permitted rows is asked for."""

    permitted: frozenset[int] = frozenset()

    def labelled(self, *args: Any, **kw: Any) -> NDArray[np.int64]:
        rows = DATA.labelled(*args, **kw)
        object.__setattr__(self, "permitted", self.permitted | set(rows.tolist()))
        return rows

    def label(self, target: str, rows: ArrayLike) -> NDArray[np.bool_]:
        asked = set(np.asarray(rows).tolist()) - set(DATA.split()["test"].tolist())
        if asked - self.permitted:
            raise AssertionError(f"labels of rows {sorted(asked - self.permitted)[:3]} were read")
        return super().label(target, rows)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_no_label_outside_the_permitted_rows_is_read(mode: Mode) -> None:
    guarded = Guarded(**{field.name: getattr(DATA, field.name) for field in dataclasses.fields(DATA)})
    result = run(mode, guarded, label_percent=40)
    assert 20 <= len(guarded.permitted) < 140
    poisoned = DATA.labels.copy()
    outside = np.setdiff1d(np.arange(180), sorted(guarded.permitted))
    with pytest.raises(AssertionError, match="were read"):
        guarded.batch(outside[:1], "outcome")
    poisoned[outside] ^= True
    # The rows were chosen before; now that no other label can matter, nothing may change.
    clean = dataclasses.replace(DATA, eligible=np.isin(np.arange(220), [*guarded.permitted, *range(180, 220)])[:, None])
    other = run(mode, dataclasses.replace(clean, labels=poisoned))
    assert np.array_equal(other.proba, run(mode, clean).proba)
    assert result.labels["train"] + result.labels["valid"] == len(guarded.permitted)


def test_unlabelled_series_need_no_label() -> None:
    estimator = AutoSelect(SMALL, names=DATA.features)
    unlabelled = columns(False)
    assert "label" not in unlabelled
    estimator.fit(unlabelled, columns(True), columns(True, "valid"))
    assert list(estimator.weights_) == list(DATA.features)


def test_the_same_seed_writes_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fitted().save(tmp_path / name)
    fitted(seed=1).save(tmp_path / "c")
    texts = [(tmp_path / name / "weights.csv").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].splitlines()[0] == "task,weight,round" and len(texts[0].splitlines()) == 1 + 3 * 16


def test_probabilities_as_scikit_learn_gives_them() -> None:
    estimator = fitted()
    test = columns(True, "test")
    proba = estimator.predict_proba(test)
    assert proba.shape == (40, 2) and estimator.classes_.tolist() == [0, 1]
    np.testing.assert_allclose(proba.sum(1), 1)
    holes = np.where(test["mask"], test["x"], np.nan)
    np.testing.assert_allclose(estimator.predict_proba(holes), proba, rtol=1e-6)
    assert isinstance(estimator.encoder_, nn.Module)


def filled(data: ForecastDataset) -> ForecastDataset:
    return dataclasses.replace(data, x=forward_fill(data.x, data.mask), reading=Reading())


@pytest.mark.parametrize("data", [DATA, filled(DATA)], ids=["zeros", "filled"])
def test_missing_values_are_read_as_in_training(data: ForecastDataset, tmp_path: Path) -> None:
    """Whichever way the training series were filled, and whoever trained."""
    part = data.split("outcome")
    train, known, val, test = (
        data.batch(rows, target)
        for rows, target in ((data.split()["train"], None), (part["train"], "outcome"), (part["valid"], "outcome"), (part["test"], None))
    )  # fmt: skip
    by_mode, by_hand = run("pretrain", data).estimator, AutoSelect(SMALL).fit(train, known, val)
    assert by_mode is not None
    by_mode.save(tmp_path)
    holes = np.where(test["mask"], test["x"], np.nan)
    for estimator in (by_mode, AutoSelect.load(tmp_path), by_hand):
        expected = estimator.predict_proba(test)
        np.testing.assert_allclose(estimator.predict_proba(holes), expected, rtol=1e-6)
        np.testing.assert_allclose(estimator.predict_proba({"x": holes, "mask": test["mask"]}), expected, rtol=1e-6)
    # Trained on NaN, it is the same as trained on what they stand for.
    torn = {**train, "x": np.where(train["mask"], train["x"], np.nan)}
    again = AutoSelect(SMALL, reading=data.reading).fit(torn, known, val)
    assert np.array_equal(again.predict_proba(test), by_hand.predict_proba(test))


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inner = ForecastModel(16, 3, 3, generator=torch.Generator().manual_seed(0))
            self.encoder, self.decoder, self.head = inner.encoder, inner.decoder, inner.head

    estimator = AutoSelect(SMALL, model=Own()).fit(columns(False), columns(True), columns(True, "valid"))
    with pytest.raises(ValueError, match="model: got Own, need a ForecastModel"):
        estimator.save(tmp_path / "own")
    plain = Scaling(("a",), (-np.inf,), (np.inf,), (0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"reading.scaling.low: got \(-inf,\), need finite numbers"):
        fitted(reading=Reading(plain)).save(tmp_path / "own")
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"config": {"rounds": 0}}, "rounds: got 0, need at least 1"),
        ("config.json", {"config": {"state_size": 10**8}}, "state_size: got 100000000, need at most"),
        ("config.json", {"config": {"state_size": 4}}, "tensors do not fit config.json: decoder"),
        ("config.json", {"n_features": 10**9}, "tensors do not fit config.json: decoder"),
        ("config.json", {"n_features": 10**30}, "got sizes that no weights have"),
        ("config.json", {"n_features": 0}, "n_features: got 0, need at least 1"),
        ("config.json", {"reading": {"largest": -1.0}}, "reading: largest: got -1.0"),
        ("config.json", {"names": "r1"}, 'config.json: names: got "r1"'),
        ("weights.csv", "task,weight,round\n", "got weights of , need those of r1, r2"),
        ("weights.csv", "task,weight,round\nr1,1.0,0\n", "got weights of r1, need those of r1, r2"),
        ("weights.csv", "task,round\nr1,0\n", "need columns task, weight, round"),
        ("weights.csv", "task,weight,round\nr1,1.0,0\nr2,0.0,0\nr1,1.0,1\n", "got 3 lines of 2 tasks"),
        ("weights.csv", "task,weight,round\nr1,high,0\n", "could not convert string to float"),
        ("model.safetensors", float("nan"), "weights that are not finite: encoder.lstm.bias_hh_l0"),
    ],
)  # fmt: skip
def test_damaged_folders_are_named(file: str, change: Any, message: str, tmp_path: Path) -> None:
    fitted().save(tmp_path)
    if isinstance(change, dict):
        content = json.loads((tmp_path / file).read_text())
        for key, value in change.items():
            content[key] = {**content[key], **value} if isinstance(value, dict) else value
        (tmp_path / file).write_text(json.dumps(content))
    elif isinstance(change, str):
        (tmp_path / file).write_text(change)
    else:
        tensors = load_file(tmp_path / file)
        save_file(
            {name: t * change if name == "encoder.lstm.bias_hh_l0" else t for name, t in tensors.items()},
            tmp_path / file,
        )
    with pytest.raises(UserError, match=message):
        AutoSelect.load(tmp_path)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    estimator = fitted()
    estimator.save(tmp_path)
    loaded = AutoSelect.load(tmp_path)
    test = columns(True, "test")
    assert np.array_equal(loaded.predict_proba(test), estimator.predict_proba(test))
    assert loaded.weights_ == estimator.weights_ and loaded.config == estimator.config
    assert np.array_equal(loaded.history_, estimator.history_) and loaded.reading_ == Reading(fill=False)


def test_a_selection_transfers() -> None:
    estimator = fitted()
    new = {**columns(True), "label": 1 - columns(True)["label"]}
    moved = estimator.transfer(new)
    before = dict(estimator.encoder_.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in moved.encoder_.named_parameters())
    assert moved.weights_ == estimator.weights_
    test = columns(True, "test")
    assert not np.array_equal(moved.predict_proba(test), estimator.predict_proba(test))
    elsewhere = estimator.transfer(new, columns(True, "valid"), unlabelled=columns(False))
    assert elsewhere.weights_ == pytest.approx(estimator.weights_)
    assert not torch.equal(next(elsewhere.encoder_.parameters()), next(estimator.encoder_.parameters()))
    assert np.array_equal(estimator.predict_proba(test), fitted().predict_proba(test))  # it stays as it was


def test_one_encoder_serves_both_uses() -> None:
    estimator = fitted()
    before = {name: p.clone() for name, p in estimator.encoder_.named_parameters()}
    tuned = estimator.transfer(columns(True), columns(True, "valid"), freeze_encoder=False)
    assert tuned.config.freeze_encoder is False and estimator.config.freeze_encoder is None
    assert not torch.equal(next(tuned.encoder_.parameters()), next(iter(before.values())))
    assert all(torch.equal(p, before[name]) for name, p in estimator.encoder_.named_parameters())
    same = estimator.transfer(columns(True), columns(True, "valid"))
    test = columns(True, "test")
    assert np.array_equal(same.predict_proba(test), estimator.predict_proba(test))
    assert np.array_equal(tuned.predict_proba(test), fitted(freeze_encoder=False).predict_proba(test))


@pytest.mark.parametrize(
    "fields", [{"outer_labels": "full"}, {"use_best_encoder": True}, {"refit_on_all": False}], ids=str
)
def test_a_transfer_reads_the_labels_that_a_fit_reads(fields: dict[str, Any]) -> None:
    estimator = fitted(**fields)
    same = estimator.transfer(columns(True), columns(True, "valid"))
    test = columns(True, "test")
    assert np.array_equal(same.predict_proba(test), estimator.predict_proba(test))


class Sums:
    """Two auxiliary tasks of one's own."""

    names: Sequence[str] = ("all", "first")

    def losses(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return torch.stack([outputs.square().mean(), (outputs[:, 0] - batch["y"][:, 0]).square().mean()])


def test_own_networks_and_own_tasks() -> None:
    model = ForecastModel(16, 5, 3, generator=torch.Generator().manual_seed(7))
    before = {name: p.clone() for name, p in model.named_parameters()}
    estimator = AutoSelect(SMALL, model=model, tasks=Sums())
    estimator.fit(columns(False), columns(True), columns(True, "valid"))
    assert list(estimator.weights_) == ["all", "first"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_finetuned_encoder_moves() -> None:
    frozen, tuned = run("pretrain"), run("pretrain", freeze_encoder=False)
    assert frozen.estimator is not None and tuned.estimator is not None
    weights = [next(r.estimator.encoder_.parameters()) for r in (frozen, tuned)]  # type: ignore[union-attr]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("mode", ["supervised", "pretrain", "cotrain", "autoselect"])
def test_validation_may_choose(mode: Mode) -> None:
    chosen = run(mode, use_best_encoder=True, eval_every=2, outer_labels="full")
    assert chosen.metrics and chosen.labels["valid"] == 80


def test_a_run_keeps_checkpoints_and_goes_on(tmp_path: Path) -> None:
    folder = Run.create("test", "tiny", {}, tmp_path)
    first = fit_mode("autoselect", DATA, SMALL, run=folder)
    assert (folder.path / "checkpoints" / "pretraining").is_dir()
    again = fit_mode("autoselect", DATA, SMALL, run=folder)  # from the last step
    assert np.array_equal(first.proba, again.proba) and np.array_equal(first.history, again.history)


def test_weights_csv_keeps_every_digit() -> None:
    history = np.random.default_rng(0).dirichlet(np.ones(3), size=4)
    names, found = read_weights_csv(weights_csv(["a", "b,c", 'd"'], history))
    assert names == ["a", "b,c", 'd"'] and np.array_equal(found, history)


def one_kind(part: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**part, "label": torch.zeros(len(part["label"]))}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run("best"), "mode: got 'best', need one of autoselect, supervised"),  # type: ignore[arg-type]
        (lambda: fit_mode("given_weights", DATA, SMALL), "weights: got None"),
        (lambda: fit_mode("pretrain", DATA, SMALL, weights=GIVEN), "weights: got .*no other"),
        (lambda: fit_mode("given_weights", DATA, SMALL, weights={"a": 1.0}), "weights: got 1 weights of a, need 16, of r1"),
        (lambda: fit_mode("pretrain_subset", DATA, SMALL), "include, exclude"),
        (lambda: run("random_subset", top_k=17), r"top_k: got 17, need 1\.\.16"),
        (lambda: run("supervised", freeze_encoder=True), "freeze_encoder: got True, need pretrained weights"),
        (lambda: run("pretrain", horizon=4), r"horizon: got 4, need 1\.\.3"),
        (lambda: run("pretrain", target="cough"), "target: got 'cough', need one of outcome"),
        (lambda: AutoSelect(SMALL).predict_proba(columns(True)), "AutoSelect: got no fit"),
        (lambda: AutoSelect(SMALL).transfer(columns(True)), "AutoSelect: got no fit"),
        (lambda: AutoSelect(SMALL, names="ab").fit(columns(False), columns(True), columns(True)), "names: got 2 names of tasks, need 16"),
        (lambda: AutoSelect(SMALL, init=(0.0,)).fit(columns(False), columns(True), columns(True)), "init: got"),
        (lambda: AutoSelect(SMALL, target="death").fit(columns(False), one_kind(columns(True)), columns(True)), "target 'death' has 0 positives among 60 labels"),
        (lambda: fitted().predict_proba(np.zeros((2, 6, 3))), r"x: got shape \(2, 6, 3\), need \(B, T, 16\)"),
        (lambda: fitted().predict_proba({"x": np.full((1, 6, 16), np.nan), "mask": np.ones((1, 6, 16))}), "X.x: got nan at row 0"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label_percent": 0}, "label_percent: got 0"),
        ({"label_percent": 101}, "label_percent: got 101"),
        ({"label_percent": float("nan")}, "label_percent: got nan"),
        ({"inner_steps": 0}, "inner_steps: got 0, need at least 1"),
        ({"hypergradient": "exact"}, "hypergradient: got 'exact', need one of unrolled"),
        ({"normalization": "hard"}, "normalization: got 'hard', need one of softmax, linear"),
        ({"weight_power": 3}, "weight_power: got 3, need one of 1, 2"),
        ({"lr_weights": 0.0}, "lr_weights: got 0.0"),
        ({"entropy_bonus": -1.0}, "entropy_bonus: got -1.0"),
        ({"forecast_steps": 100}, "forecast_steps: got 100, need at least 240"),
        ({"include": ("a",), "exclude": ("b",)}, "include, exclude: got"),
        ({"folds": 0}, "folds: got 0"),
    ],
)
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectConfig(**fields)


@pytest.mark.slow
def test_the_planted_tasks_are_found() -> None:
    data = PlantedForecast().sample(3000, 60, 2000, seed=0)
    result = fit_mode("autoselect", data, SelectConfig(state_size=4))
    w = np.array(list(result.weights.values()))
    assert w[:4].sum() > 0.6 and w[4:10].sum() < 0.15
    assert result.metrics["auc_roc"] > fit_mode("pretrain", data, SelectConfig(state_size=4)).metrics["auc_roc"] + 0.05
