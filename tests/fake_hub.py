"""A small stand-in for the Hub, on this machine, for the real client."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-soundctm"


class FakeHub(ThreadingHTTPServer):
    """One repo in memory; what the client asks for is kept in `requested`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requested: list[str] = []
        self.lfs: dict[str, bytes] = {}
        self.full = False
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, content: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def answer_json(self, value, status: int = 200):
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

    def do_GET(self):
        path, files = self.path.split("?")[0], self.server.files
        resolve = f"/{REPO}/resolve/"
        if path.startswith(resolve):
            name = path.removeprefix(resolve).split("/", 1)[1]
            if name not in files:
                return self.answer(b"", 404, X_Error_Code="EntryNotFound")
            if self.command == "GET":
                self.server.requested.append(name)
            etag = hashlib.sha1(files[name]).hexdigest()
            return self.answer(files[name], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        if path.startswith(f"/api/models/{REPO}/tree/"):
            return self.answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
            )
        if path.startswith(f"/api/models/{REPO}") and files:
            siblings = [{"rfilename": name} for name in files]
            return self.answer_json({"id": REPO, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix("/lfs/")
        self.server.lfs[self.path.removeprefix("/lfs/")] = content
        return self.answer(b"")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            return self.answer_json({"url": f"{self.server.url}/{REPO}", "id": REPO})
        if self.path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.path.startswith(f"/api/models/{REPO}/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith((".safetensors", ".wav")) else "regular" for name in names}
            return self.answer_json(
                {"files": [{"path": name, "uploadMode": modes[name], "shouldIgnore": False} for name in names]}
            )
        if self.path == f"/{REPO}.git/info/lfs/objects/batch":
            if self.server.full:
                return self.answer(b"", 403, X_Error_Message="no more storage for this account")
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}}}
                for item in json.loads(body)["objects"]
            ]
            return self.answer_json({"transfer": "basic", "objects": objects})
        if self.path.startswith(f"/api/models/{REPO}/commit/"):
            for line in body.splitlines():
                value = json.loads(line)
                if value["key"] == "lfsFile":
                    self.server.files[value["value"]["path"]] = self.server.lfs[value["value"]["oid"]]
                if value["key"] == "file":
                    self.server.files[value["value"]["path"]] = base64.b64decode(value["value"]["content"])
            return self.answer_json(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{REPO}/commit/{COMMIT}"}
            )
        return self.answer(b"{}", 404)


@pytest.fixture
def fake_hub():
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def python(code: str, hub: FakeHub, home: Path, expected: int = 0, **environment: str) -> subprocess.CompletedProcess:
    # The client reads HF_ENDPOINT when it is imported, so these cases are processes of their own.
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_test", **environment}
    environment = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **environment}
    result = subprocess.run(
        [sys.executable, "-c", f"REPO = {REPO!r}\n{SETUP}{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=540,
    )
    assert result.returncode == expected, result.stderr
    return result


SETUP = """
import torch
from diffusers import DiffusionPipeline
from diffusers_soundctm import SoundCTMPipeline

def try_out(pipe):
    print(pipe.config._name_or_path, pipe("rain", generator=torch.Generator().manual_seed(0)).audios.shape)
"""
