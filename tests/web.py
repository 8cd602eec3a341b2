"""A web server on this machine that serves files in memory, and misbehaves when told to."""

import hashlib
import http.server
import threading


class Server(http.server.ThreadingHTTPServer):
    """Answers GET and HEAD, whole or in ranges.

    `files` maps paths to bytes, `redirects` paths to addresses. `mischief` is a list of what to do to the next
    GETs, one each: None, a status, "drop" (half of what was asked for), "whole" (ignore the range), "other range".
    `requests` records (method, path, headers) of every request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.mischief, self.requests = {}, {}, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle_error(self, request, client_address):
        """The client left: nothing to say."""

    def ranges(self):
        return [headers.get("Range") for method, _, headers in self.requests if method == "GET"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def refuse(self, status, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.close_connection = True

    def answer(self):
        server, get = self.server, self.command == "GET"
        server.requests.append((self.command, self.path, dict(self.headers)))
        mischief = server.mischief.pop(0) if get and server.mischief else None
        if isinstance(mischief, int):
            return self.refuse(mischief)
        if self.path in server.redirects:
            return self.refuse(302, Location=server.redirects[self.path])
        if self.path not in server.files:
            missing = "RepoNotFound" if "/no-such-" in self.path else "EntryNotFound"
            return self.refuse(401 if missing == "RepoNotFound" else 404, X_Error_Code=missing)
        content = server.files[self.path]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        start, wanted = 0, self.headers.get("Range", "")
        if wanted and mischief != "whole" and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.refuse(416)
            start -= mischief == "other range"
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        headers = {"Content-Length": len(body), "ETag": tag, "X-Repo-Commit": "c" * 40, "Connection": "close"}
        for name, value in headers.items():  # closing without saying so would surprise a client's pool
            self.send_header(name, str(value))
        self.end_headers()
        if get:
            self.wfile.write(body[: len(body) // 2] if mischief == "drop" else body)
        self.close_connection = True


def publish(hub, hub_id, files):
    """Serves files as those of a repository of the hub."""
    for name, content in files.items():
        for revision in ("main", "c" * 40):
            hub.files[f"/{hub_id}/resolve/{revision}/{name}"] = content
