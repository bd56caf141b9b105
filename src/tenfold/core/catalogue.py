"""The data sets that `tenfold data` knows: where each comes from, under which licence, and how it is converted.

Addresses are pinned to a commit, packages to a version, and both ends are pinned to a hash: the origin files, and
the content made of them. Every set is therefore rebuilt exactly, byte for byte, or not at all; but for the pictures of
captioned emoji, whose bytes depend on Pillow's WebP encoder.
"""

from __future__ import annotations

from tenfold.core.catalogue_abo import ABO
from tenfold.core.catalogue_afm import AFM
from tenfold.core.catalogue_deer import DEER
from tenfold.core.catalogue_ec_dit import EC_DIT
from tenfold.core.catalogue_evaluation import EVALUATION
from tenfold.core.catalogue_kg import GRAPHS, KG
from tenfold.core.catalogue_mm1 import MM1
from tenfold.core.catalogue_spag import SPAG

CATALOGUE = {dataset.name: dataset for dataset in (*EC_DIT, *AFM, *KG, *SPAG, *MM1, *DEER, *ABO, *EVALUATION)}

# Names for several sets at once; a folder such as `02-afm` or `02-afm/text` is one as well.
GROUPS = {
    "emoji": ("emoji_pictures", "emoji_names"),
    "geneval": ("geneval_prompts", "geneval_objects"),
    "shapes": ("shapes_train", "shapes_val"),
    "bfcl": ("bfcl_simple_python", "bfcl_simple_python_answers"),
    "captioned_emoji": ("captioned_emoji_train", "captioned_emoji_val"),
    "glosses": ("glosses_train", "glosses_val"),
    "mm1": tuple(dataset.name for dataset in MM1),
    "bbh": tuple(dataset.name for dataset in ABO),
    "bbh_smollm2": tuple(f"bbh_{kind}{task}" for task in ("object_counting", "navigate") for kind in ("", "cot_")),
    "deer": tuple(dataset.name for dataset in DEER),
    **{graph: tuple(f"{graph}_{part}" for part in ("train", "valid", "test")) for graph in GRAPHS},
    "novels": tuple(name for name in CATALOGUE if name.startswith("book_")),
    "gsm8k": ("gsm8k_train", "gsm8k_test_a", "gsm8k_solutions_a"),
    "evaluation": tuple(dataset.name for dataset in EVALUATION),
}
