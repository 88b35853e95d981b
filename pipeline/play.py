"""Plays episodes with the policy of a run, in a window or a video, with its Q-values for each action.

Example:
  python -m pipeline.play --run_dir=runs/cartpole --render
  python -m pipeline.play --run_dir=runs/cartpole --video=episodes.mp4 --episodes=3

Episode i has the seed --seed + i and is the one that pipeline.evaluate --episodes=1 scores with that seed. Without
--render and --video nothing is drawn, and every environment can be played. Escape, q or its button close the window.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from pipeline.acting import stored_policies
from pipeline.acting.policy_files import Policy
from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.environments import EnvironmentFault
from pipeline.evaluator.displays import Screen, VideoFile, Window, WindowClosed
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.security import strangers

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of the run.")
_POLICY = flags.DEFINE_enum("policy", "best", ["best", "latest"], "Of the evaluations so far: the best or the newest.")
_EPISODES = flags.DEFINE_integer("episodes", 1, "Full episodes to play, one after the other.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first episode; the same seed plays the same one.", lower_bound=0)
_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)
_RENDER = flags.DEFINE_bool("render", False, "Show them in a window.")
_VIDEO = flags.DEFINE_string("video", None, "Write them to this file, H.264 in an .mp4, which browsers play.")


def _screen(run: RunDirectory) -> Screen | None:
    """Where the flags want the episodes to be seen."""
    if _RENDER.value and _VIDEO.value:
        raise UsageError("--render and --video exclude each other: a window keeps time, a video does not")
    if _VIDEO.value:
        return VideoFile(Path(_VIDEO.value))
    return Window(f"{_POLICY.value} policy of {run.path}") if _RENDER.value else None


def _episodes(experiment: Experiment, policy: Policy, screen: Screen | None) -> Iterator[tuple[int, float, int]]:
    """Plays the episodes; yields each one's seed, return and length."""
    from pipeline.evaluator.episodes import runner_of_one_lane, show  # imported late, so that --help is fast

    runner = runner_of_one_lane(experiment, policy, render=screen is not None)
    try:
        for seed in range(_SEED.value, _SEED.value + _EPISODES.value):
            if screen is None:
                episodes = runner.run(policy, seed)
                yield seed, episodes.returns[0], episodes.lengths[0]
            else:
                yield seed, *show(runner, policy, seed, experiment, screen)
    finally:
        runner.close()


def main(arguments: list[str]) -> int:
    """Plays, and prints a line an episode."""
    refuse_more(arguments)
    if not _RUN_DIR.value:
        raise UsageError("--run_dir is missing: which run's policy?")
    with strangers.reading(Path(_RUN_DIR.value), _TRUST.value == "yes"):
        return _play(RunDirectory(Path(_RUN_DIR.value)))


def _play(run: RunDirectory) -> int:
    experiment, policy = run.experiment(), stored_policies.load(run.policies / _POLICY.value)
    screen = _screen(run)
    try:
        with contextlib.suppress(WindowClosed, KeyboardInterrupt):
            for seed, episode_return, length in _episodes(experiment, policy, screen):
                print(f"seed {seed}: return {episode_return:.10g} in {length:,} environment steps", flush=True)
    except EnvironmentFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    finally:
        if screen is not None:
            screen.close()
    if isinstance(screen, VideoFile):
        print(f"{_VIDEO.value} has {screen.pictures:,} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
