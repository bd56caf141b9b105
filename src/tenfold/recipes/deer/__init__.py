"""DEER: decision-aware tool use that carries over to tools never seen (Gui et al. 2024, arXiv 2402.16696).

tiny: under a minute, one seed, no claim: a small ranker on the real catalogue beside its floors. laptop: the same over five
seeds, with every way of drawing candidates: which one carries over to unseen tools? toy: a decoder from scratch in a
simulated world. smollm2: SmolLM2-135M-Instruct tuned with adapters, beside itself with 0 and 6 demonstrations. paper: the
numbers of the released code, never run.
"""

from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.experiment import check, train
from tenfold.recipes.deer.presets import EXPECTED, PRESETS
from tenfold.recipes.deer.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
