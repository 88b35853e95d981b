"""Observations are seen as given, refused, or a fault that names the part. Prints `ok` or `FAIL`."""

import gymnasium
import numpy as np
from gymnasium import spaces

from pipeline import environments
from pipeline.environments import EnvironmentFault
from pipeline.environments.lanes.spaces import specs_of
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import EnvironmentConfig

DISCRETE = spaces.Discrete(2)


class Env(gymnasium.Env):
    action_space = DISCRETE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n = 0
        return self.first(), {}

    def step(self, action):
        self.n += 1
        return self.see(), 0.0, False, self.n == 10, {}

    def first(self):
        return self.see()


class Shared(Env):  # N12: a buffer of the class (of a Box it is copied at once, of a Dict only when all lanes are done)
    observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (1,), np.float32)})
    buffer = {"x": np.zeros(1, np.float32)}

    def see(self):
        self.buffer["x"][0] = self.np_random.uniform(-1, 1)
        return self.buffer


class Wraps(Env):  # N06: 356 is stored as 100 in uint8
    observation_space = spaces.Box(0, 255, (1,), np.uint8)

    def first(self):
        return np.zeros(1, np.uint8)

    def see(self):
        return np.array([356])


class Outside(Env):  # N06: 4 in Discrete(4) is a vector of zeros, or in a table of two digits another state
    observation_space = spaces.Discrete(4)

    def see(self):
        return 4


def lanes(name):
    env = environments.make(EnvironmentConfig(id="", import_path=f"observations_as_given:{name}"), 2)
    env.reset(0)
    return next(iter(env.step(np.zeros(2, np.int64)).observation.values())).ravel().tolist()


def check(name, right):
    try:
        seen = lanes(name)
        print("ok  " if right(seen) else "FAIL", name, seen)
    except (EnvironmentFault, UsageError) as error:
        print("ok   refused:", error)


if __name__ == "__main__":
    check("Shared", lambda seen: seen[0] != seen[1])
    check("Wraps", lambda seen: seen == [356, 356])
    check("Outside", lambda seen: max(seen) < 4)
    try:  # H28
        parts = specs_of(
            spaces.Dict({"a/b": spaces.Box(-1, 1, (1,), np.float32), "a": spaces.Dict({"b": DISCRETE})}),
            DISCRETE,
            False,
        )
        print("ok  " if len(parts.leaves()) == 2 else "FAIL", "collision", list(parts.leaves()))
    except UsageError as error:
        print("ok   refused:", error)
    import agents  # H13
    from agents import networks

    for shape, dtype in (((3, 40, 40), np.uint8), ((40, 40), np.uint8), ((40, 40, 3), np.float32)):
        specs = specs_of(spaces.Box(0, 1, shape, dtype), DISCRETE, False)
        model = networks.value_model(specs, agents.DqnConfig(), None, 0)
        layers = [tuple(layer.output_shape[1:]) for layer in model.layers if "Conv" in type(layer).__name__]
        print(
            "ok  " if layers and layers[0][:2] == (9, 9) else "FAIL",
            "picture",
            shape,
            dtype.__name__,
            layers or "no convolution",
        )
