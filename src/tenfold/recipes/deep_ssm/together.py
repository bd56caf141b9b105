"""How events go together: correlations with intervals over patients, and the chance that several stay away."""

# Shape legend: N patients, E events, K slots, R draws

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenfold.clinical.curves import event_correlation, joint_survival, log_cumulative_hazards
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_bootstrap import Spread, correlation_of_draws, draws, mean_of_draws, spread
from tenfold.clinical.survival_inputs import Floats
from tenfold.recipes.deep_ssm.cohorts import Cohort
from tenfold.recipes.deep_ssm.subgroups import DRAWS, interval

Row = dict[str, Any]
OVER, LAW, WITHIN = "over patients", "over patients, by the law", "within a patient"
BLOCK = 2048  # patients times draws at once; twice as many take four times as long, since the cache is left


def correlations(
    survival: Mapping[str, Tensor], truth: Mapping[str, Floats] | None, seed: int = 0
) -> dict[str, Spread]:
    """Matrices [E, E] with their intervals, by what they are of.

    Args:
        survival: of each event, (N, K + 1).
        truth: the same of the law, where it is known.
        seed: of the bootstrap over patients, the same patients in each matrix.
    """
    patients = len(next(iter(survival.values())))
    counts = draws(patients, DRAWS, np.random.default_rng(seed))
    found = {OVER: _over_patients(survival, counts)}
    if truth is not None:
        found[LAW] = _over_patients({name: torch.from_numpy(curve) for name, curve in truth.items()}, counts)
    each = event_correlation(survival, within=True).numpy()
    found[WITHIN] = spread(mean_of_draws(each, np.ones((1, patients)))[0], mean_of_draws(each, counts))
    return found


def _over_patients(survival: Mapping[str, Tensor], counts: Floats) -> Spread:
    rows = log_cumulative_hazards(survival).double()
    return spread(event_correlation(survival).numpy(), correlation_of_draws(list(rows), counts))


def correlation_table(names: Sequence[str], matrices: Mapping[str, Spread]) -> list[Row]:
    """A line a pair of events; where the law is known, how far the model's correlation is from it, and the mean."""
    lines, errors = [], []
    for a, b in combinations(range(len(names)), 2):
        line: Row = {"events": f"{names[a]}, {names[b]}"}
        for title, matrix in matrices.items():
            line[title] = interval(Spread(*(part[a, b] for part in matrix)))
        if LAW in matrices:
            errors.append(abs(float(matrices[OVER].value[a, b] - matrices[LAW].value[a, b])))
            line["|error|"] = f"{errors[-1]:.3f}"
        lines.append(line)
    if errors:
        lines.append({"events": "mean", **dict.fromkeys(matrices, ""), "|error|": f"{np.mean(errors):.3f}"})
    return lines


def joint_table(model: DeepStateSpace, cohort: Cohort, samples: int, seed: int = 0) -> list[Row]:
    """P(none of the events by the horizon) by the model and by the simulator's law, for each pair and for all.

    Args:
        model: whose test patients these are.
        cohort: simulated.
        samples: draws of the state at the trigger, which two events share; beside it stands the product of the marginals
            of the same draws, which knows of no such bond.
        seed: of the bootstrap over patients.
    """
    names, test = [event.name for event in cohort.events], cohort.test
    sets = [*combinations(names, 2), *([tuple(names)] if len(names) > 2 else [])]
    together: dict[tuple[str, ...], list[Tensor]] = {key: [] for key in [*sets, *((name,) for name in names)]}
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(test)), -(-len(test) * samples // BLOCK)):
            batch = test.batch(rows)
            laws = model.eval().drawn_laws(batch, samples)
            for key, parts in together.items():
                parts.append(joint_survival(laws, key)[:, -1].double())
    found = {key: torch.cat(parts).numpy() for key, parts in together.items()}
    counts = draws(len(test), DRAWS, np.random.default_rng(seed))
    simulator, lines, errors = HmmIcuSim(), [], []
    for key in sets:
        law = simulator.joint_survival(test.x, test.mask, test.u, key)[:, -1]
        apart = np.prod([found[(name,)] for name in key], axis=0)
        errors.append([np.abs(each - law).mean() for each in (found[key], apart)])
        means = [interval(spread(each.mean(), mean_of_draws(each, counts))) for each in (law, found[key], apart)]
        lines.append({"none of": ", ".join(key)} | dict(zip(("by the law", "joint model", "product of its marginals"), means, strict=True)))  # fmt: skip
    errors.append(np.mean(errors, axis=0).tolist())
    lines.append({"none of": "mean", "by the law": "", "joint model": "", "product of its marginals": ""})
    for line, (mine, apart_error) in zip(lines, errors, strict=True):
        line |= {"mean |error|": f"{mine:.4f}", "of the product": f"{apart_error:.4f}"}
    return lines
