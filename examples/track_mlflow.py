"""Sends a run to MLflow, while it goes on or when it has ended: settings, curves and result.

It shares nothing with the run but its directory: any environment with MLflow, NumPy and TensorBoard will do, such as

    python -m venv tracking && tracking/bin/pip install mlflow numpy tensorboard
    PYTHONPATH=. tracking/bin/python examples/track_mlflow.py runs/first --store=sqlite:///mlflow.db

Called again, it sends what is new: the run of MLflow is found by the path of ours.
"""

import argparse
import time
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from pipeline import Run, UsageError

SOURCE = "reverb_dqn.run_dir"
MOST = 500  # of what MLflow takes in one request, some less


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def find_or_create(client: MlflowClient, experiment: str, run: Run) -> str:
    """The id of MLflow's run for ours."""
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known else client.create_experiment(experiment)
    found = client.search_runs([experiment_id], f"tags.`{SOURCE}` = '{run.path}'")
    if found:
        return found[0].info.run_id
    run_id = client.create_run(experiment_id, tags={SOURCE: str(run.path)}, run_name=run.path.name).info.run_id
    params = [Param(name, str(value)[:500]) for name, value in flat(run.config).items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    return run_id


def send_curves(client: MlflowClient, run_id: str, run: Run, sent: dict[str, int]) -> int:
    """Sends the points that MLflow has not; returns how many."""
    now, new = int(time.time() * 1000), []
    for tag, curve in run.curves().items():
        if tag not in sent:  # of an earlier call
            sent[tag] = max((metric.step for metric in client.get_metric_history(run_id, tag)), default=-1)
        points = [(int(x), float(y)) for x, y in zip(curve.x, curve.y, strict=True) if x > sent[tag]]
        new += [Metric(tag, value, now, step) for step, value in points]
        sent[tag] = max([sent[tag], *(step for step, _ in points)])
    for start in range(0, len(new), MOST):
        client.log_batch(run_id, metrics=new[start : start + MOST])
    return len(new)


def main() -> None:
    """Sends until the run has ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir")
    parser.add_argument("--store", default="sqlite:///mlflow.db", help="MLflow's tracking URI")
    parser.add_argument("--experiment", default="reverb-dqn")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks at a run that goes on")
    options = parser.parse_args()
    try:
        run = Run(options.run_dir)
    except UsageError as error:
        parser.error(str(error))
    client = MlflowClient(options.store)
    run_id = find_or_create(client, options.experiment, run)
    sent: dict[str, int] = {}
    while True:
        is_running = run.is_running  # asked first: what it writes after this is sent with the next look
        count = send_curves(client, run_id, run, sent)
        print(f"{count} points sent", flush=True)
        if not is_running:
            break
        time.sleep(options.every)
    summary = run.summary or {}
    results = [RunTag(f"result.{name}", str(value)[:500]) for name, value in flat(summary).items()]
    if results:
        client.log_batch(run_id, tags=results)
    has_ended = summary.get("stop_reason") not in (None, "failed", "diverged", "stalled", "interrupted", "refused")
    client.set_terminated(run_id, "FINISHED" if has_ended else "FAILED")
    print(f"run {run_id} in {options.store}: {summary.get('stop_reason', 'no result')}")


if __name__ == "__main__":
    main()
