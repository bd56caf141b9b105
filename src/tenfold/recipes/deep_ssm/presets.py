"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tenfold.recipes.deep_ssm.config import NETWORK, Config, Data, Rivals, Training

_ORGANS = tuple(f"{name}=24x2" for name in ("kidney", "circulatory", "neuro", "coagulation", "ventilation"))
_COMPARED = Config(seeds=(0, 1, 2, 3, 4))
PRESETS: dict[str, Config] = {
    "tiny": Config(
        methods=("dssm", "lstm", "cox"),
        seeds=(0,),
        data=Data(patients=1500),
        training=Training(steps=240),
    ),
    "sim": _COMPARED,
    "sim-300": replace(_COMPARED, cohorts=("sim-300",)),
    "icu12": replace(_COMPARED, cohorts=("icu12",)),
    "laptop": replace(_COMPARED, cohorts=("sim", "sim-300", "icu12")),
    "paper": Config(
        cohorts=("mimic3",),
        data=Data(path=Path("mimic-iii"), events=(*_ORGANS, "death30"), steps=48),
        network=replace(NETWORK, z_dim=30, cov="tril", analytic_kl=False, elbo_reduction="official", sys_id_weight=1.0),
        rivals=Rivals(width=30, forecast_weight=1.0),
        training=Training(batch=32, lr=1e-3, final_fraction=1.0),
        save_every=500,
    ),
}
EXPECTED = {
    "tiny": "1500 simulated patients, the joint model beside an LSTM and Cox; one seed; under a minute on two cores",
    "sim": "3000 simulated patients, eight methods, five seeds: the joint model near the oracle; 6 minutes on two cores (an estimate)",
    "sim-300": "300 simulated patients, eight methods, five seeds: the joint model above single-event ones; 2 minutes on two cores (an estimate)",
    "icu12": "5939 stays in intensive care, six events, eight methods, five seeds: the goal is Cox + .01; 7 minutes on two cores (an estimate)",
    "laptop": "the three above in one run, five seeds; 18 minutes on two cores",
    "paper": "your MIMIC-III tables (--data.path), the published sizes, three seeds; hours (an estimate)",
}
