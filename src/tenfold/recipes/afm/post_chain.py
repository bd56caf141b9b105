"""The chain after pre-training, of one seed: align on toy instructions, compress, recover, adapt; every part is done once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from tenfold.align.committee import Answers, committee_preferences
from tenfold.align.judge import judge_by, reward_scorer
from tenfold.align.preference_data import Preference
from tenfold.align.rejection import rejection_samples
from tenfold.align.reward_model import RewardModel
from tenfold.align.rollout import Response
from tenfold.align.samples import Sample
from tenfold.align.sft import sft_batches, sft_loss
from tenfold.align.verifiers import Scorer, Task, toy_tasks, verify
from tenfold.compress.adapters import AdapterBank
from tenfold.compress.bit_budget import random_bits
from tenfold.compress.palettize import bits_per_weight, palettize
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm import compressing, material, tuning
from tenfold.recipes.afm.chain import measure, model_folder
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.corpus import Corpus, open_corpus, windows
from tenfold.recipes.afm.findings import Row
from tenfold.recipes.afm.opening import ADAPTERS, RECOVERY
from tenfold.recipes.afm.post_config import MDLOO, Algorithm, Post
from tenfold.recipes.afm.safety_set import SafetySet, counts
from tenfold.recipes.afm.teaching import Taught, itec_rounds

START, SMALL = "context", "compressed"
ALIGNED: tuple[Algorithm, ...] = ("rs", "dpo", "mdloo")


def align_one(config: Config, run_path: str, seed: int) -> list[Row]:
    """Everything after pre-training with one seed.

    Returns:
        a row a model: "name", "seed", accuracy on held-out instructions, loss on text; of the reward model, the
        committee and the palettes what was measured of them.
    """
    return _Chain(config, Run.open(run_path), seed).all()


class _Chain:
    def __init__(self, config: Config, run: Run, seed: int) -> None:
        self.config, self.run, self.seed = config, run, seed
        self.post: Post = config.post
        # Without the text of another kind: reading it would take longer than these models' trainings.
        self.corpus: Corpus = replace(open_corpus(run.path / "corpus"), foreign=None)
        self.tokenizer = self.corpus.tokenizer
        # Answers of a round and of the online methods, then pairs to judge the reward model on.
        itec = self.post.itec.rounds * self.post.itec.prompts if self.post.committee else 0
        count = max(self.post.mdloo.iterations * self.post.mdloo.prompts, self.post.dpo.prompts, itec)
        tasks = material.find_tasks(material.TOY, self.post.toy, count + self.post.toy.held_out, seed)
        self.safety = SafetySet.of(self.post.safety, seed)
        # A request and its answer must fit the rows of whatever learns from them.
        post = self.post
        learners = post.rs, post.dpo, post.itec.rs, post.itec.dpo, post.compression.recovery
        room = min(learner.length for learner in learners)
        longest = max(post.answers.max_tokens, post.itec.max_tokens)
        self.tasks = replace(tasks, learned=self.safety.mixed(tasks.learned, self.tokenizer, room - longest))

    def all(self) -> list[Row]:
        post, rows = self.post, []
        start = tuning.open_decoder(self.folder(START))
        rows.append(self.row(START, start))
        sft = self.made("sft", start, self.fine_tuned)
        rows.append(self.row("sft", sft))

        # Its own answers, judged: for the reward model, rejection sampling and DPO.
        learned = self.tasks.learned[: post.dpo.prompts]
        answers = self.answers("sft", sft, learned)
        pairs = self.preferences(learned, answers)
        scorer: Scorer = verify
        if pairs:  # else all answers to each task are right, or all wrong
            reward, reward_row = self.reward(sft, pairs)
            scorer = reward_scorer(reward)
            rows.append(reward_row)
        best = rejection_samples(answers, scorer(learned, answers))
        aligned: dict[str, Decoder] = {
            "rs": self.made("rs", sft, partial(self.distilled, samples=best)),
            "dpo": self.made("dpo", sft, partial(self.preferred, preferences=pairs)),
            "mdloo": self.made("mdloo", sft, partial(self.rewarded, how=post.mdloo)),
        }
        for rival in post.rivals:
            how = replace(post.mdloo, trust="clip") if rival == "clip" else replace(post.mdloo, baseline="mean")
            aligned[f"mdloo-{rival}"] = self.made(f"mdloo-{rival}", sft, partial(self.rewarded, how=how))
        rows += [self.row(name, model) for name, model in aligned.items()]
        if post.committee:
            taught = self.committee(sft, {name: aligned[name] for name in ALIGNED})
            rows += [self.committee_row(each) for each in taught]

        chosen = max(ALIGNED, key=lambda name: next(row["dev accuracy"] for row in rows if row["name"] == name))
        return rows + self.compressed(chosen, aligned[chosen])

    # Alignment.

    def made(self, name: str, start: Decoder, train: Callable[[str, Decoder], object]) -> Decoder:
        """The model of a training from `start`, made here or before."""
        job, folder = f"{name}-seed{self.seed}", self.folder(name)
        return tuning.made_once(self.run, job, folder, start, self.tokenizer, train)

    def folder(self, name: str) -> Path:
        return model_folder(self.config, self.run.path, name, self.seed)

    def fine_tuned(self, job: str, model: Decoder) -> None:
        settings = self.post.sft
        learned, _ = material.fine_tuning_rows(material.TOY, self.post.toy, self.tokenizer, settings.length, self.seed)
        learned += self.safety.samples(self.tokenizer, settings.length)
        tuning.fine_tune(settings, self.run, job, model, self.with_text(learned), self.seed, bar=False)

    def with_text(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples and rows of text that the model was pre-trained on, in the ratio of `replay`; all of it is learned."""
        length = self.post.sft.length
        rows = sum(len(sample.ids) for sample in samples) / length
        ids = self.corpus.train[next(iter(self.corpus.train))]
        count = min(round(self.post.replay * rows), (len(ids) - 1) // length)
        text = windows(ids, length - 1, count).tolist() if count else []
        return [*samples, *(Sample(tuple(row), (True,) * len(row)) for row in text)]

    def answers(self, name: str, model: Decoder, tasks: Sequence[Task]) -> list[list[Response]]:
        keep = self.run.path / "answers" / f"{name}-seed{self.seed}.jsonl"
        seed = (self.seed << 8) + 1
        return material.answers_of(model, self.tokenizer, tasks, self.post.dpo.k, self.post.answers, seed, keep)

    def preferences(self, tasks: Sequence[Task], answers: list[list[Response]]) -> list[Preference]:
        whole = Answers(tasks, answers, ["self"] * self.post.dpo.k)
        return committee_preferences(whole, judge_by(verify), pairs=self.post.dpo.pairs, seed=self.seed)

    def reward(self, sft: Decoder, preferences: Sequence[Preference]) -> tuple[RewardModel, Row]:
        """The reward model, and its figures on pairs of other tasks."""
        job, folder, length = f"reward-seed{self.seed}", self.folder("reward"), self.post.reward.length
        if not self.run.done(job):
            pairs = material.pairs_of(preferences, self.tokenizer, length)
            model = tuning.train_reward(self.post.reward, self.run, job, sft, pairs, self.seed, bar=False)
            model.save_pretrained(folder)
            self.tokenizer.save(folder)
            others = self.tasks.learned[-self.post.toy.held_out :]
            row: Row = {"name": "reward", "seed": self.seed, "learned": len(pairs)}
            if found := self.preferences(others, self.answers("reward-test", sft, others)):
                report = material.judged(model, material.pairs_of(found, self.tokenizer, length))
                row |= {"in order": report.accuracy.value, "brier": report.brier, "pairs": len(report.brier_P)}
                row["bins"] = [asdict(each) for each in report.bins]
            self.run.save_stage(job, row)
        return tuning.open_reward(folder), self.run.load_stage(job)

    def distilled(self, job: str, model: Decoder, samples: Sequence[Sample]) -> None:
        if samples:
            tuning.fine_tune(self.post.rs, self.run, job, model, samples, self.seed, bar=False)

    def preferred(self, job: str, model: Decoder, preferences: Sequence[Preference]) -> None:
        if not preferences:
            return
        pairs = material.pairs_of(preferences, self.tokenizer, self.post.dpo.length)
        tuning.prefer(self.post.dpo, self.run, job, model, pairs, self.seed, bar=False)

    def rewarded(self, job: str, model: Decoder, how: MDLOO) -> None:
        reference = copy.deepcopy(model).requires_grad_(False)

        def tasks(iteration: int) -> Sequence[Task]:
            return self.tasks.learned[iteration * how.prompts : (iteration + 1) * how.prompts]

        tuning.reinforce(how, self.run, job, model, reference, self.tokenizer, tasks, verify, self.seed, bar=False)

    def committee(self, sft: Decoder, aligned: Mapping[Algorithm, Decoder]) -> list[Taught]:
        name = f"itec-seed{self.seed}"
        return itec_rounds(
            self.post.itec,
            self.run,
            name,
            sft,
            self.tokenizer,
            self.tasks,
            self.seed,
            others=aligned,
            draws=self.post.toy.draws,
            bar=False,
        )

    def committee_row(self, taught: Taught) -> Row:
        best = max(taught.members, key=lambda member: member.score)
        return {
            "name": f"itec-{taught.number}",
            "seed": self.seed,
            "best": best.name,
            "members": taught.rows(),
            **taught.picks,
        }

    # Compression.

    def compressed(self, chosen: str, model: Decoder) -> list[Row]:
        """Palettes, recovery and task adapters on the best aligned model."""
        post, text = self.post, self.text()
        length = post.compression.recovery.length
        job = f"{SMALL}-seed{self.seed}"
        small = compressing.compressed(
            post.compression, self.run, job, self.folder(SMALL), copy.deepcopy(model), text, length
        )
        self.tokenizer.save(self.folder(SMALL))
        bits = {
            "bits": bits_per_weight(small),
            "projection bits": bits_per_weight(small, embeddings=False),
            "of": chosen,
        }
        rows = [{**self.row(SMALL, small), **bits}]
        if post.compression.palettes.target_bpw is not None:
            rows += [self.by_chance(model, number, bits, text) for number in range(post.chance)]
        bank = self.recovered(chosen, model, small, text)
        rows.append({**self.row("recovered", small), **bits})
        for kind in post.toy.kinds[: post.adapters]:
            rows.append({**self.adapted(bank, kind), **bits})
        return rows

    def recovered(self, chosen: str, dense: Decoder, small: Decoder, text: compressing.Text) -> AdapterBank:
        """A bank with the recovery adapter, as it was saved; it learns from text and from the dense model's answers."""
        job, folder = f"recovery-seed{self.seed}", self.folder(SMALL) / ADAPTERS / RECOVERY
        if not self.run.done(job):
            said = self.answers(f"recovery-{chosen}", dense, self.tasks.learned[: self.post.dpo.prompts])
            taught = [answer.sample for group in said for answer in group if answer.finished]
            settings = self.post.compression.recovery
            bank = compressing.recovered(settings, self.run, job, small, text, self.seed, taught=taught, bar=False)
            bank.save(RECOVERY, folder, dtype=torch.float16)
            bank.remove(RECOVERY)
            self.run.save_stage(job)
        return AdapterBank(small).load(RECOVERY, folder).use(RECOVERY)

    def text(self) -> compressing.Text:
        """The corpus's prose to learn from; what is measured, `chain.measure` measures."""
        return compressing.Text(self.corpus.train[next(iter(self.corpus.train))], [])

    def by_chance(self, model: Decoder, number: int, bits: Row, text: compressing.Text) -> Row:
        """The loss of a choice of 2-bit matrices without regard to what they cost; all else is as in `compressed`."""
        name, settings = f"chance-{number}", self.post.compression

        def loss() -> Row:
            rows = text.calibration(settings.calibration, settings.recovery.length).to(model.norm.weight.device)
            importance = compressing.input_importance(model, rows) if settings.importance else None
            drawn = random_bits(model, settings.palettes, torch.Generator().manual_seed(100 * self.seed + number))
            other = palettize(copy.deepcopy(model), settings.palettes, bits=drawn, importance=importance)
            found = measure(self.config, other, self.corpus)
            return {"name": name, "seed": self.seed, **bits, "loss": found["loss"]}

        kept: Row = tuning.once(self.run, f"{name}-seed{self.seed}", loss)
        return kept

    def adapted(self, bank: AdapterBank, kind: str) -> Row:
        """A task adapter for one kind of instruction, and that kind's accuracy with it and with recovery alone."""
        job, settings, toy = f"adapter-{kind}-seed{self.seed}", self.post.adapter, self.post.toy
        only = replace(toy, kinds=(kind,), chatty=0.0)
        learned, _ = material.fine_tuning_rows(material.TOY, only, self.tokenizer, settings.length, self.seed)
        name = f"only_{kind}"
        if not self.run.done(job):
            bank.copy(RECOVERY, name).use(name)
            stream = sft_batches(learned, settings.length, settings.rows, seed=self.seed)
            tuning.tune_adapter(settings, self.run, job, bank.model, name, sft_loss, stream, self.seed, bar=False)
            bank.save(name, self.folder(SMALL) / ADAPTERS / kind, dtype=torch.float16)
            held_out = toy_tasks(material.SPREAD * self.seed + material.HELD_OUT_SEED, toy.held_out, (kind,))
            with_it = self.accuracy(bank.model, held_out)["accuracy"]
            bank.use(RECOVERY)
            before = self.accuracy(bank.model, held_out)["accuracy"]
            row = {
                "name": f"adapter {kind}",
                "seed": self.seed,
                "kind accuracy": with_it,
                "kind accuracy before": before,
            }
            self.run.save_stage(job, {**row, "bytes": bank.num_bytes(name) // 2})
            bank.remove(name)
        kept: Row = self.run.load_stage(job)
        return kept

    # Measures.

    def row(self, name: str, model: Decoder) -> Row:
        """Accuracy on the reported half of the held-out instructions and on the other, which choices go by; safety; loss on text."""
        reported, dev = self.tasks.held_out[1::2], self.tasks.held_out[::2]

        def figures() -> Row:
            row: Row = {"name": name, "seed": self.seed, **self.accuracy(model, reported)}
            row["dev accuracy"] = self.accuracy(model, dev)["accuracy"] if name in ALIGNED else None
            if self.post.safety.held_out:
                row |= counts(self.safety.measure(model, self.tokenizer))
            return {**row, "loss": measure(self.config, model, self.corpus)["loss"]}

        kept: Row = tuning.once(self.run, f"measured-{name}-seed{self.seed}", figures)
        return kept

    def accuracy(self, model: Decoder, tasks: Sequence[Task]) -> dict[str, float]:
        return material.accuracy(model, self.tokenizer, tasks, self.post.toy.draws, self.post.answers, self.seed)
