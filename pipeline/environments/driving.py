"""Driving in highway-env (Leurent 2018): `highway-fast-v0`, `merge-v0`, `intersection-v0`, `roundabout-v0` and others.

`environment.kwargs` takes `observation`, one of those below by name, and `config`, highway-env's own settings, such as
`config.duration = 60`. An episode ends with a crash, or where its goal is reached; its time running out truncates it.
"""

import os
from typing import Any

import gymnasium
import msgspec
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from pipeline.environments.lanes.vectors import gymnasium_vector
from pipeline.environments.suite_options import options_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.runtime.process import prepare_pygame

prepare_pygame()
import highway_env  # noqa: E402

if os.environ.get("SDL_VIDEODRIVER", "dummy") == "dummy":
    # SDL is to draw without a screen, by its driver of that name, and highway-env is not to see it: it would draw
    # nothing, and images would be black. SDL reads the process's environment, highway-env Python's copy of it.
    os.environ.pop("SDL_VIDEODRIVER", None)
    os.putenv("SDL_VIDEODRIVER", "dummy")
gymnasium.register_envs(highway_env)

VEHICLES = 10
"""Rows of `surroundings`: the driver's own, then the nearest others'."""
RANGES = {"x": 100.0, "y": 16.0, "vx": 40.0, "vy": 10.0}
"""What 1 stands for in `surroundings`, in metres and metres a second; beyond it is cut off."""

OBSERVATIONS: dict[str, dict[str, Any]] = {
    "kinematics": {},
    "surroundings": {
        "type": "Kinematics",
        "features": ["presence", *RANGES],
        "vehicles_count": VEHICLES,
        "features_range": {name: [-most, most] for name, most in RANGES.items()},
        "see_behind": True,
    },
    "image": {
        "type": "GrayscaleObservation",
        "observation_shape": [128, 64],
        "stack_size": 1,  # the replay keeps each frame once: stacks are made from these
        "weights": [0.2989, 0.5870, 0.1140],
        "scaling": 1.75,
    },
}
"""highway-env's settings of each, none of the task's own."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `environment.kwargs` takes for a driving task."""

    observation: str = "kinematics"
    """kinematics: the task's own, float32 [vehicles, features], which sees 10 m behind at most. surroundings: float32
    [10, 5] that sees all around, on one scale in every task: presence, x, y, vx, vy, the driver's own row first, the
    others' relative to it. image: uint8 [64, 128, 1], a bird's eye view of 73 m by 37 m; the last four make a state
    (`environment.frame_stack`)."""
    config: dict[str, Any] = {}
    """highway-env's own; with an `observation` of its own, images have channels last too."""


def vector(config: EnvironmentConfig, lanes: int, *, render: bool = False) -> Any:
    """The task of an id, with the observation that `environment.kwargs` names.

    Raises:
      UsageError: no such task or observation.
    """
    options = options_of(config, Options, "a driving task")
    if options.observation not in OBSERVATIONS:
        raise UsageError(
            f"environment.kwargs.observation={options.observation!r} is unknown; there are {', '.join(OBSERVATIONS)}"
        )
    settings = dict(options.config)
    if named := OBSERVATIONS[options.observation]:
        if "observation" in settings:
            raise UsageError("environment.kwargs has an observation by name and one in config: leave one of them out")
        settings["observation"] = named
    observation = settings.get("observation", {})
    is_image = observation.get("type") == "GrayscaleObservation"
    if is_image:  # highway-env adds tuples, which TOML does not have
        settings["observation"] = {**observation, "observation_shape": tuple(observation["observation_shape"])}
    if render:
        settings["offscreen_rendering"] = True  # else it opens a window of its own to draw in
    config = msgspec.structs.replace(config, kwargs={"config": settings} if settings else {})
    return gymnasium_vector(config, lanes, [channels_last] if is_image else [], render=render)


def channels_last(environment: gymnasium.Env[Any, Any]) -> TransformObservation[Any, Any, Any]:
    """Images [height, width, frames] of highway-env's, uint8 [frames, width, height]."""
    space: Any = environment.observation_space
    return TransformObservation(environment, lambda image: image.T, spaces.Box(0, 255, space.shape[::-1], space.dtype))
