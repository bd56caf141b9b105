"""Names of a package that are loaded when first used."""

from __future__ import annotations

import pytest

from tenfold.core.lazy import lazy


def test_a_name_comes_from_its_module_and_others_are_no_attributes() -> None:
    load = lazy("tenfold.core", {"UserError": "errors"})
    from tenfold.core.errors import UserError

    assert load("UserError") is UserError
    with pytest.raises(AttributeError, match=r"module 'tenfold\.core' has no attribute 'Run'"):
        load("Run")
