"""Learning to select the best forecast tasks for clinical outcome prediction (Xue et al. 2020, arXiv 2407.19359).

tiny: under a minute on two cores, simulated series, one seed, no claim. sim, sim-raw, death48: minutes each. laptop: sim and
death48: do forecasts that are chosen for an outcome serve it better than all of them, than none, as labels become few?
mimic3, paper: MIMIC-III, with our settings and with those of the released code.
"""

from tenfold.recipes.meta_forecast.config import Config
from tenfold.recipes.meta_forecast.experiment import check, train
from tenfold.recipes.meta_forecast.presets import EXPECTED, PRESETS
from tenfold.recipes.meta_forecast.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
