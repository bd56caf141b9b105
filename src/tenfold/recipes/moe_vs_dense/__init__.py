"""MoE versus dense at equal step time (Du et al. 2024, arXiv 2405.15052).

tiny: about a minute on two cores, one seed, no claim. laptop: under 30 minutes on two cores: is a mixture of experts below a
dense model of the same width at equal measured seconds? Three widths, three seeds. full: up to twice the width, where the
mixture wins; half an hour to an hour.
"""

from tenfold.recipes.moe_vs_dense.config import EXPECTED, PRESETS, Config
from tenfold.recipes.moe_vs_dense.experiment import check, train
from tenfold.recipes.moe_vs_dense.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
