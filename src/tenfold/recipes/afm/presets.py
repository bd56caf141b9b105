"""The presets; every one states what it should reach and how long it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from tenfold.compress.palettize import PaletteConfig
from tenfold.lm.optim import OptimizerConfig
from tenfold.nn.rotary import rope_base_for_length
from tenfold.recipes.afm.config import CORE, Config, Data, Mix, Model, OptimizerRace, Rival, Stage, Stages, WidthSweep
from tenfold.recipes.afm.post_config import DPO, MDLOO, SFT, Compression, ITeC, LoRA, Post, Reward, Safety, Sampled, Toy

# Of the later stages: arXiv 2407.21075.
LATER = OptimizerConfig(lr=3e-4, weight_decay=1e-5, warmup=1000, final_fraction=0.001)
_TINY_CORE = OptimizerConfig(warmup=20, base_width=128)
_TINY_CUT = OptimizerConfig(lr=3e-3, warmup=20, base_width=128)  # at 0.01 all ways of pruning end alike
_TINY_LATER = OptimizerConfig(lr=2e-3, weight_decay=1e-5, warmup=5, final_fraction=0.001, base_width=128)
MATHS_AND_CODE = Mix(prose=0.4, code=0.35, maths=0.25)


def _small_stages(core: int, prune: int, distil: int, continued: int, context: int) -> Stages:
    """Stages of so many steps of 512 tokens."""
    return Stages(
        core=Stage(core, 128, 4, _TINY_CORE),
        prune=Stage(prune, 128, 4, _TINY_CUT),
        distil=Stage(distil, 128, 4, _TINY_CUT),
        continued=Stage(continued, 128, 4, _TINY_LATER, MATHS_AND_CODE),
        context=Stage(context, 512, 1, _TINY_LATER, MATHS_AND_CODE),
        targets="kl",
    )


def _paper_stages(rows: int, core_steps: int) -> Stages:
    """Table of the stages: 8 Mi tokens a step for the on-device model, 16 Mi for the server's."""
    tokens = 4096 * rows
    return Stages(
        core=Stage(core_steps, 4096, rows, CORE),
        prune=Stage(round(188e9 / tokens), 4096, rows, CORE),
        distil=Stage(core_steps, 4096, rows, CORE),
        continued=Stage(round(1e12 / tokens), 8192, rows // 2, LATER, MATHS_AND_CODE),
        context=Stage(round(100e9 / tokens), 32768, rows // 8, LATER, MATHS_AND_CODE),
    )


_ON_DEVICE = Config(
    # 23296 makes the unpruned model 6.4e9 parameters.
    model=Model(dim=3072, layers=26, heads=24, kv_heads=8, head_dim=128, ffn=8064, wide_ffn=23296),
    data=Data(vocabulary=49152),
    stages=_paper_stages(rows=2048, core_steps=750_000),
    precision="bf16",
    save_every=1000,
)
# What a model this small learns in minutes; copying words of several tokens takes it far longer.
_HALF_CHATTY = Toy(kinds=("exact_words", "avoid_letter", "count_letters"), learned=3000, chatty=0.5)


def _small_post(
    toy: Toy,
    rows: int,
    length: int,
    sft: int,
    tuned: int,
    answered: DPO,
    mdloo: MDLOO,
    itec: int,
    asked: int,
    judged: int,
    lora: int,
) -> Post:
    """After pre-training of a small model.

    Args:
        toy: instructions.
        rows: of a step.
        length: tokens a row.
        sft: steps of fine-tuning; `tuned`: of everything that goes on from there.
        answered: prompts, answers and pairs of DPO.
        mdloo: of the online method.
        itec: rounds; `asked`: prompts of each.
        judged: steps of each round's reward model.
        lora: steps of an adapter.
    """
    again = SFT(tuned, rows, length, 3e-4, dropout=0.0)
    how = Sampled(max_tokens=mdloo.max_tokens)
    pairs = replace(answered, steps=tuned, rows=rows, length=length, lr=1e-4)
    reward = Reward(2 * tuned, rows, length, 3e-4)
    # Rewarded by a model, not by the check: near the start model, else it learns to please that model alone.
    brief = replace(mdloo, iterations=max(1, mdloo.iterations // 4), beta=0.1)
    adapter = LoRA(lora, 4, 128, 2e-3, final_fraction=0.1)
    return Post(
        seeds=1,
        toy=toy,
        sft=SFT(sft, rows, length, 2e-3, final_fraction=0.1, dropout=0.0),
        answers=how,
        reward=reward,
        rs=again,
        dpo=pairs,
        mdloo=mdloo,
        itec=ITeC(
            max_tokens=how.max_tokens,
            rounds=itec,
            prompts=asked,
            pairs=16,
            rs=again,
            dpo=pairs,
            mdloo=brief,
            reward=replace(reward, steps=judged, lr=1e-3),
        ),
        compression=Compression(PaletteConfig(target_bpw=4.7, bins=1024), calibration=512, recovery=adapter),
        adapter=adapter,
    )


# The base that the paper's rule gives rows of 128 tokens, from its 500 000 for rows of 8192: 248.
_SMALL = Model(rope_base=rope_base_for_length(5e5, 8192, 128))
_LAPTOP = Config(
    model=_SMALL,
    data=Data(),
    stages=_small_stages(core=2000, prune=200, distil=300, continued=200, context=40),
    seeds=(0, 1, 2, 3, 4),
    rivals=get_args(Rival),
    race=OptimizerRace(steps=2000),
    sweep=WidthSweep(steps=200),
    post=replace(
        _small_post(
            _HALF_CHATTY,
            rows=16,
            length=64,
            sft=300,
            tuned=40,
            answered=DPO(prompts=192, k=8, pairs=4),
            mdloo=MDLOO(max_tokens=24, iterations=40, prompts=32, k=8, rows=128, passes=1, lr=3e-4),
            itec=2,
            asked=1000,
            judged=1500,
            lora=150,
        ),
        seeds=3,
        safety=Safety(learned=600, share=0.125, held_out=128),
        rivals=("clip", "mean"),
    ),
    workers=2,
)
PRESETS: dict[str, Config] = {
    "tiny": Config(
        model=_SMALL,
        data=Data(megabytes=1.5, validation_rows=32),
        stages=_small_stages(core=160, prune=40, distil=60, continued=40, context=40),
        rivals=("prune-magnitude",),
        post=replace(
            _small_post(
                replace(_HALF_CHATTY, kinds=("count_letters",), learned=300, held_out=24, draws=2),
                rows=8,
                length=64,
                sft=30,
                tuned=5,
                answered=DPO(prompts=12, k=4, pairs=2),
                mdloo=MDLOO(max_tokens=8, iterations=2, prompts=8, k=4, rows=32, passes=1, lr=3e-4),
                itec=1,
                asked=6,
                judged=10,
                lora=8,
            ),
            safety=Safety(learned=60, share=0.125, held_out=32, max_tokens=16),
            chance=1,
            adapters=1,
        ),
    ),
    "laptop": _LAPTOP,
    # What follows pre-training, without the comparisons of pre-training.
    "align": replace(_LAPTOP, seeds=(0, 1, 2), rivals=(), race=OptimizerRace(steps=0), sweep=WidthSweep(steps=0)),
    "85M": Config(
        model=Model(dim=768, layers=12, heads=12, kv_heads=6, head_dim=64, ffn=2304, wide_ffn=4608),
        data=Data(vocabulary=49152),
        stages=Stages(
            core=Stage(20_000, 1024, 128, OptimizerConfig(warmup=1000)),
            prune=Stage(1000, 1024, 128, OptimizerConfig(warmup=100)),
            distil=Stage(20_000, 1024, 128, OptimizerConfig(warmup=1000)),
            continued=Stage(3000, 2048, 64, LATER, MATHS_AND_CODE),
            context=Stage(1000, 8192, 16, LATER, MATHS_AND_CODE),
        ),
        precision="bf16",
        save_every=500,
    ),
    "3B": _ON_DEVICE,
    "paper": _ON_DEVICE,
    # The paper gives the server model's vocabulary and schedule, not its shape: the shape is our choice.
    "server": Config(
        model=Model(dim=5120, layers=48, heads=40, kv_heads=8, head_dim=128, ffn=13824, wide_ffn=0),
        data=Data(vocabulary=100_352),
        stages=_paper_stages(rows=4096, core_steps=375_000),
        precision="bf16",
        save_every=1000,
    ),
}
EXPECTED = {
    "tiny": "a model of 1 million parameters from text to task adapters; one seed, no claim; 75 seconds on two cores",
    "laptop": "each stage against what it must beat, AdaStar against AdamW, learning rates over widths, five seeds; alignment and "
    "compression, three seeds; an hour and a half on two cores, before the rounds of iTeC were made as long as in align, which alone takes longer",
    "align": "the part of laptop that follows pre-training: fine-tuning, rewards, alignment, safety, compression, each against what it must beat, "
    "three seeds; an hour and 43 minutes on two cores that had other work",
    "85M": "the official code's 85 million parameter shape; one accelerator",
    "3B": "AFM-on-device: 2.59e9 parameters and 0.15e9 in the embedding, pruned from 6.4e9; a cluster",
    "paper": "the same as 3B",
    "server": "the server model's schedule and vocabulary at a shape of our choice, 13e9 parameters; a cluster",
}
