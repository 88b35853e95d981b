"""What an environment may do at each call: leave, raise whatever there is, take its time."""

import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import environments
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig
from pipeline.records.recorder import Recorder, Signs
from pipeline.runtime.signs_of_life import MAKING, NO_CALL, RESETTING, STEPPING

Hook = Callable[[str], None]
MINE = EnvironmentConfig(id="", import_path="test_calls:Hooked")


class Quit(BaseException):
    """As a window that is closed may raise it."""


class Hooked(gymnasium.Env[Any, Any]):
    """Calls `hook` in each of its calls."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    hook: Hook = staticmethod(lambda _: None)

    def __init__(self) -> None:
        self._steps = 0
        Hooked.hook("make")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        Hooked.hook("reset")
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        Hooked.hook("step")
        return np.zeros(1, np.float32), 1.0, self._steps % 5 == 0, False, {}

    def close(self) -> None:
        Hooked.hook("close")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "test_calls", sys.modules[__name__])


@settings(max_examples=40)
@given(
    lanes=st.integers(1, 5),
    calls=st.sets(st.sampled_from(["reset", "step", "close"]), min_size=1),
    error=st.sampled_from(
        [SystemExit(), SystemExit(2), Quit("closed"), GeneratorExit(), RuntimeError("odd"), OSError(28, "full")]
    ),
    every=st.integers(7, 20),
)
def test_whatever_a_call_raises_is_a_fault_of_its_lane(
    lanes: int, calls: set[str], error: BaseException, every: int
) -> None:
    count, raised = 0, []

    def hook(call: str) -> None:
        nonlocal count
        count += 1
        if call in calls and count % every == 0:
            raised.append(call)
            raise error

    Hooked.hook = staticmethod(lambda _: None)
    made = environments.make(MINE, lanes, faulty_episodes=1.0)
    Hooked.hook = staticmethod(hook)
    made.reset(0)
    for _ in range(30):
        made.step(np.zeros(lanes, np.int64))
    if set(raised) & {"reset", "step"}:
        assert repr(error) in made.faults.newest
    Hooked.hook = staticmethod(lambda call: (_ for _ in ()).throw(error) if call == "close" else None)
    made.close()


@pytest.mark.parametrize("error", [SystemExit(), Quit("closed")], ids=repr)
def test_a_constructor_that_leaves_is_refused_by_name(error: BaseException) -> None:
    def leave(_: str) -> None:
        raise error

    Hooked.hook = staticmethod(leave)
    with pytest.raises(UsageError, match=type(error).__name__):
        environments.make(MINE, 2)


@given(lanes=st.integers(1, 6))
@settings(max_examples=6)
def test_every_lane_gives_a_sign_of_life_at_every_call(lanes: int) -> None:
    recorder, signs = Recorder(None), []
    recorder.show_calls()
    Hooked.hook = staticmethod(lambda _: signs.append(recorder.signs))
    made = environments.make(MINE, lanes)
    made.reset(0)
    for _ in range(6):
        made.step(np.zeros(lanes, np.int64))
    calls = [MAKING, RESETTING, *[STEPPING] * 5, RESETTING]
    assert signs == [Signs(0, call, lane) for call in calls for lane in range(lanes)]
    assert recorder.signs.call == NO_CALL
    Hooked.hook = staticmethod(lambda _: None)
    made.close()
