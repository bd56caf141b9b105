"""`tenfold`: which command, which exit code, and every error in one line."""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import tenfold
from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError, is_disk_full, one_line

USAGE = """\
usage: tenfold list                              the ten recipes, and which of them work
       tenfold RECIPE                            what a recipe offers: presets, expected results, verbs
       tenfold RECIPE train [PRESET] [--field value ...] [--runs-dir DIR]
       tenfold RECIPE train --resume RUN         go on with an interrupted run
       tenfold RECIPE VERB ...                   use what was trained
       tenfold tour [--only A,B] [--runs-dir DIR] [--new]
                                                 every working recipe at its preset `tiny`, one report
       tenfold view RUN [--no-open]              open a run's report
       tenfold demo [--port PORT]                try the newest runs in the browser
       tenfold data list | get NAME              data sets
       tenfold models list | get NAME            pretrained weights
       tenfold --version

--help after any command lists its options with units and defaults. --debug shows the traceback of an error.
"""

_WORDS = {  # in place of `[Errno 2] No such file or directory: 'PATH'`
    errno.ENOENT: "file not found",
    errno.EISDIR: "is a folder, need a file",
    errno.ENOTDIR: "is a file, need a folder",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default: those of this process.
    Returns:
        exit code: 0 done, 1 our error, 2 what the user can mend (a mistake, a file, a full disk), 130 interrupted.
    """
    arguments, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    for stream in (sys.stdout, sys.stderr):  # names of files may be no text; a terminal may lack letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # --help, or a verb that gives up
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        _say(str(stop.code))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this Python complains again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence turns everything into one line
        if debug:
            traceback.print_exc()
        return _report(error, debug)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    command, rest = argv[0], argv[1:]
    if command == "--version":
        print(f"tenfold {tenfold.__version__}")
        return 0
    if command.startswith("-"):
        raise UserError(f"unknown option {command} (see tenfold --help)")
    commands = _commands()
    if command in commands:
        return commands[command](rest)
    from tenfold.cli import recipe
    from tenfold.recipes import registry

    names = [each.name for each in registry.RECIPES]
    if command.replace("_", "-") not in names:
        raise UserError(f"unknown command {command!r}{did_you_mean(command, [*commands, *names])} (see tenfold --help)")
    return recipe.main(registry.find(command), rest)


def _commands() -> dict[str, Callable[[list[str]], int]]:
    """Name to function of (arguments) -> exit code; the modules are light, what they use is imported when it runs."""
    from tenfold.cli import demo, show, tour

    return {
        "list": show.list_recipes,
        "tour": tour.main,
        "view": show.view,
        "demo": demo.main,
        "data": show.data,
        "models": show.models,
    }


def _take_debug(argv: list[str]) -> tuple[list[str], bool]:
    """`--debug` may stand anywhere before a `--`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return [word for word in argv[:end] if word != "--debug"] + argv[end:], "--debug" in argv[:end]


def _report(error: Exception, debug: bool) -> int:
    """Print an error in one line and return its exit code."""
    text = one_line(str(error))
    if is_disk_full(error):
        place = one_line(f" (writing {error.filename})") if isinstance(error, OSError) and error.filename else ""
        _say(f"error: disk full{place}; free some space, then go on with --resume")
        return 2
    trouble = _file_trouble(error)
    if trouble or isinstance(error, ValueError):
        if int(os.environ.get("RANK", "0")) == 0:  # every rank read the same arguments and says the same
            _say(f"error: {trouble or text or type(error).__name__}")
        return 2
    rank = f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""
    hint = "" if debug else " (--debug shows the traceback)"
    _say(f"error: {rank}{type(error).__name__}{': ' if text else ''}{text}{hint}")
    return 1


def _file_trouble(error: Exception) -> str | None:
    """What the file system says about a file of the user's, `file not found: PATH`; None for any other error."""
    if not isinstance(error, OSError) or (error.filename is None and error.errno != errno.EROFS):
        return None
    words = _WORDS.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()
    return words if error.filename is None else one_line(f"{words}: {os.fsdecode(error.filename)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
