"""Plurals and inflections by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.games.english import inflections, plural


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("cat", "cats"),
        ("box", "boxes"),
        ("church", "churches"),
        ("city", "cities"),
        ("soliloquy", "soliloquies"),
        ("key", "keys"),
        ("person", "people"),
        ("spokesperson", "spokespeople"),
        ("mouse", "mice"),
        ("dormouse", "dormice"),
        ("blouse", "blouses"),
        ("goose", "geese"),
        ("mongoose", "mongooses"),
        ("woman", "women"),
        ("chairman", "chairmen"),
        ("human", "humans"),
        ("german", "germans"),
        ("housewife", "housewives"),
        ("bookshelf", "bookshelves"),
        ("golf", "golfs"),
        ("analysis", "analyses"),
        ("chassis", "chassis"),
        ("axis", "axes"),
        ("criterion", "criteria"),
        ("lion", "lions"),
        ("bacterium", "bacteria"),
        ("museum", "museums"),
        ("nucleus", "nuclei"),
        ("bus", "buses"),
        ("matrix", "matrices"),
        ("octopus", "octopuses"),
        ("tomato", "tomatoes"),
        ("sheep", "sheep"),
        ("child", "children"),
    ],
)
def test_plurals(word: str, expected: str) -> None:
    assert plural(word) == expected


@pytest.mark.parametrize(
    ("word", "forms", "others"),
    [
        ("make", {"make", "makes", "making"}, {"makeing", "mak"}),
        ("stop", {"stops", "stopped", "stopping"}, {"stoped", "stoping"}),
        ("visit", {"visits", "visited", "visiting"}, set()),
        ("refer", {"refers", "referred", "referring"}, set()),
        ("carry", {"carries", "carried", "carrying"}, {"carryed", "carriing"}),
        ("play", {"plays", "played", "playing"}, {"plaied"}),
        ("die", {"dies", "died", "dying"}, {"dieing", "diing"}),
        ("agree", {"agrees", "agreed", "agreeing"}, {"agreing"}),
        ("dye", {"dyes", "dyed", "dyeing"}, {"dying"}),
        ("panic", {"panics", "panicked", "panicking"}, {"paniced"}),
        ("box", {"boxes", "boxed", "boxing"}, {"boxxed"}),
        ("bus", {"buses", "bused", "bussed"}, set()),
        ("go", {"goes", "going"}, set()),
        ("hot dog", {"hot dog", "hot dogs"}, {"hots dog"}),
        ("mouse", {"mouse", "mice", "mousing"}, set()),
    ],
)
def test_inflections(word: str, forms: set[str], others: set[str]) -> None:
    found = inflections(word)
    assert forms | {word} <= found
    assert not others & found


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_a_plural_and_is_its_own_inflection(word: str) -> None:
    assert isinstance(plural(word), str)
    assert word in inflections(word)
    assert len(inflections(word)) <= 12
