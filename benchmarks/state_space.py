"""The deep state-space model: its training step beside an unrolled LSTM of equal widths and a loop over patients; its readers.

    python benchmarks/state_space.py --threads 1 --out state_space.json

The rows of the readers need the PhysioNet 2012 data (`TENFOLD_DATA`).
"""

from __future__ import annotations

import time

import pandas as pd
import torch
from rows import Row, clock, milliseconds, parser, row, time_of, write
from torch import Tensor, nn

from tenfold.clinical.cohort import DataNotFound
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.icu12 import icu12
from tenfold.clinical.physionet2012 import read_physionet2012
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_model import event_loss
from tenfold.core.data import path as data_path
from tenfold.core.timing import interleaved, ratio

PATIENTS, STEPS, WIDTH, SLOTS, OBSERVATIONS = 256, 24, 30, 24, 12
EVENTS = tuple(EventSpec(name, 1.0, SLOTS) for name in ("kidney", "heart", "death"))
STAYS, READ_SECONDS = 4000, 2.0


def patients() -> dict[str, Tensor]:
    """A batch of random patients, a third of whose values are missing."""
    g = torch.Generator().manual_seed(0)
    labels = (PATIENTS, len(EVENTS))
    return {
        "x": torch.randn(PATIENTS, STEPS, OBSERVATIONS, generator=g),
        "mask": torch.rand(PATIENTS, STEPS, OBSERVATIONS, generator=g) < 2 / 3,
        "u": (torch.rand(PATIENTS, STEPS, 1, generator=g) < 0.3).float(),
        "length": torch.randint(STEPS // 2, STEPS + 1, (PATIENTS,), generator=g),
        "slot": torch.randint(1, SLOTS + 1, labels, generator=g),
        "observed": torch.rand(labels, generator=g) < 0.4,
        "at_risk": torch.ones(labels, dtype=torch.bool),
    }


class UnrolledLSTM(nn.Module):
    """The usual rival: an LSTM over the history, on over the slots without input, and a hazard network on its states."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * OBSERVATIONS + 1, WIDTH, batch_first=True)
        self.hazard = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, len(EVENTS)))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        seen = torch.cat([batch["x"] * batch["mask"], batch["mask"].float(), batch["u"]], -1)
        states, _ = self.lstm(nn.functional.pad(seen, (0, 0, 0, SLOTS)))
        logits = self.hazard(states[:, STEPS:])
        laws = {event.name: EventLaw.from_logits(logits[..., i]) for i, event in enumerate(EVENTS)}
        return event_loss(laws, batch, EVENTS)[0]


def step_rows(repeats: int) -> list[Row]:
    """A training step: forward, backward and AdamW."""
    batch = patients()
    torch.manual_seed(0)
    model, rival = DeepStateSpace(OBSERVATIONS, 1, EVENTS, z_dim=WIDTH), UnrolledLSTM()
    optimizers = {each: torch.optim.AdamW(each.parameters(), 1e-3) for each in (model, rival)}
    alone = [{name: column[i : i + 1] for name, column in batch.items()} for i in range(PATIENTS)]

    def ours() -> None:
        dssm_loss(model, batch)[0].backward()
        _step(optimizers[model])

    def theirs() -> None:
        rival.loss(batch).backward()
        _step(optimizers[rival])

    def one_by_one() -> None:
        for patient in alone:
            (dssm_loss(model, patient)[0] / PATIENTS).backward()
        _step(optimizers[model])

    timings = interleaved({"ours": ours, "theirs": theirs}, repeats, warmup=2, clock=clock)
    loop = interleaved({"ours": ours, "loop": one_by_one}, 3, warmup=1, clock=clock)
    note = (
        f"{milliseconds(timings['theirs'])} against {milliseconds(timings['ours'])}; beside the LSTM ours has an "
        "emission and two gated transition networks over all steps, rolls a state out, and has a hazard network an event: "
        "twice the LSTM's multiplications"
    )
    return [
        row(
            "training step: LSTM unrolled over history and slots / ours",
            ratio(timings, "theirs", "ours"),
            note,
            1 / 1.3,
        ),
        row(
            "training step: a loop over patients / ours", ratio(loop, "loop", "ours"), milliseconds(loop["loop"]), 10.0
        ),
    ]


def _step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()


def reader_rows(repeats: int) -> list[Row]:
    """From files to tensors, and text files beside pandas."""
    folder = data_path("03-04-clinical")
    sample = folder / "raw_sample"

    def ours() -> None:
        read_physionet2012(sample)

    def pandas() -> None:
        for file in sorted((sample / "set-a").glob("*.txt")):
            pd.read_csv(file)
        pd.read_csv(sample / "Outcomes-a.txt")

    start = time.perf_counter()
    cohort = icu12(sets=("a",))
    cohort.batch()
    seconds = time.perf_counter() - start
    timings = interleaved({"ours": ours, "pandas": pandas}, repeats, warmup=1)
    stays, texts = len(cohort.ids), len(list((sample / "set-a").glob("*.txt")))
    note = f"{milliseconds(timings['pandas'])} against {milliseconds(timings['ours'])}, {texts} files; pandas splits fields only"
    return [
        row(
            f"{STAYS} stays from .npz to tensors: {READ_SECONDS:g} s / ours",
            READ_SECONDS * stays / STAYS / seconds,
            f"{seconds:.2f} s for {stays}",
            1.0,
        ),
        row("raw text files: pandas.read_csv / ours", ratio(timings, "pandas", "ours"), note, 1.0),
    ]


def main() -> None:
    arguments = parser("deep state-space model", repeats=9).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = step_rows(arguments.repeats)
    try:
        rows += reader_rows(arguments.repeats)
    except DataNotFound as error:
        print(f"left out: readers; {error}")
    what = f"{PATIENTS} patients, {STEPS} steps, {SLOTS} slots, {len(EVENTS)} events, width {WIDTH}; {time_of(arguments.threads)}, wall time of readers."
    write(arguments.out, "Deep state-space model", what, arguments.threads, rows)


if __name__ == "__main__":
    main()
