"""Pictures of a run's TensorBoard pages, by a real browser: Debian's chromium, without a window.

Example:
  python -m benchmarks.parts.dashboards --logdir=runs --out=docs/images
"""

import queue
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags

from pipeline.command import refuse_more, run_command
from pipeline.experiment.config import UsageError
from pipeline.messages.ports import free_port

_LOGDIR = flags.DEFINE_string("logdir", None, "Directory with runs.")
_OUT = flags.DEFINE_string("out", None, "Directory that the pictures are written to, tensorboard_<page>.png each.")

PAGES = {
    "timeseries": "episode/return",
    "custom_scalars": "returns of evaluations",
    "hparams": "agent.learning_rate",
    "histograms": "learner/td_errors",
    "images": "pictures/episode",
    "text": "run/config",
}
"""By the name of a page in TensorBoard's address, words that stand on it once it has loaded a run."""
SECONDS = 90.0
_DRAWN_SECONDS = 10.0
_SIZE = {"width": 1400, "height": 1000}


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """A TensorBoard of a directory; gives its address.

    Raises:
      TimeoutError: it does not answer.
    """
    port = free_port()
    module = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", f"--port={port}", "--load_fast=false"]
    process = subprocess.Popen(module, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=lambda: deque(map(lines.put, process.stdout or ()), maxlen=0), daemon=True)
    reader.start()
    try:
        deadline, said = time.monotonic() + SECONDS, ""
        while f":{port}/" not in said:
            try:
                said += lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"TensorBoard did not start within {SECONDS:.0f} s: {said}") from None
        yield f"http://localhost:{port}/"
    finally:
        process.kill()
        process.wait()
        reader.join()


@contextmanager
def browser() -> Iterator[Any]:
    """A page of a browser (`playwright.sync_api.Page`).

    Raises:
      UsageError: chromium is not installed.
    """
    from playwright.sync_api import sync_playwright

    if (chromium := shutil.which("chromium")) is None:
        raise UsageError("chromium is missing: install Debian's package chromium")
    with sync_playwright() as playwright:
        # The sandbox needs a kernel that lets this user make namespaces; the pages are our own.
        found = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield found.new_page(viewport=_SIZE)
        finally:
            found.close()


def load(page: Any, address: str, name: str) -> None:
    """Opens a page of TensorBoard and waits until it shows a run.

    Args:
      page: of the browser.
      address: of TensorBoard.
      name: a key of `PAGES`.

    Raises:
      playwright.sync_api.TimeoutError: it did not.
    """
    page.goto(f"{address}#{name}")
    page.reload()  # a new part behind the # alone loads nothing
    page.get_by_text(PAGES[name]).first.wait_for(state="visible", timeout=1_000.0 * SECONDS)


def main(arguments: list[str]) -> int:
    """Makes the pictures."""
    refuse_more(arguments)
    if not _LOGDIR.value or not _OUT.value:
        raise UsageError("--logdir and --out are needed: which runs, and where should the pictures go?")
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    with tensorboard(Path(_LOGDIR.value)) as address, browser() as page:
        for name in PAGES:
            load(page, address, name)
            time.sleep(_DRAWN_SECONDS)  # the lines of charts are drawn after their titles
            page.screenshot(path=out / f"tensorboard_{name}.png")
            print(out / f"tensorboard_{name}.png", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
