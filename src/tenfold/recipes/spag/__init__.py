"""SPAG: self-play of an adversarial language game (Cheng et al. 2024, arXiv 2404.10642).

tiny: about a minute of CPU time, a small decoder over a few hundred words, one seed, no claim. laptop: the same over three seeds and four ways to
learn from the games: does self-play make a defender that wins more on words it never played? smollm2: SmolLM2-135M-Instruct as it is, after
imitation and after two epochs of self-play. paper: the numbers of the published code, never run.
"""

from tenfold.recipes.spag.config import Config
from tenfold.recipes.spag.experiment import check, train
from tenfold.recipes.spag.presets import EXPECTED, PRESETS
from tenfold.recipes.spag.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
