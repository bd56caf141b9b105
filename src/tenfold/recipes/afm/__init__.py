"""AFM, the pre-training of a small language model for devices (Gunter et al. 2024, arXiv 2407.21075).

tiny: about a minute on two cores, one seed, no claim. laptop: about an hour on two cores, five seeds: does each stage beat
what it is compared with? 85M, 3B (also named paper), server: the official code's and the paper's sizes.
"""

from tenfold.recipes.afm import verbs
from tenfold.recipes.afm.config import EXPECTED, PRESETS, Config
from tenfold.recipes.afm.evaluation import eval_
from tenfold.recipes.afm.experiment import check, train
from tenfold.recipes.afm.export import export
from tenfold.recipes.afm.serving import chat, serve

VERBS = {**verbs.VERBS, "eval": eval_, "chat": chat, "serve": serve, "export": export}

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
