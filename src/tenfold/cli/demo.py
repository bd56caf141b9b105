"""`tenfold demo`: the web demo, from runs that are there."""

from __future__ import annotations

import os
from pathlib import Path

from tenfold.cli.options import refuse, take_flag, take_value, wants_help
from tenfold.core.errors import UserError
from tenfold.core.interrupt import at_once
from tenfold.core.run_folders import runs_root

PASSWORD = "TENFOLD_DEMO_PASSWORD"
HELP = f"""\
usage: tenfold demo [--runs-dir DIR] [--port PORT] [--host HOST] [--password-file FILE] [--open]

A web page with a tab for every recipe, from the newest finished run of each. Make these with `tenfold tour`; a tab
whose run is missing says how to make it. Ctrl-C ends it. Needs the extra `demo`: pip install "tenfold[demo]".

  --runs-dir DIR        where the runs are (default: TENFOLD_RUNS, else ./runs)
  --port PORT           TCP port, 0 takes a free one (default: 7860)
  --host HOST           address to listen at (default: 127.0.0.1, this machine alone); another one needs a password
  --password-file FILE  its first line is asked of everyone, with the user name tenfold; also {PASSWORD}
  --open                open the page in the browser
"""


def main(argv: list[str]) -> int:
    """Serve the demo until Ctrl-C."""
    if wants_help(argv):
        print(HELP, end="")
        return 0
    values = {}
    rest = argv
    for option in ("--runs-dir", "--port", "--host", "--password-file"):
        values[option], rest = take_value(rest, option, "tenfold demo")
    open_browser, rest = take_flag(rest, "--open")
    refuse(rest, "tenfold demo", (*values, "--open"))
    port = values["--port"] or "7860"
    if not port.isdecimal() or not port.isascii():
        raise UserError(f"tenfold demo: --port: got {port!r}, need a whole number")
    password = read_password(values["--password-file"])
    with at_once():
        from tenfold.demo.page import serve

    print("opening the runs …", flush=True)

    def started(address: str) -> None:
        print(f"demo: {address}" + (" (user name: tenfold)" if password else "") + "; Ctrl-C ends it", flush=True)

    serve(
        runs_root(values["--runs-dir"]),
        host=values["--host"] or "127.0.0.1",
        port=int(port),
        password=password,
        open_browser=open_browser,
        started=started,
    )
    return 0


def read_password(file: str | None) -> str | None:
    """The password: a file's first line, else the environment's; None where there is neither.

    Raises:
        UserError: an empty file, or one that is no text.
    """
    if file is None:
        return os.environ.get(PASSWORD) or None
    try:
        password = Path(file).read_text(encoding="utf-8").partition("\n")[0].strip()
    except UnicodeDecodeError:
        raise UserError(f"--password-file: {file} is no text") from None
    if not password:
        raise UserError(f"--password-file: the first line of {file} is empty")
    return password
