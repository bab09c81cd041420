"""The app under pressure: many requests at once, large ones, and wrong ones, from real clients at several addresses."""

import logging
import threading
import time

import httpx
import numpy as np
import pytest
import soundfile

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app.fair_queue import MAX_WAITING_PER_CLIENT
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.rendering import Observer
from diffusers_soundctm.app.uploads import MAX_UPLOAD_BYTES

gradio_client = pytest.importorskip("gradio_client")

PATIENT = {"timeout": 300}  # seconds, for busy machines
DRAFT = ("wind", 0, 1, 0.5, "", 3.5, 1, 0)


@pytest.fixture
def client(served, tmp_path):
    client = gradio_client.Client(served, verbose=False, download_files=tmp_path, max_workers=160, httpx_kwargs=PATIENT)
    client.predict(*DRAFT, api_name="/draft")  # comes after the app's own warm-up
    return client


@pytest.fixture
def held(monkeypatch):
    """Sounds stop after their first step until this event is set."""
    go_on, step = threading.Event(), Observer.callback_fn

    def waiting(*arguments):
        assert go_on.wait(300)
        return step(*arguments)

    monkeypatch.setattr(Observer, "callback_fn", waiting)
    yield go_on
    go_on.set()


def finished(jobs):
    return [job for job in jobs if job.done()]


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_flood_is_refused_and_the_rest_of_the_app_answers(served, client, held, tmp_path):
    seeds = range(1000, 1150)
    jobs = [client.submit("wind", seed, 1, 0.5, "", 3.5, 1, 0, api_name="/draft") for seed in seeds]
    accepted = 1 + MAX_WAITING_PER_CLIENT
    wait_for(lambda: len(finished(jobs)) == len(jobs) - accepted)
    for job in finished(jobs):
        assert "The app is busy" in str(job.exception())
    # What makes no sound answers at once, and so does everything of other clients.
    recipe = Recipe("rain", Noise(1), 1.0).to_json()
    assert "manual_seed(1)" in client.predict(recipe=recipe, api_name="/code")
    assert len(finished(jobs)) == len(jobs) - accepted
    elsewhere = {"X-Forwarded-For": "10.0.0.2"}  # the server trusts proxies on its own machine
    other = gradio_client.Client(
        served, verbose=False, download_files=tmp_path / "other", headers=elsewhere, httpx_kwargs=PATIENT
    )
    last = other.submit("rain", 7, 1, 0.5, "", 3.5, 1, 0, api_name="/draft")
    wait_for(lambda: last.status().code.value == "PROCESSING")
    held.set()
    last.result(300)
    made_before = len(finished(jobs)) - (len(jobs) - accepted)
    assert made_before < accepted  # one client's requests do not all come before another's
    made = [job.result(300)[1]["noise"]["seed"] for job in jobs if job.exception(300) is None]
    assert len(made) == len(set(made)) == accepted


@pytest.mark.parametrize("seed", [3.7, "7", "x", None, True, [1], -2, 1e300, 2**53])
def test_seeds_are_whole_numbers(seed, client, caplog):
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(gradio_client.exceptions.AppError, match="choose a whole number"),
    ):
        client.predict("wind", seed, *DRAFT[2:], api_name="/draft")
    (line,) = (line for line in caplog.messages if "Refused" in line)
    assert line.startswith("Refused /draft for 127.0.0.1: The seed is ")


def test_large_requests_are_refused_unread(served):
    for path, size in (("call/code", 2**21), ("upload", MAX_UPLOAD_BYTES + 2**20)):
        answer = httpx.post(f"{served}gradio_api/{path}", content=bytes(size), **PATIENT)
        assert answer.status_code == 413 and "send at most" in answer.text
    answer = httpx.post(f"{served}gradio_api/call/code", content=iter([b"{}"]), **PATIENT)
    assert answer.status_code == 411


def test_a_taken_port_is_named(served, embedded_folder):
    from diffusers_soundctm.app import build_app, launch

    pipe, port = SoundCTMPipeline.from_pretrained(embedded_folder), int(served.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=f"port {port} is taken; .* --port"):
        launch(build_app(pipe, "model"), server_port=port, prevent_thread_lock=True, quiet=True)


def test_disk_space_of_a_client_is_bounded(served_with_disk, upload_folder, client, tmp_path, monkeypatch):
    """Uploads and results count together, and the newest files stay."""
    served, disk = served_with_disk
    monkeypatch.setattr(disk, "per_client", 100_000)
    of_other_apps = set(upload_folder.rglob("*.*"))

    def size():
        new = set(upload_folder.rglob("*.*")) - of_other_apps
        return sum(path.stat().st_size for path in new if path.is_file())

    upload = tmp_path / "noise.wav"
    for i in range(4):
        samples = 0.1 * np.random.default_rng(i).standard_normal(16000)
        soundfile.write(upload, samples, 16000)  # 32 kB
        with upload.open("rb") as file:
            assert httpx.post(f"{served}gradio_api/upload", files={"files": file}, **PATIENT).status_code == 200
        assert 32_000 < size() <= 100_000
    for seed in range(2000, 2004):
        result, *_ = client.predict("wind", seed, *DRAFT[2:], api_name="/draft")  # 16 kB
        assert soundfile.info(result).frames == 8000
        assert size() <= 100_000


def test_metadata_names_recipe_and_model(client, embedded_folder, tmp_path):
    _, recipe, _ = client.predict(*DRAFT, api_name="/draft")
    file = client.predict(recipe=recipe, extension=".flac", api_name="/export")
    named = client.predict(file=gradio_client.handle_file(file), api_name="/metadata")
    assert named == {"model": str(embedded_folder), "is_in_use": True, "recipe": recipe}
    soundfile.write(tmp_path / "plain.wav", np.zeros(8000), 8000)
    with pytest.raises(gradio_client.exceptions.AppError, match="names no recipe"):
        client.predict(file=gradio_client.handle_file(tmp_path / "plain.wav"), api_name="/metadata")
