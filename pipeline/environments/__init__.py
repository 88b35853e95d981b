"""Environments: one factory for gymnasium's, those of optional suites, and classes of one's own.

Belongs here: the factory, and a file for each suite, named in `SUITES`. What all environments share, whatever
suite they are from, is in `pipeline.environments.lanes`.
"""

import functools
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import msgspec
import numpy as np

from agents import Specs
from agents.exploration import greedy
from agents.struct_types import prepared
from pipeline.environments.lanes.contract import EnvironmentFault, ShieldFault
from pipeline.environments.lanes.lane_environment import LaneEnvironment, LaneStep
from pipeline.environments.lanes.spaces import LIKE_MASK, specs_of
from pipeline.environments.lanes.vectors import gymnasium_vector
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime import signs_of_life
from pipeline.runtime.process import prepare_pygame

MakeVector = Callable[..., gymnasium.vector.VectorEnv[Any, Any, Any]]
"""Makes the lanes of a configuration: `vector(config, lanes, render=False)`; with `render` they can be drawn."""

__all__ = [
    "SUITES",
    "EnvironmentFault",
    "LaneEnvironment",
    "LaneStep",
    "ShieldFault",
    "Spaces",
    "Suite",
    "check",
    "describe",
    "described",
    "make",
    "spaces_of",
    "suite_of",
]


class Suite(NamedTuple):
    """Environments of one optional package."""

    extra: str
    """The extra in pyproject.toml that installs the package; `pipeline.doctor` lists it, too. Empty if not ours."""
    starts: tuple[str, ...]
    """What the ids of its environments start with."""
    module: str = ""
    """Registers them with gymnasium when imported; empty where gymnasium does. One with a function `vector` makes
    vector environments itself."""


_DRIVING = ("highway-", "merge-", "intersection-", "roundabout-", "exit-", "two-way-", "u-turn-", "racetrack-")
_CHECK_SECONDS = 5.0
"""That the making of several lanes may take in `check`, by what one took."""
ENVPOOL = Suite("envpool", (), "pipeline.environments.envpool")
"""No ids of its own: `environment.engine` asks for it."""
SUITES = (
    Suite("atari", ("ALE/",), "pipeline.environments.atari"),
    Suite("box2d", ("LunarLander", "BipedalWalker", "CarRacing")),
    Suite("driving", _DRIVING, "pipeline.environments.driving"),
    ENVPOOL,
    Suite("minatar", ("MinAtar/",), "pipeline.environments.minatar"),
    Suite("trading", ("Trading/",), "pipeline.environments.trading"),
)


def suite_of(environment_id: str) -> Suite | None:
    """The suite that an id belongs to, ours or a registered one; None for gymnasium's own and for a user's."""
    ours = next((suite for suite in SUITES if environment_id.startswith(suite.starts)), None)
    if ours or not importlib.metadata.entry_points(group="reverb_dqn.suites"):
        return ours
    from pipeline.environments.suite_options import registered

    return next((suite for suite in registered(Suite) if environment_id.startswith(suite.starts)), None)


def make(
    config: EnvironmentConfig,
    lanes: int,
    faulty_episodes: float = 0.0,
    *,
    render: bool = False,
    masked: bool | None = None,
    info_keys: Sequence[str] = (),
) -> LaneEnvironment:
    """Makes `lanes` environments stepped in lockstep.

    Args:
      config: the environment.
      lanes: environments.
      faulty_episodes: share that faults may cost, see `collect.faulty_episodes`; 0 raises at the first.
      render: whether `lanes.rendering.picture` will be asked what it looks like.
      masked: whether the run has a place for masks; None: whether there are any shows as it goes.
      info_keys: see `collect.info_keys`.

    Raises:
      UsageError: it does not exist, is not installed, or its spaces or settings are not supported.
      NotRendered: it draws no pictures.
    """
    prepare_pygame()
    if ":" in config.id or config.kwargs:
        from pipeline.environments.suite_options import registering

        config = registering(config)
    shield = None
    if config.shield:
        from pipeline.environments.lanes.shield import load

        shield = load(config.shield)
    suite = None if ":" in config.import_path else suite_of(config.id)
    if config.engine == "envpool":
        suite = ENVPOOL
    make_vector: MakeVector = gymnasium_vector
    try:
        if suite or config.engine != "gymnasium":
            from pipeline.environments.suite_options import vector_of

            make_vector = vector_of(config.engine, suite) or gymnasium_vector
        if render:
            make_vector = functools.partial(make_vector, render=True)
        with signs_of_life.in_call(signs_of_life.MAKING):
            vector = make_vector(config, lanes)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # whatever its constructor makes of environment.kwargs, sys.exit() too
        from pipeline.environments.suite_options import refusal

        raise refusal(config, suite, error, render) from None
    name = config.import_path.partition(":")[2] or config.id
    if render:
        from pipeline.environments.lanes.rendering import refuse_undrawn

        refuse_undrawn(vector, name)
    make_anew = functools.partial(make_vector, config, lanes)
    lane_environment: type[LaneEnvironment] = LaneEnvironment
    if config.previous_step:
        from pipeline.environments.lanes.wrappers import ObservingPreviousStep

        lane_environment = ObservingPreviousStep
    made = lane_environment(vector, name, shield, make_anew, faulty_episodes, config.mask_key, masked)
    if info_keys:
        from pipeline.environments.lanes.leaves import InfoNumbers

        made.info_numbers = InfoNumbers(info_keys)
    return made


class Spaces(NamedTuple):
    """What an environment gives and takes."""

    observation: gymnasium.Space[Any]
    action: gymnasium.Space[Any]
    masked: bool
    """Whether it forbids actions, by masks or a shield."""


def spaces_of(config: EnvironmentConfig, lanes: int = 1) -> Spaces:
    """The environment's spaces, and from a reset and a step of each lane whether it masks.

    Args:
      config: the environment.
      lanes: made and stepped at once.

    Returns:
      The spaces of one observation, not of a stack, and of one action.

    Raises:
      UsageError: as `make`; or it gives masks where nobody would obey them.
      EnvironmentFault: a lane's reset or step raised or broke the environment's contract, in each of three tries.
    """
    tries = 3  # a fault now and then is allowed, see `collect.faulty_episodes`
    while True:
        try:
            return _seen(config, lanes)
        except ShieldFault:
            raise
        except EnvironmentFault as fault:
            tries -= 1
            if not tries:
                what = str(fault).partition(" (faulty episodes: ")[0]
                raise EnvironmentFault(f"{what} (at the first reset or step, in each of 3 tries)") from None


def _seen(config: EnvironmentConfig, lanes: int) -> Spaces:
    environment = make(config, lanes)
    try:
        seen = environment.reset(seed=0)
        specs = environment.specs
        alike = np.zeros((lanes, specs.num_actions), np.float32)
        actions = greedy(alike, seen.mask, specs.action_sizes)  # the first that are allowed
        following = environment.step(actions)
        masked = not (seen.mask is None and following.mask is None)
        if not masked:
            _refuse_overlooked_masks(environment)
    finally:
        environment.close()
    return Spaces(environment.observation_space, environment.vector.single_action_space, masked)


def _refuse_overlooked_masks(environment: LaneEnvironment) -> None:
    parts, info = environment.specs.leaves(), getattr(environment.vector, "newest_info", {})
    if any(LIKE_MASK.search(str(name)) for name in (*parts, *info)):
        from pipeline.environments.lanes.masks import refuse_overlooked

        refuse_overlooked(environment.name, environment.observation_space, info, environment.specs.num_actions)


def describe(config: EnvironmentConfig) -> Specs:
    """The environment's interface as agents see it; raises as `spaces_of` does."""
    return _specs(config, 1)


def _specs(config: EnvironmentConfig, lanes: int) -> Specs:
    return specs_of(*spaces_of(config, lanes), config.image_keys, config.image_layout)


def described(config: EnvironmentConfig, path: Path) -> Specs:
    """`describe`, without making the environment where a launcher's check has left in a file what it found."""
    if not path.is_file():
        return describe(config)
    return msgspec.json.decode(path.read_bytes(), type=prepared(Specs))


def check(config: EnvironmentConfig, lanes: int) -> Specs:
    """`describe`, with a reset and a step of every lane as collectors make them, as far as a few seconds go.

    Args:
      config: the environment.
      lanes: of a collector. Of an environment that takes long to make, as many are tried as fit, two at least.

    Raises:
      UsageError, EnvironmentFault: as `spaces_of`; or several lanes have other spaces than one alone.
    """
    began = time.monotonic()
    alone = describe(config)
    seconds = time.monotonic() - began
    if lanes == 1:
        return alone
    together = _specs(config, min(lanes, max(2, int(_CHECK_SECONDS / max(seconds, 1e-3)))))
    if together != alone:
        raise UsageError(
            f"environment {config.id or config.import_path!r} has other observations or actions in several lanes "
            "than in one: set environment.vectorization='sync', or mend its vector environment"
        )
    return alone
