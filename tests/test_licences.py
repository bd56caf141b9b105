"""Everything that an installation with all extras brings has a licence that goes together with Apache-2.0.

`python tests/test_licences.py` prints the list.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LEFT_OUT = {"peers", "dev", "docs"}  # run beside tenfold, never brought by it
# As SPDX names them, and as the older fields of packages do, in small letters.
ALLOWED = {
    "0bsd", "apache", "apache 2.0", "apache-2.0", "apache-2.0 with llvm-exception", "apache license", "apache software license",
    "apache 2.0 license", "apache license, version 2.0", "bsd", "bsd license", "bsd-2-clause", "bsd-3-clause", "3-clause bsd license",
    "bsd 3-clause license", "bsl-1.0", "cc0-1.0", "cnri-python", "isc", "isc license", "isc license (iscl)", "mit", "mit license",
    "the mit license (mit)", "mit-0", "mit-cmu", "psf-2.0", "psfl", "python software foundation license", "python-2.0", "unlicense",
    "zlib", "hpnd", "unicode-3.0", "ofl-1.1",
}  # fmt: skip
# Weak copyleft: used as they come, their sources are where they come from.
AS_THEY_COME = {
    "certifi": "MPL-2.0, a list of certificates",
    "tqdm": "MPL-2.0 and MIT",
    "chardet": "LGPL, a library that the extra eval's packages import",
    "orjson": "MPL-2.0 or Apache-2.0 or MIT, by part",
    "pathspec": "MPL-2.0",
}


def installed() -> list[importlib.metadata.Distribution]:
    """The packages that are brought by the base and by every extra but those left out, as far as they are installed."""
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    extras = {name: each for name, each in project["optional-dependencies"].items() if name not in LEFT_OUT}
    todo = [
        Requirement(line) for line in (*project["dependencies"], *(line for each in extras.values() for line in each))
    ]
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in seen or key[0] == "tenfold":
            continue
        seen.add(key)
        try:
            found[key[0]] = importlib.metadata.distribution(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system, or of an extra that is not installed
        for line in found[key[0]].requires or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
                todo.append(need)
    return [found[name] for name in sorted(found)]


def licences(package: importlib.metadata.Distribution) -> list[str]:
    """What a package says its licences are, one name each: the expression, or else classifiers, or else the first line of text."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        return re.split(r"\s+(?:AND|OR)\s+", expression.replace("(", "").replace(")", ""))
    classified = [
        line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License ::")
    ]
    if named := [name for name in classified if name != "OSI Approved"]:
        return named
    first = next((line.strip() for line in (told.get("License") or "").splitlines() if line.strip()), "none told")
    return re.split(r"\s+(?:AND|OR)\s+", re.sub(r"\s{2,}.*", "", first))


def test_every_licence_is_on_the_list() -> None:
    packages = installed()
    assert {"torch", "numpy", "transformers"} <= {canonicalize_name(each.metadata["Name"]) for each in packages}
    odd = {
        each.metadata["Name"]: licences(each)
        for each in packages
        if canonicalize_name(each.metadata["Name"]) not in AS_THEY_COME
        and not all(name.lower() in ALLOWED for name in licences(each))
    }
    assert odd == {}


if __name__ == "__main__":
    for each in installed():
        print(f"{each.metadata['Name']} {each.version}: {' and '.join(licences(each))}")
