"""Shields for highway-env on straight lanes: forbid lane changes and speeds that would soon end in a collision.

They read `environment.kwargs = { observation = "surroundings" }` and forbid highway-env's actions LANE_LEFT, IDLE,
LANE_RIGHT, FASTER; the fifth, SLOWER, they always allow. Both reckon with the speeds of the moment, so another who
brakes hard or cuts in can still be hit. Against the edge of the road a lane change is IDLE to highway-env, and here.

Example: `environment.shield = "pipeline.environments.driving_shield:no_occupied_lane_change"`.
"""

from typing import Any, NamedTuple

import numpy as np

from pipeline.environments.driving import RANGES, VEHICLES
from pipeline.environments.lanes.shield import Array, namespace
from pipeline.experiment.config import UsageError

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

    lane_y: Array
    """float32 [lanes, 1]: the middle of the lane that the driver is in or steers to."""
    y: Array
    """float32 [lanes, others]: where they are across the road."""
    steered_y: Array
    """float32 [lanes, others]: where they steer to."""
    gap: Array
    """float32 [lanes, others]: between bumpers along the road, negative beside each other, infinite without anybody."""
    closing: Array
    """float32 [lanes, others]: the speed at which the gap shrinks."""
    ahead: Array
    """bool [lanes, others]."""


def no_occupied_lane_change(observation: Array) -> Array:
    """Forbids a change into a lane where somebody is beside, or would be within 6 m in 2 s at the speeds of now.

    Args:
      observation: float32 [lanes, 10, 5], `surroundings`.

    Returns:
      bool [lanes, 5].

    Raises:
      UsageError: it is another observation.
    """
    traffic, xp = _traffic(observation), namespace(observation)
    left, right = _free(traffic, -_LANE_WIDTH), _free(traffic, _LANE_WIDTH)
    always = xp.ones_like(left)
    return _by_action(xp, {LANE_LEFT: left, LANE_RIGHT: right, IDLE: always, FASTER: always, SLOWER: always})


def safe_manoeuvres(observation: Array) -> Array:
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
    traffic, xp = _traffic(observation), namespace(observation)
    in_the_way = traffic.ahead & _in_lane(traffic, 0.0)
    too_near = xp.any(in_the_way & _near(traffic, 0.0), axis=1)
    too_fast = xp.any(in_the_way & _near(traffic, _SPEED_STEP), axis=1)
    # Against the edge of the road a change is IDLE, which is as good as SLOWER at the lowest speed, and only there.
    must_brake = too_near & (observation[:, 0, 3] * RANGES["vx"] > _LOWEST_SPEED)
    allowed = {
        LANE_LEFT: _free(traffic, -_LANE_WIDTH) & ~must_brake,
        LANE_RIGHT: _free(traffic, _LANE_WIDTH) & ~must_brake,
        IDLE: ~too_near,
        FASTER: ~(too_near | too_fast),
        SLOWER: xp.ones_like(too_near),
    }
    return _by_action(xp, allowed)


def _traffic(observation: Array) -> _Traffic:
    if tuple(observation.shape[1:]) != (VEHICLES, len(_SCALE)):
        raise UsageError(
            f"this shield reads observations [{VEHICLES}, {len(_SCALE)}], not {list(observation.shape[1:])}: set "
            "environment.kwargs.observation='surroundings'"
        )
    xp = namespace(observation)
    own, others = observation[:, :1] * _SCALE, observation[:, 1:] * _SCALE
    x, y = others[..., 1], others[..., 2] + own[..., 2]
    ahead = x >= 0.0
    gap = xp.where(others[..., 0] > 0.5, xp.abs(x) - _VEHICLE_LENGTH, np.float32(np.inf))
    closing = xp.where(ahead, -others[..., 3], others[..., 3])
    lane_y = xp.floor((own[..., 2] + _STEERING * own[..., 4]) / _LANE_WIDTH + 0.5) * _LANE_WIDTH  # the nearest
    return _Traffic(lane_y, y, y + _STEERING * (others[..., 4] + own[..., 4]), gap, closing, ahead)


def _in_lane(traffic: _Traffic, offset: float) -> Array:
    """Who is in the lane at that offset from the driver's, or steers to it."""
    xp, middle = namespace(traffic.y), traffic.lane_y + offset
    return xp.minimum(xp.abs(traffic.y - middle), xp.abs(traffic.steered_y - middle)) < _IN_LANE


def _near(traffic: _Traffic, faster: float) -> Array:
    """Who would be nearer than the margin at the end of the horizon, if all went on so and the driver that faster."""
    xp = namespace(traffic.gap)
    return traffic.gap - _HORIZON * xp.maximum(traffic.closing + faster, np.float32(0.0)) < _MARGIN


def _free(traffic: _Traffic, offset: float) -> Array:
    """bool [lanes]: nobody is near in the lane at that offset from the driver's."""
    return ~namespace(traffic.y).any(_near(traffic, 0.0) & _in_lane(traffic, offset), axis=1)


def _by_action(xp: Any, allowed: dict[int, Array]) -> Array:
    return xp.stack([allowed[action] for action in range(len(allowed))], axis=1)
