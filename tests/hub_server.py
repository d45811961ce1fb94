"""A small Hugging Face Hub on loopback, in memory: what the `huggingface_hub` client asks when it publishes and loads.

Written after the client's own requests: repositories, preupload, LFS batches, commits, trees and downloads.
"""

import base64
import hashlib
import json
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKENS = {"hf_writetokenwritetokenwritetoken0": "write", "hf_readtokenreadtokenreadtoken00": "read"}
WRITE, READ = TOKENS
REGULAR = (".md", ".json", ".yaml", ".txt", ".gitattributes")


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    PORT = probe.getsockname()[1]  # free, for the life of the process


class _Server(ThreadingHTTPServer):
    """Without a traceback for a client that was killed, as some tests do."""

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@dataclass
class Repo:
    """Files by path; of large ones the SHA-256 is in `lfs`."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    lfs: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: [secrets.token_hex(20)])


@dataclass
class Fault:
    """What goes wrong with requests whose `METHOD path` matches, so many times."""

    pattern: str
    action: Callable | int
    times: int = 1


class Hub:
    """The state of the server, and the switches of a test."""

    def __init__(self, port: int):
        self.server = _Server(("127.0.0.1", port), _handler(self))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{port}"
        self.reset()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.read_only: set[str] = set()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, action: Callable | int, times: int = 1) -> None:
        self.faults.append(Fault(pattern, action, times))

    def asked(self, pattern: str) -> list[str]:
        return [r for r in self.requests if re.search(pattern, r)]


def cut(handler) -> None:
    """Read a little of what is sent, then hang up."""
    handler.rfile.read(min(100, int(handler.headers.get("Content-Length", 0))))
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def slow(seconds: float) -> Callable:
    """Answer late, and then as ever."""

    def wait(handler) -> bool:
        time.sleep(seconds)
        return True

    return wait


def _handler(hub: Hub) -> type:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.handle_one_of("GET")

        def do_HEAD(self):
            self.handle_one_of("HEAD")

        def do_POST(self):
            self.handle_one_of("POST")

        def do_PUT(self):
            self.handle_one_of("PUT")

        def handle_one_of(self, method):
            url = urlsplit(self.path)
            self.url, self.query = unquote(url.path), parse_qs(url.query)
            line = f"{method} {self.url}"
            hub.requests.append(line)
            for fault in hub.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    if isinstance(fault.action, int):
                        self.body()
                        return self.answer({"error": "made to fail"}, fault.action)
                    if not fault.action(self):
                        return None
            for pattern, of, route in ROUTES:
                match = re.fullmatch(pattern, self.url)
                if match and of == ("GET" if method == "HEAD" else method):
                    return route(self, *match.groups())
            self.body()
            return self.answer({"error": f"no route for {line}"}, 404)

        # --- answers

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = b""
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return content
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def answer(self, value, status=200, headers=None, content=None):
            content = json.dumps(value).encode() if content is None else content
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def role(self) -> str | None:
            return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

        def refuse(self, write=False) -> bool:
            role = self.role()
            if role is None:
                self.answer({"error": "Invalid username or password."}, 401)
            elif write and (role == "read" or any(name in self.url for name in hub.read_only)):
                self.answer({"error": "You don't have the rights"}, 403)
            else:
                return False
            return True

        def repo(self, kind, name) -> Repo | None:
            repo = hub.repos.get((kind.removesuffix("s"), name))
            if repo is None or (repo.private and self.role() is None):
                self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return None
            return repo

        # --- routes

        def whoami(self):
            self.refuse() or self.answer(
                {
                    "type": "user",
                    "name": "me",
                    "orgs": [{"name": "org"}],
                    "auth": {"accessToken": {"role": self.role()}},
                }
            )

        def create(self):
            asked = json.loads(self.body())
            if self.refuse(write=True):
                return
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name.split("/")[0] not in ("me", "org"):
                return self.answer({"error": "You don't have the rights to create here"}, 403)
            key = (asked.get("type", "model"), name)
            url = {"url": f"{hub.endpoint}/{'datasets/' if key[0] == 'dataset' else ''}{name}"}
            if key in hub.repos:
                return self.answer({"error": "You already created this repo", **url}, 409)
            hub.repos[key] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
            self.answer(url)

        def info(self, kind, name, revision="main"):
            if repo := self.repo(kind, name):
                self.answer(
                    {
                        "id": name,
                        "sha": repo.commits[-1],
                        "private": repo.private,
                        "gated": False,
                        "tags": [],
                        "downloads": 0,
                        "siblings": [{"rfilename": path} for path in sorted(repo.files)],
                    }
                )

        def may_write(self, kind, name):
            if self.repo(kind, name) and not self.refuse(write=True):
                self.answer({})

        def settings(self, kind, name):
            asked = json.loads(self.body())
            if not self.refuse(write=True) and (repo := self.repo(kind, name)):
                repo.private = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
                self.answer({})

        def preupload(self, kind, name, revision):
            asked = json.loads(self.body())
            if self.refuse(write=True) or not (repo := self.repo(kind, name)):
                return
            files = [
                {
                    "path": f["path"],
                    "uploadMode": "regular" if f["path"].endswith(REGULAR) else "lfs",
                    "shouldIgnore": False,
                    "oid": repo.lfs.get(f["path"])
                    or (_git_sha(repo.files[f["path"]]) if f["path"] in repo.files else None),
                }
                for f in asked["files"]
            ]
            self.answer({"files": files})

        def batch(self, prefix, name):
            asked = json.loads(self.body())
            if self.refuse(write=True):
                return
            objects = []
            for wanted in asked["objects"]:
                actions = {"upload": {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}}
                actions["verify"] = {"href": f"{hub.endpoint}/verify"}
                objects.append(wanted | ({} if wanted["oid"] in hub.blobs else {"actions": actions}))
            self.answer({"transfer": "basic", "objects": objects})

        def store(self, oid):
            content = self.body()
            if hashlib.sha256(content).hexdigest() != oid:
                return self.answer({"error": "not what was announced"}, 400)
            hub.blobs[oid] = content
            self.answer({})

        def verify(self):
            asked = json.loads(self.body())
            self.answer({}, 200 if len(hub.blobs.get(asked["oid"], b"")) == asked["size"] else 404)

        def commit(self, kind, name, revision):
            lines = [json.loads(line) for line in self.body().splitlines()]
            if self.refuse(write=True) or not (repo := self.repo(kind, name)):
                return
            for line in lines[1:]:
                value = line["value"]
                path = value["path"]
                if line["key"] == "file":
                    repo.files[path] = base64.b64decode(value["content"])
                    repo.lfs.pop(path, None)
                elif line["key"] == "lfsFile":
                    repo.files[path], repo.lfs[path] = hub.blobs[value["oid"]], value["oid"]
                elif line["key"] == "deletedFile":
                    repo.files.pop(path), repo.lfs.pop(path, None)
            repo.commits.append(secrets.token_hex(20))
            self.answer(
                {"commitUrl": f"{hub.endpoint}/{name}/commit/{repo.commits[-1]}", "commitOid": repo.commits[-1]}
            )

        def tree(self, kind, name, revision, path=""):
            if repo := self.repo(kind, name):
                path = path.strip("/")
                inside = [p for p in sorted(repo.files) if not path or p == path or p.startswith(path + "/")]
                deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
                folders = {
                    "/".join(parts[:i])
                    for p in inside
                    for parts in [p.split("/")]
                    for i in range(1, len(parts))
                    if deep or i == (path.count("/") + 2 if path else 1)
                }
                depth = path.count("/") + 2 if path else 1
                shown = [p for p in inside if deep or len(p.split("/")) == depth]
                listed = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in sorted(folders)]
                self.answer(listed + [_entry(repo, p) for p in shown])

        def paths_info(self, kind, name, revision):
            content = self.body()
            asked = json.loads(content) if content.startswith(b"{") else parse_qs(content.decode())
            if repo := self.repo(kind, name):
                found = [_entry(repo, p) for p in asked["paths"] if p in repo.files]
                found += [
                    {"type": "directory", "path": p, "oid": "0" * 40, "size": 0}
                    for p in asked["paths"]
                    if any(f.startswith(p + "/") for f in repo.files)
                ]
                self.answer(found)

        def resolve(self, prefix, name, revision, path):
            repo = self.repo("datasets" if prefix else "models", name)
            if repo is None:
                return
            if path not in repo.files:
                return self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            content = repo.files[path]
            headers = {
                "Content-Type": "application/octet-stream",
                "ETag": f'"{repo.lfs.get(path) or _git_sha(content)}"',
                "X-Repo-Commit": repo.commits[-1],
                "Accept-Ranges": "bytes",
            }
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                return self.answer(None, 206, headers, content[start : end + 1])
            self.answer(None, 200, headers, content)

        def validate_yaml(self):
            asked = json.loads(self.body())
            text = asked["content"]
            if "license: nonsense" in text:
                return self.answer(None, 400, content=b'"license" must be one of [apache-2.0, mit, ...]')
            self.answer({"errors": [], "warnings": []})

    kind, name = r"/api/(models|datasets|spaces)", r"/([\w.-]+/[\w.-]+)"
    ROUTES = [
        (r"/api/whoami-v2", "GET", Handler.whoami),
        (r"/api/repos/create", "POST", Handler.create),
        (r"/api/validate-yaml", "POST", Handler.validate_yaml),
        (kind + name, "GET", Handler.info),
        (kind + name + r"/revision/(.+)", "GET", Handler.info),
        (kind + name + r"/auth-check/write", "GET", Handler.may_write),
        (kind + name + r"/settings", "PUT", Handler.settings),
        (kind + name + r"/preupload/(\w+)", "POST", Handler.preupload),
        (kind + name + r"/commit/(\w+)", "POST", Handler.commit),
        (kind + name + r"/paths-info/(\w+)", "POST", Handler.paths_info),
        (kind + name + r"/tree/(\w+)(/.*)?", "GET", lambda h, k, n, r, p: h.tree(k, n, r, p or "")),
        (r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", "POST", Handler.batch),
        (r"/lfs/(\w+)", "PUT", Handler.store),
        (r"/verify", "POST", Handler.verify),
        (r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", "GET", Handler.resolve),
    ]
    return Handler


def _git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(repo: Repo, path: str) -> dict:
    content = repo.files[path]
    entry = {"type": "file", "path": path, "size": len(content), "oid": _git_sha(content)}
    if path in repo.lfs:
        entry["lfs"] = {"oid": repo.lfs[path], "size": len(content), "pointerSize": 130}
    return entry
