"""Watching a run that was trained: in TensorBoard by itself, and by the command."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.xdist_group("trained")


def run(module: str, *flags: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", module, *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")},
    )


def test_tensorboard_has_the_last_policys_episode(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(trained / "tensorboard"), size_guidance={"tensors": 0})
    accumulator.Reload()
    assert accumulator.SummaryMetadata("pictures/episode").plugin_data.plugin_name == "images"
    events = accumulator.Tensors("pictures/episode")
    assert events[-1].step == accumulator.Tensors("evaluation/mean_return")[-1].step
    width, height, png = events[-1].tensor_proto.string_val
    image = Image.open(io.BytesIO(png))
    assert image.size == (int(width), int(height))
    assert len(png) < 200_000
    assert image.convert("L").getextrema() != (0, 0)


def test_a_video_shows_the_episode_that_evaluate_scores(trained: Path, tmp_path: Path) -> None:
    video = tmp_path / "episode.mp4"
    played = run("pipeline.play", f"--run_dir={trained}", "--seed=5", f"--video={video}", "--policy=latest")
    assert played.returncode == 0, played.stdout + played.stderr
    scored = run("pipeline.evaluate", f"--run_dir={trained}", "--seed=5", "--episodes=1", "--policy=latest")
    mean_return = json.loads(scored.stdout.splitlines()[-1])["mean_return"]
    steps = round(mean_return)  # CartPole pays 1 a step
    assert played.stdout.splitlines() == [
        f"seed 5: return {mean_return:.10g} in {steps} environment steps",
        f"{video} has {steps + 1 + 50} pictures",
    ]
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 50)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == steps + 1 + 50
    assert {frame.shape for frame in frames} == {(400, 900, 3)}
    assert frames[0][:, 610:].mean() < 80 < frames[0][:, :590].mean(), "a dark panel beside a light scene"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--render",), "no display"),
        (("--render", "--video=a.mp4"), "exclude each other"),
        (("--video=a.gif",), "end with .mp4"),
        (("--episodes=0",), "--episodes"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(trained: Path, flags: tuple[str, ...], said: str) -> None:
    refused = run("pipeline.play", f"--run_dir={trained}", *flags)
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert said in line


def test_a_run_without_a_policy_is_refused(tmp_path: Path) -> None:
    refused = run("pipeline.play", f"--run_dir={tmp_path}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "holds no run" in refused.stderr
