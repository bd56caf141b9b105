"""Settings of a deep-ssm experiment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tenfold.clinical.cohort_words import OwnData
from tenfold.clinical.state_space_config import StateSpaceSwitches
from tenfold.core.config import need, need_distinct, need_seeds

CohortName = Literal["sim", "sim-300", "icu12", "mimic3", "meds", "files"]
Method = Literal["dssm", "dssm-single", "lstm", "deephit", "mlp", "exponential", "cox", "boosting"]
SIMULATED = ("sim", "sim-300")
AT_ONCE = ("cox", "boosting")  # methods that take no steps
OWN_GRID = ("meds", "files")  # their events say what slots they have
STEPS = {"sim": 560, "sim-300": 280, "icu12": 400, "mimic3": 3000, "meds": 400, "files": 400}


@dataclass(frozen=True, kw_only=True)
class Data(OwnData):
    """What cohorts are made of. "sim" and "sim-300" need nothing; "icu12" the prepared PhysioNet Challenge 2012.

    Of codes in "meds", interventions and statics are among the names, as are the events.

    Args:
        patients: of "sim": simulated patients to learn from; as many again are tested, a third of it validates.
        few: the same of "sim-300", tested on as many as "sim".
        mech_vent: of "icu12": mechanical ventilation is an intervention; without it, the event ventilation is foreseen from the rest.
        observations: of "files": variables used; none takes all.
        interventions: of "meds" and "files": variables that doctors set; a step is 1 where one is recorded and not 0.
        statics: of "meds" and "files": values that do not change.
        steps: of "meds" and "files": of the grid before the prediction; of "mimic3": its hours.
    """

    patients: int = 3000
    few: int = 300
    mech_vent: bool = True
    observations: tuple[str, ...] = ()
    interventions: tuple[str, ...] = ()
    statics: tuple[str, ...] = ()
    steps: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patients", "few"):
            need(name, getattr(self, name), 9, 1e6)
        need("steps", self.steps, 1, 10_000)


NETWORK = StateSpaceSwitches(z_dim=16, head="auto", analytic_kl=True, sys_id_weight=0.005, forecast_interv=True)


@dataclass(frozen=True)
class Rivals:
    """What the model is compared with.

    Args:
        width: of LSTM and perceptron.
        layers: of the LSTM.
        feed_mask: the LSTM reads the mask of missing values too.
        forecast_weight: of the error of the next observations in the loss of the LSTMs.
        rank_weight: of DeepHit's ranking loss.
        dropout: of the perceptron.
        ridge: of Cox's regression.
        trees: of the boosting, an event, at most; the validation part says how many are kept.
        tree_rate: by which each tree is shrunk.
        leaves: of a tree, at most.
        rows: patients times slots that the boosting reads of an event; beyond that, slots without an event are drawn.
    """

    width: int = 32
    layers: int = 1
    feed_mask: bool = True
    forecast_weight: float = 0.0
    rank_weight: float = 0.2
    dropout: float = 0.001
    ridge: float = 0.05
    trees: int = 500
    tree_rate: float = 0.05
    leaves: int = 8
    rows: int = 50_000

    def __post_init__(self) -> None:
        for name in ("width", "layers"):
            need(name, getattr(self, name), 1)
        for name in ("forecast_weight", "rank_weight", "ridge"):
            need(name, getattr(self, name), 0)
        need("dropout", self.dropout, 0, 0.99)
        need("tree_rate", self.tree_rate, 0, 1, above=True)
        for name, least in (("trees", 1), ("leaves", 2), ("rows", 1)):
            need(name, getattr(self, name), least)


@dataclass(frozen=True)
class Training:
    """How every model that takes steps is trained; the weights of least validation loss are kept.

    Args:
        steps: of the optimizer; none takes those of the cohort.
        batch: patients a step, over all processes.
        lr: of Adam, falling along a cosine.
        final_fraction: of lr, at the last step.
        weight_decay: of AdamW; 0 is Adam.
        clip: largest gradient norm.
        kl_warmup: share of the steps in which the weight of the KL term grows to 1.
        eval_every: steps between looks at the validation part.
    """

    steps: int | None = None
    batch: int = 128
    lr: float = 5e-3
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    clip: float = 5.0
    kl_warmup: float = 0.2
    eval_every: int = 20

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "eval_every"):
            if getattr(self, name) is not None:
                need(name, getattr(self, name), 1)
        for name in ("lr", "clip"):
            need(name, getattr(self, name), 0, above=True)
        need("weight_decay", self.weight_decay, 0)
        for name in ("final_fraction", "kl_warmup"):
            need(name, getattr(self, name), 0, 1)


@dataclass(frozen=True)
class Config:
    """Every method on every cohort with every seed.

    Args:
        cohorts: "sim", a simulated ward whose law is known; "sim-300", the same with few patients; "icu12", intensive
            care; "mimic3"; your own, as "meds" or "files", from data.path.
        methods: "dssm" foresees all events from one state, "dssm-single" each from its own; the others are rivals.
        seeds: of weights, order and draws, and of the simulated patients.
        workers: processes that train side by side, each on one thread.
        log_every: steps between log rows.
        save_every: steps between checkpoints.
        samples: draws of the state behind the bands of the pictures.
    """

    cohorts: tuple[CohortName, ...] = ("sim",)
    methods: tuple[Method, ...] = ("dssm", "dssm-single", "lstm", "deephit", "mlp", "exponential", "cox", "boosting")
    seeds: tuple[int, ...] = (0, 1, 2)
    data: Data = field(default_factory=Data)
    network: StateSpaceSwitches = NETWORK
    rivals: Rivals = Rivals()
    training: Training = Training()
    workers: int = 2
    log_every: int = 20
    save_every: int = 200
    samples: int = 100

    def __post_init__(self) -> None:
        need_distinct("cohorts", self.cohorts)
        need_distinct("methods", self.methods)
        need_seeds(self.seeds)
        for name in ("workers", "log_every", "save_every", "samples"):
            need(name, getattr(self, name), 1)
        if self.network.context_len_to_trigger is not None:
            raise ValueError(
                "network.context_len_to_trigger: got one, need none: a cohort's grid ends at the trigger; see data.steps"
            )
        own = [name for name in self.cohorts if name in ("mimic3", *OWN_GRID)]
        if own and self.data.path is None:
            raise ValueError(f"data.path: got none, need it with cohort {own[0]}")
        if len({*own, *(["icu12"] if "icu12" in self.cohorts and self.data.path else [])}) > 1:
            raise ValueError(f"data.path: got one for cohorts {', '.join(self.cohorts)}, need one cohort that reads it")
        if "files" in own and self.data.outcomes is None:
            raise ValueError("data.outcomes: got none, need the table of outcomes with cohort files")
        gridless = [event for event in self.data.specs() if isinstance(event, str)]
        if any(name in OWN_GRID for name in own) and (gridless or not self.data.events):
            raise ValueError(f"data.events: got {gridless or 'none'}, need NAME=SLOTSxHOURS with cohort {own[0]}")

    def steps(self, cohort: str) -> int:
        """Of a training on a cohort."""
        return self.training.steps or STEPS[cohort]

    @property
    def trained(self) -> tuple[Any, ...]:
        """The methods that take steps."""
        return tuple(method for method in self.methods if method not in AT_ONCE)
