"""Sends a run to Weights & Biases, while it goes on or when it has ended: settings, curves and result.

It shares nothing with the run but its directory: any environment with wandb, NumPy and TensorBoard will do, such as

    python -m venv tracking && tracking/bin/pip install wandb numpy tensorboard
    PYTHONPATH=. WANDB_MODE=offline tracking/bin/python examples/track_wandb.py runs/first

With WANDB_MODE=offline nothing leaves the machine, and `wandb sync` sends it later. Called again, it sends what is new:
the run's id is made of the path of ours, and what has been sent is kept in a file beside what wandb keeps.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import wandb

from pipeline import Run, UsageError

STEPS = "steps"


def new_rows(run: Run, sent: dict[str, float]) -> list[dict[str, float]]:
    """Of each step, the values that have not been sent, in order."""
    rows: dict[float, dict[str, float]] = {}
    for tag, curve in run.curves().items():
        last = sent.get(tag, -1.0)
        for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
            if x > last:
                rows.setdefault(x, {STEPS: x})[tag] = y
                sent[tag] = x
    return [rows[x] for x in sorted(rows)]


def main() -> None:
    """Sends until the run has ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--project", default="reverb-dqn")
    parser.add_argument("--folder", type=Path, default=Path(), help="where wandb keeps its files")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks at a run that goes on")
    options = parser.parse_args()
    try:
        run = Run(options.run_dir)
    except UsageError as error:
        parser.error(str(error))
    identity = hashlib.sha256(str(run.path).encode()).hexdigest()[:12]
    kept = options.folder / f"sent-{identity}.json"
    sent: dict[str, float] = json.loads(kept.read_text()) if kept.is_file() else {}
    tracked = wandb.init(
        project=options.project,
        id=identity,
        name=run.path.name,
        dir=options.folder,
        config=run.config,
        resume="allow",
    )
    tracked.define_metric(STEPS)
    tracked.define_metric("*", step_metric=STEPS)
    while True:
        is_running = run.is_running  # asked first: what it writes after this is sent with the next look
        rows = new_rows(run, sent)
        for row in rows:
            tracked.log(row)
        kept.write_text(json.dumps(sent))
        print(f"{len(rows)} steps sent", flush=True)
        if not is_running:
            break
        time.sleep(options.every)
    summary = run.summary or {}
    tracked.summary.update({f"result/{name}": value for name, value in summary.items()})
    has_ended = summary.get("stop_reason") not in (None, "failed", "diverged", "stalled", "interrupted", "refused")
    tracked.finish(exit_code=0 if has_ended else 1)
    print(f"run {identity}: {summary.get('stop_reason', 'no result')}")


if __name__ == "__main__":
    main()
