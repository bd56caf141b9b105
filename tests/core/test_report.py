from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tenfold.core import report
from tenfold.core.claims import Claim
from tenfold.core.run import Run

EVIL = "<script>alert('x')</script>\"><img src=x onerror=y>"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create("abo", "tiny", {"seed": 4, "model": {"dim": 8, "sizes": [{"n": 1}]}}, tmp_path)


def page(run: Run) -> str:
    return report.write(run.path).read_text(encoding="utf-8")


def claim(name: str, interval: tuple[float, float], seeds: int = 3) -> Claim:
    return Claim(name, 1.25, 1.5, "lower", interval, seeds, "nats per token", paper="2.06× (reported)")


def test_nothing_a_run_says_becomes_markup(tmp_path: Path) -> None:
    run = Run.create("abo", "tiny", {"text": EVIL}, tmp_path, title=EVIL, paper=EVIL, command=EVIL)
    run.text("summary", EVIL)
    run.text("note", EVIL)
    run.table("table", [{EVIL: EVIL}], note=EVIL)
    run.figure("figure", Figure(), EVIL)
    run.claim(Claim(EVIL, 1, 2, "lower", (-1, -1), 3, EVIL, paper=EVIL))
    html = page(run)
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;") >= 11


def test_the_page_needs_no_other_file_and_no_network(run: Run) -> None:
    run.log(0, loss=2.0)
    run.log(1, loss=1.0)
    run.figure("curve", Figure())
    html = page(run)
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)
    assert "url(" not in html
    assert html.count("data:image/png;base64,") == 2  # the figure and the curves


def test_the_parts_stand_in_order(run: Run) -> None:
    run.claim(claim("loss at equal seconds", (-0.4, -0.1)))
    run.table("Models", [{"model": "dense", "parameters": 1234567}])
    run.text("Limits", "A small model.")
    run.text("summary", "It works.")
    html = page(run)
    order = [
        "It works.",
        "loss at equal seconds",
        "Models",
        "1\u202f234\u202f567",
        "Limits",
        "What was run",
        "model.sizes.0.n",
    ]
    places = [html.index(part) for part in order]
    assert places == sorted(places)
    assert "2.06× (reported)" in html


@pytest.mark.parametrize(
    ("interval", "seeds", "verdict"),
    [
        ((-0.4, -0.1), 3, "holds"),
        ((-0.4, 0.1), 3, "does not hold"),
        ((0.1, 0.4), 3, "the opposite holds"),
        ((math.nan, math.nan), 1, "one seed"),
    ],
)
def test_verdicts(run: Run, interval: tuple[float, float], seeds: int, verdict: str) -> None:
    run.claim(claim("loss", interval, seeds))
    assert re.findall(r'class="mark \w+">([^<]*)</span>', page(run).split("<h2>Claims")[1]) == [verdict]


def test_a_simulator_is_called_one(run: Run) -> None:
    run.claim(Claim("speed-up", 2.3, 1, "higher", (1, 1.5), 3, "cost model", simulator=True))
    assert ">simulator<" in page(run)


def test_an_unfinished_run_says_so_until_it_is_finished(run: Run) -> None:
    assert "unfinished" in page(run)
    run.finish()
    assert "unfinished" not in (run.path / "report.html").read_text()


def test_non_finite_figures_of_a_table_and_of_the_config_are_shown_as_numbers(tmp_path: Path) -> None:
    run = Run.create("abo", "tiny", {"limit": math.inf}, tmp_path)
    run.table("scores", [{"model": "dense", "loss": 1.5}, {"model": "NaN", "loss": math.nan}])
    html = page(run)
    for cell in ('<td class="n">1.5</td>', "<td>NaN</td>", '<td class="n">nan</td>'):  # text left, numbers right
        assert cell in html
    assert "$float" not in html
    assert "Infinity" in html


def test_a_wide_table_scrolls_and_keeps_a_mean_beside_its_interval(run: Run) -> None:
    run.table("losses", [{"model": "dense", "loss": "4.60 ± 0.02"}])
    html = page(run)
    assert "<td>4.60\u00a0±\u00a00.02</td>" in html
    assert '<div class="scroll" tabindex="0"><table>' in html  # tabindex: by the arrow keys, too


def test_one_point_is_no_curve(run: Run) -> None:
    run.log(0, loss=2.0, note="x")
    assert "Training curves" not in page(run)
    run.log(1, loss=math.nan)
    assert "Training curves" not in page(run)
    run.log(2, loss=1.0)
    assert "Training curves" in page(run)


def test_a_failed_write_leaves_the_old_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = page(run)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        report.write(run.path)
    assert (run.path / "report.html").read_text(encoding="utf-8") == old


def test_a_collection_embeds_each_run_and_links_it(tmp_path: Path) -> None:
    first = Run.create("abo", "tiny", {"seed": 0}, tmp_path, title="first title")
    first.claim(claim("loss", (-0.4, -0.1)))
    first.finish()
    entries = [
        report.Entry("abo", "A paper", first.path, purpose="For <readers>", go_on=[("tenfold abo plan", "its cost")]),
        report.Entry("afm", "Another", None, note="RuntimeError: <broke>"),
    ]
    html = report.write_collection(tmp_path / "tour.html", "A tour", entries).read_text(encoding="utf-8")
    link = (first.path / "report.html").relative_to(tmp_path).as_posix()
    assert f'href="{link}"' in html
    assert 'href="#abo"' in html
    assert 'id="abo"' in html
    assert "first title" in html
    assert "RuntimeError: &lt;broke&gt;" in html
    assert "For &lt;readers&gt;" in html
    assert "<code>tenfold abo plan</code>" in html
    assert 'class="mark yes">holds</span>' in html
    assert "1 of 2 systems done" in html


def test_figures_of_one_seed_are_ahead_behind_or_even(tmp_path: Path) -> None:
    run = Run.create("abo", "tiny", {"seed": 0}, tmp_path)
    nothing = (math.nan, math.nan)
    for name, value in (("a", 2.0), ("b", 0.5), ("c", 1.0)):
        run.claim(Claim(name, value, 1.0, "higher", nothing, 1, "how"))
    run.finish()
    html = report.write_collection(tmp_path / "tour.html", "A tour", [report.Entry("abo", "A", run.path)]).read_text()
    for words in ('"mark yes dim">ahead<', '"mark no dim">behind<', '"mark one dim">even<', "1 of 3 figures"):
        assert words in html


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (9999, "9999"),
        (1234567, "1\u202f234\u202f567"),
        (0.123456, "0.1235"),
        (-2.5, "−2.5"),
        (3.0, "3"),
        ({"$float": "NaN"}, "nan"),
        ("NaN", "NaN"),
        ("text", "text"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_numbers_are_written_for_people(value: object, text: str) -> None:
    assert report.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2 s"), (59.94, "59.9 s"), (59.97, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text
