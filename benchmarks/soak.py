"""Call a tiny pipeline and the app very often, and see whether memory grows or results are mixed up.

python benchmarks/soak.py --calls 10000 --requests 1000 --clients 10

The pipeline gets the same few calls again and again; each result must be that of the first time. The app runs in a
process of its own. Its clients ask for sounds of their own at the same time, and each file that they get must hold the
prompt and seed that were asked for. Memory is the resident set of the process, after a tenth of the work and at the
end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from common import print_command, print_table

TESTS = Path(__file__).parents[1] / "tests"
PROMPTS = ["rain on a tin roof", "a dog barks", "quiet wind", "loud drum"]
SERVER = """
import sys
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import build_app, launch, waveform_cache

waveform_cache.MAX_SAMPLES = 2**19  # 65 sounds of 0.5 s, so that the cache is full when memory is first measured
pipe = SoundCTMPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
_, address, _ = launch(build_app(pipe, sys.argv[1]), prevent_thread_lock=True, quiet=True)
print(address, flush=True)
sys.stdin.read()
"""


def tiny_pipeline():
    """The tests' pipeline of the embedded model's family."""
    sys.path.insert(0, str(TESTS))
    from tiny_pipelines import make_pipeline

    return make_pipeline("embedded")


def megabytes(process: int | str = "self") -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def one_step(pipe, number: int) -> torch.Tensor:
    """The latents of one of a few calls."""
    generator = torch.Generator().manual_seed(number % 7)
    options = {"audio_length_in_s": 0.1, "output_type": "latent" if number % 2 else "pt"}
    return pipe(PROMPTS[number % 4], generator=generator, **options).audios


def soak_pipeline(calls: int) -> list[object]:
    """Call the pipeline `calls` times; returns a row of the table."""
    pipe, first, mixed_up, started = tiny_pipeline(), {}, 0, time.monotonic()
    for number in range(calls):
        result, kind = one_step(pipe, number), number % 28
        expected = first.setdefault(kind, result.clone())
        mixed_up += not torch.allclose(result, expected, rtol=1e-4, atol=1e-5)
        if number + 1 == calls // 10:
            before = megabytes()
    return ["one-step calls", calls, mixed_up, *growth(before, megabytes()), f"{time.monotonic() - started:.0f}"]


def ask(client, number: int) -> bool:
    """Ask the app for a sound; returns whether it is the one that was asked for."""
    from diffusers_soundctm.audio import read_tags

    prompt, seed = PROMPTS[number % 4], number
    path, recipe, _ = client.predict(prompt=prompt, seed=seed, duration=0.5, api_name="/draft")
    settings = json.loads(read_tags(path)["comment"])
    Path(path).unlink()
    given = (recipe["prompt"], recipe["noise"]["seed"], settings["prompt"])
    return given == (prompt, seed, prompt)


def soak_app(requests: int, clients: int) -> list[object]:
    """Send `requests` to the app from `clients` at a time; returns a row of the table."""
    from gradio_client import Client

    with tempfile.TemporaryDirectory() as folder:
        tiny_pipeline().save_pretrained(f"{folder}/model")
        environment = {**os.environ, "GRADIO_TEMP_DIR": f"{folder}/gradio", "GRADIO_ANALYTICS_ENABLED": "False"}
        server = subprocess.Popen([sys.executable, "-c", SERVER, f"{folder}/model"], env=environment, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        try:
            address = server.stdout.readline().strip()
            options = {"verbose": False, "httpx_kwargs": {"timeout": 600}}
            mine = [Client(address, download_files=f"{folder}/{number}", **options) for number in range(clients)]

            def visit(first: int, last: int) -> int:
                def work(client: int) -> int:
                    return sum(not ask(mine[client], number) for number in range(first + client, last, clients))

                with ThreadPoolExecutor(clients) as pool:
                    return sum(pool.map(work, range(clients)))

            started = time.monotonic()
            mixed_up = visit(0, requests // 10)
            before = megabytes(server.pid)
            mixed_up += visit(requests // 10, requests)
            seconds = time.monotonic() - started
            name = f"app requests, {clients} clients"
            return [name, requests, mixed_up, *growth(before, megabytes(server.pid)), f"{seconds:.0f}"]
        finally:
            server.communicate()


def growth(before: float, after: float) -> tuple[str, str]:
    """Megabytes before, and by how many percent they grew."""
    return f"{before:.0f}", f"{100 * (after / before - 1):+.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10000, help="one-step calls of the pipeline")
    parser.add_argument("--requests", type=int, default=1000, help="requests to the app")
    parser.add_argument("--clients", type=int, default=10, help="clients of the app at a time")
    arguments = parser.parse_args()
    rows = [soak_pipeline(arguments.calls)] if arguments.calls else []
    rows += [soak_app(arguments.requests, arguments.clients)] if arguments.requests else []
    print_command()
    print_table(["what", "n", "mixed up", "MB after a tenth", "growth to the end", "s"], rows)
    if any(row[2] for row in rows):
        sys.exit("Results were mixed up.")


if __name__ == "__main__":
    main()
