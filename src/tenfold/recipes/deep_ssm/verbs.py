"""What a user does with a trained model: predict for new patients, ask what treatment would change, print a run's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tenfold.clinical.cohort_words import SAME_NAMES, Source, TableColumns
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import free_events
from tenfold.clinical.meds import write_predictions
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.core.atomic import replacing
from tenfold.core.config import did_you_mean, from_json, need, read_object
from tenfold.core.errors import UserError
from tenfold.core.model_folder import CONFIG
from tenfold.core.run import Run
from tenfold.core.statistics import select
from tenfold.recipes.deep_ssm import figures, findings
from tenfold.recipes.deep_ssm.cohorts import build_cohort
from tenfold.recipes.deep_ssm.config import CohortName, Config
from tenfold.recipes.deep_ssm.experiment import plan
from tenfold.recipes.deep_ssm.folder import INPUTS, Opened, read_model
from tenfold.recipes.deep_ssm.patients import prediction_times, read_patients

BATCH = 1024  # patients in memory at once


def predict(
    model: Path,
    patients: Path,
    /,
    out: Path = Path("preds.parquet"),
    cohort: CohortName | None = None,
    labels: Path | None = None,
    subjects: Path | None = None,
    codes: Path | None = None,
    columns: TableColumns = SAME_NAMES,
    samples: int = 0,
) -> None:
    """Predict when each event comes: subject_id, prediction_time, event, horizon_hours, probability.

    Args:
        model: a run folder, or a model folder of one.
        patients: a MEDS folder, PhysioNet files, MIMIC-III tables, or a long table (.csv, .csv.gz, .parquet).
        out: a .parquet file.
        cohort: of a run with several: whose model.
        labels: of MEDS: parquet of subject_id and prediction_time; none: the model's context after each first observation or intervention.
        subjects: of a long table: one row a subject, with static values and perhaps the trigger.
        codes: of MEDS: a JSON file {name: [codes]} for the model's names; none: its own.
        columns: of tables; empty ones are the model's own.
        samples: average over so many draws of the state at the trigger; 0 takes its mean, which was nearer to the simulator's law.
    """
    if out.suffix.lower() != ".parquet" or not out.parent.is_dir() or out.is_dir():
        raise UserError(f"--out: got {out}, need a .parquet file in a folder that exists")
    need("--samples", samples, 0, 10_000)
    opened = open_model(model, cohort)
    if samples and not isinstance(opened.model, DeepStateSpace):
        raise UserError(
            f"--samples: got {samples}, no effect on {opened.path.name}: only a state-space model draws states"
        )
    dataset = read_patients(opened, Source(patients, labels, subjects, codes, columns))
    curves = survival_of(opened, dataset, samples=samples)
    write_predictions(out, dataset.ids, prediction_times(dataset), curves, opened.events)
    events = ", ".join(event.name for event in opened.events)
    empty = int((dataset.length == 0).sum())
    print(f"{out}: {len(dataset)} predictions of {events} by {opened.path.name}")
    if empty:
        print(f"{empty} of them without any record before the prediction: the model's prior")


def whatif(
    model: Path,
    patients: Path | None = None,
    /,
    plan: tuple[str, ...] = (),
    subject: tuple[str, ...] = (),
    out: Path = Path("whatif.png"),
    cohort: CohortName | None = None,
    labels: Path | None = None,
    subjects: Path | None = None,
    codes: Path | None = None,
    columns: TableColumns = SAME_NAMES,
    samples: int = 0,
) -> None:
    """Force a plan of treatment and draw survival with it, without any, and as forecast: association, not effect.

    An event that is itself the first use of an intervention is left out.

    Args:
        model: a run folder, or a model folder of one.
        patients: as in predict; none takes the test patients of the run.
        plan: NAME=1 for all slots after the trigger, NAME=1,1,0 slot by slot, each 0..1 (the last value stays); interventions that
            are not named are withheld. None: all interventions, always.
        subject: whose curves, averaged; none: of all.
        out: a .png, .svg or .pdf file.
        cohort: of a run with several: whose model.
        labels: as in predict.
        subjects: as in predict.
        codes: as in predict.
        columns: as in predict.
        samples: draws of the state at the trigger; 0 takes its mean.
    """
    if out.suffix.lower() not in (".png", ".svg", ".pdf") or not out.parent.is_dir():
        raise UserError(f"--out: got {out}, need a .png, .svg or .pdf file in a folder that exists")
    need("--samples", samples, 0, 10_000)
    opened = open_model(model, cohort)
    events = whatif_events(opened)
    forced = parse_plan(plan, opened.inputs.interventions, max(event.n_slots for event in opened.events))
    if patients is None:
        dataset = test_patients(model, opened)
    else:
        dataset = read_patients(opened, Source(patients, labels, subjects, codes, columns))
    dataset = dataset.subset(_rows(dataset, subject))
    name = " ".join(plan) or "always " + " ".join(opened.inputs.interventions)
    means = whatif_curves(opened, dataset, name, forced, samples=samples)
    figure = figures.whatif_figure(events, means)
    with replacing(out) as temporary:
        figure.savefig(temporary, format=out.suffix[1:].lower(), dpi=150, bbox_inches="tight")
    who = f"{len(dataset)} patients" if len(dataset) > 1 else f"patient {dataset.ids[0]}"
    print(f"{who}, P(no event) at the horizon; a slot of the plan is a slot of each event")
    for event in events:
        ends = "   ".join(f"{key} {each[event.name][-1]:.3f}" for key, each in means.items())
        print(f"{event.name:<14} {event.n_slots} slots of {event.slot_hours:g} h   {ends}")
    print("What such patients had in the training data, not what treatment does: no trial stands behind it.")
    print(out)


def whatif_events(opened: Opened) -> tuple[EventSpec, ...]:
    """The events that a plan of treatment can change: not those that are themselves the first use of an intervention.

    Raises:
        UserError: a model without interventions, or without such events.
    """
    if not isinstance(opened.model, DeepStateSpace) or not opened.inputs.interventions:
        raise UserError(f"{opened.path}: no what-if: need a state-space model with interventions")
    events = free_events(opened.events, opened.inputs.interventions)
    if not events:
        raise UserError(f"{opened.path}: no what-if: its events are the interventions themselves")
    return tuple(events)


def whatif_curves(
    opened: Opened, dataset: EventTimeDataset, name: str, forced: Tensor, *, samples: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Survival, the mean of all patients, with a plan, without any treatment, and as forecast: plan to event to [K + 1].

    Args:
        name: of the plan.
        forced: interventions after the trigger [K, U], from `parse_plan`.
        samples: draws of the state at the trigger; 0 takes its mean.
    """
    curves = {
        name: survival_of(opened, dataset, samples=samples, u_future=forced),
        "without": survival_of(opened, dataset, samples=samples, u_future=torch.zeros_like(forced)),
        "as forecast": survival_of(opened, dataset, samples=samples),
    }
    return {key: {event: curve.mean(0) for event, curve in each.items()} for key, each in curves.items()}


def report(run: Path, /, events: bool = False) -> None:
    """Print a run's tables: method by event, C-indices, IBS, AUC, MAE; mean and standard deviation over seeds.

    Args:
        run: a run folder, finished or not.
        events: print every event too, and not only their mean.
    """
    opened, config = run_of(run)
    rows = [opened.load_stage(job.name, ("cohort", "method", "seed", "events", "mean")) for job in plan(config) if opened.done(job.name)]  # fmt: skip
    if not rows:
        raise UserError(f"{run}: no model of this run is finished yet")
    for cohort in config.cohorts:
        for seed in config.seeds:
            name = f"{cohort}-references-seed{seed}"
            rows += opened.load_stage(name) if opened.done(name) else []
    for cohort in dict.fromkeys(row["cohort"] for row in rows):
        names: list[Any] = list(select(rows, cohort=cohort)[0]["events"]) if events else []
        for event in [None, *names]:
            print(f"{cohort}, {event or findings.MEAN}")
            print(_aligned(findings.result_table(rows, cohort, event)) + "\n")
        print(findings.note(config, cohort))


def _aligned(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines of a table in columns, without that of the event."""
    header = [name for name in lines[0] if name != "event"]
    cells = [header, *([str(line[name]) for name in header] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    )


def survival_of(
    opened: Opened, dataset: EventTimeDataset, *, samples: int = 0, u_future: Tensor | None = None
) -> dict[str, np.ndarray]:
    """S at the end of slot 0..K, event to [N, K + 1].

    Args:
        samples: draws of the state at the trigger; of the state-space model alone.
        u_future: interventions forced after the trigger [K, U].
    """
    options: dict[str, Any] = {}
    if isinstance(opened.model, DeepStateSpace):
        options = {"n_samples": samples, "u_future": u_future}
    parts: dict[str, list[np.ndarray]] = {event.name: [] for event in opened.events}
    for start in range(0, len(dataset), BATCH):
        batch = dataset.batch(np.arange(start, min(start + BATCH, len(dataset))))
        with torch.no_grad():
            for name, curve in opened.model.survival(batch, **options).items():
                parts[name].append(curve.double().numpy().clip(0, 1))
    return {name: np.concatenate(curves) for name, curves in parts.items()}


def parse_plan(plan: Sequence[str], interventions: Sequence[str], slots: int) -> Tensor:
    """Forced interventions [K, U] of NAME=VALUE or NAME=VALUE,VALUE,...

    Raises:
        UserError: an unknown or doubled name, a value outside 0..1, more values than slots.
    """
    if not plan:
        return torch.ones(slots, len(interventions))
    forced = torch.zeros(slots, len(interventions))
    named: set[str] = set()
    for text in plan:
        name, _, values = text.rpartition("=")
        if name not in interventions:
            hint = did_you_mean(name, list(interventions))
            raise UserError(f"--plan: got {text!r}{hint}, need NAME=VALUE with one of {', '.join(interventions)}")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= slots or not all(0 <= number <= 1 for number in numbers):
            raise UserError(f"--plan: got {text!r}, need 1 to {slots} numbers from 0 to 1 behind {name}=")
        if name in named:
            raise UserError(f"--plan: got {name} twice, need one line of values for each")
        named.add(name)
        numbers += numbers[-1:] * (slots - len(numbers))
        forced[:, list(interventions).index(name)] = torch.tensor(numbers)
    return forced


def open_model(path: Path, cohort: str | None = None) -> Opened:
    """Open a model folder, or a run's own model: the joint one of its first seed.

    Raises:
        UserError: no such folder, no model in it, or several cohorts to choose from.
    """
    if (path / INPUTS).is_file():
        if cohort is not None:
            raise UserError(f"--cohort: got {cohort}, no effect on {path}: it is one model, not a run")
        return read_model(path)
    _, config = run_of(path)
    chosen = [cohort] if cohort is not None else list(config.cohorts)
    if cohort is not None and cohort not in config.cohorts:
        raise UserError(f"--cohort: got {cohort}, {path} has {', '.join(config.cohorts)}")
    if len(chosen) > 1:
        raise UserError(f"{path} has models of {', '.join(chosen)}; choose one with --cohort")
    jobs = [job for job in plan(config) if job.cohort == chosen[0]]
    own = [job for job in jobs if job.method == "dssm"] or jobs  # a rival is never taken in the model's place
    for job in own:
        if (path / "models" / job.name / CONFIG).is_file():
            return read_model(path / "models" / job.name)
    raise UserError(
        f"no model in {path}: {own[0].name} is not trained yet; go on with it (train --resume), or name a folder in models/"
    )


def run_of(path: Path) -> tuple[Run, Config]:
    """A run of this recipe and its config.

    Raises:
        UserError: none there, or another recipe's.
    """
    run = Run.open(path)
    run.need_recipe("deep-ssm")
    return run, from_json(Config, read_object(path / "config.json"), where=str(path / "config.json"))


def test_patients(path: Path, opened: Opened) -> EventTimeDataset:
    """The test patients of the run that a model stands in.

    Raises:
        UserError: it stands in none.
    """
    root = opened.path.parent.parent
    if not (root / "run.json").is_file():
        raise UserError(f"patients: none given, and {path} stands in no run whose test patients could be taken")
    _, config = run_of(root)
    seed = next((seed for seed in config.seeds if f"-seed{seed}" in f"{opened.path.name}-"), config.seeds[0])
    return build_cohort(opened.inputs.cohort, config, seed).test


def _rows(dataset: EventTimeDataset, subjects: Sequence[str]) -> np.ndarray:
    place: Mapping[str, int] = {name: row for row, name in enumerate(dataset.ids)}
    for name in subjects:
        if name not in place:
            raise UserError(
                f"--subject: got {name!r}{did_you_mean(name, list(place))}, not among {len(place)} patients"
            )
    return np.array([place[name] for name in subjects]) if subjects else np.arange(len(dataset))


VERBS = {"predict": predict, "report": report, "whatif": whatif}
