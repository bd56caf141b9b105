"""The page: ten tabs in the order of the recipes, and the server that shows it."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.demo.gate import LOCAL, Gate
from tenfold.demo.limits import MOST_BODY, MOST_UPLOAD
from tenfold.demo.shelf import Room, rooms
from tenfold.demo.tab import Tab, handle, missing

USER = "tenfold"  # the name beside the password
NEEDS = 'the demo needs Gradio: pip install "tenfold[demo]"'
CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important; margin: 0 auto !important; }
#head h1 { margin: .2rem 0 0; }
.about { max-width: 60rem; }
.missing { border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 1rem 1.2rem; margin: 1rem 0; }
footer { display: none !important; }
"""
HEAD = """
# tenfold
Ten published systems, each at work in a tab of its own, from runs on this machine.
"""


def tabs() -> list[Tab]:
    """The tabs, in the order of the recipes."""
    from tenfold.recipes import registry

    names = [recipe.name.replace("-", "_") for recipe in registry.RECIPES]
    return [importlib.import_module(f"tenfold.demo.{name}").TAB for name in names]


def build(found: Mapping[str, Room]) -> Any:
    """The page as Gradio's Blocks.

    Args:
        found: a room for every recipe, from `shelf.rooms`.
    Raises:
        UserError: Gradio is not installed.
    """
    gr = _gradio()
    with gr.Blocks(title="tenfold", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(HEAD, elem_id="head")
        for tab in tabs():
            room = found[tab.recipe]
            with gr.Tab(tab.title, id=tab.recipe, elem_id=f"tab-{tab.recipe}") as shown:
                gr.Markdown(tab.about, elem_classes="about")
                if tab.needs_run and not room.ready:
                    gr.HTML(missing(room))
                    continue
                tab.build(room)
                gr.Markdown(_foot(room), elem_classes="about")
            for look, outputs in room.looks:
                seen = gr.State(False)
                handle(shown.select, room, _once(look, len(outputs)), [seen], [seen, *outputs])
    return page


def serve(
    runs: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    password: str | None = None,
    open_browser: bool = False,
    started: Callable[[str], None] = print,
    block: bool = True,
) -> Any:
    """Show the page until it is interrupted.

    Args:
        runs: the runs folder.
        host: the address to listen at; beyond this machine only with a password.
        port: TCP port; 0 takes a free one.
        password: asked of everyone, beside the user name `tenfold`; None: of nobody.
        open_browser: open it here.
        started: told the address.
        block: wait until it ends.
    Returns:
        Gradio's Blocks, to be closed where `block` is False.
    Raises:
        UserError: Gradio is not installed, a port that is taken, a host without a password.
    """
    if host not in LOCAL and not password:
        raise UserError(
            f"--host: {host} is open to other machines; set a password (--password-file), or take 127.0.0.1"
        )
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port: got {port}, need 0..65535")
    gr = _gradio()
    if not runs.is_dir():
        raise UserError(f"no runs in {runs}; make some: tenfold tour, or name a folder with --runs-dir")
    taken = _free_port(host, port)
    page = build(rooms(runs))
    page.queue(max_size=64, default_concurrency_limit=4, api_open=False)
    hosts = LOCAL if host in LOCAL else None
    gate = {"most": MOST_BODY, "most_upload": MOST_UPLOAD + MOST_BODY, "hosts": hosts}
    page.launch(
        server_name=host,
        server_port=taken,
        auth=None if password is None else (USER, password),
        auth_message=None if password is None else f"User name: {USER}",
        max_file_size=MOST_UPLOAD,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        show_error=False,
        quiet=True,
        inbrowser=open_browser,
        footer_links=[],
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
        app_kwargs={"middleware": [_middleware(gate)], "docs_url": None, "redoc_url": None, "openapi_url": None},
        prevent_thread_lock=True,
    )
    shown = f"[{host}]" if ":" in host else host
    started(f"http://{shown}:{taken}")
    if block:
        page.block_thread()
    return page


def _gradio() -> Any:
    """Gradio, told to keep to itself before it is imported."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise UserError(NEEDS) from error
    return gradio


def _middleware(options: dict[str, Any]) -> Any:
    from starlette.middleware import Middleware

    return Middleware(Gate, **options)


def _free_port(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise UserError(f"port {port} at {host}: {error.strerror or error}; choose another with --port") from None


def _once(look: Callable[[], Any], outputs: int) -> Callable[..., Any]:
    """Fill a tab when it is first opened by a visitor."""

    def first(seen: bool) -> Any:
        import gradio as gr

        if seen:
            return (True, *(gr.skip() for _ in range(outputs)))
        found = look()
        return (True, *(found if isinstance(found, tuple) else (found,)))

    return first


def _foot(room: Room) -> str:
    run = f" Run: `{room.run.name.replace('`', '')}`." if room.ready else ""
    return f"*{room.recipe.title}*, arXiv {room.recipe.arxiv}.{run}"
