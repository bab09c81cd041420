"""Hub ids, with the real client against a small stand-in for the Hub on this machine."""

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

from diffusers_soundctm import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-soundctm"


class FakeHub(ThreadingHTTPServer):
    """One repo in memory; what the client asks for is kept in `requested`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requested: list[str] = []
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

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            return self.answer_json({"url": f"{self.server.url}/{REPO}", "id": REPO})
        if self.path == "/api/validate-yaml":
            return self.answer_json({"errors": [], "warnings": []})
        if self.path.startswith(f"/api/models/{REPO}/preupload/"):
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.answer_json(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if self.path.startswith(f"/api/models/{REPO}/commit/"):
            for line in body.splitlines():
                value = json.loads(line)
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


def python(code: str, hub: FakeHub, home: Path, **environment: str) -> subprocess.CompletedProcess:
    # The client reads HF_ENDPOINT when it is imported, so these cases are processes of their own.
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": "hf_test", **environment}
    result = subprocess.run(
        [sys.executable, "-c", f"REPO = {REPO!r}\n{SETUP}{code}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result


SETUP = """
import torch
from diffusers import DiffusionPipeline
from diffusers_soundctm import SoundCTMPipeline

def try_out(pipe):
    print(pipe.config._name_or_path, pipe("rain", generator=torch.Generator().manual_seed(0)).audios.shape)
"""


def test_push_and_load_by_id(fake_hub, embedded_folder, tmp_path):
    # Files that a load does not need are left alone.
    extra = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "sounds/rain.wav"]
    fake_hub.files.update(dict.fromkeys(extra, b"not needed"))
    code = f"""
pipe = SoundCTMPipeline.from_pretrained({str(embedded_folder)!r})
print(pipe.push_to_hub(REPO, license="apache-2.0"))
try_out(SoundCTMPipeline.from_pretrained(REPO))
"""
    assert f"{REPO} (1, 1, 20480)" in python(code, fake_hub, tmp_path).stdout
    card = fake_hub.files["README.md"].decode()
    assert "license: apache-2.0" in card and f'from_pretrained("{REPO}")' in card and "2 to 5" in card
    assert "unet/diffusion_pytorch_model.safetensors" in fake_hub.requested
    assert not {*extra, "README.md", "pipeline.py"} & set(fake_hub.requested)

    # Offline, from the cache the last process filled.
    fake_hub.requested.clear()
    offline = python("try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path, HF_HUB_OFFLINE="1")
    assert f"{REPO} (1, 1, 20480)" in offline.stdout
    assert fake_hub.requested == []

    # The stock class loads the same repo, and the Python files it fetched do not get in the way of ours.
    for name in extra:
        del fake_hub.files[name]
    code = """
try_out(DiffusionPipeline.from_pretrained(REPO, trust_remote_code=True))
try_out(SoundCTMPipeline.from_pretrained(REPO))
"""
    assert python(code, fake_hub, tmp_path / "stock").stdout.count("(1, 1, 20480)") == 2


def test_unknown_repo_is_named(fake_hub, tmp_path):
    code = """
for arguments in ({}, {"local_files_only": True}):
    try:
        SoundCTMPipeline.from_pretrained(REPO, **arguments)
    except OSError as error:
        print(error)
"""
    lines = python(code, fake_hub, tmp_path).stdout.splitlines()
    assert [line.startswith(f"'{REPO}' is neither a folder") for line in lines] == [True, True]


def test_wanted_files_take_one_set_of_weights():
    files = [
        "model_index.json",
        "README.md",
        "pipeline.py",
        "unet/config.json",
        "unet/diffusers_soundctm.py",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors.index.json",
        "tokenizer/vocab.txt",
        "other/config.json",
    ]
    names = ["unet", "vae", "tokenizer"]
    plain, half = hub.wanted_files(files, names), hub.wanted_files(files, names, "fp16")
    unet = {file for file in plain if file.startswith("unet/")}
    assert unet == {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
    unet = {file for file in half if file.startswith("unet/")}
    assert unet == {"unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"}
    # A component without the variant comes with its plain weights.
    assert {file for file in half if file.startswith("vae/")} == {file for file in files if file.startswith("vae/")}
    assert "tokenizer/vocab.txt" in half and "other/config.json" not in half and "README.md" not in half


def test_code_that_is_not_ours_is_not_trusted(tmp_path):
    (tmp_path / "unet").mkdir()
    assert hub.holds_only_our_code(tmp_path)
    (tmp_path / "pipeline.py").write_text(hub.REMOTE_CODE)
    assert hub.holds_only_our_code(tmp_path)
    (tmp_path / "unet" / "diffusers_soundctm.py").write_text(hub.REMOTE_CODE + "print('hello')\n")
    assert not hub.holds_only_our_code(tmp_path)
