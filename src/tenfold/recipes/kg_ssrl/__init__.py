"""KG-SSRL: answers to (source, relation, ?) by walks over a knowledge graph (Ma et al. 2024, arXiv 2405.13640).

tiny: under a minute on two cores, a made-up graph, one seed, no claim. umls, kinship: minutes. laptop: both, both base policies, three
seeds: does a supervised start on path labels beat reinforcement alone in the same CPU seconds? wn18rr: the large graph on small
budgets. The names with -minerva and -multihop: the published settings.
"""

from tenfold.recipes.kg_ssrl.config import Config
from tenfold.recipes.kg_ssrl.experiment import check, train
from tenfold.recipes.kg_ssrl.presets import EXPECTED, PRESETS
from tenfold.recipes.kg_ssrl.verbs import VERBS

__all__ = ["EXPECTED", "PRESETS", "VERBS", "Config", "check", "train"]
