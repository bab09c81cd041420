"""The HTTP API, used through gradio's own client, and the Space's folder on its own."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

gradio_client = pytest.importorskip("gradio_client")

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "examples" / "gradio_space"
ENDPOINTS = ("draft", "refine", "vary", "morph", "draw", "upload", "inpaint", "continue_sound", "loop")
ENDPOINTS += ("export", "export_all", "code", "metadata", "known_kinds")


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    return connected(served, tmp_path_factory.mktemp("downloads"))


def connected(address, folder):
    """A client that waits long enough for a busy machine."""
    return gradio_client.Client(address, verbose=False, download_files=folder, httpx_kwargs={"timeout": 300})


def draft(client, prompt="rain on a tin roof", seed=3, **settings):
    return client.predict(prompt=prompt, seed=seed, **({"duration": 1} | settings), api_name="/draft")


def samples_of(path):
    samples, rate = soundfile.read(path)
    assert rate == 16000 and abs(samples).max() > 0
    return samples


def test_endpoints_are_named_and_documented(client):
    described = client.view_api(return_format="dict")["named_endpoints"]
    assert set(described) == {f"/{name}" for name in ENDPOINTS}
    assert all(len(described[f"/{name}"]["description"]) > 20 for name in ENDPOINTS)
    names = [parameter["parameter_name"] for parameter in described["/draft"]["parameters"]]
    assert names == ["prompt", "seed", "steps", "duration", "negative_prompt", "omega", "nu", "gamma"]


def test_draft_and_refine(client):
    path, recipe, warning = draft(client)
    assert len(samples_of(path)) == 16000 and warning == ""
    assert client.predict(api_name="/known_kinds") == {}  # this model's folder does not say what it knows
    again, *_ = draft(client)
    assert samples_of(path).tolist() == samples_of(again).tolist()
    assert samples_of(draft(client, seed=4)[0]).tolist() != samples_of(path).tolist()
    final, refined, drift = client.predict(recipe=recipe, steps=4, api_name="/refine")
    assert refined == recipe | {"steps": 4} and 0 < drift < 2 and len(samples_of(final)) == 16000


def test_each_control(client, tmp_path):
    _, first, _ = draft(client)
    _, second, _ = draft(client, "a dog barks", 4)
    assert "variations" in client.predict(recipe=first, amount=0.2, seed=1, api_name="/vary")[1]["noise"]
    morph = {"recipe": first, "second_recipe": second, "steps": 2}
    assert client.predict(**morph, api_name="/morph")[1]["morph"]["prompt"] == "a dog barks"
    curve = {"curve": [-50, -20, -50], "strength": 0.5, "steps": 2}
    _, drawn, loudness = client.predict(recipe=first, **curve, api_name="/draw")
    assert drawn["curve"] == [-50, -20, -50]
    assert loudness["error_db"] > 0 and loudness["turned_down_db"] >= 0
    assert client.predict(recipe=first, steps=2, api_name="/loop")[1]["loop"] is True
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal(22050), 22050)
    upload = client.predict(file=gradio_client.handle_file(tmp_path / "noise.wav"), api_name="/upload")
    span = {"recipe": upload, "prompt": "wind", "spans": [[0.4, 0.6]], "steps": 2, "seed": 1}
    assert len(samples_of(client.predict(**span, api_name="/inpaint")[0])) == 16000
    more = {"recipe": first, "prompt": "wind", "more": 0.5, "steps": 2, "seed": 1}
    assert len(samples_of(client.predict(**more, api_name="/continue_sound")[0])) == 24000
    flac = client.predict(recipe=drawn, extension=".flac", settings={"bits": 24}, api_name="/export")
    assert flac.endswith(".flac") and len(samples_of(flac)) == 16000 and soundfile.info(flac).subtype == "PCM_24"
    with zipfile.ZipFile(client.predict(recipes=[first, drawn], settings={}, api_name="/export_all")) as archive:
        assert len(json.loads(archive.read("manifest.json"))) == 2
    assert "LossGuidance" in client.predict(recipe=drawn, api_name="/code")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "x" * 5000}, "characters"),
        ({"steps": 1000}, "steps"),
        ({"duration": 1e9}, "duration"),
        ({"gamma": 3}, "gamma"),
        ({"seed": -7}, "seed"),
    ],
)
def test_errors_name_the_bad_value(settings, named, client):
    with pytest.raises(gradio_client.exceptions.AppError, match=named):
        draft(client, **settings)


def test_errors_of_bad_recipes_and_files(client, tmp_path):
    (tmp_path / "sound.wav").write_bytes(b"no sound")
    for endpoint, arguments in (
        ("/refine", {"recipe": {"prompt": "rain", "path": "/etc/passwd"}, "steps": 2}),
        ("/code", {"recipe": [1, 2]}),
        ("/upload", {"file": gradio_client.handle_file(tmp_path / "sound.wav")}),
        ("/export", {"recipe": draft(client)[1], "extension": ".exe"}),
    ):
        with pytest.raises(gradio_client.exceptions.AppError) as error:
            client.predict(**arguments, api_name=endpoint)
        assert "Traceback" not in str(error.value)


def test_ten_at_once_get_their_own_sounds(served, client, tmp_path):
    alone = [samples_of(draft(client, seed=50 + i)[0]) for i in range(3)]
    results = {}

    def ask(i):
        own = connected(served, tmp_path)
        results[i] = own.predict("wind", 50 + i % 3, 1, 1, "", 3.5, 1, 0, api_name="/draft")[1]["noise"]["seed"]
        path = own.predict("rain on a tin roof", 50 + i % 3, 1, 1, "", 3.5, 1, 0, api_name="/draft")[0]
        assert samples_of(path).tolist() == alone[i % 3].tolist()
        results[i] = (results[i], "right")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: (50 + i % 3, "right") for i in range(10)}


def test_the_space_names_this_package_and_a_supported_gradio():
    assert (SPACE / "requirements.txt").read_text().split() == ["diffusers-soundctm[demo]"]
    package = ConfigParser()
    package.read(ROOT / "setup.cfg")
    assert package["metadata"]["name"] == "diffusers-soundctm"
    front_matter = dict(re.findall(r"^(\w+): (.*)$", (SPACE / "README.md").read_text().split("---")[1], re.MULTILINE))
    assert front_matter["sdk"] == "gradio" and front_matter["app_file"] == "app.py"
    (gradio,) = package["options.extras_require"]["demo"].split()
    assert Requirement(gradio).specifier.contains(front_matter["sdk_version"])


@pytest.mark.slow
def test_the_space_folder_alone_starts(tmp_path):
    """Copy the folder elsewhere and install its requirements into a new environment."""
    folder = shutil.copytree(SPACE, tmp_path / "space")
    package = tmp_path / "package"
    shutil.copytree(ROOT / "src", package / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, package)
    # The package comes from this repository and its requirements from this test's environment. Nothing is downloaded.
    requirements = folder / "requirements.txt"
    name, extra = requirements.read_text().strip().removesuffix("]").split("[")
    requirements.write_text(f"{name}[{extra}] @ {package.as_uri()}\n")
    venv.create(tmp_path / "venv", symlinks=True)
    python, modules = tmp_path / "venv/bin/python", Path(pytest.__file__).parents[1]
    (own,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (own / "others.pth").write_text(f"{modules}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["GRADIO_ANALYTICS_ENABLED"] = "False"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "-r", requirements], cwd=folder, env=environment, check=True)
    assert (own / "diffusers_soundctm/embedded/model_index.json").exists()
    process = subprocess.Popen(
        [python, "-u", "app.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = ""
        while "http://" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        address = re.search(r"http://\S+", said).group()
        space = gradio_client.Client(address, verbose=False, download_files=tmp_path / "downloads")
        path, recipe, _ = draft(space)
        assert len(samples_of(path)) == 16000
        assert "from_embedded()" in space.predict(recipe=recipe, api_name="/code")
    finally:
        process.terminate()
        process.wait(timeout=30)
