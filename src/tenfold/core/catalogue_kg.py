"""The data sets of system 06: five knowledge graphs, each as triples to train on, to validate on and to test on."""

from __future__ import annotations

from tenfold.core.conversions import archived_text, gzipped, numbered_triples
from tenfold.core.origins import GITHUB, Dataset, Origin

_CONVE = f"{GITHUB}/TimDettmers/ConvE/f3c0eb286025410fa5b4c04696c918264163d0ca"
_NELL = f"{GITHUB}/thunlp/OpenKE/64c4ec8157abfc39112772e9825a349091da45f1/benchmarks/NELL-995"

_File = tuple[int, str]  # bytes of a prepared file, SHA-256 of its content


def _archived(
    graph: str, what: str, licence: str, archive: Origin, train: _File, valid: _File, test: _File
) -> tuple[Dataset, ...]:
    """The three files of a graph, taken out of one archive."""
    return tuple(
        Dataset(
            f"{graph}_{part}",
            f"{what}: {part}",
            licence,
            f"06-kg-ssrl/{graph}/{part}.tsv.gz",
            *file,
            gzipped(archived_text(f"{part}.txt")),
            (archive,),
        )
        for part, file in (("train", train), ("valid", valid), ("test", test))
    )


def _nell(part: str, size: int, sha256: str, triples: Origin) -> Dataset:
    """Triples of numbers, with the names of the entities and the relations."""
    return Dataset(
        f"nell-995_{part}",
        f"facts read on the web, NELL after 995 rounds (Xiong et al. 2017): {part}",
        "CC BY",
        f"06-kg-ssrl/nell-995/{part}.tsv.gz",
        size,
        sha256,
        gzipped(numbered_triples),
        (
            Origin(
                f"{_NELL}/entity2id.txt", "d4676c3efc7fd79c3d90bd4168c3f49493f96656afe1030a38fda5ba3f276df0", 2840627
            ),
            Origin(
                f"{_NELL}/relation2id.txt", "7acb7297c45d8e9721c3667a75e9ac47d687aa660d9ab6dc46490397d651c126", 7017
            ),
            triples,
        ),
    )


KG = (
    *_archived(
        "umls",
        "kinds of things in medicine and how they relate, UMLS semantic network (McCray 2003)",
        "research benchmark",
        Origin(f"{_CONVE}/umls.tar.gz", "26223aa91f0ec8db2324e0f489b9a4425e04d1d0df72ce5cfd62af4b91aee6fd", 35648),
        train=(28375, "873ef4925516b83e7f6f8cc02b4be51d848828710a7f65a956f0ac4a9e452f35"),
        valid=(4664, "025c98f8a4891e2a6582ec5b40ee0d904031edad9c52554522f4b7904820c98e"),
        test=(4676, "a7eb529a3d2810fcc96341ccc97c625a5e202f8389673aa6bd317eeebbb79014"),
    ),
    *_archived(
        "kinship",
        "who calls whom what among the Alyawarra (Denham 1973)",
        "research benchmark",
        Origin(f"{_CONVE}/kinship.tar.gz", "a3cb9ca67213eb38133aebc12901195e283d844ebd59f1a6cbf2d4fa12ced4e6", 42703),
        train=(31925, "738612111a6acf0e39662bde24c7e72a4d1edf20931beea077da367dda689731"),
        valid=(4463, "c56f8630a583178b1e569f11a64aa535ae1ce0b0912d8b1e24716be2b37f04da"),
        test=(4478, "05e5733265761d55be9c05bfaff5a8d0808df46f9c1e9d66cc3f2fe114e43d88"),
    ),
    *_archived(
        "wn18rr",
        "meanings of English words, from WordNet 3.0 (Dettmers et al. 2018)",
        "WordNet licence",
        Origin(f"{_CONVE}/WN18RR.tar.gz", "1eb9152f804c140d163462c0d49f65e5a0b30ab5fbb375c5e3353c11a6249060", 892861),
        train=(820221, "038612e783c215ee5f3ca9fbfca27b8d0739be1028fe4ee7c174aecf0b83d5df"),
        valid=(29606, "453ce7202afa58094a04d2b1560ee2b02660f1c260b32ce6651c8ccedd1028ab"),
        test=(30544, "0383bceaaa1096cf3c03ec021ed0048068e2355dbfc0239b292cefdac821cec5"),
    ),
    *_archived(
        "fb15k-237",
        "facts from Freebase (Toutanova and Chen 2015)",
        "CC BY 2.5; CC BY 4.0",
        Origin(
            f"{_CONVE}/FB15k-237.tar.gz", "311df7930f842a02979eaa7a802484a6afe62303c07f915f1e6edbc30cbe05e8", 3678603
        ),
        train=(3040831, "61099230e4439f90885ca9767739e31e8e32f54736fa1c35952b27997bc7c08a"),
        valid=(186585, "749cbe9d923bac7b9354da5614ecfed2e0220256d442c3e04a6b303db1f273d9"),
        test=(219010, "e2e35e8e6113de220140b6f44dc71a5207b0fc6872d575e874aefe13259b655b"),
    ),
    _nell(
        "train",
        1257345,
        "826606112803d19cef310b45a908e6793d89c0ce99fed60d71a9c2095b71d8f6",
        Origin(f"{_NELL}/train2id.txt", "db5a0d78d1871be461fa54ddd2df20b00122950689a787f9fe88477869b59b0d", 2257120),
    ),
    _nell(
        "valid",
        7727,
        "9c02548083036fd7ccc4ccec649a633fc3a58c544a0d28496cd751c35fef23a8",
        Origin(f"{_NELL}/valid2id.txt", "c5a037af8b2de6f449ddffce0fc41ae5d7d1e221607a7c1e52ae4082a417db29", 8315),
    ),
    _nell(
        "test",
        44682,
        "09984fa351609e449a4bef5dc45d8c358eb12e4e6aae4e11b9af9ba19b96e0ef",
        Origin(f"{_NELL}/test2id.txt", "e1f320710c74d3c166d5732066d44378f9d48ce0cd115c66d36681f09553f7dd", 61626),
    ),
)

# Each is the name of its three files together.
GRAPHS = ("umls", "kinship", "wn18rr", "fb15k-237", "nell-995")
