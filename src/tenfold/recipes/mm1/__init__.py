"""MM1: a language model that reads pictures, and what its pre-training needs (McKinzie et al. 2024, arXiv 2403.09611).

tiny: about a minute on two cores, one seed, no claim. laptop: mixes of captions, interleaved documents and text, three seeds: what makes a model
learn from examples in its prompt? ablation: connector, tokens, resolution, encoder, tiles. smollm2: SmolLM2-135M-Instruct under a connector.
"""

from tenfold.recipes.mm1.config import Config
from tenfold.recipes.mm1.experiment import check, train
from tenfold.recipes.mm1.presets import EXPECTED, PRESETS
from tenfold.recipes.mm1.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
