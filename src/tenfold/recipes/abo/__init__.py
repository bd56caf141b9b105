"""ABO: are large language models good prompt optimizers? (Ma et al. 2024, arXiv 2402.02101).

tiny: under a minute on a simulator, one seed, no claim. laptop: the same over five seeds and ten methods, with diagnoses whose truth is
known. local: a small language model that is trained here as a real target, prompts by a script. smollm2: a real small model as target and optimizer on two tasks of BIG-Bench Hard. paper: the paper's tasks, models to bring, never run.
"""

from tenfold.recipes.abo.config import Config
from tenfold.recipes.abo.experiment import check, train
from tenfold.recipes.abo.presets import EXPECTED, PRESETS
from tenfold.recipes.abo.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
