"""The evaluation sets of system 05: rows of public benchmarks, drawn at random once (`catalogue_rows`)."""

from __future__ import annotations

from tenfold.core.catalogue_rows import BLIMP_FILES, chosen_rows
from tenfold.core.conversions import Conversion, blimp, lambada, multiple_choice, winogrande
from tenfold.core.origins import GITHUB, Dataset, Origin

_FOUNDRY = f"{GITHUB}/mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data"
_BLIMP = f"{GITHUB}/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/data"


def _evaluation(
    name: str, what: str, licence: str, size: int, sha256: str, convert: Conversion, *origins: Origin
) -> Dataset:
    return Dataset(name, what, licence, f"05-moe-vs-dense/{name}.jsonl", size, sha256, convert, origins)


EVALUATION = (
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
