"""EC-DIT: a text-to-image diffusion transformer whose experts choose their tokens (Sun et al. 2024, arXiv 2410.02098).

tiny: about a minute on two cores, one seed, no claim. laptop: about half an hour by estimate, five models, three seeds: does expert choice
beat dense, twice as wide, token choice and a random router? compare: the same for hours. xl, xxl, 3xl, m: the paper's sizes.
"""

from tenfold.recipes.ec_dit.config import EXPECTED, PRESETS, Config
from tenfold.recipes.ec_dit.experiment import check, train
from tenfold.recipes.ec_dit.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
