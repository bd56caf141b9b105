"""Fetch one file of known size and SHA-256 over HTTP(S): resumable, checked, and atomic.

The bytes grow in `<name>.part` beside the destination; only a complete file with the right hash is renamed into
place. Whatever goes wrong, the destination is absent or whole, and the error is one line saying what to do.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tenfold import __version__
from tenfold.core.atomic import file_sha256, replacing
from tenfold.core.errors import UserError, is_disk_full

BLOCK = 1 << 18
MAX_REDIRECTS = 5
LONGEST_WAIT = 30.0  # seconds between two attempts, also where a server's Retry-After asks for more
LEAST_PROGRESS = 1024  # bytes per `timeout` seconds; a server that drips more slowly counts as silent
PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """An attempt ended in a way that another attempt may mend."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    destination: Path,
    *,
    sha256: str,
    size: int,
    timeout: float = 30.0,
    attempts: int = 5,
    backoff: float = 0.5,
    progress: bool = False,
) -> Path:
    """Bring `url` to `destination`; a file already there with the right hash is kept, a broken download goes on.

    Args:
        url: an http or https address; at most five redirects are followed, never from https to http.
        destination: the file to make; its folder is created.
        sha256: the hash of the content, 64 hexadecimal digits.
        size: the length of the content in bytes; an answer of another length is refused before it fills the disk.
        timeout: seconds to wait for a connection, and for each further kilobyte.
        attempts: how often to try in all; each goes on where the last one stopped.
        backoff: seconds before the second attempt; doubled before each further one, 30 s at most.
        progress: draw a progress bar on stderr.
    Returns:
        `destination`.
    Raises:
        UserError: no network, refused or missing file, wrong content, or a full or unwritable disk.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256: got {sha256!r}, need 64 hexadecimal digits in lower case")
    if size < 0 or attempts < 1 or timeout <= 0 or backoff < 0:
        raise ValueError(f"got {size=}, {attempts=}, {timeout=}, {backoff=}; need >= 0, >= 1, > 0, >= 0")
    _check_address(url)
    part = destination.with_name(destination.name + ".part")
    with disk_faults(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(destination.with_name(destination.name + ".lock")):
            if destination.is_file() and file_sha256(destination) == sha256:
                return destination
            try:
                with _progress_bar(destination.name, size, progress) as show:
                    _receive(url, destination, part, size, timeout, attempts, backoff, show)
                _check_content(part, url, sha256)
                with replacing(destination) as temporary:
                    part.rename(temporary)
            except OSError as fault:
                if is_disk_full(fault):
                    part.unlink(missing_ok=True)  # gives the room back; what it held is cheap to fetch again
                raise
    return destination


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn what the file system says about `path` into one line; any other error passes."""
    try:
        yield
    except OSError as fault:
        if is_disk_full(fault):
            raise UserError(f"disk full: no room for {path}; free some (or set TENFOLD_CACHE) and try again") from fault
        reason = fault.strerror or fault
        raise UserError(f"cannot write {path}: {reason}; set TENFOLD_CACHE to a folder you own") from fault


def _receive(
    url: str,
    destination: Path,
    part: Path,
    size: int,
    timeout: float,
    attempts: int,
    backoff: float,
    show: Callable[[int], None],
) -> None:
    """Fill `part` up to `size` bytes, in as many attempts as allowed."""
    for attempt in range(attempts):
        held = part.stat().st_size if part.exists() else 0
        if held > size:
            part.unlink()
        if held == size and part.exists():
            return
        try:
            _attempt(url, part, size, timeout, show)
            return
        except _Interrupted as fault:
            reason, wait = str(fault), fault.wait
        if attempt + 1 < attempts:
            time.sleep(min(max(wait, backoff * 2**attempt), LONGEST_WAIT))
    held = part.stat().st_size if part.exists() else 0
    if held:
        where = f"at {held} of {size} bytes"
        raise UserError(f"download broke off {where} ({reason}): {url}; try again, it goes on from there")
    host = urllib.parse.urlsplit(url).netloc
    raise UserError(f"no file from {host} ({reason}); check the network and try again, or save {url} as {destination}")


def _attempt(url: str, part: Path, size: int, timeout: float, show: Callable[[int], None]) -> None:
    """One request, from the end of `part` on; a server that does not resume makes it start over."""
    start = part.stat().st_size if part.exists() else 0
    with _open(url, start, timeout) as response:
        if response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if span is None or int(span[1]) != start:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server resumed at another place")
            declared = span[2]
        else:
            start, declared = 0, response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) != size:
            raise UserError(f"wrong size: got {declared} bytes, expected {size}: {url}; the origin has changed")
        if shutil.disk_usage(part.parent).free < size - start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with part.open("ab" if start else "wb") as file:
            show(start)
            held = _copy(response, file, start, size, timeout, show)
    if held > size:
        part.unlink()
        raise UserError(f"wrong size: got more than {size} bytes: {url}; the origin has changed")
    if held < size:
        raise _Interrupted("the server closed the connection early")


def _copy(
    response: http.client.HTTPResponse,
    file: IO[bytes],
    start: int,
    size: int,
    timeout: float,
    show: Callable[[int], None],
) -> int:
    """Move the body into `file`, stopping beyond `size`; returns how many bytes there are, from `start` on.

    Network faults become `_Interrupted`, faults of the disk pass.
    """
    held, mark, since = start, start, time.monotonic()
    while held <= size:
        try:
            block = response.read1(BLOCK)
        except (OSError, http.client.HTTPException) as fault:
            raise _Interrupted(_reason(fault)) from fault
        if not block:
            break
        file.write(block)
        held += len(block)
        show(held)
        if held - mark >= LEAST_PROGRESS:
            mark, since = held, time.monotonic()
        elif time.monotonic() - since > timeout:
            raise _Interrupted(f"less than {LEAST_PROGRESS} bytes in {timeout:g} s")
    return held


def _open(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """Send the request; raises `_Interrupted` where trying again may help, UserError where it cannot."""
    headers = {"User-Agent": f"tenfold/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: http.client.HTTPResponse = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=timeout)
        return response
    except urllib.error.HTTPError as fault:
        fault.close()
        if fault.code in PASSING_STATUS:
            after = fault.headers.get("Retry-After", "")
            raise _Interrupted(f"HTTP {fault.code} {fault.reason}", float(after) if after.isdigit() else 0.0) from fault
        redirected = 300 <= fault.code < 400
        what = "redirected too often or to no web address" if redirected else f"HTTP {fault.code} {fault.reason}"
        raise UserError(f"{what}: {url}; the file is no longer served there") from fault
    except (OSError, http.client.HTTPException) as fault:
        if isinstance(getattr(fault, "reason", None), ssl.SSLCertVerificationError):
            host = urllib.parse.urlsplit(url).netloc
            raise UserError(f"certificate of {host} is not trusted; set SSL_CERT_FILE to your network's") from fault
        raise _Interrupted(_reason(fault)) from fault


def _reason(fault: Exception) -> str:
    """What a network fault says, on one line, without urllib's wrapping."""
    inner = getattr(fault, "reason", fault)
    if isinstance(inner, TimeoutError):
        return "timed out"
    text = (inner.strerror if isinstance(inner, OSError) else None) or str(inner) or type(inner).__name__
    return " ".join(str(text).split())


def _check_address(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"cannot download {url!r}: need an http or https address")


def _check_content(part: Path, url: str, sha256: str) -> None:
    got = file_sha256(part)
    if got != sha256:
        part.unlink()
        raise UserError(f"wrong content: {url} has SHA-256 {got}, expected {sha256}; removed, try again")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Few redirects, web addresses only, and never from https down to http."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _check_address(newurl)
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise UserError(f"refused a redirect from https to {newurl}; the address {req.full_url} cannot be trusted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


@contextmanager
def _progress_bar(name: str, size: int, visible: bool) -> Iterator[Callable[[int], None]]:
    """A function that shows how many bytes are held; does nothing where no bar is wanted."""
    if not visible:
        yield lambda held: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(name, total=size)
        yield lambda held: bars.update(task, completed=held)
