"""What a user does: plan a search, run it, go on with it, diagnose it, check its prompt on a changed model, compare methods, serve."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tenfold.core.config import from_json, need
from tenfold.core.errors import UserError
from tenfold.core.run import Run
from tenfold.core.statistics import wilson
from tenfold.prompts.evaluation import evaluate
from tenfold.prompts.result import compare as compare_scores
from tenfold.recipes.abo.asked import (
    FILE,
    Asked,
    Asks,
    keep_asked,
    models_of,
    prompts_of,
    read_asked,
    search_of,
    task_of,
)
from tenfold.recipes.abo.config import Config, Data, Method, Models, Probes, Search
from tenfold.recipes.abo.costs import of_comparison
from tenfold.recipes.abo.diagnosing import diagnose, finished
from tenfold.recipes.abo.experiment import stage_names
from tenfold.recipes.abo.models import SERVE
from tenfold.recipes.abo.option_names import named_options
from tenfold.recipes.abo.telling import priced, print_plan, print_result, refusal_of
from tenfold.text.messages import ChatModel

ASKED = Asked()


def plan(asked: Asks = ASKED) -> None:
    """Say how many calls, tokens and dollars a search takes at most; nothing is asked of any model."""
    with named_options():
        task, prompts = task_of(asked), prompts_of(asked)
        with models_of(asked) as models:
            made = search_of(asked, models, task, None, prompts).plan(task, prompts)
    print_plan(made, models, asked)


def optimize(asked: Asks = ASKED, out: Path | None = None) -> None:
    """Search for a better prompt within a budget: prints the plan, refuses to start where it could exceed, writes a report.

    Args:
        out: the run's folder, new or of the same search; none: below TENFOLD_RUNS, else ./runs.
    """
    with named_options():
        task = task_of(asked)
        prompts = prompts_of(asked)
    with named_options(), models_of(asked) as models:
        made = search_of(asked, models, task, None, prompts).plan(task, prompts)
        print_plan(made, models, asked)
        if made.refusal is not None:
            raise UserError(f"optimize: {refusal_of(made, models)}")
        folder = _new_folder() if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).exists():
            keep_asked(replace(asked, start=tuple(prompts)), folder)
        _work(asked, task, models, prompts, folder)


def resume(run: Path, /, budget_usd: float | None = None, budget_seconds: float | None = None) -> None:
    """Go on with a search or a comparison that was interrupted, exactly as if it had not been.

    Args:
        run: its folder.
        budget_usd: a new cap in dollars, over all its processes; none: the old one.
        budget_seconds: a new cap on time, of this process; none: the old one.
    """
    if not (run / FILE).is_file() and (run / "run.json").is_file():
        comparison = Run.open(run)
        if (comparison.recipe, comparison.preset) == ("abo", "compare"):
            if budget_usd is not None or budget_seconds is not None:
                raise UserError(
                    f"resume: {run} is a comparison, which --budget-usd and --budget-seconds know nothing of"
                )
            _compare_on(from_json(Config, comparison.config, where=str(run / "config.json")), comparison)
            return
    asked = read_asked(run)
    changed = {
        name: value
        for name, value in (("budget_usd", budget_usd), ("budget_seconds", budget_seconds))
        if value is not None
    }
    asked = replace(asked, **changed)  # type: ignore[arg-type]
    with named_options(), models_of(asked) as models:
        _work(asked, task_of(asked), models, list(asked.start), run)


def _work(asked: Asked, task: Any, models: tuple[ChatModel, ChatModel], prompts: list[str], folder: Path) -> None:
    print(f"run: {folder} (if it is cut off: tenfold abo resume {folder})", flush=True)
    try:
        with FileLock(folder / ".lock", blocking=False):
            result = search_of(asked, models, task, folder, prompts).optimize(task, prompts)
    except Timeout:
        raise UserError(f"another process is working in {folder}") from None
    print_result(result, folder)


def check(
    run: Path,
    /,
    target_model: str | None = None,
    least: float | None = None,
    limit: int | None = None,
    base_url: str | None = None,
) -> None:
    """Score a run's prompt again on its test examples, for a changed model or in CI; ends with 1 where it is worse.

    Args:
        run: a finished run of optimize.
        target_model: the model now; none: the run's.
        least: the share right that it must reach; none: it must not be worse than it was by McNemar's test (p < 0.05).
        limit: the first so many test examples.
        base_url: of the model now.
    """
    need("--least", least, 0, 1)
    need("--limit", limit, 1)
    result, asked = finished(run), read_asked(run)
    asked = replace(asked, target_model=target_model or asked.target_model, optimizer_model="target", base_url=base_url or asked.base_url)  # fmt: skip
    task = task_of(asked)
    with models_of(asked) as models:
        matrix = evaluate([result.best.text], task, "test", models[0], limit=limit)
    now = matrix.scores[0]
    kept = result.test["items"]["best"]
    before = np.array([np.nan if kept.get(id) is None else kept[id] for id in matrix.ids])
    right = now[~np.isnan(now)]
    interval = wilson(round(float(right.sum())), len(right))
    p, _ = compare_scores(now, before)
    mean = float(right.mean())
    was = float(np.nanmean(before))
    print(f"{task.name}: {mean:.3f} [{interval.low:.3f}, {interval.high:.3f}] of {len(right)} examples with {models[0].name}; it was {was:.3f} with {result.about['target']}" + ("" if p is None else f", McNemar p = {p:.3g}"))  # fmt: skip
    if least is not None and mean < least:
        raise SystemExit(f"check: {mean:.3f} is below --least {least:g}")
    if least is None and mean < was and p is not None and p < 0.05:
        raise SystemExit(
            f"check: worse than it was ({mean:.3f} after {was:.3f}, p = {p:.3g}); run tenfold abo optimize anew for this model"
        )


def compare(
    tasks: tuple[str, ...],
    /,
    target_model: str | None = None,
    optimizer_model: str = "target",
    methods: tuple[Method, ...] = ("given", "ape", "apo", "opro", "abo"),
    seeds: int = 3,
    calls: int = 1000,
    tokens: int | None = None,
    start: str = "Let's think step by step.",
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    max_tokens: int = 256,
    reflections: int = 30,
    paraphrases: int = 4,
    workers: int = 1,
    concurrency: int = 16,
    budget_calls: int | None = None,
    budget_usd: float | None = None,
    target_price: tuple[float, float] | None = None,
    optimizer_price: tuple[float, float] | None = None,
    runs_dir: Path | None = None,
) -> None:
    """Compare methods at equal calls over several seeds: a table, claims with intervals, a report.

    Args:
        tasks: bbh/NAME, sim/NAME, words/rule, or tables of your own (.csv, .tsv, .jsonl with columns input and target).
        target_model, optimizer_model: as in optimize.
        methods: what is compared; "given" is the starting prompt alone.
        seeds: how many, from 0.
        calls: requests to the target in a search, the look at test included.
        tokens: of both models in a search, prompts and replies: equal tokens on top of equal calls; none: as many as the calls take.
        start: the prompt that all begin with.
        train, val, test: the first so many examples of each split; none: all.
        max_tokens: of a reply of the target.
        reflections: of the probe of the optimizer, on real errors and on controls; 0: none.
        paraphrases: of the starting prompt; 0: none.
        workers: searches side by side, with the simulator.
        concurrency: requests under way.
        budget_calls: of all searches and probes together to both models; refused before anything is asked where the plan passes it.
        budget_usd: US dollars by the plan's estimate, replies at their longest; needs prices, refused likewise.
        target_price: US dollars per million tokens of the target, prompt and reply.
        optimizer_price: of the optimizer; none: the target's where it is the same model.
        runs_dir: where the run's folder goes; none: TENFOLD_RUNS, else ./runs.
    """
    from tenfold.recipes.abo.experiment import check as check_config

    need("--seeds", seeds, 1, 1000)
    if target_model is None:
        raise UserError("--target-model: need one: MODEL (at OPENAI_BASE_URL), URL#MODEL, serve:NAME, sim, or local")
    config = Config(
        Models(target_model, optimizer_model, concurrency=concurrency),
        Data(tasks, train, val, test, max_tokens),
        Search(calls=calls, tokens=tokens, start=start),
        Probes(reflections=reflections, paraphrases=paraphrases),
        methods if "given" in methods else ("given", *methods),
        tuple(range(seeds)),
        workers,
    )
    for task in tasks:
        if Path(task).suffix in (".csv", ".tsv", ".jsonl") and not Path(task).is_file():
            raise UserError(f"file not found: {task}")
    with named_options():
        check_config(config)
        most = of_comparison(config, target_price, optimizer_price)
    print(f"plan: {len(stage_names(config))} searches and probes, at most {most.target} calls to the target and {most.optimizer} to the optimizer; about {most.tokens} tokens{priced(most.usd, [name for name in most.unpriced if not name.startswith(SERVE)])} (estimates)", flush=True)  # fmt: skip
    most.check("compare", budget_calls, budget_usd, "give more, or lower --calls, --seeds, --methods, --reflections or --paraphrases")  # fmt: skip
    run = Run.create("abo", "compare", config, runs_dir, title="abo: prompt optimizers at equal calls", paper="Are Large Language Models Good Prompt Optimizers?, arXiv 2402.02101")  # fmt: skip
    _compare_on(config, run)


def _compare_on(config: Config, run: Run) -> None:
    """Begin or go on with a comparison, and print its table."""
    from tenfold.recipes.abo.experiment import train as run_experiment
    from tenfold.recipes.abo.findings import over_items, score_table

    print(f"run: {run.path} (if it is cut off: tenfold abo resume {run.path})", flush=True)
    with ExitStack() as stack:
        stack.callback(run.close)
        try:
            stack.enter_context(FileLock(run.path / ".training.lock", blocking=False))
        except Timeout:
            raise UserError(f"another process is working in {run.path}") from None
        run_experiment(config, run)
    rows = [json.loads(file.read_text()) for file in sorted((run.path / "stages").glob("*.json"))]
    shown = ("method", "test", over_items(config), "p against given", "target calls")
    print("  ".join([f"{'task':28}", *(f"{name:>16}" for name in shown)]))
    for line in score_table(config, rows):
        print(
            f"{line['task']:28} "
            + "  ".join(f"{line[name] if line[name] is not None else '–'!s:>{max(16, len(name))}}" for name in shown)
        )
    print(f"report: {run.path / 'report.html'}")


def serve(
    model: str = "sim", /, port: int = 8001, faults: float = 0.0, latency: float = 0.0, beta: float = 0.7, seed: int = 0
) -> None:
    """Serve the simulator or a local model on this machine with OpenAI's API, with faults on demand, to try searches against.

    Args:
        model: "sim" serves simulator-target and simulator-optimizer; else a name of `tenfold models list` or a folder.
        port: TCP port; 0 takes a free one.
        faults: share of requests that are answered with an error, a broken body or a cut connection.
        latency: seconds before every answer.
        beta: of the simulated optimizer.
        seed: of the simulator and of the faults.
    """
    from tenfold.prompts.fault_server import Faults
    from tenfold.prompts.fault_server import serve as serve_models
    from tenfold.prompts.simulator import SimOptimizer, SimTarget

    with named_options():
        wrong = Faults(faults, latency=latency, seed=seed)
    if model == "sim":
        serve_models(
            {"simulator-target": SimTarget(seed), "simulator-optimizer": SimOptimizer(beta, seed)}, port, wrong
        )
        return
    from tenfold.lm.chat import LocalChatModel

    with LocalChatModel.from_pretrained(model) as local:
        serve_models({local.name: local}, port, wrong)


def _new_folder() -> Path:
    root = Path(os.environ.get("TENFOLD_RUNS") or "runs") / "abo"
    name = f"{datetime.now():%Y%m%d-%H%M%S}-optimize"
    attempt = 1
    while (path := root / (name if attempt == 1 else f"{name}-{attempt}")).exists():
        attempt += 1
    return path


VERBS = {
    "optimize": optimize,
    "plan": plan,
    "resume": resume,
    "diagnose": diagnose,
    "check": check,
    "compare": compare,
    "serve": serve,
}
