"""AFM, a small language model for devices from raw text to adapters (Gunter et al. 2024, arXiv 2407.21075).

tiny: about a minute on two cores, one seed, no claim. laptop: an hour and a half on two cores, five seeds (three after
pre-training): does each stage beat what it is compared with? 85M, 3B (also named paper), server: the official code's and the
paper's sizes, pre-training alone.
"""

from tenfold.recipes.afm import align_verbs, compress_verbs, safety, swap, verbs
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.evaluation import eval_
from tenfold.recipes.afm.experiment import check, train
from tenfold.recipes.afm.export import export
from tenfold.recipes.afm.presets import EXPECTED, PRESETS
from tenfold.recipes.afm.serving import chat, serve

VERBS = {
    **verbs.VERBS,
    **align_verbs.VERBS,
    **compress_verbs.VERBS,
    **safety.VERBS,
    **swap.VERBS,
    "eval": eval_,
    "chat": chat,
    "serve": serve,
    "export": export,
}

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
