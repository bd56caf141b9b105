"""What all ten recipes hold alike: killed and resumed, on two processes, on a full disk, they end with the same result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

sys.path.append(str(Path(__file__).parent))

from small_runs import SMALL, begin, claims, quiet_environment, start, trained, weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
RECIPES = sorted(SMALL)
KILLS = 3
# They train one model over several processes; the others are many small trainings, and say so.
TOGETHER = ["afm", "deep-ssm", "ec-dit", "kg-ssrl", "mm1", "moe-vs-dense"]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of each recipe that nothing disturbed, with its seconds; made once where several tests want it."""
    made: dict[str, tuple[Path, float]] = {}
    start(["list"], tmp_path_factory.mktemp("first") / "said").join()  # the first process waits for all imports

    def of(recipe: str) -> tuple[Path, float]:
        if recipe not in made:
            folder = tmp_path_factory.mktemp(recipe)
            run, begun = begin(recipe, folder, folder / "runs"), time.monotonic()
            assert ended(recipe, run, folder) == 0, (folder / "said").read_text()[-2000:]
            made[recipe] = run, time.monotonic() - begun
        return made[recipe]

    return of


def ended(recipe: str, run: Path, folder: Path, before: str = "") -> int:
    """The exit code of `train --resume`; what it said is in `folder`/said."""
    process = start([recipe, "train", "--resume", str(run)], folder / "said", before, TENFOLD_CACHE=str(folder / "cache"))  # fmt: skip
    process.join()
    return int(process.exitcode)


def same(run: Path, expected: Path) -> None:
    """Two runs have the same claims, and weights of the same bytes."""
    assert claims(run) == claims(expected)
    ours, theirs = weights(run), weights(expected)
    assert ours.keys() == theirs.keys()
    assert claims(run) or ours
    assert [name for name in ours if ours[name] != theirs[name]] == []


def nothing_half_written(run: Path) -> None:
    """Every file of a run is whole: no temporary one is left, JSON parses."""
    assert [path for path in run.rglob(".*.tmp") if path.is_file()] == []
    for path in run.rglob("*.json"):
        json.loads(path.read_text())


@pytest.mark.parametrize("recipe", RECIPES)
def test_killed_at_random_moments_it_ends_with_the_same_result(recipe: str, whole: Any, tmp_path: Path) -> None:
    expected, seconds = whole(recipe)
    run, chance, killed = begin(recipe, tmp_path, tmp_path / "runs"), random.Random(time.time_ns()), 0
    for _ in range(KILLS):
        process = start([recipe, "train", "--resume", str(run)], tmp_path / "said", TENFOLD_CACHE=str(tmp_path / "cache"))  # fmt: skip
        process.join(chance.uniform(0.1, 0.7) * seconds)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed, "it ended by itself before the first kill"
    assert ended(recipe, run, tmp_path) == 0, (tmp_path / "said").read_text()[-2000:]
    same(run, expected)


@pytest.mark.parametrize("recipe", TOGETHER)
def test_two_processes_train_the_models_of_one(recipe: str, whole: Any, tmp_path: Path) -> None:
    """Weights and batches split over two ranks: the same models up to rounding."""
    expected, _ = whole(recipe)
    run = begin(recipe, tmp_path, tmp_path / "runs")
    if recipe == "moe-vs-dense":  # the one whose config says how the processes share the work
        config = json.loads((run / "config.json").read_text())
        config["mesh"]["expert"] = 2
        (run / "config.json").write_text(json.dumps(config))
    done = subprocess.run(trained(recipe, run, 2), capture_output=True, text=True, env=quiet_environment(tmp_path), check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = weights(expected), weights(run)
    assert one.keys() == two.keys() and one
    for name in one:
        ours, theirs = load(two[name]), load(one[name])
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            # An offset of all keys changes no attention: its gradient is rounding alone, which Adam scales up to whole steps.
            if not key.endswith("k_proj.bias"):
                torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=2e-4, msg=f"{name}: {key}")


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in TOGETHER])
def test_recipes_of_many_small_trainings_refuse_several_processes(recipe: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tenfold"]
    done = subprocess.run([*launcher, recipe, "train", "tiny", "--runs-dir", str(runs)], capture_output=True, text=True, env=quiet_environment(tmp_path), check=False)  # fmt: skip
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(said) == 1 and ("torchrun" in said[0] or "one process" in said[0]), done.stderr[
        -3000:
    ]
    assert not runs.exists()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_full_disk_is_one_line_and_it_goes_on_when_there_is_room(recipe: str, whole: Any, tmp_path: Path) -> None:
    expected, _ = whole(recipe)
    largest = max(path.stat().st_size for path in expected.rglob("*") if path.is_file())
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest // 2}, {largest // 2}))"
    run = begin(recipe, tmp_path, tmp_path / "runs")
    code = ended(recipe, run, tmp_path, limit)
    said = [line for line in (tmp_path / "said").read_text().splitlines() if "error" in line.lower()]
    assert code == 2 and len(said) == 1 and said[0].startswith("error: ") and "disk" in said[0], (tmp_path / "said").read_text()[-3000:]  # fmt: skip
    nothing_half_written(run)
    assert ended(recipe, run, tmp_path) == 0, (tmp_path / "said").read_text()[-2000:]
    same(run, expected)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_may_not_be_written_is_one_line(recipe: str, tmp_path: Path) -> None:
    run = begin(recipe, tmp_path, tmp_path / "runs")
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    # What is imported late comes first: nobody may not read a Python in somebody's home.
    nobody = (
        "import filelock, tenfold.cli.demo, tenfold.cli.recipe, tenfold.cli.show, tenfold.cli.tour; os.setuid(65534)"
    )
    before = sorted(path for path in run.rglob("*"))
    (tmp_path / "said").touch(0o666)
    (tmp_path / "said").chmod(0o666)
    code = ended(recipe, run, tmp_path, nobody)
    said = (tmp_path / "said").read_text()
    assert code == 2 and said.count("error: ") == 1 and "no permission: " in said, said[-3000:]
    assert sorted(path for path in run.rglob("*")) == before
