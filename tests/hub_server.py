"""A local server that speaks as much of the Hugging Face hub's protocol as is needed to upload and fetch files."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_secret"


class HubServer(ThreadingHTTPServer):
    """``repos``: for each the revisions, a commit hash and files by name, the newest last; ``private`` need TOKEN."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}  # uploaded by LFS, by SHA-256
        self.url = f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a revision; returns its hash."""
        revisions = self.repos[repo]
        content = {**(revisions[-1][1] if revisions else {}), **files}
        commit = hashlib.sha1(repr((repo, len(revisions))).encode()).hexdigest()
        revisions.append((commit, content))
        return commit


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status: int = 200, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, content: object, status: int = 200, **headers: str) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json", **headers)

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub: HubServer = self.server
        match = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)(?:/resolve/([^/]+)/(.+))?", self.path)
        repo, revision, name = match.groups()
        if repo not in hub.repos or (repo in hub.private and not self.is_owner):
            return self.answer(404, X_Error_Code="RepoNotFound")
        if name is None:
            return self.answer_json({"id": repo, "siblings": [], "sha": hub.repos[repo][-1][0]})
        found = [pair for pair in hub.repos[repo] if revision in ("main", pair[0])]
        if not found:
            return self.answer(404, X_Error_Code="RevisionNotFound")
        commit, files = found[-1]
        if name not in files:
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=commit)

    def do_POST(self):
        hub: HubServer = self.server
        body = self.read()
        if self.path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if not self.is_owner:
            return self.answer_json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.repos:
                return self.answer_json({"error": "it exists", "url": f"{hub.url}/{repo}"}, 409)
            hub.repos[repo] = []
            if asked.get("visibility") == "private" or asked.get("private"):
                hub.private.add(repo)
            return self.answer_json({"url": f"{hub.url}/{repo}"})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            modes = {file["path"]: "regular" if file["path"].endswith(".md") else "lfs" for file in files}
            answer = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            return self.answer_json({"files": answer})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            for one in wanted:
                one["actions"] = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}}
            return self.answer_json({"transfer": "basic", "objects": wanted})
        match = re.fullmatch(r"/api/models/(.+)/commit/main", self.path)
        files = {}
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if operation["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
        commit = hub.commit(match[1], files)
        return self.answer_json({"commitUrl": f"{hub.url}/{match[1]}/commit/{commit}", "commitOid": commit})

    def do_PUT(self):
        body = self.read()
        assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = body
        self.answer()


@contextmanager
def started_hub() -> Iterator[HubServer]:
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
