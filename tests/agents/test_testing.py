"""The public checks of a kind of agent: our kinds pass them, and each finds what it is for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import pytest
import tensorflow as tf
from msgspec import Meta

import agents
from agents import testing
from agents.configs.dqn import DqnConfig
from agents.dqn import DqnAgent, QNetwork
from agents.random_observations import observations
from agents.td_agent import Errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dqn", "r2d2", "ppo", "q_learning"])
def test_kinds_of_ours_pass(kind: str) -> None:
    of_one_device = [name for name in testing.CHECKS if name != "replicas"]  # which would change this process's
    remarks = testing.check_kind(agents.config_type(kind), only=of_one_device)
    assert ["learns no" in remark for remark in remarks] == [True] * (3 if kind == "q_learning" else 0)


def test_replicas_are_not_tried_where_tensorflow_has_one_device() -> None:
    tf.zeros(())  # starts it
    remarks = testing.check_kind(DqnConfig, only=["replicas"])
    assert remarks == ["replicas were not tried: TensorFlow had started before with one device"]


OF_REPLICAS = """
import agents
from agents import testing
from agents.configs.dqn import DqnConfig
from agents.dqn import DqnAgent, QNetwork

class Forgetful(DqnAgent):
    def _loss(self, *given, **named):
        info = super()._loss(*given, **named)
        return info._replace(loss=2.0 * info.loss)  # as a mean over the replica's own share has it

class ForgetfulConfig(DqnConfig, frozen=True):
    builder = "of_replicas:build"

def build(specs, config, epsilon, seed, **more):
    import tensorflow as tf
    agent = Forgetful if tf.distribute.in_cross_replica_context() and tf.distribute.has_strategy() else DqnAgent
    return agent(specs, config, QNetwork(specs, config, seed), epsilon, seed, **more)

if __name__ == "__main__":
    for kind in ("dqn", "r2d2", "ppo"):
        assert testing.check_kind(agents.config_type(kind), only=["replicas"]) == []
    try:
        testing.check_kind(__import__("of_replicas").ForgetfulConfig, only=["replicas"])
    except testing.Failed as failure:
        print(failure)
"""


@pytest.mark.slow
def test_replicas_that_learn_otherwise_than_one_are_found(tmp_path: Path) -> None:
    script = tmp_path / "of_replicas.py"
    script.write_text(OF_REPLICAS)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "two replicas with half a batch each end elsewhere than one with the whole" in done.stdout


class Broken(DqnAgent):
    """Each test breaks one method."""


class BrokenConfig(DqnConfig, frozen=True):
    """A kind for tests."""

    builder = f"{__name__}_agents:build"


class SilentConfig(BrokenConfig, frozen=True):
    """A kind that does not say what its fields are for."""

    bare: int = 1
    said: Annotated[int, Meta(description="Something.")] = 1


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Checks a kind whose agents are of a class with these methods; returns what a check says of it."""

    def check(check: str, config: type[agents.KindConfig] = BrokenConfig, **methods: Any) -> str:
        cls = type("Broken", (DqnAgent,), methods)
        module = ModuleType(f"{__name__}_agents")
        module.__dict__["build"] = lambda specs, config, *, epsilon, seed: cls(
            specs, config, QNetwork(specs, config, seed), epsilon, seed
        )
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, ModuleType(__name__)))
        monkeypatch.setattr(sys.modules[__name__], config.__name__, config, raising=False)
        with pytest.raises(testing.Failed) as caught:
            testing.check_kind(config, only=[check])
        return str(caught.value)

    return check


def test_draws_without_a_seed_are_found(broken: Callable[..., str]) -> None:
    def errors(self: Any, batch: Any, training: bool) -> Errors:
        found = DqnAgent._errors(self, batch, training)
        return found._replace(loss=found.loss * tf.random.uniform((), 0.5, 1.5))

    assert "seeds: two agents of one seed learn otherwise" in broken("seeds", _errors=errors)


def test_an_update_that_does_not_skip_what_is_not_finite_is_found(broken: Callable[..., str]) -> None:
    def train(self: Any, experience: Any, weights: Any = None) -> Any:
        found = DqnAgent._train(self, experience, weights)
        self._q_network.trainable_weights[0].assign_add(found.loss * tf.ones_like(self._q_network.trainable_weights[0]))
        return found

    assert "a batch of NaN changes" in broken("bad batches", _train=train)


def test_weights_that_are_left_out_are_found(broken: Callable[..., str]) -> None:
    def loss(self: Any, experience: Any, weights: Any = None, training: bool = False, **_: Any) -> Any:
        return DqnAgent._loss(self, experience, None, training)

    assert "weigh each window's loss" in broken("importance weights", _loss=loss)


def test_learning_from_the_ends_of_episodes_is_found(broken: Callable[..., str]) -> None:
    def transitions(self: Any, experience: Any) -> Any:
        found = DqnAgent._transitions(self, experience)
        return found._replace(folded=found.folded._replace(valid=tf.ones_like(found.folded.valid)))

    assert "frames at the ends of episodes" in broken("boundaries", _transitions=transitions)


def test_priorities_below_0_are_found(broken: Callable[..., str]) -> None:
    def errors(self: Any, batch: Any, training: bool) -> Errors:
        found = DqnAgent._errors(self, batch, training)
        return found._replace(priority=found.td_error - 10.0)

    assert "priorities: priorities are not finite, or negative" in broken("priorities", _errors=errors)


def test_a_state_that_no_variable_holds_is_found(broken: Callable[..., str]) -> None:
    def train(self: Any, experience: Any, weights: Any = None) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        scaled = experience._replace(reward=experience.reward * float(self.calls))
        return DqnAgent._train(self, scaled, weights)

    assert "name all in `variables`" in broken("checkpoints", _train=train)


def test_what_the_compiler_changes_is_found(broken: Callable[..., str]) -> None:
    def train(self: Any, experience: Any, weights: Any = None) -> Any:
        scale = 1.0 if tf.executing_eagerly() else 3.0
        return DqnAgent._train(self, experience._replace(reward=scale * experience.reward), weights)

    assert "gradient steps by tf.function end elsewhere than eager ones" in broken("loops", _train=train)


def test_what_raises_is_said_with_the_name_of_the_check(broken: Callable[..., str]) -> None:
    def errors(self: Any, batch: Any, training: bool) -> Errors:
        raise RuntimeError("no\nidea")

    assert "every observation: it raised RuntimeError: no idea" in broken("every observation", _errors=errors)


def test_fields_without_a_description_are_found(broken: Callable[..., str]) -> None:
    words = broken("configuration", config=SilentConfig)
    assert "fields without Meta(description=...): bare" in words


def test_a_policy_that_overlooks_masks_is_found(broken: Callable[..., str]) -> None:
    def splits(self: Any, *given: Any) -> Any:
        policy, collecting = DqnAgent._setup_policy(self, *given)
        act = collecting.action

        def action(step: Any, state: Any = ()) -> Any:
            found = act(step, state)
            return found._replace(action=tf.zeros_like(found.action))

        object.__setattr__(collecting, "action", action)
        return policy, collecting

    assert "collect_policy takes actions that are masked" in broken("masks", _setup_policy=splits)


def test_what_is_no_kind_or_no_check_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes a subclass of agents\.KindConfig"):
        testing.check_kind(agents.ExplorationConfig)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no check 'mask'; there are configuration, "):
        testing.check_kind(DqnConfig, only=["mask"])


def test_random_masks_allow_an_action() -> None:
    specs = agents.Specs(agents.ArraySpec((2,), "float32"), 3, masked=True)
    _, mask = observations(specs, (500,), np.random.default_rng(0))
    assert mask.numpy().any(axis=1).all()
    assert not mask.numpy().all()
