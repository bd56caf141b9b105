"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from tenfold.recipes.abo.config import LOCAL, SCRIPT, WORDS, Config, Data, Models, Probes, Search

PRESETS: dict[str, Config] = {
    "tiny": Config(
        search=Search(calls=800, keep=1),
        probes=Probes(reflections=100, paraphrases=4),
        methods=("given", "apo", "opro", "abo", "abo-ablation"),
    ),
    "laptop": Config(
        search=Search(calls=3000),
        probes=Probes(bandit=400),
        methods=("given", "random", "ape", "iterative-ape", "apo", "apo-sum", "pe2", "opro", "abo", "abo-ablation"),
        seeds=(0, 1, 2, 3, 4),
        workers=2,
    ),
    "local": Config(
        models=Models(target=LOCAL, optimizer=SCRIPT),
        data=Data(tasks=(WORDS,), train=20, val=20, test=50, max_tokens=48),
        search=Search(calls=800, proposals=4, minibatch=10, abo_rounds=20, verify=6),
        probes=Probes(reflections=40, paraphrases=4),
        methods=("given", "random", "ape", "apo", "opro", "abo"),
        seeds=(0, 1, 2, 3, 4),
    ),
    "smollm2": Config(
        models=Models(target="serve:smollm2-135m-instruct", timeout=600.0, whole_replies=True),
        data=Data(tasks=("bbh/object_counting", "bbh/navigate"), train=20, val=10, test=30, max_tokens=160),
        search=Search(
            calls=120,
            proposals=4,
            minibatch=6,
            keep=1,
            start="Let's think step by step.",
            optimizer_tokens=320,
            optimizer_temperature=0.3,
            abo_rounds=1,
            verify=4,
            max_prompt_chars=2000,
        ),
        probes=Probes(reflections=10, paraphrases=4),
        methods=("given", "few-shot-cot", "ape", "apo", "opro", "abo"),
        seeds=(0, 1),
    ),
    # The paper's protocol as far as it is known: four tasks, GPT-family optimizers. Never run.
    "paper": Config(
        models=Models(target="llama-2-70b-chat", optimizer="gpt-4"),
        data=Data(
            tasks=("bbh/object_counting", "bbh/navigate", "bbh/snarks", "bbh/question_selection"), max_tokens=512
        ),
        search=Search(calls=20_000, keep=4, minibatch=64, start="Let's think step by step."),
        probes=Probes(reflections=100),
        methods=("given", "few-shot-cot", "iterative-ape", "apo", "apo-sum", "pe2", "opro", "abo", "abo-ablation"),
        seeds=(0, 1, 2),
    ),
}
EXPECTED = {
    "tiny": "on a simulator: behaviour optimization solves both tasks where edits by reflection hardly move them; one seed, no claim; under a minute",
    "laptop": "on a simulator, five seeds: the same with intervals, ten methods at 3000 calls, how well the diagnoses recover a known "
    "prior, and how often each selector finds the best of forty arms; an hour on two cores that ten others shared, under half an hour on idle ones (an estimate)",
    "local": "a language model of 0.15 M weights, trained here in half a minute of one core and kept in TENFOLD_CACHE, as a real target; a script writes the prompts; "
    "four methods and random search at 800 calls to the target at most, five seeds: each method finds what random search finds in one seed of five; four to seven minutes on a core that others shared",
    "smollm2": "SmolLM2-135M-Instruct as target and optimizer through `tenfold afm serve`, two tasks of BIG-Bench Hard, at most 120 "
    "calls to the target a run, two seeds; no method above the starting prompt, prior bias 0.87 and 0.73: it is no optimizer; one core for about an hour, 88 minutes beside other work; needs TENFOLD_DATA",
    "paper": "the paper's tasks with models of your own at OPENAI_BASE_URL (models.target, models.optimizer); never run",
}
