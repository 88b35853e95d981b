"""What environments look like: pictures as RGB arrays, of those that draw themselves (`render_mode="rgb_array"`)."""

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from numpy.typing import NDArray

from pipeline.experiment.config import UsageError

if TYPE_CHECKING:
    from pipeline.environments.lanes.lane_environment import LaneEnvironment

Picture = NDArray[np.uint8]
"""uint8 [height, width, 3], red, green and blue."""

_MODE = "rgb_array"
_USUAL_RATE = 20.0
"""Pictures a second of an environment that does not say."""
_COLOURED = (3, 4)
"""Numbers of a pixel: with or without its opacity."""


class NotRendered(UsageError):
    """An environment draws no pictures."""

    def __init__(self, name: str, why: str = f"it has no render mode {_MODE!r}") -> None:
        super().__init__(f"environment {name!r} cannot be rendered: {why}")


def ask_for_pictures(spec: EnvSpec, name: str) -> None:
    """Changes a spec so that the environments made of it draw; `name` is theirs for messages.

    Raises:
      NotRendered: their class says that they do not. One that is silent about it is asked once it is made.
    """
    entry_point = spec.entry_point or spec.vector_entry_point
    creator: Any = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    metadata = getattr(creator, "metadata", None)
    if metadata is not None and _MODE not in (metadata.get("render_modes") or ()):
        raise NotRendered(name)
    spec.kwargs = {**spec.kwargs, "render_mode": _MODE}
    spec.disable_env_checker = True  # it warns of pictures that `picture` puts right


def refuse_undrawn(vector: gymnasium.vector.VectorEnv[Any, Any, Any], name: str) -> None:
    """Checks that lanes that were asked for pictures will give them.

    Raises:
      NotRendered: they will not.
    """
    if vector.render_mode != _MODE:
        raise NotRendered(name)


def picture(environment: "LaneEnvironment") -> Picture:
    """What the first lane looks like now.

    Args:
      environment: made with `render=True`, in an episode.

    Raises:
      UsageError: its drawing failed, or is no picture.
    """
    try:
        drawn = environment.vector.render()
    except Exception as error:  # whatever an environment's drawing raises
        raise UsageError(f"environment {environment.name!r} cannot be rendered: {error!r}") from error
    pixels = np.asarray(drawn[0] if drawn else drawn)
    if pixels.dtype.kind == "f":
        pixels = np.clip(pixels * 255.0, 0.0, 255.0)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in _COLOURED or not pixels.size or pixels.dtype.kind not in "fui":
        raise UsageError(
            f"environment {environment.name!r} cannot be rendered: render() gave {pixels.dtype} {pixels.shape}, and "
            "uint8 (height, width, 3) is wanted"
        )
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


def pictures_a_second(environment: "LaneEnvironment") -> float:
    """How fast its pictures, one an action, are meant to be seen."""
    return float(environment.vector.metadata.get("render_fps") or _USUAL_RATE)
