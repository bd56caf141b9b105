"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tenfold.clinical.events import EventSpec
from tenfold.clinical.survival_bootstrap import Spread
from tenfold.clinical.survival_metrics import DCalibration, kaplan_meier
from tenfold.core.panels import panels
from tenfold.core.statistics import select
from tenfold.recipes.deep_ssm.evaluation import FollowUp
from tenfold.recipes.deep_ssm.findings import METHODS, methods_of

Row = dict[str, Any]
Floats = NDArray[np.floating[Any]]
COLOURS = {"dssm": "#d62728", "dssm-single": "#ff9896", "lstm": "#1f77b4", "deephit": "#aec7e8", "mlp": "#9467bd",
           "exponential": "#8c564b", "cox": "#2ca02c", "boosting": "#bcbd22", "kaplan-meier": "#7f7f7f", "oracle": "#000000"}  # fmt: skip
BINS = 10


def hours(event: EventSpec) -> Floats:
    """Ends of slot 0..K."""
    return np.arange(event.n_slots + 1) * event.slot_hours


def learning_figure(curves: Mapping[str, Mapping[str, Sequence[tuple[Floats, Floats]]]]) -> Figure:
    """Validation loss over steps, a panel a cohort: lines are means over seeds, bands all of them.

    Args:
        curves: cohort -> method -> (steps, losses) of each seed.
    """
    figure, axes = panels(len(curves), 4.4, 3.3)
    for axis, (cohort, methods) in zip(axes, curves.items(), strict=True):
        ends = []
        for method, lines in methods.items():
            steps, losses = lines[0][0], np.stack([line[1] for line in lines])
            axis.plot(steps, losses.mean(0), color=COLOURS[method], label=METHODS[method], linewidth=1.3)
            if len(losses) > 1:
                axis.fill_between(steps, losses.min(0), losses.max(0), color=COLOURS[method], alpha=0.15, linewidth=0)
            ends.append(losses.min())
        low, high = min(ends), max(line[1][0] for lines in methods.values() for line in lines)
        if high > low:  # the first steps would hide what is small at the end
            axis.set_ylim(low - 0.05 * (high - low), high)
        axis.set(title=cohort, xlabel="step", ylabel="validation NLL, sum of events")
        axis.legend(fontsize=7)
    return figure


def score_figure(rows: Sequence[Row], cohorts: Sequence[str]) -> Figure:
    """C-index of every method, mean over events: dots are seeds, bars their mean."""
    figure, axes = panels(len(cohorts), 4.4, 3.0)
    for axis, cohort in zip(axes, cohorts, strict=True):
        methods = [method for method in methods_of(rows, cohort) if method != "kaplan-meier"][::-1]
        for place, method in enumerate(methods):
            values = [row["mean"]["c"] for row in select(rows, cohort=cohort, method=method)]
            axis.plot(values, [place] * len(values), "o", color=COLOURS[method], alpha=0.5, markersize=5)
            axis.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=COLOURS[method], linewidth=2.5)
        axis.set_yticks(range(len(methods)), [METHODS[method] for method in methods])
        axis.set(title=cohort, xlabel="C-index, mean of events")
        axis.grid(axis="x", alpha=0.3)
    return figure


def patient_figure(
    events: Sequence[EventSpec],
    curves: Mapping[str, Floats],
    draws: Mapping[str, Floats],
    names: Sequence[str],
    truth: Mapping[str, Floats] | None = None,
) -> Figure:
    """Survival curves of a few patients, a panel each event, with the bands that the uncertain state at the trigger makes.

    Args:
        curves: event -> [patients, K + 1].
        draws: event -> [draws, patients, K + 1].
        names: of the patients.
        truth: event -> [patients, K + 1], dashed.
    """
    figure, axes = panels(len(events))
    for axis, event in zip(axes, events, strict=True):
        x = hours(event)
        for patient, name in enumerate(names):
            low, high = np.percentile(draws[event.name][:, patient], [5, 95], axis=0)
            colour = f"C{patient}"
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(x, curves[event.name][patient], color=colour, label=name)
            if truth is not None:
                axis.plot(x, truth[event.name][patient], "--", color=colour, linewidth=1)
        axis.set(title=event.name, xlabel="hours after the trigger", ylim=(-0.02, 1.02))
    axes[0].set_ylabel("P(no event yet)")
    axes[0].legend(fontsize=7, loc="lower left")
    return figure


def hazard_figure(events: Sequence[EventSpec], hazards: Mapping[str, Floats]) -> Figure:
    """Hazards per slot of patients, those of the highest risk on top; a panel each event, patients in one order.

    Args:
        hazards: event -> [patients, K].
    """
    figure, axes = panels(len(events))
    for axis, event in zip(axes, events, strict=True):
        rows = hazards[event.name]
        extent = (0, event.n_slots * event.slot_hours, len(rows), 0)
        image = axis.imshow(rows, aspect="auto", extent=extent, cmap="magma", vmin=0, interpolation="nearest")
        figure.colorbar(image, ax=axis, label=f"hazard in {event.slot_hours:g} h")
        axis.set(title=event.name, xlabel="hours after the trigger")
    axes[0].set_ylabel("patients, by mean risk")
    return figure


def correlation_figure(names: Sequence[str], matrices: Mapping[str, Spread]) -> Figure:
    """Correlation of events, a panel each matrix [E, E]; below each value its interval."""
    size = 2.4 + 0.75 * len(names)
    figure, axes = panels(len(matrices), size, size)
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = axis.imshow(matrix.value, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.set_title(title, fontsize=9)
        for (line, column), value in np.ndenumerate(matrix.value):
            colour = "white" if abs(value) > 0.6 else "black"
            axis.text(column, line, f"{value:.2f}", ha="center", va="bottom", fontsize=7, color=colour)
            if line != column:
                ends = f"{matrix.low[line, column]:.2f} to {matrix.high[line, column]:.2f}"
                axis.text(column, line + 0.05, ends, ha="center", va="top", fontsize=6, color=colour)
    figure.colorbar(image, ax=list(axes), shrink=0.6, label="correlation")
    return figure


def calibration_figure(
    events: Sequence[EventSpec],
    risks: Mapping[str, tuple[FollowUp, Floats]],
    tests: Mapping[str, DCalibration],
) -> Figure:
    """Predicted risk within the horizon beside what was seen (Kaplan–Meier), in tenths of the patients at risk.

    Args:
        risks: event -> the patients at risk and their predicted risk.
        tests: D-calibration of each event.
    """
    figure, axes = panels(len(events), 3.2, 3.2)
    for axis, event in zip(axes, events, strict=True):
        follow, risk = risks[event.name]
        groups = [group for group in np.array_split(np.argsort(risk), BINS) if len(group)]
        predicted = [risk[group].mean() for group in groups]
        seen = [1 - kaplan_meier(follow.time[g], follow.observed[g]).at(float(event.n_slots)).item() for g in groups]
        most = max(*predicted, *seen, 0.05) * 1.05
        axis.plot([0, most], [0, most], color="grey", linewidth=0.8)
        axis.plot(predicted, seen, "o-", color=COLOURS["dssm"], markersize=4)
        p = tests[event.name].p_value
        axis.set(
            title=f"{event.name}: D-calibration p ≤ {p:.2f}", xlabel="predicted risk", xlim=(0, most), ylim=(0, most)
        )
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("seen (Kaplan–Meier)")
    return figure


def whatif_figure(
    events: Sequence[EventSpec],
    lines: Mapping[str, Mapping[str, Floats]],
    truth: Mapping[str, Mapping[str, Floats]] | None = None,
) -> Figure:
    """Survival under plans of treatment, a panel each event; dashed: the simulator's law.

    Args:
        lines: plan -> event -> [K + 1].
        truth: the same of the law, for some of the plans.
    """
    figure, axes = panels(len(events))
    for axis, event in zip(axes, events, strict=True):
        for number, (plan, curves) in enumerate(lines.items()):
            axis.plot(hours(event), curves[event.name], color=f"C{number}", label=plan)
            if truth is not None and plan in truth:
                axis.plot(hours(event), truth[plan][event.name], "--", color=f"C{number}", linewidth=1)
        axis.set(title=event.name, xlabel="hours after the trigger")
        axis.set_ylim(top=1.01)
    axes[0].set_ylabel("P(no event yet)")
    axes[0].legend(fontsize=7)
    return figure
