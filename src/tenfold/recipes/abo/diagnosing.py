"""Why a search worked or did not: probes of its optimizer, a judge of its reflections, and how far scores move by themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenfold.core.atomic import write_atomic
from tenfold.core.config import need
from tenfold.core.errors import UserError
from tenfold.prompts.journal import read_journal
from tenfold.prompts.judging import judge_run
from tenfold.prompts.plan import price_calls
from tenfold.prompts.probes import probe_paraphrases, probe_reflections, probe_repeats
from tenfold.prompts.report import diagnostic_rows, write_report
from tenfold.prompts.result import Result
from tenfold.prompts.session import OutOfMeans
from tenfold.recipes.abo.asked import (
    FILE,
    budget_of,
    models_of,
    read_asked,
    search_of,
    size_of,
    task_of,
)
from tenfold.recipes.abo.costs import Cost, of_paraphrases, of_reflections, of_repeats
from tenfold.recipes.abo.option_names import named_options
from tenfold.recipes.abo.telling import paid, priced
from tenfold.text.chat import run_sync


def diagnose(
    run: Path,
    /,
    reflections: int = 0,
    paraphrases: int = 0,
    judged: int = 0,
    repeats: int = 0,
    target_model: str | None = None,
    optimizer_model: str | None = None,
    judge_model: str | None = None,
    budget_calls: int | None = None,
    budget_usd: float | None = None,
) -> None:
    """Say why a search worked or did not: from what it left, and with the options below by new questions to its models.

    Args:
        run: a finished run of optimize.
        reflections: on single errors of the starting prompt, and as many on controls.
        paraphrases: prompts of the starting prompt's meaning that are tried on val, at least 2.
        judged: reflections of the search that a judge calls valid or not, and as many steps that it calls carried out or not.
        repeats: times that the found prompt is asked on 20 val examples, at least 2: how far replies change by themselves.
        target_model, optimizer_model: in place of the run's.
        judge_model: the judge; none: the optimizer, which then judges itself.
        budget_calls: new questions to all models; none: as many as the run's.
        budget_usd: US dollars of them at the run's prices; none: the run's cap.
    """
    need("--reflections", reflections, 0)
    need("--judged", judged, 0)
    if paraphrases == 1:
        raise UserError("--paraphrases: got 1, need 0 or at least 2")
    need("--paraphrases", paraphrases, 0)
    if repeats == 1:
        raise UserError("--repeats: got 1, need 0 or at least 2")
    need("--repeats", repeats, 0)
    result = finished(run)
    found: dict[str, Any] = dict(result.diagnostics)
    if reflections or paraphrases or judged or repeats:
        asked = read_asked(run)
        asked = replace(
            asked,
            target_model=target_model or asked.target_model,
            optimizer_model=optimizer_model or asked.optimizer_model,
            budget_calls=asked.budget_calls if budget_calls is None else budget_calls,
            budget_usd=asked.budget_usd if budget_usd is None else budget_usd,
        )
        task, folder = task_of(asked), run / "probes"
        with named_options(), _whole_batches(), models_of(asked) as models:
            calls = (of_reflections(task, reflections), of_paraphrases(task, paraphrases), of_repeats(task, repeats), (0, 2 * judged))  # fmt: skip
            sums = [sum(side) for side in zip(*calls, strict=True)]
            tokens, usd, unpriced = price_calls(
                search_of(asked, models, task, None), task, [result.best.text], sums[0], sums[1]
            )
            most = Cost(sums[0], sums[1], tokens, usd, unpriced)
            print(f"plan: diagnose, at most {most.target} calls to the target and {most.optimizer} to the optimizer{' or judge' if judged else ''}; about {tokens} tokens{priced(usd, paid(unpriced, models, asked), models)} (estimates)")  # fmt: skip
            most.check("diagnose", asked.budget_calls, asked.budget_usd, "give more, or ask for fewer")
            how: dict[str, Any] = {"seed": asked.seed, "budget": budget_of(asked, models), **size_of(asked).writing}
            if reflections:
                part = folder / "reflections"
                part.mkdir(parents=True, exist_ok=True)
                probe = run_sync(
                    probe_reflections(task, *models, result.baseline.text, n=reflections, folder=part, **how)
                )
                found |= {name: value for name, value in probe.to_json().items() if name in ("prior_bias", "nmi", "nmi_p") and value is not None}  # fmt: skip
                found["causes"] = probe.to_json()["real"]
            if paraphrases:
                part = folder / "paraphrases"
                part.mkdir(parents=True, exist_ok=True)
                gain = result.best.scores["val"]["mean"] - result.baseline.scores["val"]["mean"]
                noise = run_sync(
                    probe_paraphrases(task, *models, result.baseline.text, m=paraphrases, gain=gain, folder=part, **how)
                )
                found["paraphrase_sensitivity"] = {name: noise[name] for name in ("std", "range", "n", "within_noise")}
            if repeats:
                found["repeats"] = run_sync(probe_repeats(task, models[0], result.best.text, repeats=repeats, budget=how["budget"]))  # fmt: skip
        if judged:
            part = folder / "judged"
            part.mkdir(parents=True, exist_ok=True)
            judging = replace(asked, optimizer_model=judge_model or asked.optimizer_model, budget_calls=None)  # the search's own replies count as calls, and are not asked for again  # fmt: skip
            with named_options(), _whole_batches(), models_of(judging) as models:
                labels = run_sync(judge_run(task, *models, result.candidates, read_journal(run), n=judged, seed=asked.seed, budget=budget_of(judging, models), folder=part, replies_of=run))  # fmt: skip
            if "reflection_correctness" in found:  # the simulator's truth is better than a judge
                del labels["one_step_success"]
            found |= labels
            if judge_model is None and not result.about["simulator"]:
                print("the optimizer judges itself: take another --judge-model for a verdict to trust")
        write_atomic(run / "diagnostics.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        write_report(replace(result, diagnostics=found), run / "report.html")
    if result.about["simulator"]:
        print("a simulated model took part: these figures say nothing about language models")
    for name, value, meaning in diagnostic_rows(found):
        print(f"{name:44} {value:>8}  {meaning}")
    print(run / "report.html")


@contextmanager
def _whole_batches() -> Iterator[None]:
    """A probe that a cap cuts is told in one line."""
    try:
        yield
    except OutOfMeans as cap:
        raise UserError(f"diagnose: the next questions could pass the cap on {cap}; give more, or ask for fewer") from None  # fmt: skip


def finished(run: Path) -> Result:
    """The result of a run that is over.

    Raises:
        UserError: it is not, or there is no run.
    """
    if (run / FILE).is_file() and not (run / "result.json").exists():
        raise UserError(f"{run} is not finished; tenfold abo resume {run}")
    return Result.open(run)
