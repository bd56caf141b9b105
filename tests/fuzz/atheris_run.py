"""Long fuzzing of one parser, led by coverage; not part of the suite, since atheris is no dependency.

    pip install atheris            # needs clang where there is no wheel: CLANG_BIN=$(which clang) pip install atheris
    python tests/fuzz/atheris_run.py                              # the parsers' names
    python tests/fuzz/atheris_run.py "words of a call" CORPUS -max_total_time=3600

CORPUS is a folder, made where absent, that keeps the inputs that reached new code; options with one dash are libFuzzer's.
What breaks is written to crash-* in the working folder; `python tests/fuzz/atheris_run.py NAME crash-...` runs it again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))


def main(argv: list[str]) -> None:
    """Fuzz the parser named first; without a name list them all."""
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["tenfold"], enable_loader_override=False):
        from parsers import every

        parsers = {parser.name: parser for parser in every()}
    if len(argv) < 2 or argv[1] not in parsers:
        sys.exit("\n".join(["name one of:", *parsers]))
    parser = parsers[argv[1]]
    names = sorted(parser.valid)
    rest = [Path(each) for each in argv[2:] if not each.startswith("-")]
    if rest and not rest[0].is_file():
        rest[0].mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            (rest[0] / f"valid-{number}").write_bytes(bytes([number]) + parser.valid[name])

    from holding import read

    with tempfile.TemporaryDirectory() as folder:

        def one(data: bytes) -> None:
            """The first byte chooses the file, the rest is its content."""
            if data:
                read(parser, Path(folder), names[data[0] % len(names)], data[1:])

        options: list[Any] = [argv[0], *argv[2:], "-rss_limit_mb=4096", "-timeout=60"]
        atheris.Setup(options, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv)
