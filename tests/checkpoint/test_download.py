"""Downloads from a server on this machine that drops connections, lies and refuses requests."""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from web import Server

from tfdeit.checkpoint import CheckpointError, download
from tfdeit.checkpoint.download import cache_folder

CONTENT = np.random.default_rng(0).bytes(100_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def server():
    with Server() as server:
        server.files["/deit/net.pth"] = CONTENT
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDEIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    return tmp_path / "cache"


def get(server, sha256=SHA256, path="/deit/net.pth"):
    return download.download(server.url + path, sha256)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_is_fetched_once(server, cache):
    path = get(server)
    assert path == cache / "net.pth"
    assert path.read_bytes() == CONTENT
    assert names(cache) == ["net.pth"]
    assert get(server) == path
    assert len(server.requests) == 1


def test_a_broken_connection_is_resumed(server, cache):
    server.mischief = ["drop", "drop", 503, None]
    assert get(server).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=50000-", "bytes=75000-", "bytes=75000-"]
    assert names(cache) == ["net.pth"]


def test_another_run_resumes_too(server, cache, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.mischief = ["drop"]
    with pytest.raises(CheckpointError, match=r"Received: 50000 of 100001 bytes\. Run again to resume"):
        get(server)
    assert names(cache) == ["net.pth.part", "net.pth.part.version"]
    assert get(server).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=50000-"]
    assert names(cache) == ["net.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.mischief = ["drop"]
    with pytest.raises(CheckpointError):
        get(server, None)
    server.files["/deit/net.pth"] = changed = CONTENT[::-1] * 2
    assert get(server, None).read_bytes() == changed


@pytest.mark.parametrize("mischief", [["drop", "whole"], ["drop", "other range", None], ["drop", 416, None]])
def test_servers_without_proper_ranges(server, mischief):
    server.mischief = mischief
    assert get(server).read_bytes() == CONTENT


def test_a_part_that_is_whole_already(server, cache):
    """After a crash before the renaming: the server has no bytes beyond the last one."""
    cache.mkdir()
    (cache / "net.pth.part").write_bytes(CONTENT)
    (cache / "net.pth.part.version").write_text(f'"{hashlib.sha256(CONTENT).hexdigest()}"')
    assert get(server).read_bytes() == CONTENT


def test_a_part_of_unknown_version_is_not_trusted(server, cache):
    cache.mkdir()
    (cache / "net.pth.part").write_bytes(b"something else")
    assert get(server).read_bytes() == CONTENT
    assert server.ranges() == [None]


def test_the_wrong_file_is_removed(server, cache):
    server.files["/deit/net.pth"] = b"an error page"
    with pytest.raises(
        CheckpointError, match=rf"sha256 that begins with {SHA256}\. Received: [0-9a-f]{{8}}; .* removed"
    ):
        get(server)
    assert names(cache) == []
    server.files["/deit/net.pth"] = CONTENT
    assert get(server).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_checked_too(server, cache):
    cache.mkdir()
    (cache / "net.pth").write_bytes(CONTENT)
    assert get(server).read_bytes() == CONTENT
    (cache / "net.pth").write_bytes(CONTENT[1:])
    with pytest.raises(CheckpointError, match="sha256"):
        get(server)
    assert server.requests == []


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (500, 5), (429, 5)])
def test_refusals(server, cache, status, attempts):
    server.mischief = [status] * 9
    with pytest.raises(CheckpointError, match=rf"the server answered {status} .*put that file at {cache}/net\.pth"):
        get(server)
    assert len(server.requests) == attempts


def test_no_server(server, cache):
    server.server_close()
    server.shutdown()
    with pytest.raises(CheckpointError, match=rf"net\.pth\. Received: .*refused.*put that file at {cache}/net\.pth"):
        get(server)


def test_contradictions_end(server):
    server.mischief = ["drop"] + [416, "drop"] * 9
    with pytest.raises(CheckpointError, match="bytes|contradict"):
        get(server)


@pytest.mark.parametrize("address", ["http://example.com/net.pth", "ftp://example.com/net.pth", "file:///etc/passwd"])
def test_only_https(server, address):
    with pytest.raises(CheckpointError, match="Expected an HTTPS address"):
        download.download(address)
    server.redirects["/moved.pth"] = address
    with pytest.raises(CheckpointError, match="Expected an HTTPS address|Redirection .* is not allowed"):
        get(server, path="/moved.pth")


def test_redirects(server):
    server.redirects["/moved.pth"] = f"{server.url}/deit/net.pth"
    assert get(server, path="/moved.pth").read_bytes() == CONTENT
    secure = download.urllib.request.Request("https://example.com/net.pth")
    with pytest.raises(CheckpointError, match="Expected an HTTPS address"):
        download._SafeRedirects().redirect_request(secure, io.BytesIO(), 302, "Found", {}, server.url)


def test_a_full_disk_and_a_folder_that_may_not_be_written(server, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(CheckpointError, match=r"Received: 0 MB do not fit on the disk\. .* TFDEIT_CACHE"):
            get(server)
    with monkeypatch.context() as patch:

        def refuse(source, target):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)

        patch.setattr(os, "replace", refuse)
        with pytest.raises(CheckpointError, match="Received: Permission denied. .* TFDEIT_CACHE"):
            get(server)
    assert get(server).read_bytes() == CONTENT


def test_cache_that_is_a_file(server, cache):
    cache.write_text("")
    with pytest.raises(CheckpointError, match="TFDEIT_CACHE"):
        get(server)


def test_processes_wait_for_each_other(server, cache):
    pytest.importorskip("fcntl", reason="file locks of Unix")
    results = []
    threads = [threading.Thread(target=lambda: results.append(get(server).read_bytes())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [CONTENT] * 4
    assert len(server.requests) == 1
    assert names(cache) == ["net.pth"]


def test_default_folder(monkeypatch):
    monkeypatch.delenv("TFDEIT_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "tfdeit"
    monkeypatch.setenv("TFDEIT_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"


def test_a_bar_on_an_attended_stderr(server, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    with contextlib.redirect_stderr(terminal):
        get(server)
    assert "net.pth" in terminal.getvalue()


def test_nothing_heavy_is_imported():
    code = "import sys, tfdeit.checkpoint.hub; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"keras", "tensorflow", "rich", "huggingface_hub"} & set(done.stdout.split())
