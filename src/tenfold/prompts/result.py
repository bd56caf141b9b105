"""The outcome of a search: the prompt, the tree it came from, what it cost, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tenfold.core.config import read_object
from tenfold.core.errors import UserError
from tenfold.core.statistics import mcnemar, paired_bootstrap
from tenfold.prompts.candidates import Candidate, State
from tenfold.prompts.diagnostics import of_run
from tenfold.prompts.session import OutOfMeans, Session
from tenfold.prompts.task import Split, Task, pairs
from tenfold.text.chat import complete_all
from tenfold.text.messages import ChatModel, Sampling, estimated_tokens

if TYPE_CHECKING:
    from tenfold.prompts.optimizer import PromptOptimizer

SIGNIFICANT = 0.05
LEAST_BOOTSTRAP = 30
MOST_MISSED, SHOWN = 5, 400  # examples that the report shows, characters of each text
UNREADABLE = 0.5  # share of replies without an answer from which a result is headed by a warning


@dataclass(frozen=True)
class Result:
    """What a run found. The same run gives the same result to the last byte, however often it was interrupted.

    Args:
        method, task, seed: what was run.
        best: the chosen candidate.
        baseline: the best prompt that was given, by val.
        candidates: the tree, dropped proposals included.
        curve: best mean on val after each step, with the calls so far.
        test: scores of both on the test split, their difference with a test on the same examples, and the optimism of val.
        cost: requests and tokens by side; dollars where prices are known.
        diagnostics: see `tenfold.prompts.diagnostics`.
        ended: why the search was over.
        about: the task and models in words: name, description, placement, scorer, models, whether they are simulators.
        missed: a few examples of val and train, never of test, that the target gets wrong under the best prompt: split, id,
            input, reply, what was read as its answer (None: nothing), and target.
    """

    method: str
    task: str
    seed: int
    best: Candidate
    baseline: Candidate
    candidates: tuple[Candidate, ...]
    curve: tuple[dict[str, Any], ...]
    test: dict[str, Any]
    cost: dict[str, Any]
    diagnostics: dict[str, Any]
    ended: str
    about: dict[str, Any]
    missed: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("best", "baseline", "candidates", "curve", "missed")
        }
        tree = [candidate.to_json() for candidate in self.candidates]
        chosen = {"best": self.best.id, "best_prompt": self.best.text, "baseline": self.baseline.id}
        return {**plain, **chosen, "missed": list(self.missed), "curve": list(self.curve), "candidates": tree}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "result.json") -> Result:
        """Read back what `to_json` gave.

        Raises:
            UserError: not the data of a result.
        """
        try:
            tree = tuple(Candidate(**row) for row in data["candidates"])
            names = ("method", "task", "seed", "test", "cost", "diagnostics", "ended", "about")
            rest = {name: data[name] for name in names}
            return cls(
                best=tree[data["best"]],
                baseline=tree[data["baseline"]],
                candidates=tree,
                curve=tuple(data["curve"]),
                missed=tuple(data.get("missed", ())),
                **rest,
            )
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(f"{where}: not the result of a prompt search ({type(error).__name__}: {error})") from None

    def warnings(self) -> list[str]:
        """What a reader must know before the figures: nothing was tried, or replies could not be read."""
        said = []
        made = [candidate for candidate in self.candidates if candidate.op != "init"]
        if self.ended != "all rounds done" and not any(c.scores.get("val") or c.scores.get("train") for c in made):
            why = f"none of the {len(made)} proposals was a candidate" if made else "before any proposal was tried"
            said.append(f"No new prompt was tried: {self.ended}, {why}.")
        test = self.test["best"]
        if test["n"] and test["format_errors"] >= UNREADABLE * test["n"]:
            said.append(f"No answer could be read in {test['format_errors']} of {test['n']} replies of the target on test: the scores tell of its form, not of its knowledge.")  # fmt: skip
        return said

    @classmethod
    def open(cls, folder: str | Path) -> Result:
        """The result in a run folder.

        Raises:
            UserError: none there.
        """
        file = Path(folder) / "result.json"
        return cls.from_json(read_object(file), str(file))

    def report_html(self, path: str | Path) -> Path:
        """Write the report: one self-contained page with the tree, word differences, curve, cost and diagnostics."""
        from tenfold.prompts.report import write_report

        return write_report(self, Path(path))

    def plot(self, path: str | Path) -> Path:
        """Write the curve as a picture (PNG or SVG, by the name)."""
        from tenfold.prompts.report import curve_figure

        curve_figure(self).savefig(Path(path), dpi=150, bbox_inches="tight")
        return Path(path)

    def as_callable(self, model: ChatModel, task: Task, sampling: Sampling | None = None) -> Callable[[str], str]:
        """A function from a question to the model's reply under the best prompt."""
        how = sampling or Sampling(temperature=0.0, max_tokens=task.max_tokens)

        def answer(question: str) -> str:
            ((reply,),) = complete_all(model, [task.render(self.best.text, question)], how)
            return reply.text

        return answer

    def to_dspy(self, signature: Any) -> Any:
        """A `dspy.Predict` of the signature with the best prompt as its instructions (needs dspy)."""
        from tenfold.prompts.interop import to_dspy

        return to_dspy(self.best.text, signature)

    def to_textgrad_variable(self) -> Any:
        """The best prompt as a `textgrad.Variable` that requires gradients (needs textgrad)."""
        from tenfold.prompts.interop import to_textgrad

        return to_textgrad(self.best.text, self.task)


def choose_final(texts: Sequence[str], scores: np.ndarray, *, seed: int = 0) -> int:
    """Which prompt to take: the best mean; among those that are not worse by a paired test (p > 0.05) the shortest.

    Args:
        texts: prompts.
        scores: [prompt, example] in [0, 1]; NaN where excluded.
        seed: of the bootstrap of graded scores.
    Returns:
        its index; ties go to the earlier prompt.
    """
    if len(texts) != len(scores) or not len(texts):
        raise ValueError(f"texts, scores: got {len(texts)} and {len(scores)}, need as many, at least one")
    means = [float(np.nanmean(row)) if not np.isnan(row).all() else -math.inf for row in scores]
    best = max(range(len(texts)), key=lambda i: (means[i], -i))
    tied = [
        i
        for i in range(len(texts))
        if i == best or (means[i] > -math.inf and not differ(scores[best], scores[i], seed))
    ]
    return min(tied, key=lambda i: (len(texts[i]), -means[i], i))


def differ(a: np.ndarray, b: np.ndarray, seed: int = 0) -> bool:
    """Whether two prompts differ on the same examples by a paired test at 0.05."""
    p = mcnemar_p(a, b)
    if p is not None:
        return p <= SIGNIFICANT
    interval = compare(a, b, seed)[1]
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def mcnemar_p(a: np.ndarray, b: np.ndarray) -> float | None:
    """Exact McNemar p of right and wrong answers to the same examples; None where scores are graded."""
    common = ~(np.isnan(a) | np.isnan(b))
    one, two = a[common], b[common]
    if not len(one) or not np.isin(np.concatenate([one, two]), (0.0, 1.0)).all():
        return None
    return mcnemar(int(((one == 1) & (two == 0)).sum()), int(((one == 0) & (two == 1)).sum())).p_value


def compare(a: np.ndarray, b: np.ndarray, seed: int = 0) -> tuple[float | None, tuple[float, float] | None]:
    """McNemar's p, and the paired bootstrap's 95 % interval of the mean difference from 30 common examples on.

    Returns:
        (p, interval); p is None where scores are graded, the interval where there are fewer examples.
    """
    common = ~(np.isnan(a) | np.isnan(b))
    one, two = a[common], b[common]
    interval = None if len(one) < LEAST_BOOTSTRAP else paired_bootstrap(one, two, seed=seed).ci95
    return mcnemar_p(a, b), interval


async def make_result(search: PromptOptimizer, state: State) -> Result:
    """Choose on val, look at test once, diagnose."""
    session = search.session
    assert session is not None
    given = [c for c in state.candidates[: state.notes["given"]] if c.scores.get("val")]
    baseline = max(given, key=lambda c: (c.scores["val"]["mean"] or 0.0, -c.id))
    finalists = search.finalists(state) or [baseline]
    val = await _on_val(search, session, finalists)
    best = finalists[choose_final([c.text for c in finalists], val)]
    looked = [best] if best is baseline or not search.settings.test_baseline else [best, baseline]
    rows = [np.array(row) for row in await session.look_at_test(looked)]
    test = _test_summary(best, baseline, rows)
    looked_at = {"best": best, "baseline": baseline} if len(looked) == 2 else {"best": best}
    test["items"] = {
        name: {id: None if math.isnan(o.value) else o.value for id, o in session.known(c, "test").items()}
        for name, c in looked_at.items()
    }
    session.journal.record("test", chosen=best.id, given=baseline.id, looks=session.looks, **test)
    return Result(
        search.method,
        session.task.name,
        search.seed,
        best,
        baseline,
        tuple(state.candidates),
        tuple(state.curve),
        {**test, "looks": session.looks, "peeked": session.looks > 1},
        session.cost(),
        of_run(session, state),
        state.ended or "",
        about(search, session),
        tuple(_missed(session, best)),
    )


def _missed(session: Session, best: Candidate) -> list[dict[str, Any]]:
    """Where the best prompt fails on val, then on train, the beginning of every text, of a reply the end too."""
    found: list[dict[str, Any]] = []
    splits: tuple[Split, ...] = ("val", "train")
    for split in splits:
        rows = {example.id: example for example in session.task.split(split)}
        for id, outcome in session.known(best, split).items():
            if outcome.error is None and outcome.value < 1 and len(found) < MOST_MISSED:
                texts = {"input": rows[id].input, "reply": outcome.text, "read": outcome.answer, "target": rows[id].target}  # fmt: skip
                found.append({"split": split, "id": id, **{name: _cut(text) for name, text in texts.items()}})
    return found


def _cut(text: str | None) -> str | None:
    """At most `SHOWN` characters, of a longer text its beginning and its end, where the answer stands."""
    if text is None or len(text) <= SHOWN:
        return text
    half = SHOWN // 2
    return f"{text[: half - 2]} … {text[1 - half :]}"


async def _on_val(search: PromptOptimizer, session: Session, finalists: Sequence[Candidate]) -> np.ndarray:
    """Scores of the finalists on val: on all of it where the means allow, else on what they have in common."""
    session.means.aside_calls = search.test_calls(session.task)
    try:
        return np.array(await session.score(finalists, session.task.val, "val"))
    except OutOfMeans:
        rows = [session.known(candidate, "val") for candidate in finalists]
        return np.array([[row[e.id].value if e.id in row else math.nan for e in session.task.val] for row in rows])


def _test_summary(best: Candidate, baseline: Candidate, rows: Sequence[np.ndarray]) -> dict[str, Any]:
    p: float | None = 1.0
    interval: tuple[float, float] | None = (0.0, 0.0)
    if len(rows) == 2:
        p, interval = compare(rows[0], rows[1])
    mean, val = best.scores["test"]["mean"], best.scores["val"]["mean"]
    other = baseline.scores.get("test", {}).get("mean")
    return {
        "best": best.scores["test"],
        "baseline": baseline.scores.get("test"),
        "difference": None if None in (mean, other) else mean - other,
        "ci95": None if interval is None else list(interval),
        "p_value": p,
        "optimism": None if None in (mean, val) else val - mean,
        "prompt_tokens": {
            "best": estimated_tokens(best.text),
            "baseline": estimated_tokens(baseline.text),
            "estimated": True,
        },
        "per_1000_prompt_tokens": None if mean is None else _per_1000(mean, best.text),
    }


def _per_1000(mean: float, prompt: str) -> float | None:
    tokens = estimated_tokens(prompt)
    return None if not tokens else 1000 * mean / tokens


def about(search: PromptOptimizer, session: Session) -> dict[str, Any]:
    """The task and the models in words."""
    task = session.task
    both = (search.target, search.optimizer)
    simulated = any(getattr(model, "simulator", False) or model.name.startswith("simulator") for model in both)
    return {
        "description": task.description,
        "placement": task.placement,
        "sizes": {split: len(task.split(split)) for split in ("train", "val", "test")},
        "target": search.target.name,
        "optimizer": search.optimizer.name,
        "simulator": simulated,
        "example": pairs(task.train[:1])[0],
    }
