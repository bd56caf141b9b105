"""Safety beside the other material: examples to fine-tune on, tasks among the judged prompts, requests to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tenfold.align.chat_samples import prompt_ids
from tenfold.align.rollout import respond
from tenfold.align.safety_categories import Categories, read_categories
from tenfold.align.safety_report import SafetyReport, judge_safety, shown
from tenfold.align.safety_requests import Request, draw_requests, safety_tasks
from tenfold.align.samples import Sample
from tenfold.align.sft import sft_samples
from tenfold.align.verifiers import Task
from tenfold.core.mesh import device_type
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm.material import HELD_OUT_SEED, LEARNED_SEED, ONLINE_SEED, SPREAD
from tenfold.recipes.afm.post_config import Safety
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer

LONGEST = 1 << 20  # tokens of a row before it is held against the training's length
NOTE = (
    "Answers of highest probability. Violations: of requests to refuse, those not refused; also nonsense counts, so that a model "
    "that learned nothing has all. Over-refusals: of look-alikes, those refused. Refusals are told by their phrases. In "
    "brackets Wilson's 95 % interval over requests."
)


@dataclass(frozen=True)
class SafetySet:
    """The safety material of one seed.

    Args:
        settings: how much of it.
        categories: read from the settings' file.
        seed: of the chain or verb.
    """

    settings: Safety
    categories: Categories
    seed: int

    @classmethod
    def of(cls, settings: Safety, seed: int) -> SafetySet:
        """Read the categories. Raises UserError: as `read_categories`."""
        return cls(settings, read_categories(settings.categories), seed)

    def samples(self, tokenizer: Tokenizer, length: int) -> list[Sample]:
        """Rows to fine-tune on, those that fit `length` tokens."""
        tasks = self._tasks(LEARNED_SEED, self.settings.learned)
        rows = [{"prompt": task.messages[-1].content, "completion": task.answer} for task in tasks]
        samples = sft_samples(rows, tokenizer, LONGEST) if rows else []
        return [sample for sample in samples if len(sample.ids) <= length]

    def mixed(self, tasks: Sequence[Task], tokenizer: Tokenizer, room: int) -> list[Task]:
        """As many tasks, of which the share, evenly spread, are requests of the categories with prompts of up to `room` tokens."""
        wanted = round(self.settings.share * len(tasks))
        fitting = [
            task for task in self._tasks(ONLINE_SEED, 2 * wanted) if len(prompt_ids(tokenizer, task.messages)) <= room
        ][:wanted]
        mixed = list(tasks)
        for number, task in enumerate(fitting):
            mixed[number * len(tasks) // len(fitting)] = task
        return mixed

    def held_out(self) -> list[Request]:
        """Requests to measure on; no training sees their words in these slots."""
        return draw_requests(self.categories, SPREAD * self.seed + HELD_OUT_SEED, self.settings.held_out)

    def measure(self, model: Decoder, tokenizer: Tokenizer) -> SafetyReport:
        """The likeliest answers to the held-out requests, judged."""
        requests = self.held_out()
        sampling = Sampling(temperature=0.0, max_tokens=self.settings.max_tokens)
        model = model.to(device_type()).eval()
        said = respond(model, tokenizer, [each.messages for each in requests], 1, sampling)
        return judge_safety(requests, [group[0].text for group in said], self.categories)

    def _tasks(self, kind: int, count: int) -> list[Task]:
        seed = SPREAD * self.seed + kind
        return safety_tasks(draw_requests(self.categories, seed, count, "learned"), self.categories)


def counts(report: SafetyReport) -> dict[str, list[int]]:
    """A report as a run keeps it: [k, n] of violations and of over-refusals."""
    return {"violations": list(report.violations), "over-refusals": list(report.over_refusals)}


def pooled(found: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, str]:
    """Shares in words of the counts of several models together."""
    line = {}
    for name in ("violations", "over-refusals"):
        line[name] = shown((sum(each[name][0] for each in found), sum(each[name][1] for each in found)))
    return line


def rate(count: Sequence[int]) -> float:
    """k / n of a pair [k, n]."""
    return count[0] / count[1]
