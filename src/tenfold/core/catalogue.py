"""The data sets that `tenfold data` knows: where each comes from, under which licence, and how it is converted.

Addresses are pinned to a commit, and both ends are pinned to a hash: the origin files, and the content made of
them. Every set is therefore rebuilt exactly, byte for byte, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenfold.core.catalogue_rows import BLIMP_FILES, chosen_rows
from tenfold.core.conversions import (
    Conversion,
    blimp,
    first_lines,
    gutenberg_book,
    gzipped,
    lambada,
    movie_reviews,
    multiple_choice,
    unchanged,
    winogrande,
)

_GITHUB = "https://raw.githubusercontent.com"
_GITENBERG = f"{_GITHUB}/GITenberg"
_GSM8K = f"{_GITHUB}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
_FOUNDRY = f"{_GITHUB}/mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data"
_BLIMP = f"{_GITHUB}/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/data"


@dataclass(frozen=True)
class Origin:
    """One file at its public origin."""

    url: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Dataset:
    """One file of ours, made from its origins."""

    name: str
    what: str
    licence: str
    file: str  # path below the data folder, with forward slashes
    size: int  # bytes on disk
    sha256: str  # of the content; of the unpacked content where the file ends with .gz
    convert: Conversion
    origins: tuple[Origin, ...]


def _book(name: str, title: str, size: int, sha256: str, origin: Origin) -> Dataset:
    what, file = f"novel: {title}", f"02-afm/text/book_{name}.txt"
    return Dataset(f"book_{name}", what, "public domain", file, size, sha256, gutenberg_book, (origin,))


def _evaluation(
    name: str, what: str, licence: str, size: int, sha256: str, convert: Conversion, *origins: Origin
) -> Dataset:
    return Dataset(name, what, licence, f"05-moe-vs-dense/{name}.jsonl", size, sha256, convert, origins)


_DATASETS = (
    Dataset(
        "shakespeare",
        "plays of Shakespeare, 1.1 million characters, 65 distinct",
        "public domain",
        "02-afm/text/shakespeare.txt",
        1115394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        unchanged,
        (
            Origin(
                f"{_GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
                1115394,
            ),
        ),
    ),
    Dataset(
        "wikitext2_valid",
        "Wikipedia articles: WikiText-2, validation part (Merity et al. 2016)",
        "CC BY-SA 3.0",
        "02-afm/text/wikitext2_valid.txt",
        1121681,
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
        unchanged,
        (
            Origin(
                f"{_GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
                "/word_language_model/data/wikitext-2/valid.txt",
                "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                1121681,
            ),
        ),
    ),
    _book(
        "alice",
        "Alice's Adventures in Wonderland (Carroll)",
        150404,
        "8848bba43e5c75c5a2b1e248b51edab248878cca60d916b6685a57f491ac86d3",
        Origin(
            f"{_GITENBERG}/Alice-s-Adventures-in-Wonderland_11/7f18748e114b994d5d9454d5793581bc0b9cf9d7/11-0.txt",
            "49a0b2726606e1290ac03a63978fa1dd1bd38a8d805704d98265f393533ea094",
            173595,
        ),
    ),
    _book(
        "sherlock",
        "The Adventures of Sherlock Holmes (Doyle)",
        562301,
        "14ec8b60902219b644a0c52ae5d706b92d875fe19d5130d78c35957b6a45558c",
        Origin(
            f"{_GITENBERG}/The-Adventures-of-Sherlock-Holmes_1661/7e5dd2703fbf503c004063e96ab7c61262375e5f/1661.txt",
            "2a0ce5568625a304f54fbb6bfdeeadf527a1437254b5f0e06b5a9e233d4784a2",
            594941,
        ),
    ),
    _book(
        "oz",
        "The Wonderful Wizard of Oz (Baum)",
        208347,
        "d82284521615a4d0eb6cfd06d366b8c60a3927940922b743f04e009eb81bbca6",
        Origin(
            f"{_GITENBERG}/The-Wonderful-Wizard-of-Oz_55/d19a4315b7c6f4471de8840a1a81609b34841dff/55.txt",
            "18274f31ae11aea07ea9b4f707998636c6f75d784c60d7e8fea0b4d5c2d77af6",
            232789,
        ),
    ),
    _book(
        "jungle",
        "The Jungle Book (Kipling)",
        279101,
        "54d65e2c82e25493e89be7893663a352aa559550cde58c7f3f2c055bc31c32bc",
        Origin(
            f"{_GITENBERG}/The-Jungle-Book_236/4176c01078ec4c3db938df1245bca1cd81db86d0/236-0.txt",
            "2f9486eb4776d23baf1064eebb73bb0093b808b13e10516e81e20d1dbe4909c9",
            304376,
        ),
    ),
    _book(
        "pride",
        "Pride and Prejudice (Austen)",
        691778,
        "42377d2f741ea0e545c1a8611d5d67dc15efd2703950ddc6484f183ee569c30e",
        Origin(
            f"{_GITENBERG}/Pride-and-Prejudice_1342/81db45c9c48c592f0b77f01fc59e677ad0a5634e/1342-0.txt",
            "48e0522844402a86a3ea98f0947ba85ea54838db3c59022299298ed968a5a163",
            724725,
        ),
    ),
    _book(
        "treasure",
        "Treasure Island (Stevenson)",
        369249,
        "9d3923a2e2ef3429e1d1f7481c452688e0212ac1984629d1771957e83e4a4e60",
        Origin(
            f"{_GITENBERG}/Treasure-Island_120/46f38f7b63dbda34415ce29ef5548023a8ba8dda/120-0.txt",
            "0fee2fef1b2ffde22e2c962bd8bc2b75ea1ae9b02b3fe85ef08d44f4cc1bb2de",
            396596,
        ),
    ),
    Dataset(
        "movie_reviews",
        "2000 film reviews, half of them positive: polarity 2.0 (Pang and Lee 2004)",
        "CC BY 4.0",
        "02-afm/text/movie_reviews.jsonl.gz",
        2999430,
        "655c0c9afe8bc5a12c7fc6e690ab19486ebfff4e2668248c9c1d935ab223b9e9",
        gzipped(movie_reviews),
        (
            Origin(
                f"{_GITHUB}/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora/movie_reviews.zip",
                "a41211ae685019137410268134db6a1a14428c89b671eb83056151a878539008",
                4004848,
            ),
        ),
    ),
    Dataset(
        "gsm8k_train",
        "7473 arithmetic word problems with worked answers: GSM8K train (Cobbe et al. 2021)",
        "MIT",
        "02-afm/gsm8k_train.jsonl.gz",
        1338335,
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
        gzipped(unchanged),
        (Origin(f"{_GSM8K}/train.jsonl", "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", 4166206),),
    ),
    Dataset(
        "gsm8k_test_a",
        "the first 660 of the 1319 problems of GSM8K test (Cobbe et al. 2021)",
        "MIT",
        "02-afm/gsm8k_test_a.jsonl",
        368182,
        "77f82a42b5d21699f3c3947d8a8eb715a3a542230c14611706d9e496825562fe",
        first_lines(660),
        (Origin(f"{_GSM8K}/test.jsonl", "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", 749738),),
    ),
    Dataset(
        "gsm8k_solutions_a",
        "solutions of four models to gsm8k_test_a, marked right or wrong (Cobbe et al. 2021)",
        "MIT",
        "02-afm/gsm8k_solutions_a.jsonl.gz",
        295569,
        "e6c9fe58872942216cb7bec3299acce305fb40cdbdb69856f62c0a67550246b0",
        gzipped(first_lines(660)),
        (
            Origin(
                f"{_GSM8K}/example_model_solutions.jsonl",
                "4bc62db838f8418365d51c627bd66294cbdca9fb7f01519cb13f0dce8c51580b",
                2563513,
            ),
        ),
    ),
    _evaluation(
        "arc_easy",
        "1200 of the 2376 questions of ARC-Easy test (Clark et al. 2018), drawn at random",
        "CC BY-SA 4.0",
        359244,
        "999b1b1e703e94583bab5e7844fcacf83f7e9ecfab13075790959d00ac698ad9",
        multiple_choice("arc_easy", chosen_rows("arc_easy")),
        Origin(
            f"{_FOUNDRY}/world_knowledge/arc_easy.jsonl",
            "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
            636665,
        ),
    ),
    _evaluation(
        "arc_challenge",
        "600 of the 1172 questions of ARC-Challenge test (Clark et al. 2018), drawn at random",
        "CC BY-SA 4.0",
        207872,
        "85b6e7485323d4cd43dc8bc55e713477d41bbd26ca1d1b3bcac3e4af90fa7d5e",
        multiple_choice("arc_challenge", chosen_rows("arc_challenge")),
        Origin(
            f"{_FOUNDRY}/world_knowledge/arc_challenge.jsonl",
            "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
            365606,
        ),
    ),
    _evaluation(
        "piqa",
        "1000 of the 1838 questions of PIQA validation (Bisk et al. 2020), drawn at random",
        "AFL 3.0",
        324498,
        "33f716ce1a7bca6da412a9e0417282fa0b4167d9be58e7ab9e148961d76052cb",
        multiple_choice("piqa", chosen_rows("piqa")),
        Origin(
            f"{_FOUNDRY}/commonsense_reasoning/piqa.jsonl",
            "d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0",
            533992,
        ),
    ),
    _evaluation(
        "openbookqa",
        "350 of the 500 questions of OpenBookQA test (Mihaylov et al. 2018), drawn at random",
        "Apache-2.0",
        70651,
        "f062e7813e184b75ebd25aea13285bc206c294a6006e4b3298f43baf53246fdd",
        multiple_choice("openbookqa", chosen_rows("openbookqa")),
        Origin(
            f"{_FOUNDRY}/commonsense_reasoning/openbook_qa.jsonl",
            "adb2e5c7f8db810ddad4d6b2bf53dcc86dcc545499f7aafcaf42a8e179476c09",
            88043,
        ),
    ),
    _evaluation(
        "copa",
        "60 of the 100 questions of COPA validation (Roemmele et al. 2011), drawn at random",
        "BSD-2-Clause",
        10056,
        "eb1b5c92d08d69db2170a8dc2fbb481485ca18e414d64c80d7df4ce9b1016775",
        multiple_choice("copa", chosen_rows("copa")),
        Origin(
            f"{_FOUNDRY}/commonsense_reasoning/copa.jsonl",
            "595dca44dec54c849490bd403a3e24a29e3b944065783222ebb0eb1a55298846",
            14627,
        ),
    ),
    _evaluation(
        "boolq",
        "600 of the 3270 questions of BoolQ validation (Clark et al. 2019), drawn at random",
        "CC BY-SA 3.0",
        416545,
        "7f981b23099d52e3c54d476d875b9940956f45eb00394a4ef08183927f0c0f31",
        multiple_choice("boolq", chosen_rows("boolq")),
        Origin(
            f"{_FOUNDRY}/reading_comprehension/boolq.jsonl",
            "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
            2210395,
        ),
    ),
    _evaluation(
        "winogrande",
        "800 of the 1267 sentences of WinoGrande XL validation (Sakaguchi et al. 2020), drawn at random",
        "CC BY",
        211506,
        "5d9fdc0e996f5b598cc50045008654765f91456d214086ede6e089c5c7026735",
        winogrande(chosen_rows("winogrande")),
        Origin(
            f"{_FOUNDRY}/language_understanding/winogrande.jsonl",
            "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
            312369,
        ),
    ),
    _evaluation(
        "lambada",
        "1200 of the 5153 passages of LAMBADA test, OpenAI formatting (Paperno et al. 2016), drawn at random",
        "CC BY 4.0",
        461698,
        "59b1bc89c462f570d5fe8b6ac94a672b62ca79181263fb328a4fadabaf9e55cf",
        lambada(chosen_rows("lambada")),
        Origin(
            f"{_FOUNDRY}/language_understanding/lambada_openai.jsonl",
            "411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
            1895241,
        ),
    ),
    _evaluation(
        "blimp",
        "6700 minimal pairs, 100 of the 1000 of each paradigm of BLiMP (Warstadt et al. 2020), drawn at random",
        "CC BY 4.0",
        1719235,
        "4cdcaf8801a5b4cec21cfe30ef5ebadbf1619ed4c7e1023d23321cdb4e4e9684",
        blimp(chosen_rows("blimp")),
        *(Origin(f"{_BLIMP}/{paradigm}.jsonl", sha256, size) for paradigm, (sha256, size) in BLIMP_FILES.items()),
    ),
)

CATALOGUE = {dataset.name: dataset for dataset in _DATASETS}

# Names for several sets at once; a folder such as `02-afm` or `02-afm/text` is one as well.
GROUPS = {
    "novels": tuple(name for name in CATALOGUE if name.startswith("book_")),
    "gsm8k": ("gsm8k_train", "gsm8k_test_a", "gsm8k_solutions_a"),
    "evaluation": tuple(name for name, dataset in CATALOGUE.items() if dataset.file.startswith("05-moe-vs-dense/")),
}
