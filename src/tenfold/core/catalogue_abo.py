"""The data of system 10: questions of BIG-Bench Hard and of BIG-bench, and published demonstrations that think aloud.

They are for evaluation and prompt search and must not be trained on; the demonstrations begin with the benchmark's notice.
"""

from __future__ import annotations

from tenfold.core.bbh_conversion import bbh_task, lettered_task
from tenfold.core.conversions import unchanged
from tenfold.core.origins import GITHUB, Dataset, Origin

_BBH = f"{GITHUB}/suzgunmirac/BIG-Bench-Hard/9ee07bd481feebf959a6b59d61ea57bdcf30964d"
# BIG-bench's file, as the repository of Zhou et al. 2022 keeps it.
_BIG_BENCH = f"{GITHUB}/keirp/automatic_prompt_engineer/eac521c79a78965245ce7745dcc9f6b0792c7ec7/data/bigbench-ii"

Pinned = tuple[int, str]  # bytes, SHA-256


def _task(name: str, *, rows: Pinned, origin: Pinned, worked: Pinned) -> tuple[Dataset, Dataset]:
    """The questions drawn, and the demonstrations."""
    title = name.replace("_", " ")
    size, sha256 = origin
    questions = Dataset(
        f"bbh_{name}",
        f"BIG-Bench Hard, {title}: a fifth each to learn from, to choose by and to test on (Suzgun et al. 2022)",
        "MIT",
        f"10-abo/bbh/{name}.jsonl",
        *rows,
        bbh_task(name),
        (Origin(f"{_BBH}/bbh/{name}.json", sha256, size),),
    )
    size, sha256 = worked
    demonstrations = Dataset(
        f"bbh_cot_{name}",
        f"BIG-Bench Hard, {title}: three worked answers",
        "MIT",
        f"10-abo/cot-prompts/{name}.txt",
        *worked,
        unchanged,
        (Origin(f"{_BBH}/cot-prompts/{name}.txt", sha256, size),),
    )
    return questions, demonstrations


# How the options of each question drawn are lettered, shuffled at random once.
_ORDERS = """
201 0325641 012 14203 01 4513602 42310 76350214 201 340125 120 01 10 2130 0526134 51273406 201 30421
6305214 32615074 2031 1023 201 130524 413502 01 10 10 021 021 021 0312 10 01 10 01 01 10 021 10 012
201 10 01 01 01 01 01 10 01 10 10 01 102 10 102 012 10 01 10 120 01 01 01 01 120 0321 01 10 231504
0312 10 01 01 01 01 01 10 102 10 01 01 10 10 10 04132 10 10 10 10 10 10 10 021 01 01 01 10 10 10 012
01 10 120 201 021 01 10 10 102 0312 10 012 01 10 10 01 10 10 201 01 01 10 01 10 01 210 210 10 10 01
01 201 012 01 201 10 01 10 01 102 10 01 01 10 10 01 10 01 01
"""

ABO = (
    *_task(
        "boolean_expressions",
        rows=(17523, "9c07efda2757d93fad95564fbfe425663d048570c35edb2b9580291bbf973d78"),
        origin=(17172, "ea6c754ec005e2d3f2d085d349a740f593b5764f32ea4638ffed4cfc0061b12a"),
        worked=(1891, "685affba97425cdf3549d5d313ba876caed2fa7c8a4cf1ea7549faf22179609d"),
    ),
    *_task(
        "causal_judgement",
        rows=(121675, "4266ba05908d026efa58506827acade386f309af4cf175e4aed0574fdfd59274"),
        origin=(202943, "6e8bca44dd402008ed41c07a3d0a1d5e7b03db7001a7e002fcdf4c60985ea081"),
        worked=(3763, "14377e36cccb084b7d0fe73988d08696f7675d712b02d3ae1f5f7f12c77028ea"),
    ),
    *_task(
        "date_understanding",
        rows=(44144, "34e67c1354b49f37f890b24af6f42fcc26ad916f7fd70ae819ddc6ea3e4794fa"),
        origin=(61760, "0148d4ac5fca05b2f82373e5fef7208e15363b9c6079493034d77b3dab496bf5"),
        worked=(1277, "a0a13c392f689a1828f5f6ffb9dee3d44483794490da5d92f0e2a723787b1cfb"),
    ),
    *_task(
        "disambiguation_qa",
        rows=(58384, "4841e90708338ad5373c50a4886c9c24003d34773bf8147d69b15194073b31da"),
        origin=(85255, "cf06df9ebf911b883671cb1b35d3fbd1a1c306b19b9e9a012407e596c85fe8c6"),
        worked=(3678, "794fd259297972a4c963a5d13a84dc221edde460de27fa5d8fd64299a2001597"),
    ),
    *_task(
        "dyck_languages",
        rows=(33442, "cb7be267364296c9537a924b41376c005493e9202bea02bd309a1010211bb5cb"),
        origin=(43814, "3f9badedf15c2be1ce53d94fdf016299bb30ba231ef087ab9f51a7ed6d0bdc25"),
        worked=(2515, "b0836603007ec659ed685458647fb6d7543543304e7aca909b995d0c3aff22b2"),
    ),
    *_task(
        "formal_fallacies",
        rows=(93543, "f89e117c41143f02d00e24f39a1680376ad99f9cdf017f342ee223a3ecbc9723"),
        origin=(145562, "4c1adb664821157faade1d4153685403afcc02648f3c180a608a18f17f589629"),
        worked=(4587, "10c06cc362520e9b8dddfc4861e263ff668d228a52d958dcc69f09f1d224935a"),
    ),
    *_task(
        "geometric_shapes",
        rows=(53574, "0d14a1ac6418f80704a4b6e03e33ce763559c3393a3220fa76c62be6f662ebfc"),
        origin=(77242, "07be68a124420caa2ebc0b2c858ad79fc55c5c8806170e496e1e17ebfb11f31c"),
        worked=(4941, "f36d9893507eb518d84f388fb677dc0226c74a98873700de0b556548d65d3f76"),
    ),
    *_task(
        "hyperbaton",
        rows=(32813, "630f209addda42bb0d5b030a66dd4162dba47409ff313affff11b01147e8a24e"),
        origin=(44706, "b6d7f55c75f5d02f2987a4f3123802dfa093872089a56a334144aae8a7264fdc"),
        worked=(3224, "19898af91c35cb26bbdf5fdb6f6fb17e138677250332e2994005625ffb50b261"),
    ),
    *_task(
        "logical_deduction_five_objects",
        rows=(102663, "7daf0fefef850de1477c429a6cdbed126970f4138bcb93495681ae4f4ba4ccc9"),
        origin=(155477, "d2df31394b903b7f0e085d42a69572a092987856eac076799017d70ef266fa8f"),
        worked=(2615, "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034"),
    ),
    *_task(
        "logical_deduction_seven_objects",
        rows=(127976, "5aa43b3cc95dd3e0c92fccc632863ae6f4778c17fdc24782117c212ee52bf462"),
        origin=(198404, "2896c7e3482eea318dd37bcc370d24ec3cc91e8374c1784287b5dbd38a529e33"),
        worked=(2615, "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034"),
    ),
    *_task(
        "logical_deduction_three_objects",
        rows=(76181, "545ad8383f7ae9d976bda7779754779ff5c11c72b59cbd2a42f9053e9d72a02d"),
        origin=(112213, "e590fae72e3a6041fbd23bd8ff6b74baf44ca563f6ba40a041c55e7b867c1681"),
        worked=(2615, "4ed65246c0c1c4b0b4053d784181892b842bce19cf4358c976f34b1a434ef034"),
    ),
    *_task(
        "movie_recommendation",
        rows=(41973, "f6a29f4331d8c43f0a2d97aa7869084bdd1744f9fbed18bf136eab5a3be4e283"),
        origin=(57684, "a8b53a87ee21a865b7248e694f388a9b8f7cf6b839b11d44796a2dd3fc088983"),
        worked=(2231, "cdf765634713b057091d541b4773dd2c998f81447b0bd8564ae70be4cdf3f5d0"),
    ),
    *_task(
        "multistep_arithmetic_two",
        rows=(18955, "26759e0b1549a77b20955764829071d7acb89424cfe5cbb5998417ca0b80c41a"),
        origin=(18325, "c9d5a6433c9b78256422a15c78463949c8bec8d85607aa28b52d7234ad4a8595"),
        worked=(2496, "a546e0b7cde09037bc144ae5c32c9cf78dafdfac929ae76e2051b2dd8f3671ce"),
    ),
    *_task(
        "navigate",
        rows=(38565, "dfc98bc0c865786142a8ade4204d8ecc12fd9df27c7d503683e200e9659d611b"),
        origin=(55163, "b7944dfd3c81da5c4815bd75b00d6fa3c64140823498e78ed496f4c3d36f7f0d"),
        worked=(2257, "dc2fd733f1867b8c79685f15b83746064534a94bf73468341c2a9dd335be22fc"),
    ),
    *_task(
        "object_counting",
        rows=(28100, "45d91530b3b93d007ebf1e312e56027e57fa004fa651249a831cf84720aa4710"),
        origin=(35890, "8acef14dbbdd40d2326ef7755750b6b5fe919fef06276af1bab3f1c297f022ff"),
        worked=(1528, "e51ffc03fd713a13a379a6c938a523dfc1c2f384f2a8447bd7a12d4458f18833"),
    ),
    *_task(
        "penguins_in_a_table",
        rows=(49183, "e3d02e13c8dc65d7c71e7f3441b6e1d02f733a496f9e51a69635771e0973fd62"),
        origin=(74516, "bb87ee449698eee51215e025a453b1bcb2f5e6589c2063b2c79e68b8f0655228"),
        worked=(2496, "33be137e76c2a6af0bbacd17a8e7a92801886c0202a45e35ea9c2a88c1f26d51"),
    ),
    *_task(
        "reasoning_about_colored_objects",
        rows=(68436, "4e1b2999be5b0f22920ea2b1c0fd32ebf5d80a30df9629cc630da502e7499bed"),
        origin=(98694, "0a8850cf95166020fce7a78244026ceedd7ea839302471512b4f8744e85a6a49"),
        worked=(2405, "e4ea02d05b13e8ed9ccc3b0d878bc4df4c5a6fb76c65d39d48d6244f7ff0b9d5"),
    ),
    *_task(
        "ruin_names",
        rows=(37539, "fe7a702267b311b26ea142da6510310ed15449d1868b0df33f67f55d6aa91889"),
        origin=(53178, "b6f723aef2bafdd4c7bfc3c7e0329c7e8a8279391a609969c8ed76c9319f5f7f"),
        worked=(3591, "731446c6c66bb5258677af1417b599a6a5539be6d74a5afc02cf7a716444ea54"),
    ),
    *_task(
        "salient_translation_error_detection",
        rows=(180742, "812b02b2c39bbb0d9ea35260d431ee8efe9fa551ec3d7a8499497cf56ac34bfd"),
        origin=(286443, "becf3eb8dd53c821a555ecd5c1334ecd93eb25f980e63be963c518e7138de5da"),
        worked=(6251, "2c8367f75092202cc507fdbfaaf037b1c1eed38e91289084439738367f0785f7"),
    ),
    *_task(
        "snarks",
        rows=(29059, "76324d3d26a18a5a5043b55e98ae8a8380f38e87f610058c1d70595c69ae2505"),
        origin=(42646, "54a0661fe2de06167645a4965e6bcf963c4ba307e76262a7c750998b0e3d0d0e"),
        worked=(3224, "35084a2a0b86bc4008ab206b838c0b97dd425897dd72198137c3cefc499c0960"),
    ),
    *_task(
        "sports_understanding",
        rows=(24389, "0edaea78fc6d8e2818adf9d1333fabb921deec9a4338868badde90923917696e"),
        origin=(28617, "63ca262858f6176864515cd8cf53cdaa40839ebecc155b726d77930855d167bf"),
        worked=(931, "2058a9bed717a6edb8ca2f815e88851436a4ee14c8b0d504ccf464865c6d0295"),
    ),
    *_task(
        "temporal_sequences",
        rows=(96590, "cd4fef74a2a519457ee3ea14f14b0185cf824df7d7598df888c3f9e954cd7b90"),
        origin=(148176, "92a1189faaa84aacc4c405aaa13f13f48c2992eb884772eedb622505252baef5"),
        worked=(3133, "3e7ebf1e20abe3e219dc6514dcb7474d82db1b2c66acc733cd30af2e9e0b64b0"),
    ),
    *_task(
        "tracking_shuffled_objects_five_objects",
        rows=(111480, "c98a40ffe1753227cf38d153c16d11ffcd1559f80d99a5bc7802a7c4c5d2dd55"),
        origin=(169722, "2063a46a4fb484236ed4310523606543a3e1dd4a4dc34eda65d407910ece25a5"),
        worked=(2714, "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af"),
    ),
    *_task(
        "tracking_shuffled_objects_seven_objects",
        rows=(139094, "dafabbc05b2db2680bc2b387163d41c81a9013bb43e1110b8264d1a9500c3425"),
        origin=(214906, "b59fd05b850c37cf57cb514ae1e6975c00b1638ade2291722056b2af3c54084d"),
        worked=(2714, "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af"),
    ),
    *_task(
        "tracking_shuffled_objects_three_objects",
        rows=(87226, "4c2ec3d890e2398ad9dad3ca1db378c4691c1e44ee668ab56dce3affd440a90b"),
        origin=(128736, "546cc7bf10c6a01a6a4c17ae28a4966485f21f29fd5d111f37858ec78e354f6b"),
        worked=(2714, "2ef54cb2a72052adc3484a76209cb6a6535f194d677e79bcec2e2e71cf3768af"),
    ),
    *_task(
        "web_of_lies",
        rows=(37868, "05a42ebf669415b0f6d38c125a29da71ff624227c726a5efada725eeab512176"),
        origin=(52964, "3e60323f8514a107fdb4edf35f8832a9171c5a09c0eaa47823559de905e8ab8b"),
        worked=(3055, "c8025ca65ab7f0897c243504c863bda043d04b6e873777536743e94023c929d0"),
    ),
    *_task(
        "word_sorting",
        rows=(45084, "93de50665815f61e6049254fb289a9afe45958098cdd004ac00502697d120bd7"),
        origin=(66300, "2a6132d2c99f00d0d2eb1113ac6b4a918bd969d863c48749210d969713db8d43"),
        worked=(2274, "a2cdbcfe23abaa97b9787f7c03dbf49b1cfd0ff9e63197b7884bb5cd5a096ca6"),
    ),
    Dataset(
        "bbh_question_selection",
        "BIG-bench, question selection: 50 questions each to learn from, to choose by and to test on (Srivastava et al. 2022)",
        "Apache-2.0",
        "10-abo/bbh/question_selection.jsonl",
        165279,
        "18da256a7510cd87bed630295bc56d0501e6c4a1ee7821b138d1ce54c90da0f9",
        lettered_task("question_selection", _ORDERS.split()),
        (
            Origin(
                f"{_BIG_BENCH}/question_selection/task.json",
                "16d911b4b2ef9f76001d4216f52f8901fa0b350da086afcf662f44fd1be4502f",
                1803085,
            ),
        ),
    ),
)
