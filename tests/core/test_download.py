"""Downloads against a server on the loopback: whole and checked, or one line and no file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tenfold.core import download as module
from tenfold.core.download import download
from tenfold.core.errors import UserError

CONTENT = bytes(i * 7 % 251 for i in range(300_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each request with the next of `answers`, then with the last again; keeps the Range headers asked for."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [whole()]
        self.ranges: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.ranges.append(self.headers.get("Range"))
                answer = outer.answers[min(len(outer.ranges), len(outer.answers)) - 1]
                with contextlib.suppress(ConnectionError):
                    answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file.bin"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def whole(content: bytes = CONTENT) -> Answer:
    """The whole content, whatever range was asked for."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def ranged(shift: int = 0) -> Answer:
    """The rest from the byte asked for, or from `shift` bytes away from it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked is None:
            return whole()(handler)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) + shift
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Content-Length", str(len(CONTENT) - start))
        handler.end_headers()
        handler.wfile.write(CONTENT[start:])

    return answer


def cut(at: int) -> Answer:
    """Promises the whole content and closes the connection after `at` bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:at])
        handler.close_connection = True

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def fetch(server: Server, destination: Path, **options: Any) -> Path:
    defaults = {"sha256": SHA256, "size": len(CONTENT), "backoff": 0.0, "timeout": 5.0, "attempts": 3}
    return download(server.url, destination, **(defaults | options))


def left_behind(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix != ".lock")


def fails(match: str, server: Server, destination: Path, **options: Any) -> UserError:
    """The download ends in one line that matches, and there is no file."""
    with pytest.raises(UserError, match=match) as caught:
        fetch(server, destination, **options)
    assert "\n" not in str(caught.value)
    assert not destination.exists()
    return caught.value


def test_whole_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.bin"
    assert fetch(server, target, progress=True) == target
    assert target.read_bytes() == CONTENT
    assert left_behind(target.parent) == ["file.bin"]


def test_file_at_hand_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT)
    fetch(server, target)
    assert server.ranges == []


def test_damaged_file_at_hand_is_replaced(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(CONTENT[:-1] + b"?")
    fetch(server, target)
    assert target.read_bytes() == CONTENT


def test_broken_download_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.answers = [cut(100_000), ranged()]
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.answers = [cut(100_000), ranged()]
    fails(r"broke off at 100000 of 300000 bytes", server, tmp_path / "file.bin", attempts=1)
    assert left_behind(tmp_path) == ["file.bin.part"]
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.answers = [cut(100_000), whole()]
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_server_resuming_elsewhere_starts_over(server: Server, tmp_path: Path) -> None:
    server.answers = [cut(100_000), ranged(shift=5), ranged()]
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", None]


def test_complete_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == []


def test_oversized_part_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    fetch(server, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.ranges == [None]


def test_wrong_content_names_both_hashes_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    other = CONTENT[:-1] + b"?"
    server.answers = [whole(other)]
    error = fails("wrong content", server, tmp_path / "file.bin")
    assert SHA256 in str(error)
    assert hashlib.sha256(other).hexdigest() in str(error)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("length", [10, 300_001])
def test_wrong_length_is_refused_before_the_body(server: Server, tmp_path: Path, length: int) -> None:
    server.answers = [whole(b"x" * length)]
    fails(f"wrong size: got {length} bytes, expected 300000", server, tmp_path / "file.bin")
    assert left_behind(tmp_path) == []


def test_endless_body_without_length_is_stopped(server: Server, tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(65536))

    server.answers = [endless]
    fails("wrong size: got more than 300000 bytes", server, tmp_path / "file.bin")
    assert left_behind(tmp_path) == []


def test_truncated_body_is_tried_a_bounded_number_of_times(server: Server, tmp_path: Path) -> None:
    server.answers = [cut(1000)]
    fails(r"broke off at 1000 of 300000 bytes \(the server closed the connection early\)", server, tmp_path / "f")
    assert len(server.ranges) == 3


@pytest.mark.parametrize("code", [403, 404, 410])
def test_missing_file_is_final(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    fails(f"HTTP {code} .*file.bin", server, tmp_path / "file.bin")
    assert len(server.ranges) == 1


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_faults_are_tried_again(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code, Retry_After="0"), whole()]
    fetch(server, tmp_path / "file.bin")
    assert len(server.ranges) == 2


def test_waits_double_and_heed_retry_after(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    server.answers = [status(500), status(500), status(503, Retry_After="7"), status(503, Retry_After="9999"), whole()]
    fetch(server, tmp_path / "file.bin", attempts=5, backoff=1.0)
    assert waits == [1.0, 2.0, 7.0, 30.0]


def test_silent_server_times_out(server: Server, tmp_path: Path) -> None:
    release = threading.Event()

    def silent(handler: BaseHTTPRequestHandler) -> None:
        release.wait(10)

    server.answers = [silent]
    try:
        fails("timed out", server, tmp_path / "file.bin", timeout=0.05, attempts=2)
    finally:
        release.set()
    assert len(server.ranges) == 2


def test_dripping_server_counts_as_silent(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        while not stop.is_set():
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.01)

    server.answers = [drip]
    try:
        fails("less than 1024 bytes in 0.1 s", server, tmp_path / "file.bin", timeout=0.1, attempts=1)
    finally:
        stop.set()


def test_no_network_says_so_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound but not listening: connections are refused
        with pytest.raises(UserError, match=rf"no file from 127.0.0.1:{port} \(Connection refused\); check") as caught:
            download(f"http://127.0.0.1:{port}/f", tmp_path / "f", sha256=SHA256, size=1, attempts=2, backoff=0.0)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "f") in str(caught.value)
    assert left_behind(tmp_path) == []


def test_unknown_host(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file from tenfold.invalid \(.+\); check the network"):
        download("https://tenfold.invalid/f", tmp_path / "f", sha256=SHA256, size=1, attempts=1)


def test_disk_full_while_writing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = module._copy

    class FullDisk:
        def __init__(self, file: Any):
            self.file, self.room = file, 100_000

        def write(self, block: bytes) -> int:
            if len(block) > self.room:
                self.file.write(block[: self.room])
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room -= len(block)
            return self.file.write(block)

    monkeypatch.setattr(module, "_copy", lambda response, file, *rest: copy(response, FullDisk(file), *rest))
    fails("disk full: no room for .*file.bin", server, tmp_path / "file.bin")
    assert left_behind(tmp_path) == []


def test_too_little_room_is_seen_before_the_body(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=len(CONTENT) - 1))
    fails("disk full", server, tmp_path / "file.bin")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=len(CONTENT)))
    fetch(server, tmp_path / "file.bin")


def test_unwritable_place(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(UserError, match=r"cannot write .*taken/file.bin: .*; set TENFOLD_CACHE"):
        fetch(server, tmp_path / "taken" / "file.bin")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/f", "data:,x", "C:\\f", "https://", "f"])
def test_only_web_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need an http or https address"):
        download(url, tmp_path / "f", sha256=SHA256, size=1)


def test_redirects_are_followed_and_bounded(server: Server, tmp_path: Path) -> None:
    hop = [status(302, Location=f"/hop{i}") for i in range(5)]
    server.answers = [*hop, whole()]
    fetch(server, tmp_path / "file.bin")
    server.ranges.clear()
    server.answers = [*hop, status(302, Location="/hop5"), whole()]
    fails("redirected too often", server, tmp_path / "other.bin")
    assert len(server.ranges) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/f"])
def test_redirect_away_from_the_web_is_refused(server: Server, tmp_path: Path, location: str) -> None:
    server.answers = [status(302, Location=location)]
    fails("redirected .* to no web address|need an http or https address", server, tmp_path / "file.bin")


def test_redirect_from_https_to_http_is_refused() -> None:
    request = module.urllib.request.Request("https://host/f")
    with pytest.raises(UserError, match="refused a redirect from https to http://other/f"):
        module._Redirects().redirect_request(request, None, 302, "Found", None, "http://other/f")  # type: ignore[arg-type]


def test_two_callers_fetch_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    callers = [threading.Thread(target=fetch, args=(server, target)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]


@pytest.mark.parametrize("options", [{"sha256": "abc"}, {"sha256": SHA256.upper()}, {"size": -1}, {"attempts": 0}])
def test_own_arguments_are_checked(server: Server, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need"):
        fetch(server, tmp_path / "f", **options)
