"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tenfold.clinical.selection_config import SelectConfig
from tenfold.recipes.meta_forecast.config import Config, Data

PUBLISHED = SelectConfig(
    outer_labels="full",
    rounds=10,
    inner_steps=300,
    head_steps=300,
    lookahead=1,
    unit_gradient=False,
    weight_power=2,
    task_scale="none",
    use_mask_feature=False,
    batch_size=32,
    lr_unsupervised=1e-3,
    lr_supervised=1e-3,
    lr_head=1e-3,
    lr_weights=1e-2,
    classifier_steps=3000,
    use_best_encoder=True,
    eval_every=100,
    save_every=1,
)
_DEATH48 = Config(cohort=("death48",), transfer_to=("long_stay",))
PRESETS: dict[str, Config] = {
    "tiny": Config(
        mode=("supervised", "pretrain", "cotrain", "random_subset", "oracle_subset", "official_approx", "first_order"),
        seed=(0,),
        data=Data(tested=1000),
    ),
    "sim": Config(),
    "sim-raw": Config(cohort=("sim-raw",)),
    "death48": _DEATH48,
    "laptop": replace(_DEATH48, cohort=("sim", "death48")),
    "own": Config(
        cohort=("files",),
        data=Data(path=Path("measurements.csv"), outcomes=Path("outcomes.csv"), events=("outcome=30x24",)),
    ),
    "mimic3": Config(cohort=("mimic3",), label_percent=(100.0, 10.0, 1.0), data=Data(path=Path("mimic-iii"), history=48)),
    "paper": Config(
        cohort=("mimic3",),
        mode=("supervised", "pretrain", "cotrain", "official_approx", "official_hessian"),
        label_percent=(100.0, 10.0, 1.0),
        data=Data(path=Path("mimic-iii"), history=48),
        select=PUBLISHED,
    ),
}  # fmt: skip
EXPECTED = {
    "tiny": "simulated: one seed, 3000 series, 120 labels: weights move to the useful tasks; under a minute on two cores",
    "sim": "simulated: 16 modes, five seeds: weights find the planted tasks; 5 minutes on two cores (an estimate)",
    "sim-raw": "simulated, loud variables: scaling each task's loss rescues the selection; 2 minutes on two cores",
    "death48": "5939 stays in intensive care, death in hospital at 100 to 1 % of the labels, transfer to long stays, five seeds; 15 minutes on two cores (an estimate)",
    "laptop": "sim and death48 in one run, five seeds; 28 minutes on two cores",
    "own": "your tables or MEDS folder (--data.path, --data.events), the modes of death48; time as death48 by number of subjects",
    "mimic3": "your MIMIC-III tables (--data.path), the modes of death48, death within 30 days; an hour (an estimate)",
    "paper": "your MIMIC-III tables, settings of the released code: 10 rounds of 300 + 300 steps; hours (an estimate)",
}
