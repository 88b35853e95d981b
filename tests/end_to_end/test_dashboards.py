"""What is seen of a run: its status elsewhere, and TensorBoard's pages in a real browser."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from one_after_another import refusals
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util.tensor_util import make_ndarray

from pipeline.experiment.config import load
from pipeline.monitoring.dashboards import flat, histograms

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.xdist_group("trained")


def command(module: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *flags], capture_output=True, text=True, check=False, cwd=ROOT)


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def plugin_data(accumulator: EventAccumulator, tag: str) -> Any:
    return plugin_data_pb2.HParamsPluginData.FromString(
        accumulator.SummaryMetadata(tag).plugin_data.content
    )  # fmt: skip


def test_the_status_of_an_ended_run_is_its_result(trained: Path) -> None:
    shown = command("pipeline.status", f"--run_dir={trained}")
    assert shown.returncode == 0, shown.stderr
    for words in ("ended", "evaluation return", "CartPole-v1 not solved", "stopped by: gradient_steps"):
        assert words in shown.stdout
    found = json.loads(command("pipeline.status", f"--run_dir={trained}", "--json").stdout)
    assert (found["is_running"], found["summary"]["gradient_steps"]) == (False, found["status"]["gradient_steps"])


def test_the_status_of_a_run_that_was_killed_says_how_to_go_on(trained: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(trained, killed, ignore=shutil.ignore_patterns("summary.json"))
    assert "--resume" in command("pipeline.status", f"--run_dir={killed}").stdout


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    refusals(
        "status", [((), "--run_dir"), ((f"--run_dir={tmp_path}/none",), "none"), (("--run_dir=x", "extra"), "extra")]
    )


def test_every_chart_of_the_layout_has_tags_that_runs_write(trained: Path) -> None:
    accumulator = events(trained / "tensorboard")
    encoded = make_ndarray(accumulator.Tensors("custom_scalars__config__")[0].tensor_proto).item()
    layout = layout_pb2.Layout.FromString(encoded)
    assert [category.title for category in layout.category] == ["learning", "data", "speed", "health"]
    source = "".join((ROOT / "pipeline" / "monitoring" / name).read_text() for name in ("metrics.py", "seldom.py"))
    charts = [chart for category in layout.category for chart in category.chart]
    written = accumulator.Tags()["tensors"]
    for tag in (tag.strip("^$") for chart in charts for tag in chart.multiline.tag):
        assert f'"{tag}"' in source or tag in written


def test_settings_and_result_are_there_to_sort_by(trained: Path) -> None:
    accumulator = events(trained / "tensorboard")
    started = plugin_data(accumulator, "_hparams_/session_start_info").session_start_info
    assert started.hparams["agent.learning_rate"].number_value == 0.002
    assert started.hparams["environment.id"].string_value == "CartPole-v1"
    assert "agent.num_atoms" not in started.hparams
    assert started.group_name == f"{trained.parent.name}/run"
    ended = plugin_data(accumulator, "_hparams_/session_end_info").session_end_info
    assert ended.status == 1  # success
    result = json.loads((trained / "summary.json").read_text())
    for name in ("mean_return", "environment_steps", "train_seconds"):
        (value,) = accumulator.Tensors(f"result/{name}")
        assert float(make_ndarray(value.tensor_proto)) == pytest.approx(result[name], rel=1e-6)


def test_config_and_command_line_are_text(trained: Path) -> None:
    accumulator = events(trained / "tensorboard")
    texts = {
        tag: make_ndarray(accumulator.Tensors(tag)[0].tensor_proto).item().decode()
        for tag in ("run/config", "run/command_line")
    }
    assert "learning_rate = 0.002" in texts["run/config"]
    assert f"--run_dir={trained}" in texts["run/command_line"]


def test_histograms_count_every_transition_of_a_batch(trained: Path) -> None:
    accumulator = events(trained / "tensorboard")
    batch, calls = load("cartpole").learner.batch_size, 8
    for tag, size in {
        "learner/td_errors": batch, "learner/q_values": batch, "replay/data_ages_gradient_steps": batch * calls,
    }.items():  # fmt: skip
        buckets = make_ndarray(accumulator.Tensors(tag)[0].tensor_proto)
        assert buckets[:, 2].sum() == size, tag


def test_what_is_not_finite_is_no_part_of_a_histogram() -> None:
    (found,) = histograms({"some": np.array([1.0, np.nan, 2.0, np.inf]), "none": np.array([np.nan])})
    assert make_ndarray(found.value[0].tensor)[:, 2].sum() == 2


def test_settings_have_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": {"d": True, "e": None}}, "f": (1, 2), "g": "h"}
    assert flat(nested) == {"a.b": 1.0, "a.c.d": True, "f": "(1, 2)", "g": "h"}


FORTY = """
import sys
from pathlib import Path
from benchmarks.parts import dashboards
from pipeline.experiment.config import load
from pipeline.monitoring import dashboards as shown, metrics
sweep = Path(sys.argv[1])
sweep.mkdir()
(sweep / "sweep.json").write_text('{"fields": ["agent.target_update_period"]}')
for number in range(40):
    run = sweep / f"trial-{number:04d}" / "seed-0"
    writer = metrics.MetricsWriter(run / "tensorboard")
    writer.show(shown.beginning(load("cartpole"), "train", run), 0)
    for step in (0, 100):
        writer.write({"evaluation/mean_return": number + step, "episode/return": 1.0, "system/episodes": 1.0}, step)
    writer.close()
with dashboards.tensorboard(sweep) as address, dashboards.browser() as page:
    dashboards.load(page, address, "timeseries")
    page.get_by_text("evaluation/mean_return").first.wait_for(state="visible")
    assert page.locator("mat-checkbox.mat-mdc-checkbox-checked, mat-checkbox.mat-checkbox-checked").count() >= 40
    dashboards.load(page, address, "hparams")
    page.get_by_text("trial-0039 s0").first.wait_for(state="attached")
    for column in ("agent.target_update_period", "trial-0000 s0"):
        assert page.get_by_text(column).count() >= (2 if column[0] == "a" else 1)  # in the list, and in the table
print("seen")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is missing: see make debian")
def test_a_browser_shows_forty_runs_at_once(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORTY, str(tmp_path / "sweep")], capture_output=True, text=True, check=False,
        cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "seen" in result.stdout, result.stdout + result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is missing: see make debian")
def test_a_browser_shows_the_charts(trained: Path, tmp_path: Path) -> None:
    # In a process of its own: the browser's driver runs an event loop, and its module has command-line flags.
    code = """
import sys
from pathlib import Path
from benchmarks.parts import dashboards
with dashboards.tensorboard(Path(sys.argv[1])) as address, dashboards.browser() as page:
    for name in dashboards.PAGES:
        dashboards.load(page, address, name)
        if name == "custom_scalars":
            assert page.get_by_text("Matches (").count() == page.locator("vz-line-chart2").count() > 20
            page.locator("vz-line-chart2 svg .line, vz-line-chart2 svg path").first.wait_for(state="attached")
        if name == "hparams":
            page.get_by_text(sys.argv[2]).first.wait_for(state="visible")
print("seen")
"""
    arguments = [sys.executable, "-c", code, str(trained.parent), f"{trained.parent.name}/run"]
    result = subprocess.run(
        arguments, capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "seen" in result.stdout, result.stdout + result.stderr[-3000:]
