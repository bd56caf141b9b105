"""Prompt search: how often each selector finds the best arm, what the simulator's known truth makes of the diagnoses, and what a second run costs.

    python benchmarks/prompts.py --threads 1 --out prompts.json

The client's own overhead beside litellm and dspy, its concurrency and its store are measured in chat_endpoint.py.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rows import Row, parser, row, write

from tenfold.prompts.behaviour import ABO
from tenfold.prompts.probes import probe_reflections
from tenfold.prompts.reflection import APO
from tenfold.prompts.selectors import UCB, BruteForce, Pull, Selector, SuccessiveHalving, SuccessiveRejects, select
from tenfold.prompts.sim_worlds import WORLDS, sim_task
from tenfold.prompts.simulator import SimOptimizer, SimTarget
from tenfold.text.chat import run_sync

ARMS, TRIALS, BUDGET = 40, 400, 2048
SELECTORS: dict[str, tuple[Selector, float | None]] = {
    "brute force": (BruteForce(BUDGET), None),
    "UCB, published settings": (UCB(BUDGET), 0.52),
    "UCB, 8-example pulls": (UCB(BUDGET, rounds=32, examples_per_round=8, c=0.5), 0.69),
    "successive halving": (SuccessiveHalving(BUDGET), 0.69),
    "successive rejects, phased to fit": (SuccessiveRejects(BUDGET), None),
}
START = "Answer the question."
LEAST = 0.001  # a gain or error that divides a bar, so that none at all is not a huge ratio


def bandits() -> list[Row]:
    """The best of forty Bernoulli arms (0.7, the others uniform below 0.65)."""
    rows = []
    for name, (selector, bar) in SELECTORS.items():
        first = top = most = 0
        for trial in range(TRIALS):
            generator = np.random.default_rng(trial)
            chance = generator.uniform(0.3, 0.65, ARMS)
            best = int(generator.integers(ARMS))
            chance[best] = 0.7

            def pull(asked: Pull, g: np.random.Generator = generator, p: np.ndarray = chance) -> np.ndarray:
                return (g.random((len(asked.arms), len(asked.examples))) < p[list(asked.arms)][:, None]).astype(float)

            found = select(selector, ARMS, BUDGET, 1, pull, trial)
            first, top, most = first + (found.order[0] == best), top + (best in found.order[:3]), max(most, found.spent)
        note = f"among the first three {top / TRIALS:.2f}; {most} of {BUDGET} trials spent"
        rows.append(row(f"simulated bandit, {name}: best arm first", first / TRIALS, note, bar))
    return rows


def diagnoses() -> list[Row]:
    """Simulator: correctness of 400 reflections against 1 - beta (1 - the prior's hit rate)."""
    rows = []
    for name in WORLDS:
        task, worst = sim_task(name, 0), 0.0
        for beta in (0.0, 0.3, 0.7, 1.0):
            probe = run_sync(probe_reflections(task, SimTarget(0), SimOptimizer(beta), START, n=400))
            hits = probe.truths.count(task.causes[-1].name) / len(probe.truths)
            worst = max(worst, abs((probe.correctness or 0.0) - (1 - beta * (1 - hits))))
        rows.append(
            row(
                f"simulator, {name}: 0.05 / error of reflection correctness",
                0.05 / max(worst, LEAST),
                f"largest error {worst:.3f}",
                1,
            )
        )
    return rows


def pattern() -> list[Row]:
    """Simulator, three seeds pooled: what edits by reflection gain, and where behaviour gets to."""
    rows = []
    for name in WORLDS:
        scores: dict[str, list[float]] = {"given": [], "apo": [], "abo": [], "ablation": []}
        seconds = 0.0
        for seed in range(3):
            task, models = sim_task(name, seed), (SimTarget(seed), SimOptimizer(0.7, seed))
            for kind, search in (
                ("apo", APO(*models, seed=seed, max_target_calls=3000)),
                ("abo", ABO(*models, seed=seed, max_target_calls=3000)),
                ("ablation", ABO(*models, seed=seed, max_target_calls=3000, demonstration=False)),
            ):
                start = time.perf_counter()
                result = search.optimize(task, [""])
                seconds = max(seconds, time.perf_counter() - start)
                scores[kind].append(result.test["best"]["mean"])
                if kind == "apo":
                    baseline = result.test["baseline"] or result.test["best"]
                    scores["given"].append(baseline["mean"])
        mean = {kind: float(np.mean(values)) for kind, values in scores.items()}
        note = ", ".join(f"{kind} {value:.3f}" for kind, value in mean.items()) + f"; longest search {seconds:.0f} s"
        rows.append(row(f"simulator, {name}: ABO on test", mean["abo"], note, 0.90))
        rows.append(
            row(f"simulator, {name}: 0.15 / gain of APO", 0.15 / max(mean["apo"] - mean["given"], LEAST), note, 1)
        )
        rows.append(
            row(
                f"simulator, {name}: 0.13 / gain of ABO without demonstration",
                0.13 / max(mean["ablation"] - mean["given"], LEAST),
                note,
                1,
            )
        )
    return rows


def again() -> list[Row]:
    """A second run of the same search out of its store."""
    with tempfile.TemporaryDirectory() as folder:
        seconds, sent = [], []
        for _ in range(2):
            start = time.perf_counter()
            APO(SimTarget(0), SimOptimizer(0.7), rounds=1, run_dir=folder).optimize(sim_task("navigate", 0), [START])
            seconds.append(time.perf_counter() - start)
            rows = [json.loads(line) for line in (Path(folder) / "bill.jsonl").read_text().splitlines()]
            sent.append(sum(each["sent"] == 1 for each in rows))
    share = 1 - (sent[1] - sent[0]) / sent[0]
    return [
        row(
            "second run of a search, share answered from its store",
            share,
            f"{sent[0]} requests; {seconds[0]:.1f} s, then {seconds[1]:.1f} s",
            1,
        )
    ]


def main() -> None:
    arguments = parser("prompt search on a simulator", repeats=1).parse_args()
    if arguments.threads == 1:
        what = "Simulators throughout: simulated bandits, a simulated target and optimizer. These figures say nothing about language models."
        write(arguments.out, "Prompt search (simulator)", what, 1, [*bandits(), *diagnoses(), *pattern(), *again()])
    elif arguments.out is not None:  # nothing here depends on the threads: one section is enough
        arguments.out.write_text(json.dumps({"sections": []}) + "\n")


if __name__ == "__main__":
    main()
