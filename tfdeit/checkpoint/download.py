"""Files by HTTPS: resumed where they broke off, checked, and complete or not there."""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tfdeit.checkpoint import CheckpointError
from tfdeit.terminal import download_progress

ATTEMPTS = 5
BACKOFF = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
_LOCAL = {"localhost", "127.0.0.1", "::1"}
# Problems of the connection or the server that may pass: all others are final.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """The connection ended before the file did."""


_PASSING = (_Interrupted, http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError)


def download(url: str, sha256: str | None = None) -> Path:
    """Downloads a file to the cache, unless it is there.

    Args:
        url: HTTPS, or plain HTTP of this machine.
        sha256: the first digits of the file's hash, in hexadecimal, checked in the cache too; None for unknown.

    Returns:
        The file in `cache_folder()`, under its name in the URL.

    Raises:
        CheckpointError: if it cannot be had, stored, or is another file; the message says what to put where by hand.
    """
    path = cache_folder() / urllib.parse.urlsplit(url).path.rpartition("/")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _download(url, path)
        _check_hash(path, sha256, url)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"the server answered {error.code} {error.reason}"
        raise CheckpointError(_by_hand(url, path, reason)) from error
    except _PASSING as error:
        raise CheckpointError(_by_hand(url, path, getattr(error, "reason", None) or error)) from error
    except OSError as error:
        raise CheckpointError(
            f"Expected to store {url} in {path.parent}. Received: {error.strerror or error}. Make room or allow "
            "writing there, or set TFDEIT_CACHE to another folder."
        ) from error
    return path


def cache_folder() -> Path:
    """Returns the folder that downloads go to: the environment variable TFDEIT_CACHE, or ~/.cache/tfdeit."""
    return Path(os.environ.get("TFDEIT_CACHE") or Path.home() / ".cache" / "tfdeit").expanduser()


def checksum(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # not mapped: the file may be already, and its pages would count twice
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _by_hand(url: str, path: Path, reason: object) -> str:
    return (
        f"Expected to download {url}. Received: {reason}. Run again to go on where it stopped; without a network, put "
        f"that file at {path}."
    )


def _check_hash(path: Path, sha256: str | None, url: str):
    if sha256 is None:
        return
    received = checksum(path)
    if not received.startswith(sha256):
        path.unlink()
        raise CheckpointError(
            f"Expected {url} to have a sha256 that begins with {sha256}. Received: "
            f"{received[: len(sha256)]}; {path} was removed. Download it again; if that does not help, the "
            "file there is not the published one."
        )


def _download(url: str, path: Path):
    """Fetches `url` through `path`.part; a file beside it holds what the server calls the version that began there."""
    part, beside = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.version")
    with open(beside, "a+b") as version:
        _lock(version)
        if not path.is_file():  # else another process had the lock, and fetched it
            with open(part, "ab") as file:
                _write(url, file, version)
            os.replace(part, path)
    beside.unlink(missing_ok=True)


def _write(url: str, file: BinaryIO, version: BinaryIO):
    for attempt in range(ATTEMPTS):
        last = attempt == ATTEMPTS - 1
        try:
            return _attempt(url, file, version)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # no such range: what is there is not part of that file
                version.truncate(0)
            elif last or error.code not in _PASSING_STATUS:
                raise
            error.close()
        except _PASSING:
            if last:
                raise
        time.sleep(BACKOFF * 2**attempt)
    raise _Interrupted("answers that contradict each other")


def _attempt(url: str, file: BinaryIO, version: BinaryIO):
    """Appends to `file` what it lacks, or writes all of it anew where that is not sure to continue it."""
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "tfdeit", "Accept-Encoding": "identity"}
    version.seek(0)
    if start and (stamp := version.read().decode("latin-1")):
        headers |= {"Range": f"bytes={start}-", "If-Range": stamp}
    with (
        _open(urllib.request.Request(url, headers=headers)) as response,
        download_progress(Path(file.name).stem) as report,
    ):
        if response.status != 206:
            start = 0
            file.truncate(0)
            version.truncate(0)
            version.write(_version_of(response.headers))
            version.flush()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            version.truncate(0)
            raise _Interrupted("another part of the file than asked for")
        length = int(response.headers.get("Content-Length", 0))
        if length > shutil.disk_usage(os.path.dirname(file.name)).free:
            raise OSError(errno.ENOSPC, f"{length / 1e6:.0f} MB do not fit on the disk")
        done, total = start, start + length if length else None
        report(done, total)
        while chunk := response.read(CHUNK):
            done += file.write(chunk)
            report(done, total)
    if total not in (None, done):
        file.flush()
        raise _Interrupted(f"{done} of {total} bytes")


def _version_of(headers: http.client.HTTPMessage) -> bytes:
    """Returns what `If-Range` compares: the entity tag (a weak one says too little), or the date."""
    tag = headers.get("ETag", "")
    return (tag if tag.startswith('"') else headers.get("Last-Modified", "")).encode("latin-1")


def _lock(file: BinaryIO):
    """Waits until no other process has `file`, where the system has such locks."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    _check_scheme(request.full_url, may_be_local=True)
    return urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)


def _check_scheme(url: str, may_be_local: bool):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and may_be_local and parts.hostname in _LOCAL):
        raise CheckpointError(f"Expected an HTTPS address. Received: {url}, which anyone between could change.")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, address):
        _check_scheme(address, may_be_local=request.type == "http")
        return super().redirect_request(request, response, code, message, headers, address)
