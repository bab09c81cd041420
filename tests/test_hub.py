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
    assert not {*extra, "README.md", "pipeline.py", "handler.py"} & set(fake_hub.requested)
    assert fake_hub.files["requirements.txt"] == b"diffusers-soundctm\n"
    assert len(fake_hub.lfs) >= 4  # the weights went by LFS

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


def test_parameters_are_counted_in_one_set_of_weights(tmp_path):
    import torch
    from safetensors.torch import save_file

    def write(name, size, dtype):
        save_file({"weight": torch.zeros(size, dtype=dtype)}, tmp_path / name)
        return (tmp_path / name).stat().st_size

    assert hub.count_parameters(tmp_path) == (0, 0)
    half = sum(write(f"model.fp16-0000{part}-of-00002.safetensors", 50, torch.float16) for part in (1, 2))
    write("model.int8.safetensors", 7, torch.int8)
    assert hub.count_parameters(tmp_path) == (100, half)
    plain = sum(write(f"model-0000{part}-of-00002.safetensors", 50, torch.float32) for part in (1, 2))
    assert hub.count_parameters(tmp_path) == (100, plain)


def test_code_that_is_not_ours_is_not_trusted(tmp_path):
    (tmp_path / "unet").mkdir()
    assert hub.holds_only_our_code(tmp_path)
    (tmp_path / "pipeline.py").write_text(hub.REMOTE_CODE)
    assert hub.holds_only_our_code(tmp_path)
    (tmp_path / "handler.py").write_text(hub.HANDLER)
    assert hub.holds_only_our_code(tmp_path)
    (tmp_path / "unet" / "diffusers_soundctm.py").write_text(hub.REMOTE_CODE + "print('hello')\n")
    assert not hub.holds_only_our_code(tmp_path)


def test_without_the_package_remote_code_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers_soundctm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install diffusers-soundctm"):
        exec(hub.REMOTE_CODE, {})


def test_the_endpoint_handler_answers_with_a_wav(embedded_folder):
    import io

    import soundfile

    scope: dict = {}
    exec(hub.HANDLER, scope)
    handler = scope["EndpointHandler"](str(embedded_folder))
    answer = handler({"inputs": "rain", "parameters": {"num_inference_steps": 2, "seed": 3, "audio_length_in_s": 0.5}})
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(answer["audio"])))
    assert (rate, answer["sampling_rate"], sound.shape) == (16000, 16000, (8000,))


def test_the_endpoint_handler_scales_loud_sounds_down():
    import io
    from types import SimpleNamespace

    import numpy as np
    import soundfile

    class Loud:
        sampling_rate = 16000

        def __call__(self, prompt):
            return SimpleNamespace(audios=np.array([[[0.5, -2.0, 1.0]]], np.float32))

    scope: dict = {}
    exec(hub.HANDLER, scope)
    handler = object.__new__(scope["EndpointHandler"])
    handler.pipe = Loud()
    sound, _ = soundfile.read(io.BytesIO(base64.b64decode(handler({"inputs": "rain"})["audio"])))
    np.testing.assert_allclose(sound, [0.25, -1, 0.5], atol=1e-4)


def test_card_tells_of_the_run_and_names_the_base(tiny_pipeline):
    facts = {"teacher": "cvssp/audioldm-s-full-v2", "steps": "100 × 8"}
    pipe = tiny_pipeline("audioldm")
    card = hub.model_card(pipe, REPO, "cc-by-4.0", facts, ["samples/0-1steps.wav"])
    assert "base_model: cvssp/audioldm-s-full-v2" in card and "| steps | 100 × 8 |" in card
    assert f"{REPO}/resolve/main/samples/0-1steps.wav" in card
    adapter = hub.model_card(pipe, REPO, adapter_of="cvssp/audioldm-s-full-v2")
    assert "base_model_relation: adapter" in adapter and f'load_lora_weights("{REPO}")' in adapter
    assert "base_model" not in hub.model_card(pipe, REPO, facts={"teacher": "teacher"})


TRAIN = """
import runpy, sys
sys.argv = ["train_ctm.py", *{argv}]
runpy.run_path({script}, run_name="__main__")
"""


@pytest.mark.slow
def test_training_ends_on_the_hub(fake_hub, tiny_pipeline, tmp_path):
    """Trained, pushed, and loaded back by its id in a fresh process; and a failed upload that is tried again."""
    from tiny_teachers import make_teacher

    make_teacher("audioldm", tmp_path / "teacher", tiny_pipeline)
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    write_sounds(tmp_path / "sounds")
    arguments = {
        "teacher_model": tmp_path / "teacher",
        "dataset_name": tmp_path / "sounds",
        "num_samples": 5120,
        "max_train_steps": 2,
        "train_batch_size": 2,
        "num_scales": 3,
        "mixed_precision": "no",
        "validation_prompts": "rain",
        "validation_steps": 2,
        "hub_model_id": REPO,
    }

    def train(output_dir):
        argv = [f"--{name}={value}" for name, value in {**arguments, "output_dir": output_dir}.items()]
        script = str(Path(__file__).parent.parent / "training" / "train_ctm.py")
        return TRAIN.format(argv=[*argv, "--push_to_hub"], script=repr(script))

    fake_hub.full = True
    failed = python(train(tmp_path / "failed"), fake_hub, tmp_path / "home", expected=1)
    assert f"hf upload {REPO} {tmp_path / 'failed' / 'hub'} ." in failed.stderr and "no more storage" in failed.stderr
    fake_hub.full = False
    retry = "from huggingface_hub import upload_folder; import sys\n"
    retry += f"upload_folder(repo_id=REPO, folder_path={str(tmp_path / 'failed' / 'hub')!r})\n"
    python(retry + "try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path / "home")

    fake_hub.files.clear()
    assert "Uploaded: " in python(train(tmp_path / "run"), fake_hub, tmp_path / "home2").stdout
    assert not (tmp_path / "run" / "hub").exists()
    card = fake_hub.files["README.md"].decode()
    assert "license: cc-by-nc-4.0" in card and "| teacher | teacher |" in card and "samples/0-16steps.wav" in card
    assert str(tmp_path) not in card
    assert {"handler.py", "pipeline.py", "samples/0-1steps.wav"} <= fake_hub.files.keys()
    loaded = python("try_out(SoundCTMPipeline.from_pretrained(REPO))", fake_hub, tmp_path / "home3")
    assert f"{REPO} (1, 1, " in loaded.stdout


def write_sounds(folder: Path) -> None:
    import numpy as np
    import soundfile

    folder.mkdir()
    lines = ["file_name,caption"]
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(5120), 16000)
        lines.append(f"{number}.wav,a dog barks")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def test_publishing_is_checked_before_training(monkeypatch, tmp_path):
    from types import SimpleNamespace

    from diffusers_soundctm.training import publish

    monkeypatch.setattr(publish, "get_token", lambda: None)
    args = {"push_to_hub": True, "hub_model_id": "a/b/c", "hub_token": None, "hub_license": None}
    args |= {"teacher_model": str(tmp_path), "output_dir": "out"}
    problems = publish.publishing_problems(SimpleNamespace(**args))
    assert [any(word in problem for problem in problems) for word in ("malformed", "token", "licence")] == [True] * 3
    args |= {"hub_model_id": "a/b", "hub_token": "hf_x", "hub_license": "mit"}
    assert publish.publishing_problems(SimpleNamespace(**args)) == []
