"""The data sets of system 01: emoji in two drawing styles, GenEval's prompts, prompts of the shapes world."""

from __future__ import annotations

from tenfold.core.conversions import unchanged
from tenfold.core.emoji_conversion import emoji_names, emoji_pictures
from tenfold.core.origins import GITHUB, Dataset, Origin, Package, Shipped

_GENEVAL = f"{GITHUB}/djghosh13/geneval/af4902f24d3ca90ebbb446dd9891a59e0f82725f/prompts"
NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    74344091,
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    61683754,
)
_UNICODE = Package(
    "unicode-emoji-json", "0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401", 71855
)


def _shapes(part: str, what: str, size: int, sha256: str) -> Dataset:
    file = f"01-ec-dit/shapes/prompts_{part}.jsonl"
    return Dataset(f"shapes_{part}", what, "CC0 1.0", file, size, sha256, unchanged, (Shipped(file),))


EC_DIT = (
    Dataset(
        "emoji_pictures",
        "1906 emoji, 32 x 32 pixels, as drawn by Noto Emoji and by Twemoji (Twitter, Inc and other contributors)",
        "Apache-2.0; CC BY 4.0",
        "01-ec-dit/emoji32.npz",
        3582547,
        "06b1e812cd9bae18e3b890226d2b22f506eb987f29a0664b4a4fe676f7c26285",
        emoji_pictures,
        (NOTO, TWEMOJI),
    ),
    Dataset(
        "emoji_names",
        "names and groups of emoji_pictures, and which drawings are never trained on",
        "MIT; Unicode License v3",
        "01-ec-dit/emoji.jsonl",
        274493,
        "f5d9dfeeaef15dae8f16b5232491d083fab9b8d2274c04024957e32015a6f255",
        emoji_names,
        (NOTO, _UNICODE),
    ),
    Dataset(
        "geneval_prompts",
        "the 553 prompts of GenEval with their conditions (Ghosh et al. 2023)",
        "MIT",
        "01-ec-dit/geneval/evaluation_metadata.jsonl",
        85209,
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        unchanged,
        (
            Origin(
                f"{_GENEVAL}/evaluation_metadata.jsonl",
                "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
                85209,
            ),
        ),
    ),
    Dataset(
        "geneval_objects",
        "the 80 classes of object in geneval_prompts",
        "MIT",
        "01-ec-dit/geneval/object_names.txt",
        642,
        "608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd",
        unchanged,
        (
            Origin(
                f"{_GENEVAL}/object_names.txt", "608f6a0e5c8ca1c7a92b818430141fe268c85b7930b50f4160f1d65893b5bacd", 642
            ),
        ),
    ),
    _shapes(
        "train",
        "296 prompts of the shapes world to train on",
        51056,
        "cdc53e9ea7f0b92bef150026f319b4cfae4d99c71cc4cab67ef4d209eb453a88",
    ),
    _shapes(
        "val",
        "110 prompts of the shapes world to be asked: 82 combinations never trained on, 28 closed-class ones",
        18348,
        "4ccfaed8295bba9d77f1750c71f697a0c464d2938f556d83352b3512206d26f0",
    ),
)
