"""The data of system 08: captioned emoji, definitions of nouns, and what two public scores of answers are checked with.

The other pictures that `--data.captions` knows, stamps and clip art, are not among them: their Debian packages
(tuxpaint-stamps-default, GPL-2; openclipart-svg, public domain) are yours to unpack and to caption.
"""

from __future__ import annotations

from typing import Literal

from tenfold.core.catalogue_ec_dit import NOTO, TWEMOJI
from tenfold.core.conversions import gzipped, unchanged
from tenfold.core.emoji_shards import emoji_shard
from tenfold.core.gloss_conversion import glosses
from tenfold.core.origins import GITHUB, Dataset, Origin, Package, Shipped
from tenfold.core.vqa_tables import vqa_tables

_EMOJIBASE = Package(
    "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", 6711091
)
_WORDNET = Package("WNdb", "3.0.1", "cd221797d9b40102199106003343b2176d8c43093cdaa6fb8a4ceb8840c90557", 10524829)
_VQA = f"{GITHUB}/GT-Vision-Lab/VQA/a013f0043c1e2cdc995922dfe257f7149aa9af06/PythonEvaluationTools/vqaEvaluation"
_CIDER = "08-mm1/cider_example.json"


def _emoji(part: Literal["train", "val"], count: int, size: int, sha256: str) -> Dataset:
    return Dataset(
        f"captioned_emoji_{part}",
        f"{count} emoji in two drawing styles, 48 x 48 pixels, with keywords and names in twelve languages; of Noto Emoji, "
        "Twemoji (Twitter, Inc and other contributors) and Unicode",
        "Apache-2.0; CC BY 4.0; MIT; Unicode License v3",
        f"08-mm1/emoji-{part}.tar",
        size,
        sha256,
        emoji_shard(part),
        (NOTO, TWEMOJI, _EMOJIBASE),
    )


def _glosses(part: Literal["train", "val"], count: int, size: int, sha256: str) -> Dataset:
    return Dataset(
        f"glosses_{part}",
        f"{count} nouns with a definition, from WordNet 3.0, drawn at random",
        "WordNet 3.0 licence",
        f"08-mm1/glosses-{part}.txt.gz",
        size,
        sha256,
        gzipped(glosses(part)),
        (_WORDNET,),
    )


MM1 = (
    _emoji("train", 1367, 7434240, "54cc4842099a0879a2c578a5748c50672c6d1720908733488b0a593adba5c9cc"),
    _emoji("val", 152, 839680, "86d671b021585bc85d0e493f29a3d36d2f712428d930c987c274ccc3ba7913ac"),
    _glosses("train", 27597, 771965, "ecf3a25de96bf36826375770a37fabab761e285f9fd2d06da5bddf9aebb9e4f4"),
    _glosses("val", 2403, 68608, "11027aa499419251efbeda9f55b569a1ad57b83e56de5ddd48c1bfc446477188"),
    Dataset(
        "vqa_tables",
        "contractions, number words, marks and articles that the public VQA evaluation makes equal (Antol et al. 2015)",
        "BSD-2-Clause",
        "08-mm1/vqa_normalise.json",
        3015,
        "9a9220e4f829dbd186f255a7348fc4066607622550ab8d62b7e01fa2923a9788",
        vqa_tables,
        (Origin(f"{_VQA}/vqaEval.py", "f08edfcad5be0112500993e245c706b6cb928eadebe203f89f838e5e0d04bec8", 8428),),
    ),
    Dataset(
        "cider_example",
        "three captions with the CIDEr that the public evaluation gives them",
        "CC0 1.0",
        _CIDER,
        641,
        "2ac524ce2e7f597a6d9fbe28dc0f6ef432faa0dc592aeaf213f3b3bcf567aa66",
        unchanged,
        (Shipped(_CIDER),),
    ),
)
