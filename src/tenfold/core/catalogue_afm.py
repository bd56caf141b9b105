"""The data sets of system 02: books and reviews to train on, instructions and questions to learn from and to score."""

from __future__ import annotations

from tenfold.core.conversions import (
    first_lines,
    graded_reviews,
    gutenberg_book,
    gzipped,
    movie_reviews,
    shuffled_lines,
    unchanged,
)
from tenfold.core.origins import GITHUB, Dataset, Origin

_GITENBERG = f"{GITHUB}/GITenberg"
_GSM8K = f"{GITHUB}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
_NLTK = f"{GITHUB}/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora"
_BFCL = (
    f"{GITHUB}/ShishirPatil/gorilla/6ea57973c7a6097fd7c5915698c54c17c5b1b6c8"
    "/berkeley-function-call-leaderboard/bfcl_eval/data"
)
_SELF_INSTRUCT = f"{GITHUB}/yizhongw/self-instruct/0b26ccaa415992100fa32df62d41b994cf928e23"


def _book(name: str, title: str, size: int, sha256: str, origin: Origin) -> Dataset:
    what, file = f"novel: {title}", f"02-afm/text/book_{name}.txt"
    return Dataset(f"book_{name}", what, "public domain", file, size, sha256, gutenberg_book, (origin,))


AFM = (
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
                f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
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
                f"{GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
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
                f"{_NLTK}/movie_reviews.zip",
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
    Dataset(
        "ifeval",
        "400 of the 541 prompts of IFEval, whose instructions a program can check (Zhou et al. 2023), drawn at random",
        "Apache-2.0",
        "02-afm/ifeval_400.jsonl",
        152312,
        "9e359ce0fecb532c764b18821a24e7242cd802afffb44d1ded3147363d55c79c",
        shuffled_lines(400, seed=0),
        (
            Origin(
                f"{GITHUB}/google-research/google-research/19638399cc9e03623c5b9087a1d6fa8813974ce9"
                "/instruction_following_eval/data/input_data.jsonl",
                "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
                207111,
            ),
        ),
    ),
    Dataset(
        "bfcl_simple_python",
        "400 questions, each with a function to call: BFCL v4, simple (Patil et al. 2025)",
        "Apache-2.0",
        "02-afm/bfcl_simple_python.jsonl",
        283274,
        "82dd63ba502eb2520c6b5d1d9a5c4b590e03ff261565175561f6228a367d1991",
        unchanged,
        (
            Origin(
                f"{_BFCL}/BFCL_v4_simple_python.json",
                "82dd63ba502eb2520c6b5d1d9a5c4b590e03ff261565175561f6228a367d1991",
                283274,
            ),
        ),
    ),
    Dataset(
        "bfcl_simple_python_answers",
        "the calls accepted for bfcl_simple_python",
        "Apache-2.0",
        "02-afm/bfcl_simple_python_answers.jsonl",
        63627,
        "90cd5bc653690ee8e459b5b3f3fc9458606f7f3fcbf795bb51b7dc581f8c86dc",
        unchanged,
        (
            Origin(
                f"{_BFCL}/possible_answer/BFCL_v4_simple_python.json",
                "90cd5bc653690ee8e459b5b3f3fc9458606f7f3fcbf795bb51b7dc581f8c86dc",
                63627,
            ),
        ),
    ),
    Dataset(
        "seed_tasks",
        "175 instructions with outputs, written by hand: Self-Instruct (Wang et al. 2023)",
        "Apache-2.0",
        "02-afm/seed_tasks.jsonl",
        110934,
        "7779004fa198fdf27cf70a159363879d8a26c53329e11b436af17b3941875f48",
        unchanged,
        (
            Origin(
                f"{_SELF_INSTRUCT}/data/seed_tasks.jsonl",
                "7779004fa198fdf27cf70a159363879d8a26c53329e11b436af17b3941875f48",
                110934,
            ),
        ),
    ),
    Dataset(
        "user_oriented_instructions",
        "252 instructions with outputs, for tasks of everyday programs: Self-Instruct (Wang et al. 2023)",
        "Apache-2.0",
        "02-afm/user_oriented_instructions.jsonl",
        170193,
        "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e",
        unchanged,
        (
            Origin(
                f"{_SELF_INSTRUCT}/human_eval/user_oriented_instructions.jsonl",
                "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e",
                170193,
            ),
        ),
    ),
    Dataset(
        "graded_reviews",
        "3201 of the 3766 graded sentences of product reviews (Hu and Liu 2004, Ding et al. 2008), drawn at random",
        "CC BY 4.0",
        "02-afm/graded_reviews.jsonl",
        521085,
        "6a48bf34c3439c0dee669d492ccc7e5275766b6440825bca92cfb6448c3acc4e",
        graded_reviews(3201, seed=1),
        (
            Origin(
                f"{_NLTK}/product_reviews_1.zip",
                "627bfb0bb7c87586246d99b4402c3d7e4fb77ac14559d8695c283bd6850615ac",
                141287,
            ),
            Origin(
                f"{_NLTK}/product_reviews_2.zip",
                "272b08fe130882e5867aa7ecc69a65616099183c4ccc10374a62c271801b0bc1",
                170698,
            ),
        ),
    ),
)
