"""The presets; every one says what it should reach and how long it takes."""

from __future__ import annotations

from tenfold.recipes.spag.config import Arena, Config, Imitation, Model, Reasoning, SelfPlay, Table, Words

# Why the paper's ratio of whole utterances and not the mean of its code: a guess has more tokens than
# a clue, so by the mean a lost game pushes the clue before the guess down harder than the guess itself. In a single
# trial at about tiny's size (docs/systems/spag.md) guessing spread by the mean.
PRESETS: dict[str, Config] = {
    "tiny": Config(
        imitation=Imitation(games=2000, steps=450),
        self_play=SelfPlay(games=800, ratio="sequence"),
        arena=Arena(repeats=3, words=0),
    ),
    "laptop": Config(
        imitation=Imitation(steps=1000),
        self_play=SelfPlay(ratio="sequence"),
        arms=("signed", "official", "official-matched", "signed-alone"),
        seeds=(0, 1, 2),
        workers=2,
    ),
    # Imitation at lr 2e-4 for 40 steps taught the form of an answer and no more: of the attacker's words five in six were
    # the secret one, and self-play had nothing to learn from. At 1e-3 for 160 steps two games in three are decided. Then 50
    # steps of self-play at 2e-4 taught the defender never to guess, and a second epoch found 5 decided games in 120.
    "smollm2": Config(
        words=Words(held_out=32, sft="seed_tasks"),
        model=Model(base="smollm2-135m-instruct", lora_rank=16, max_length=256),
        table=Table(max_turns=3, pack="brief", form="chat", max_tokens=20, batch=32, precision="float32"),
        imitation=Imitation(games=400, steps=160, batch=8, lr=1e-3, beta=0.1, dictionary=0.25),
        self_play=SelfPlay(
            games=240, temperature=1.0, batch=8, lr=5e-5, beta=0.2, ratio="sequence", sft=0.25, max_weight=4.0
        ),
        arena=Arena(repeats=1, temperature=0.0, words=0),
        reasoning=Reasoning(tasks=("piqa", "arc_easy", "bbh_navigate", "bbh_snarks"), limit=100),
        precision="bf16",
        log_every=5,
        save_every=20,
    ),
    # The numbers of the paper's code. The games of its teacher (GPT-4) are not to be had, so the scripted ones play in its
    # place; the word list and the fine-tuning rows are the user's to bring.
    "paper": Config(
        model=Model(base="llama-2-7b", max_length=2048),
        table=Table(pack="default", form="text", max_tokens=256, batch=64, precision="float32"),
        imitation=Imitation(games=30_000, steps=500, batch=128, lr=5e-6, beta=0.1),
        self_play=SelfPlay(epochs=3, games=47_591, batch=128, lr=2e-6, beta=0.2),
        arms=("official",),
        reasoning=Reasoning(tasks=("piqa", "winogrande", "arc_easy", "arc_challenge"), backend="lm_eval"),
        precision="bf16",
        save_every=100,
    ),
}
EXPECTED = {
    "tiny": "a small decoder learns a language game and plays itself for two epochs; one seed, no claim; about a minute of CPU time",
    "laptop": "signed and official credit beside one another, three seeds: whether a defender of held-out words gains on the imitation that it began as; the "
    "goal is a return up by 0.20, and none of four settings reached it; 17 minutes on two cores with workers 2",
    "smollm2": "SmolLM2-135M-Instruct as it is, after imitation and after two epochs of self-play, LoRA; one seed; imitation teaches it to "
    "play, self-play only not to guess: ties go from 34 to 81 games in 100; 1 h 09 on two cores that had other work",
    "paper": "the paper's numbers for LLaMA-2-7B, scripted teachers in place of GPT-4; one process, so an accelerator of more than 110 GB, for days "
    "(an estimate), never run; "
    "words.targets, words.sft and model.base are yours to bring",
}
