"""Downloads over HTTPS: resumed where they broke off, verified, and never left incomplete under their name."""

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
from tfdeit.presentation.terminal import download_progress

ATTEMPTS = 5
BACKOFF = 1.0  # seconds before the second attempt; doubled for each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
_LOCAL = {"localhost", "127.0.0.1", "::1"}
# Problems of the connection or the server that may pass; all others are final.
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class _Interrupted(Exception):
    """The answer was not the rest of the file, or not all of it."""


_TRANSIENT = (_Interrupted, http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError)


def download(url: str, sha256: str | None = None) -> Path:
    """Downloads a file to the cache, unless it is there already.

    Args:
        url: an HTTPS address, or plain HTTP on this machine.
        sha256: the first hexadecimal digits of the file's hash, which a cached file must have too; None if unknown.

    Returns:
        The file in `cache_folder()`, named as in the URL.

    Raises:
        CheckpointError: if it cannot be downloaded or stored, or has another hash; the message says what to do by hand.
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
    except _TRANSIENT as error:
        raise CheckpointError(_by_hand(url, path, getattr(error, "reason", None) or error)) from error
    except OSError as error:
        raise CheckpointError(
            f"Expected to store {url} in {path.parent}. Received: {error.strerror or error}. Make room there "
            "or make it writable, or set TFDEIT_CACHE to another folder."
        ) from error
    return path


def cache_folder() -> Path:
    """Returns the folder that downloads go to: the environment variable TFDEIT_CACHE, or ~/.cache/tfdeit."""
    return Path(os.environ.get("TFDEIT_CACHE") or Path.home() / ".cache" / "tfdeit").expanduser()


def checksum(path: Path) -> str:
    """Returns the sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:  # not mapped: if it is mapped already, its pages would count twice
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _by_hand(url: str, path: Path, reason: object) -> str:
    return (
        f"Expected to download {url}. Received: {reason}. Run again to resume; without a network, put that file at "
        f"{path}."
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
    """Fetches `url` into `path`.part, with the server's name for that version in a file beside it; then renames it."""
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
            if error.code == 416:  # no such range: what is on disk is not a part of that file
                version.truncate(0)
            elif last or error.code not in _TRANSIENT_STATUS:
                raise
            error.close()
        except _TRANSIENT:
            if last:
                raise
        time.sleep(BACKOFF * 2**attempt)
    raise _Interrupted("contradictory answers")


def _attempt(url: str, file: BinaryIO, version: BinaryIO):
    """Appends what `file` lacks, or writes it from the start if the server may have another version."""
    _check_scheme(url, may_be_local=True)
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "tfdeit", "Accept-Encoding": "identity"}
    version.seek(0)
    if start and (stamp := version.read().decode("latin-1")):
        headers |= {"Range": f"bytes={start}-", "If-Range": stamp}
    request = urllib.request.Request(url, headers=headers)
    with (
        urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT) as response,
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
            raise _Interrupted("another part of the file than was requested")
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
    """Returns what `If-Range` compares: the entity tag (unless weak, which need not mean equal bytes), or the date."""
    tag = headers.get("ETag", "")
    return (tag if tag.startswith('"') else headers.get("Last-Modified", "")).encode("latin-1")


def _lock(file: BinaryIO):
    """Waits for an exclusive lock on `file`, where the system has such locks."""
    with contextlib.suppress(ImportError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def _check_scheme(url: str, may_be_local: bool):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and may_be_local and parts.hostname in _LOCAL):
        raise CheckpointError(f"Expected an HTTPS address. Received: {url}, which others on the network could alter.")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, response, code, message, headers, address):
        _check_scheme(address, may_be_local=request.type == "http")
        return super().redirect_request(request, response, code, message, headers, address)
