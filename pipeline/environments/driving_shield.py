"""Shields for driving on straight lanes (`highway-fast-v0`, `highway-v0`): what no driver should try is not tried.

They read `environment.kwargs = { observation = "surroundings" }` and forbid highway-env's actions LANE_LEFT, IDLE,
LANE_RIGHT, FASTER; the fifth, SLOWER, they always allow. Both reckon with the speeds of the moment, so another who
brakes hard or cuts in can still be hit. Against the edge of the road a lane change is IDLE to highway-env, and here.

Example: `environment.shield = "pipeline.environments.driving_shield:no_occupied_lane_change"`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import UsageError
from pipeline.environments.driving import RANGES, VEHICLES

LANE_LEFT, IDLE, LANE_RIGHT, FASTER, SLOWER = range(5)

_LANE_WIDTH = 4.0
_IN_LANE = 2.8
"""Metres from a lane's middle within which a vehicle takes up room of it: half a lane and most of half a vehicle."""
_VEHICLE_LENGTH = 5.0
_MARGIN = 6.0
"""Metres that have to be left between bumpers."""
_HORIZON = 2.0
"""Seconds at the speeds of now: one of the action, one of the braking after it."""
_STEERING = 0.6
"""Seconds of its sideways speed that a vehicle is off the lane that it steers to (highway-env's TAU_LATERAL)."""
_SPEED_STEP = 5.0
"""Metres a second that FASTER adds."""
_LOWEST_SPEED = 21.0
"""Metres a second from which SLOWER does nothing: highway-env's own lowest is 20, and others go slower."""
_SCALE = np.array([1.0, *RANGES.values()], np.float32)


class _Traffic(NamedTuple):
    """In metres and metres a second, x along the road and y to the right."""

    lane_y: NDArray[np.float32]
    """[lanes, 1]: the middle of the lane that the driver is in or steers to."""
    y: NDArray[np.float32]
    """[lanes, others]: where they are across the road."""
    steered_y: NDArray[np.float32]
    """[lanes, others]: where they steer to."""
    gap: NDArray[np.float32]
    """[lanes, others]: between bumpers along the road; negative beside each other; infinite where there is nobody."""
    closing: NDArray[np.float32]
    """[lanes, others]: the speed at which the gap shrinks."""
    ahead: NDArray[np.bool_]
    """[lanes, others]."""


def no_occupied_lane_change(observation: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Forbids a change into a lane where somebody is beside, or would be within 6 m in 2 s at the speeds of now.

    Args:
      observation: float32 [lanes, 10, 5], `surroundings`.

    Returns:
      bool [lanes, 5].

    Raises:
      UsageError: it is another observation.
    """
    traffic = _traffic(observation)
    allowed = np.ones((len(observation), 5), np.bool_)
    near = _near(traffic, 0.0)
    for action, offset in ((LANE_LEFT, -_LANE_WIDTH), (LANE_RIGHT, _LANE_WIDTH)):
        allowed[:, action] = ~(near & _in_lane(traffic, offset)).any(axis=1)
    return allowed


def safe_manoeuvres(observation: NDArray[np.float32]) -> NDArray[np.bool_]:
    """As `no_occupied_lane_change`, and forbids what closes up to 6 m within 2 s on whoever is ahead in the own lane.

    That is FASTER if 5 m/s more do so, and all but SLOWER if the present speed does; all but SLOWER and a change into
    a free lane at the lowest speed, from which there is no braking.

    Args:
      observation: float32 [lanes, 10, 5], `surroundings`.

    Returns:
      bool [lanes, 5].

    Raises:
      UsageError: it is another observation.
    """
    traffic = _traffic(observation)
    allowed = no_occupied_lane_change(observation)
    in_the_way = traffic.ahead & _in_lane(traffic, 0.0)
    allowed[:, FASTER] &= ~(in_the_way & _near(traffic, _SPEED_STEP)).any(axis=1)
    too_near = (in_the_way & _near(traffic, 0.0)).any(axis=1)
    allowed[too_near, IDLE] = allowed[too_near, FASTER] = False
    # Against the edge of the road a change is IDLE, which is as good as SLOWER at the lowest speed, and only there.
    can_brake = observation[:, 0, 3] * RANGES["vx"] > _LOWEST_SPEED
    allowed[too_near & can_brake, LANE_LEFT] = allowed[too_near & can_brake, LANE_RIGHT] = False
    return allowed


def _traffic(observation: NDArray[np.float32]) -> _Traffic:
    if observation.shape[1:] != (VEHICLES, len(_SCALE)):
        raise UsageError(
            f"this shield reads observations [{VEHICLES}, {len(_SCALE)}], not {list(observation.shape[1:])}: set "
            "environment.kwargs.observation='surroundings'"
        )
    own, others = observation[:, :1] * _SCALE, observation[:, 1:] * _SCALE
    x, y = others[..., 1], others[..., 2] + own[..., 2]
    ahead = x >= 0.0
    gap = np.where(others[..., 0] > 0.5, np.abs(x) - _VEHICLE_LENGTH, np.inf).astype(np.float32)
    closing = np.where(ahead, -others[..., 3], others[..., 3])
    lane_y = np.round((own[..., 2] + _STEERING * own[..., 4]) / _LANE_WIDTH) * _LANE_WIDTH
    return _Traffic(lane_y, y, y + _STEERING * (others[..., 4] + own[..., 4]), gap, closing, ahead)


def _in_lane(traffic: _Traffic, offset: float) -> NDArray[np.bool_]:
    """Who is in the lane at that offset from the driver's, or steers to it."""
    middle = traffic.lane_y + offset
    occupied: NDArray[np.bool_] = np.minimum(np.abs(traffic.y - middle), np.abs(traffic.steered_y - middle)) < _IN_LANE
    return occupied


def _near(traffic: _Traffic, faster: float) -> NDArray[np.bool_]:
    """Who would be nearer than the margin at the end of the horizon, if all went on so and the driver that faster."""
    near: NDArray[np.bool_] = traffic.gap - _HORIZON * np.maximum(traffic.closing + faster, 0.0) < _MARGIN
    return near
