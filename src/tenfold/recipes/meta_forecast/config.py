"""Settings of a meta-forecast experiment."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.clinical.cohort_words import OwnData
from tenfold.clinical.hypergradient import HypergradientMode
from tenfold.clinical.planted_forecast import SIGNAL
from tenfold.clinical.selection_config import Mode as FitMode
from tenfold.clinical.selection_config import SelectConfig
from tenfold.core.config import need

CohortName = Literal["sim", "sim-raw", "death48", "mimic3", "meds", "files"]
Use = Literal["frozen", "finetuned", "end_to_end", "summaries"]
Mode = Literal[
    "supervised",
    "logistic",
    "boosting",
    "pretrain",
    "pretrain_subset",
    "oracle_subset",
    "cotrain",
    "random_subset",
    "correlation_filter",
    "uncertainty_weighting",
    "grad_cosine",
    "given_weights",
    "top_k_of_weights",
    "official_approx",
    "official_schedule",
    "official_hessian",
    "hessian_fixed",
    "implicit",
    "finite_diff",
    "unrolled",
    "first_order_unscaled",
    "first_order",
]
MOST_STEPS = 10_000  # of a history or a future
SIMULATED = ("sim", "sim-raw")
OWN_GRID = ("meds", "files")  # their events say what slots they have
LEARNED = (*get_args(HypergradientMode), "official_schedule", "first_order_unscaled")  # weights by hypergradient
ALONE: dict[str, Use] = {"supervised": "end_to_end", "logistic": "summaries", "boosting": "summaries"}

_RIVALS: tuple[Mode, ...] = (
    *("supervised", "logistic", "boosting", "pretrain", "cotrain", "random_subset", "correlation_filter"),
    *("uncertainty_weighting", "grad_cosine", "top_k_of_weights", "official_approx"),
)
_REAL: tuple[Mode, ...] = (*_RIVALS, "first_order")
MODES: dict[str, tuple[Mode, ...]] = {
    "sim": (*_RIVALS, "oracle_subset", "official_schedule", "finite_diff", "unrolled", "first_order"),
    "sim-raw": ("supervised", "pretrain", "oracle_subset", "first_order_unscaled", "first_order"),
    **dict.fromkeys(("death48", "mimic3", "meds", "files"), _REAL),
}
PERCENTS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(SIMULATED, (100.0,)),
    **dict.fromkeys(("death48", "mimic3", "meds", "files"), (100.0, 30.0, 10.0, 3.0, 1.0)),
}


def shown(percent: float) -> str:
    """A share of labels, all of it: 50, 0.5, 50.00001."""
    return repr(float(percent)).removesuffix(".0")


# Chosen on a third of the training stays of death48.
SELECT = SelectConfig(state_size=16, lr_supervised=3e-3, classifier_steps=100)
SIMULATED_SELECT = SelectConfig(state_size=4)


@dataclass(frozen=True, kw_only=True)
class Data(OwnData):
    """What cohorts are made of. "sim" and "sim-raw" need nothing; "death48" the prepared PhysioNet Challenge 2012.

    The events say what may be predicted: one within its grid, which begins at the trigger, is a positive. The trigger is
    where the future ends and, in training as in prediction, `horizon` steps after what is read. Codes in "meds" whose
    names are no events are forecast.

    Args:
        variables: of "files": what is forecast; none takes all.
        items: of "mimic3": item ids that are forecast; none takes the 96 most frequent ones of 5 % of stays or more.
        history: steps that are read, of all but "death48" (24).
        horizon: steps that are forecast, of all but "death48" (10).
        subjects: of the simulator: whose series are seen.
        labelled: how many of these have a label; as many validate.
        tested: subjects to test on.
    """

    variables: tuple[str, ...] = ()
    items: tuple[int, ...] = ()
    history: int = 24
    horizon: int = 10
    subjects: int = 3000
    labelled: int = 60
    tested: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("history", "horizon"):
            need(name, getattr(self, name), 1, MOST_STEPS)
        for name in ("subjects", "labelled", "tested"):
            need(name, getattr(self, name), 8, 1e6)
        if self.labelled > self.subjects:
            raise ValueError(f"labelled: got {self.labelled}, need at most {self.subjects} (subjects)")


@dataclass(frozen=True)
class Config:
    """Every mode on every cohort with every share of the labels and every seed.

    Args:
        cohort: "sim", a simulator whose useful tasks are known; "sim-raw", the same unscaled, with loud variables;
            "death48", intensive care; "mimic3"; your own, as "meds" or "files", from data.path.
        mode: how an encoder comes about, or a rival without one; none takes the list of the cohort. Weights that are learned
            bear the name of their hypergradient.
        label_percent: shares of the labels that may be read; none takes those of the cohort.
        target: what is predicted; none takes the cohort's first.
        transfer_to: other outcomes, predicted with the weights learned for the target.
        transfer_from: of mode "given_weights": a run, a model of one, or a weights.csv.
        seed: of weights, order and label subsets, and of the simulated subjects.
        use: what becomes of a pretrained encoder: "frozen", below a fresh head; "finetuned", together with it.
        data: what cohorts are made of.
        select: settings of every mode, on real data; their target, label_percent, seed,
            hypergradient and freeze_encoder stand above.
        simulated: the same on simulated data.
        workers: processes that train side by side, each on one thread.
        draws: random selections of as many tasks that a transfer is compared with.
    """

    cohort: tuple[CohortName, ...] = ("sim",)
    mode: tuple[Mode, ...] = ()
    label_percent: tuple[float, ...] = ()
    target: str | None = None
    transfer_to: tuple[str, ...] = ()
    transfer_from: Path | None = None
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    use: tuple[Literal["frozen", "finetuned"], ...] = ("frozen", "finetuned")
    data: Data = field(default_factory=Data)
    select: SelectConfig = SELECT
    simulated: SelectConfig = SIMULATED_SELECT
    workers: int = 2
    draws: int = 3

    def __post_init__(self) -> None:
        for name in ("cohort", "mode", "label_percent", "transfer_to", "seed", "use"):
            values, empty = getattr(self, name), name in ("mode", "label_percent", "transfer_to")
            if len(set(values)) != len(values) or not (values or empty):
                raise ValueError(f"{name}: got {values}, need one or more, all different")
        need("label_percent", self.label_percent, 0, 100, above=True)
        for name in ("workers", "draws"):
            need(name, getattr(self, name), 1)
        need("seed", self.seed, 0, 2**40)
        self._check_data()
        self._check_settings()
        self._check_modes()

    def _check_data(self) -> None:
        own = [name for name in self.cohort if name in ("mimic3", *OWN_GRID)]
        if own and self.data.path is None:
            raise ValueError(f"data.path: got none, need it with cohort {own[0]}")
        if len({*own, *(["death48"] if "death48" in self.cohort and self.data.path else [])}) > 1:
            raise ValueError(f"data.path: got one for cohorts {', '.join(self.cohort)}, need one cohort that reads it")
        if "files" in own and self.data.outcomes is None:
            raise ValueError("data.outcomes: got none, need the table of outcomes with cohort files")
        gridless = [event for event in self.data.specs() if isinstance(event, str)]
        if any(name in OWN_GRID for name in own) and (gridless or not self.data.events):
            raise ValueError(f"data.events: got {gridless or 'none'}, need NAME=SLOTSxHOURS with cohort {own[0]}")

    def _check_settings(self) -> None:
        plain = SelectConfig()
        for name, kinds, default in (
            ("select", [c for c in self.cohort if c not in SIMULATED], SELECT),
            ("simulated", [c for c in self.cohort if c in SIMULATED], SIMULATED_SELECT),
        ):
            given = getattr(self, name)
            for key, where in (("target", "target"), ("label_percent", "label-percent"), ("seed", "seed"), ("hypergradient", "mode"), ("freeze_encoder", "use")):  # fmt: skip
                if getattr(given, key) != getattr(plain, key):
                    raise ValueError(f"{name}.{key}: got {getattr(given, key)}, need it as --{where}")
            if not kinds and given != default:
                changed = [f.name for f in fields(given) if getattr(given, f.name) != getattr(default, f.name)]
                raise ValueError(f"{name}.{changed[0]}: no effect on cohort {', '.join(self.cohort)}")

    def _check_modes(self) -> None:
        if self.mode and "oracle_subset" in self.mode and not all(name in SIMULATED for name in self.cohort):
            raise ValueError("mode: got oracle_subset, need simulated cohorts: elsewhere nobody knows the useful tasks")
        if ("given_weights" in self.mode) != (self.transfer_from is not None):
            raise ValueError(f"transfer_from: got {self.transfer_from}, need it with mode given_weights and no other")
        if "pretrain_subset" in self.mode and not any(
            each.include or each.exclude for each in (self.select, self.simulated)
        ):
            raise ValueError("mode: got pretrain_subset, need select.include or select.exclude")
        if self.transfer_to and all(name in SIMULATED for name in self.cohort):
            raise ValueError(f"transfer_to: got {', '.join(self.transfer_to)}, need a cohort with several outcomes")
        if self.transfer_to and "first_order" not in (self.mode or ("first_order",)):
            raise ValueError("transfer_to: need mode first_order, whose weights are taken")

    def modes(self, cohort: str) -> tuple[Mode, ...]:
        """Those of a cohort."""
        return self.mode or MODES[cohort]

    def percents(self, cohort: str) -> tuple[float, ...]:
        """Shares of labels of a cohort, the largest first."""
        return tuple(sorted(self.label_percent or PERCENTS[cohort], reverse=True))

    def transfers(self, cohort: str) -> tuple[str, ...]:
        """Other outcomes of a cohort; the simulators have none."""
        return () if cohort in SIMULATED else self.transfer_to

    def settings(self, cohort: str, mode: str, target: str, percent: float, seed: int) -> tuple[FitMode, SelectConfig]:
        """The library's mode, and what it is told."""
        base = self.simulated if cohort in SIMULATED else self.select
        base = replace(base, target=target, label_percent=percent, seed=seed)
        if mode not in (*LEARNED, "oracle_subset"):
            return mode, base  # type: ignore[return-value]
        if mode == "oracle_subset":
            return "pretrain_subset", replace(base, include=SIGNAL, exclude=())
        changed: dict[str, Any] = {"hypergradient": mode}
        if mode == "official_schedule":  # ten long rounds, Adam at 1e-2 on the weights
            steps = base.total_steps
            changed = {"hypergradient": "official_approx", "rounds": 10, "inner_steps": max(steps // 10, 1),
                       "forecast_steps": max(steps, 10), "lr_weights": 0.01, "unit_gradient": False}  # fmt: skip
        elif mode == "first_order_unscaled":
            changed = {"task_scale": "none"}
        return "autoselect", replace(base, **changed)
