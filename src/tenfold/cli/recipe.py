"""`tenfold RECIPE ...`: train, resume, and the recipe's own verbs."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tenfold.cli.entry import INTERRUPTED
from tenfold.cli.options import take_value, wants_help
from tenfold.core import config
from tenfold.core.errors import UserError
from tenfold.core.interrupt import at_once
from tenfold.recipes import registry
from tenfold.recipes.registry import Recipe

if TYPE_CHECKING:
    from tenfold.core.claims import Claim, Result
    from tenfold.core.run import Run


def main(recipe: Recipe, argv: list[str]) -> int:
    """One command of a recipe; without a verb, what the recipe offers."""
    with at_once():
        module = registry.load(recipe)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview(recipe, module))
        return 0
    verb, rest = argv[0], argv[1:]
    if verb == "train":
        return train(recipe, module, rest)
    command = f"tenfold {recipe.name}"
    if verb not in module.VERBS:
        if verb in module.PRESETS:
            raise UserError(f"{command}: unknown verb {verb!r} (did you mean {command} train {verb}?)")
        known = ["train", *module.VERBS]
        hint = config.did_you_mean(verb, known)
        raise UserError(f"{command}: unknown verb {verb!r}{hint}; known: {', '.join(known)}")
    config.bind(module.VERBS[verb], rest, prog=f"{command} {verb}")()
    return 0


def train(recipe: Recipe, module: ModuleType, argv: list[str]) -> int:
    """`train [PRESET] [--field value ...] [--runs-dir DIR]` or `train --resume RUN`."""
    command = f"tenfold {recipe.name} train"
    resume, rest = take_value(argv, "--resume", command)
    runs_dir, rest = take_value(rest, "--runs-dir", command)
    if wants_help(rest):
        _train_help(recipe, module, rest, command)
        return 0
    if resume is None:
        settings = config.parse(module.PRESETS, rest, prog=command)
        preset, _ = config.take_preset(module.PRESETS, rest)
        typed = shlex.join(["tenfold", recipe.name, "train", *argv])
        check(module, settings)
        run = on_all_ranks(lambda: create(recipe, preset, settings, runs_dir, typed))
    else:
        if rest or runs_dir is not None:
            extra = rest[0] if rest else "--runs-dir"
            raise UserError(f"{command}: --resume goes on with the run's own config; drop {extra}")
        run, settings = reopen(recipe, module, Path(resume))
    if _is_main():
        print(f"run: {run.path}", flush=True)
    code, result = work(recipe, module, settings, run)
    if _is_main() and result is not None:
        for claim in result.claims:
            print(_claim_line(claim))
        print(f"report: {run.path / 'report.html'}")
    return code


def check(module: ModuleType, settings: Any) -> None:
    """Let the recipe refuse a config that cannot be trained here, before there is a folder for it."""
    getattr(module, "check", lambda settings: None)(settings)


def create(recipe: Recipe, preset: str, settings: Any, runs_dir: Path | str | None, command: str) -> Run:
    """A new run folder that knows its recipe's paper."""
    from tenfold.core.run import Run

    paper = f"{recipe.title}, arXiv {recipe.arxiv}"
    title = f"{recipe.name}: {recipe.gives}"
    return Run.create(recipe.name, preset, settings, runs_dir, title=title, paper=paper, command=command)


def reopen(recipe: Recipe, module: ModuleType, path: Path) -> tuple[Run, Any]:
    """An existing run and its config.

    Raises:
        UserError: no run there, another recipe's run, or a config that this version cannot read.
    """
    from tenfold.core.run import Run

    run = Run.open(path)
    if run.recipe != recipe.name:
        raise UserError(f"{path} is a run of {run.recipe}; tenfold {run.recipe} train --resume goes on with it")
    return run, config.from_json(module.Config, run.config, where=str(path / "config.json"))


def work(recipe: Recipe, module: ModuleType, settings: Any, run: Run) -> tuple[int, Result | None]:
    """Train in a run that exists. Ctrl-C leaves it resumable and says how to go on.

    Returns:
        exit code, and the result where training ended.
    Raises:
        UserError: another process is working in this run.
    """
    from filelock import FileLock, Timeout

    try:
        if not _is_main():
            return 0, module.train(settings, run)
        try:
            with FileLock(run.path / ".training.lock", blocking=False):
                return 0, module.train(settings, run)
        except Timeout:
            raise UserError(f"another process is training in {run.path}") from None
    except KeyboardInterrupt:
        if _is_main():
            print(f"\ninterrupted; go on with: {resume_command(recipe, run)}", file=sys.stderr, flush=True)
        return INTERRUPTED, None
    finally:
        run.close()


def resume_command(recipe: Recipe, run: Run) -> str:
    """The line that goes on with a run, with as many local processes as now."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    program = ["torchrun", "--nproc-per-node", str(processes), "-m", "tenfold"] if processes > 1 else ["tenfold"]
    return shlex.join([*program, recipe.name, "train", "--resume", str(run.path)])


def on_all_ranks(make: Callable[[], Run]) -> Run:
    """Rank 0 makes the run; the others learn its path and open it. Alone: just make it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return make()
    import torch
    import torch.distributed as dist

    from tenfold.core.mesh import init_distributed
    from tenfold.core.run import Run

    init_distributed()
    run = make() if dist.get_rank() == 0 else None
    path = list(os.fsencode(run.path.resolve())) if run is not None else []
    length = torch.tensor([len(path)])
    dist.broadcast(length, src=0)
    content = torch.tensor(path, dtype=torch.uint8) if path else torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(content, src=0)
    return run if run is not None else Run.open(os.fsdecode(bytes(content.tolist())))


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _claim_line(claim: Claim) -> str:
    simulated = ", simulator" if claim.simulator else ""
    side = ""
    if claim.holds is None:
        side = ", even" if claim.margin == 0 else ", ahead" if claim.ahead else ", behind"
    return f"  {claim.name}: {claim.value:.4g} against {claim.baseline:.4g} ({claim.verdict}{side}{simulated})"


def _overview(recipe: Recipe, module: ModuleType) -> str:
    width = max(len(name) for name in [*module.PRESETS, *module.VERBS, "train"])
    lines = [f"{recipe.name}: {recipe.gives}", f"{recipe.title}, arXiv {recipe.arxiv}", "", "presets:"]
    lines += [f"  {name:{width}}  {_expected(module, name)}".rstrip() for name in module.PRESETS]
    lines += ["", "verbs:", f"  {'train':{width}}  train a preset and write a report"]
    for name, verb in module.VERBS.items():
        first_line = (verb.__doc__ or "").strip().split("\n")[0]
        lines.append(f"  {name:{width}}  {first_line}".rstrip())
    return "\n".join([*lines, "", f"options of a verb: tenfold {recipe.name} VERB --help"])


def _expected(module: ModuleType, preset: str) -> str:
    return str(module.EXPECTED.get(preset, ""))


def _train_help(recipe: Recipe, module: ModuleType, argv: list[str], command: str) -> None:
    """Help of `train`: our own options, the presets, then every field with the chosen preset's value as default."""
    name, _ = config.take_preset(module.PRESETS, argv)
    lines = [
        f"PRESET is one of {', '.join(module.PRESETS)} (default tiny). Defaults below are those of {name!r}.",
        _expected(module, name),
        "--runs-dir DIR  where the run folder goes (default: TENFOLD_RUNS, else ./runs)",
        "--resume RUN    go on with an interrupted run; takes no other option",
    ]
    description = "\n".join(line for line in lines if line)
    config.parse(module.PRESETS, [name, "--help"], prog=f"{command} [PRESET]", description=description)
