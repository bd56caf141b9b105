"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from tenfold.recipes.mm1.config import (
    MAIN,
    Clip,
    Config,
    Connector,
    Data,
    Evaluation,
    Language,
    Training,
    Tuning,
    Vision,
)

_LAPTOP_TUNING = Tuning(
    ("scenes", "several"),
    worked=0.5,
    demos=8,
    turns=6,
    training=Training(steps=800, rows=6, length=512, images=48, final=0.0, lr=1e-3),
)

PRESETS: dict[str, Config] = {
    "tiny": Config(
        pretrain=Training(steps=120),
        sft=Tuning(training=Training(steps=20, final=0.0, lr=2e-3, warmup=5)),
        evaluation=Evaluation(queries=60, tuned=60, glosses=80),
    ),
    "laptop": Config(
        data=Data(text="glosses"),
        language=Language(vocab=1536),
        pretrain=Training(steps=400),
        sft=_LAPTOP_TUNING,
        clip=Clip(steps=900, lr=2e-3),
        evaluation=Evaluation(queries=200, tuned=200),
        cells=(MAIN, "mix=100/0/0", "mix=control", "mix=50/50/0", "decoder=moe"),
        seeds=(0, 1, 2),
        workers=2,
    ),
    "ablation": Config(
        data=Data(text="glosses"),
        language=Language(vocab=1536),
        pretrain=Training(steps=300),
        evaluation=Evaluation(queries=200, tuned=200),
        cells=(
            MAIN,
            "connector=avg",
            "connector=attn",
            "tokens=1",
            "tokens=4",
            "resolution=48",
            "encoder=4",
        ),
        seeds=(0, 1, 2),
        workers=2,
    ),
    "reading": Config(
        data=Data(text="glosses"),
        language=Language(vocab=1536),
        pretrain=Training(steps=0),
        sft=Tuning(("reading", "scenes"), training=Training(steps=600, final=0.0, lr=2e-3)),
        evaluation=Evaluation(tuned=200),
        cells=(
            "task=reading+tokens=16+resolution=48",
            "task=reading+tokens=16+resolution=96",
            "task=reading+tokens=16+resolution=96+connector=avg",
            "task=reading+tokens=16+resolution=96+connector=attn",
            "task=reading+tokens=16+resolution=48+tiles=4",
            "task=scenes+tokens=4+resolution=48",
            "task=scenes+tokens=16+resolution=48",
        ),
        seeds=(0, 1, 2),
        workers=2,
    ),
    "easy-vqa": Config(
        vision=Vision(size=32, patch=4),
        connector=Connector(tokens=4),
        pretrain=Training(steps=0),
        sft=Tuning(("easy_vqa",), turns=3, training=Training(steps=1500, final=0.0, lr=1e-3, length=192)),
        evaluation=Evaluation(tuned=2000),
        seeds=(0, 1, 2),
        workers=2,
    ),
    "smollm2": Config(
        vision=Vision(size=32, patch=8, start="clip", frozen=True),
        connector=Connector(tokens=4, hidden=128),
        language=Language(base="smollm2-135m-instruct", frozen=True, max_len=512),
        data=Data(text="glosses"),
        clip=Clip(steps=900, lr=2e-3),
        pretrain=Training(steps=300, rows=4, length=128, lr=2e-3),
        evaluation=Evaluation(queries=50, glosses=40),
        cells=(MAIN, "mix=90/0/10"),
        save_every=25,
    ),
}
EXPECTED = {
    "tiny": "a model of half a million weights finds a hidden rule in the lines after earlier pictures; it hardly reads the pictures themselves yet, "
    "and its answers about scenes are guesses; one seed, no claim; about 50 seconds of processor time",
    "laptop": "few-shot with and without interleaved data, text, experts, names that find emoji; three seeds; two hours of one process "
    "beside other work",
    "ablation": "connector, tokens, resolution and encoder in pre-training beside the paper's figures; three seeds; half an hour on two "
    "busy cores",
    "reading": "resolution, tiles, tokens and connectors on signs of three letters and on scenes, tuned from random weights; three seeds; 90 minutes of processor time by its "
    "timed steps, half of that on two idle cores; not run whole yet",
    "easy-vqa": "easy-VQA's test questions (pip install easy-vqa==1.0); the majority answer gets 67.0 %; three seeds; 40 minutes beside other "
    "work",
    "smollm2": "SmolLM2-135M-Instruct, frozen, under a connector; few-shot with and without interleaved data; one seed; 52 minutes "
    "beside other work",
}
