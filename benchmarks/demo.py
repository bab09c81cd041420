"""Measure how long a person waits for the app: until the page responds, and until the first draft can be heard.

python benchmarks/demo.py --repeats 5

Each visit uses a new browser profile, and each draft its own noise, so nothing comes from a cache.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, sync_playwright

from common import print_command, print_table

IS_INTERACTIVE = "() => document.querySelector('.sc-shelf .sc-empty')"  # the last part of the page is ready
PLAYS = """() => new Promise((resolve) => {
    const look = () => {
        const audio = document.querySelector("#drafts audio");
        if (!audio) { requestAnimationFrame(look); return; }
        audio.addEventListener("playing", resolve);
        audio.play();
    };
    look();
})"""


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def wait_for_server(address: str, server: subprocess.Popen) -> None:
    while True:
        try:
            urlopen(address, timeout=60).close()
            return
        except (URLError, ConnectionError):
            if server.poll() is not None:
                raise RuntimeError("`soundctm demo` ended; see its message above.") from None
            time.sleep(0.05)


def visit(browser: Browser, address: str, prompt: str) -> list[float]:
    """Return seconds until the page responds, from Enter to the first draft playing, and to all eight drafts."""
    context = browser.new_context(viewport={"width": 1280, "height": 844})
    page = context.new_page()
    page.set_default_timeout(600_000)

    def open_page() -> None:
        page.goto(address)
        page.wait_for_function(IS_INTERACTIVE)

    box = page.locator("#prompt :is(textarea, input)")
    times = [seconds(open_page)]
    box.fill(prompt)
    start = time.perf_counter()
    box.press("Enter")
    for wait in (lambda: page.evaluate(PLAYS), page.locator("#drafts article").nth(7).wait_for):
        wait()
        times.append(time.perf_counter() - start)
    context.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or Hub id (default: the embedded model)")
    parser.add_argument("--prompt", default="rain on a tin roof")
    parser.add_argument("--repeats", type=int, default=5, help="visits after the first one (default: %(default)s)")
    parser.add_argument("--chromium", type=Path, default=Path("/usr/bin/chromium"))
    arguments = parser.parse_args()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "diffusers_soundctm", "demo", "--port", str(port)]
    command += ["--model", arguments.model] if arguments.model else []
    server = subprocess.Popen(command, env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"})
    try:
        start = seconds(lambda: wait_for_server(address, server))
        with sync_playwright() as playwright:
            options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
            browser = playwright.chromium.launch(executable_path=arguments.chromium, args=options)
            visits = [visit(browser, address, arguments.prompt) for _ in range(arguments.repeats + 1)]
            browser.close()
    finally:
        server.terminate()
        server.wait()

    print_command()
    rows = [("`soundctm demo` → server responds", f"{start:.2f}", "", "")]
    names = ("page opened → responds", "Enter → first draft plays", "Enter → all eight drafts")
    for name, (first, *others) in zip(names, zip(*visits, strict=True), strict=True):
        rows.append((name, f"{first:.2f}", f"{statistics.median(others):.2f}", f"{max(others):.2f}"))
    print_table(["seconds", "first", f"median of {arguments.repeats} more", "maximum"], rows)


if __name__ == "__main__":
    main()
