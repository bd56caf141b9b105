"""The page and its server: every tab in a real browser, passwords, sizes, names; and the command that starts it."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tenfold.cli import main
from tenfold.cli.demo import read_password
from tenfold.core.errors import UserError
from tenfold.demo import deer, page

TABS = ("ec-dit", "afm", "deep-ssm", "meta-forecast", "moe-vs-dense", "kg-ssrl", "spag", "mm1", "deer", "abo")
_spec = importlib.util.spec_from_file_location("demo_browser", Path(__file__).with_name("browser.py"))
assert _spec is not None and _spec.loader is not None
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)


@pytest.fixture(scope="session")
def gradio() -> None:
    """Skips without Gradio on a stranger's machine; fails in CI."""
    if importlib.util.find_spec("gradio") is None:
        if os.environ.get("CI"):
            pytest.fail("gradio is not installed (CI never skips)")
        pytest.skip("needs gradio: the extra demo")


@pytest.fixture(scope="module")
def address(gradio: None, runs: Path) -> Iterator[str]:
    yield from served(runs)


def served(runs: Path, **options: Any) -> Iterator[str]:
    told: list[str] = []
    shown = page.serve(runs, port=0, started=told.append, block=False, **options)
    yield told[0]
    shown.close()


def status(request: urllib.request.Request | str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


def test_there_is_a_tab_for_every_recipe() -> None:
    tabs = page.tabs()
    assert tuple(tab.recipe for tab in tabs) == TABS
    assert len({tab.title for tab in tabs}) == len(tabs)


def test_the_server_refuses_other_names_and_large_bodies(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    assert status(address)[0] == 200
    assert status(urllib.request.Request(address, headers={"Host": "evil.example"}))[0] == 421
    # By its length alone, unsent: a server that refuses may close before a client has sent all.
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=30)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Length", str((1 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    for place in ("/docs", "/openapi.json", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd"):
        code, text = status(address + place)
        assert code >= 400 or "root:" not in text, place


def test_a_password_is_asked_for(gradio: None, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for address in served(tmp_path / "runs", password="secret"):
        assert status(f"{address}/config")[0] == 401
        wrong = urllib.request.Request(f"{address}/login", data=b"username=tenfold&password=no", method="POST")
        assert status(wrong)[0] == 400
        right = urllib.request.Request(f"{address}/login", data=b"username=tenfold&password=secret", method="POST")
        assert status(right)[0] == 200


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"host": "0.0.0.0"}, "is open to other machines; set a password"),
        ({"port": 65536}, "--port: got 65536"),
        ({"host": "192.0.2.7", "password": "x"}, "port 7860 at 192.0.2.7: .*; choose another"),
    ],
)
def test_serve_refuses(gradio: None, tmp_path: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        page.serve(tmp_path, block=False, **options)
    with pytest.raises(UserError, match="no runs in"):
        page.serve(tmp_path / "absent", block=False)


def test_without_gradio_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    assert main(["demo", "--runs-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {page.NEEDS}\n"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--port", "x"], "tenfold demo: --port: got 'x', need a whole number"),
        (["--porta", "1"], "tenfold demo: unknown option --porta (did you mean --port?)"),
        (["--password-file", "absent"], "file not found: absent"),
        (["run"], "tenfold demo: unexpected argument 'run'"),
    ],
)
def test_the_command_refuses(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *argv]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_the_password_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENFOLD_DEMO_PASSWORD", raising=False)
    assert read_password(None) is None
    monkeypatch.setenv("TENFOLD_DEMO_PASSWORD", "from outside")
    assert read_password(None) == "from outside"
    file = tmp_path / "password"
    file.write_text("first line\nsecond\n")
    assert read_password(str(file)) == "first line"
    for content in (b"", b"\nx", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="--password-file"):
            read_password(str(file))


def test_a_recipe_without_a_run_says_how_to_make_it(gradio: None, tmp_path: Path) -> None:
    from tenfold.demo.shelf import rooms

    (tmp_path / "runs").mkdir()
    texts = str(page.build(rooms(tmp_path / "runs")).get_config_file())
    for name in TABS[:4]:
        assert f"tenfold {name} train tiny" in texts


@pytest.fixture
def chromium() -> str:
    """Skips without Chromium on a stranger's machine; fails in CI."""
    program = browser.find_chromium()
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed (CI never skips)")
        pytest.skip("needs chromium")
    return str(program)


VALUE = "document.querySelector('#{0} textarea, #{0} input')?.value"
IDLE = "![...document.querySelectorAll('.progress-text, .meta-text')].some(e => e.offsetParent)"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_tab_works_in_a_browser(address: str, chromium: str, tmp_path: Path) -> None:
    shots = Path(os.environ.get("TENFOLD_SCREENSHOTS", tmp_path))
    with browser.Browser(chromium, 300) as it:
        it.open(address)
        it.wait("document.querySelectorAll('button[role=tab]').length >= 10")

        def tab(name: str) -> None:
            it.click(f"#tab-{name}-button")
            it.wait(f"document.querySelector('#tab-{name}-button').getAttribute('aria-selected') === 'true'")

        def shot(name: str) -> None:
            it.wait(IDLE)
            it.screenshot(shots / f"{name}.png")

        def filled(id: str) -> str:
            return str(it.wait(VALUE.format(id)))

        images = "[...document.querySelectorAll('[role=tabpanel] img')].filter(e => e.offsetParent && e.naturalWidth > 100).length"

        tab("ec-dit")
        it.click("#ec-dit-go")
        it.wait(f"{images} >= 2")
        shot("ec-dit")

        tab("afm")
        assert filled("afm-who")
        it.type("#afm-question textarea, #afm-question input", 'the cat <img src=x onerror="window.hit=1"><b>sat</b>')
        it.click("#afm-go")
        it.wait("document.querySelectorAll('.message.bot, .bot.message').length >= 1")
        it.wait("!document.querySelector('.bot.message, .message.bot')?.textContent.trim().match(/^…?$/)")
        assert it.run("document.querySelector('.message.user, .user.message').textContent").count("img src=x") == 1
        assert it.run("window.hit") is None and it.run("document.querySelectorAll('.message img').length") == 0
        shot("afm")

        tab("deep-ssm")
        assert filled("deep-ssm-patient")
        it.wait(f"{images} >= 1")
        it.click("#deep-ssm-go")
        it.wait(f"{images} >= 2")
        shot("deep-ssm")

        tab("meta-forecast")
        assert re.match(r"P\(.+\) = ", filled("meta-forecast-words"))
        shot("meta-forecast")

        tab("moe-vs-dense")
        it.click("#moe-vs-dense-go")
        it.wait("document.body.textContent.includes('active parameters')")
        it.click("#moe-vs-dense-weigh")
        it.wait("document.body.textContent.includes('dense-16-seconds-seed0')")
        shot("moe-vs-dense")

        tab("kg-ssrl")
        assert filled("kg-ssrl-head")
        it.click("#kg-ssrl-go")
        assert filled("kg-ssrl-words").startswith("1. ")
        assert it.run("document.querySelector('iframe[sandbox=\"\"]') !== null")
        shot("kg-ssrl")

        tab("spag")
        it.click("#spag-role input[value=attacker]")
        it.click("#spag-go")
        word = re.search("“(.+)”", filled("spag-where"))
        assert word is not None
        it.type("#spag-words textarea, #spag-words input", f"it is {word[1]}")
        it.click("#spag-say")
        it.wait(f"{VALUE.format('spag-where')}.includes('The word was')")
        shot("spag")

        tab("mm1")
        picture = tmp_path / "picture.png"
        Image.fromarray(np.full((64, 48, 3), 200, np.uint8)).save(picture)
        it.wait("document.querySelector('#mm1-picture input[type=file]') !== null")
        it.upload("#mm1-picture input[type=file]", picture)
        it.wait("document.querySelector('#mm1-picture img')?.naturalWidth > 10")
        it.click("#mm1-go")
        assert filled("mm1-answer")
        shot("mm1")

        tab("deer")
        it.click("#deer-go")
        assert "tool" in filled("deer-words")
        assert bool(it.run("!!document.querySelector('#deer-act')")) == deer.has_agent()
        if deer.has_agent():
            it.click("#deer-act")
            it.wait("!!document.querySelector('iframe[srcdoc*=\"days are there\"]')")
            it.run(
                "document.querySelector('iframe[srcdoc*=\"days are there\"]').scrollIntoView()"
            )  # else it is not drawn
            it.run("new Promise(drawn => setTimeout(drawn, 1000))")
        shot("deer")

        tab("abo")
        it.click("#abo-go")
        it.wait(f"/^(Test|No prompt)/.test({VALUE.format('abo-outcome')})")
        shot("abo")

        outside = {event["params"]["request"]["url"] for event in it.events if event.get("method") == "Network.requestWillBeSent"}  # fmt: skip
        assert not [url for url in outside if not url.startswith((address, "data:", "blob:", "about:"))]
        assert it.run("document.querySelectorAll('.toast-body.error').length") == 0
    if shots != tmp_path:
        shutil.copy(picture, shots)
