"""Deep state-space model for correlated time-to-event predictions (Xue et al. 2020, arXiv 2407.19371).

tiny: under a minute on two cores, a simulated ward, one seed, no claim. sim, sim-300, icu12: minutes each. laptop: the three together:
does one latent state foresee several events better than a model for each, an LSTM and Cox's regression? paper: MIMIC-III, the
published sizes.
"""

from tenfold.recipes.deep_ssm.config import Config
from tenfold.recipes.deep_ssm.experiment import check, train
from tenfold.recipes.deep_ssm.presets import EXPECTED, PRESETS
from tenfold.recipes.deep_ssm.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
