"""Environments of other interfaces train. Prints lines of `ok` or `FAIL`."""

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline import environments
from pipeline.environments import EnvironmentFault
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig


def of_tf_agents(bounded=True, seeded=True):
    from tf_agents.environments import py_environment
    from tf_agents.specs import array_spec
    from tf_agents.trajectories import time_step as ts

    class Walk(py_environment.PyEnvironment):
        def action_spec(self):
            return array_spec.BoundedArraySpec((), np.int32, 0, 1)

        def observation_spec(self):
            return array_spec.BoundedArraySpec((1,), np.int32, 0, **({"maximum": 9} if bounded else {}))

        def _reset(self):
            self.n = 0
            return ts.restart(np.array([0], np.int32))

        def _step(self, action):
            self.n += 1
            seen = np.array([self.n], np.int32)
            return ts.termination(seen, 1.0) if self.n == 9 else ts.transition(seen, 0.0)

    if seeded:
        Walk.seed = lambda self, seed: None
    return Walk()


class FourTupleStep(gymnasium.Env):  # reset() was converted, step() was not
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, {}


class NoOptions(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, seed=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}


class IntBox(gymnasium.Env):  # H14
    observation_space, action_space = spaces.Box(-100, 100, (1,), np.int64), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.array([5]), {}

    def step(self, action):
        return np.array([-5]), 0.0, False, False, {}


if __name__ == "__main__":
    cases = [
        ("of_tf_agents", {}),
        ("of_tf_agents", {"seeded": False}),
        ("of_tf_agents", {"bounded": False}),
        ("FourTupleStep", {}),
        ("NoOptions", {}),
        ("IntBox", {}),
    ]
    for name, kwargs in cases:
        config = EnvironmentConfig(id="", import_path=f"other_interfaces:{name}", kwargs=kwargs)
        try:
            environments.describe(config)  # what a command checks before it writes anything
            env = environments.make(config, 2)
            env.reset(0)
            env.step(np.zeros(2, np.int64))
            print("ok   trains:", name, kwargs)
        except (UsageError, EnvironmentFault) as error:
            print("FAIL", name, kwargs, "->", error)
