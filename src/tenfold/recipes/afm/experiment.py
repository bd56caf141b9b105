"""The experiment, in the paper's order: text, then core, pruning, distillation, continued and long-context training."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

from tenfold.core.claims import Result
from tenfold.core.errors import UserError
from tenfold.core.jobs import run_jobs
from tenfold.core.mesh import data_mesh, device_type, is_main
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm import findings
from tenfold.recipes.afm.chain import step_cost, train_one, trainings, waves
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.corpus import Corpus, characters, find_text, open_corpus, write_corpus
from tenfold.recipes.afm.findings import Row
from tenfold.recipes.afm.printing import print_rows
from tenfold.recipes.afm.sweeps import Trial, best_rates, race_trials, sweep_trials, try_out

CARD_TABLES = ("stages", "after pre-training", "safety", "committee")  # of a model's card


def check(config: Config) -> None:
    """Hold a config against this machine, before there is a run folder.

    Raises:
        UserError: no text, or none that can be read; a rival without what it starts from; comparisons under torchrun.
    """
    turns(config)
    check_memory(config)
    if config.race.steps or config.sweep.steps:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "race.steps, sweep.steps: under torchrun need 0, since these comparisons train on one process"
            )
        characters()
    find_text(config.data)


def check_memory(config: Config) -> None:
    """Refuse a model whose weights, gradients and optimizer state cannot be held on this machine's CPUs.

    Raises:
        UserError: how much is needed and how much there is.
    """
    if device_type() != "cpu":
        return
    with torch.device("meta"):
        wide = config.model.wide_ffn or config.model.ffn
        model = Decoder(
            config.model.decoder(config.data.vocabulary, config.stages.context.length, ffn=wide), torch.Generator()
        )
    share = 16 * model.num_params(embedding=True) / int(os.environ.get("WORLD_SIZE", "1"))
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if share > here:
        raise UserError(
            f"model: {model.num_params(embedding=True):,} parameters need {share / 1e9:.0f} GB a process to train, this "
            f"machine has {here / 1e9:.0f} GB; take a smaller model, more processes, or an accelerator"
        )


def train(config: Config, run: Run) -> Result:
    """Raw text to a model of the final width that reads long rows, each stage beside what it is compared with.

    Source: Gunter et al. 2024, arXiv 2407.21075, sections on pre-training and on the on-device model.
    """
    check(config)

    # 1. Text: cleaned, split and encoded once; what was encoded stays with the run.
    if not run.done("corpus"):
        write_together(config, run.path / "corpus")
        run.save_stage("corpus")
    corpus = open_corpus(run.path / "corpus")
    check_lengths(config, corpus)

    # 2. The stages and their rivals, those that wait for nobody first.
    chain = train_chain(config, run, corpus)

    # 3. The optimizer and its rates, on Shakespeare: the first seed tells the best rates, the others take them.
    race = try_all(config, run, "race", race_trials(config, config.seeds[:1]))
    race += try_all(config, run, "race", race_trials(config, config.seeds[1:], best_rates(race)))
    sweep = try_all(config, run, "sweep", sweep_trials(config))

    # 4. After pre-training: alignment, compression, adapters.
    post = align_all(config, run)

    report(config, run, corpus, chain, race, sweep, post)
    result = run.finish()
    if post:
        write_cards(run)
    return result


def write_cards(run: Run) -> None:
    """A card in the folder of every model that ends the chain: palettized, one a seed."""
    from tenfold.recipes.afm.model_card import write_card
    from tenfold.recipes.afm.post_chain import SMALL

    for folder in sorted((run.path / "models").glob(f"{SMALL}*")):
        write_card(run, folder, f"AFM {run.preset}, {folder.name}", tables=CARD_TABLES)


def write_together(config: Config, folder: Path) -> None:
    """`write_corpus` on the main rank, the others wait."""
    data_mesh()  # starts the process group, where there are several
    if is_main():
        write_corpus(config.data, folder)
    if dist.is_initialized():
        dist.barrier()


def check_lengths(config: Config, corpus: Corpus) -> None:
    """Refuse at once what would stop a later stage.

    Raises:
        UserError: a source too short for a row of some stage, or none of a stage's sources.
    """
    for training in trainings(config).values():
        stage = getattr(config.stages, training.stage)
        for name in corpus.shares(stage.mix):
            if len(corpus.train[name]) <= stage.length:
                raise UserError(
                    f"text: {len(corpus.train[name])} tokens of {name}, need {stage.length + 1} for a row of the "
                    f"{training.stage} stage; give more text, or shorten its rows"
                )
    for name in corpus.train:
        corpus.validation_rows(name, config.stages.core.length, 1)
    corpus.validation_rows(next(iter(corpus.train)), config.stages.context.length, 1)


def turns(config: Config) -> list[list[str]]:
    """Names of all trainings; those of one turn wait only for earlier turns."""
    try:
        return list(waves(trainings(config)))
    except ValueError as error:
        raise UserError(str(error)) from None


def train_chain(config: Config, run: Run, corpus: Corpus) -> list[Row]:
    """All trainings of the chain and its rivals with every seed, in turns."""
    rows: list[Row] = []
    vocabulary = corpus.tokenizer.vocab_size
    planned = turns(config)
    for number, names in enumerate(planned, 1):
        stages = {name: getattr(config.stages, trainings(config)[name].stage) for name in names}
        cost = {name: stages[name].steps * step_cost(config, name, vocabulary) for name in names}
        longest_first = sorted(names, key=lambda name: -cost[name])
        rows += run_jobs(
            train_one,
            [(config, str(run.path), name, seed) for name in longest_first for seed in config.seeds],
            workers=config.workers,
            expected_seconds=sum(cost.values()) * len(config.seeds),
            title=f"turn {number} of {len(planned)}: {', '.join(names)}",
        )
    return rows


def try_all(config: Config, run: Run, title: str, trials: list[Trial]) -> list[Row]:
    """Trainings on Shakespeare, side by side."""
    longest_first = sorted(trials, key=lambda trial: -trial.steps * trial.cost)
    return run_jobs(
        try_out,
        [(config, str(run.path), trial) for trial in longest_first],
        workers=config.workers,
        expected_seconds=sum(trial.steps * trial.cost for trial in trials),
        title=title,
    )


def align_all(config: Config, run: Run) -> list[Row]:
    """What follows pre-training, of every seed that has it."""
    seeds = config.seeds[: config.post.seeds]
    if not seeds or not is_main():
        return []
    from tenfold.recipes.afm.post_chain import align_one

    found = run_jobs(
        align_one,
        [(config, str(run.path), seed) for seed in seeds],
        workers=config.workers,
        expected_seconds=len(seeds) * float(config.post.mdloo.iterations * (1 + len(config.post.rivals))),
        title="after pre-training: alignment, compression, adapters",
    )
    return [row for rows in found for row in rows]


def report(
    config: Config, run: Run, corpus: Corpus, chain: list[Row], race: list[Row], sweep: list[Row], post: list[Row]
) -> None:
    """Summary, figures, tables and claims."""
    from tenfold.recipes.afm import figures  # matplotlib takes a second to import

    run.text("summary", findings.summary(config, chain, corpus.source))
    run.figure(
        "learning",
        figures.learning_figure(config, run, chain),
        caption="Training loss over the chain of the first seed. Each stage has its own mixture of text, so losses of "
        "different stages do not compare; the table does.",
    )
    run.table("stages", findings.stage_table(config, chain), note=findings.STAGES_NOTE)
    if rivals := findings.rival_table(config, chain):
        run.table("rivals", rivals, note=findings.several_seeds(config))
    if config.model.wide_ffn:
        run.figure("pruning", figures.pruning_figure(config, chain), caption=figures.PRUNING_CAPTION)
    run.figure("positions", figures.position_figure(config, chain), caption=figures.POSITION_CAPTION)
    if race or sweep:
        run.figure("rates", figures.rate_figure(config, race, sweep), caption=figures.RATE_CAPTION)
    if race:
        run.table("optimizers", findings.race_table(race), note="Validation loss in nats a character.")
    if sweep:
        run.table("widths", findings.width_table(config, sweep), note=findings.WIDTHS_NOTE)
    if corpus.steps:
        run.table("cleaning", corpus.steps)
    run.table("beside the paper", findings.beside_the_paper(config, chain, race), note=findings.PAPER_NOTE)
    if post:
        report_post(config, run, post)
    for claim in findings.make_claims(config, chain, race, sweep):
        run.claim(claim)


def report_post(config: Config, run: Run, rows: list[Row]) -> None:
    """What follows pre-training."""
    from tenfold.recipes.afm import post_figures, post_findings, safety_set

    run.text("after pre-training", post_findings.post_summary(config, rows))
    stages = post_findings.stage_rows(rows)
    run.table("after pre-training", stages, note=post_findings.NOTE)
    print_rows("after pre-training, stage by stage", stages)
    run.figure(
        "after pre-training",
        post_figures.post_figure(run, rows, config.seeds[: config.post.seeds]),
        caption="Left: rewards of the answers that MDLOO and its rivals learn from, mean over seeds. Middle: the reward model on "
        "held-out pairs, a line a seed; on the dashed line it means what it says. Right: what compression costs on text.",
    )
    if config.post.safety.held_out:
        run.table("safety", post_findings.safety_rows(rows), note=safety_set.NOTE)
    if config.post.committee:
        run.table(
            "committee",
            post_findings.committee_rows(rows),
            note="One teacher: the best member's answers among the committee's. Best member: as many answers of it as all members gave.",
        )
        run.table("members", post_findings.member_rows(rows, config.seeds[0]), note="First seed.")
    for claim in post_findings.post_claims(config, rows):
        run.claim(claim)
