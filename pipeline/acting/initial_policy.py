"""The weights that a run begins with where `agent.initial_policy` names another run: those of the layers that agree.

Layers are matched by what they are called in their network: their kind and their place among those of that kind, such
as "dense 2". One is taken if all its weights have the shapes that they have here; else it starts anew, as a whole. The
optimizer starts anew, target networks are copies of what was taken. Imported by a run that asks for it; TensorFlow.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import tensorflow as tf
from numpy.typing import NDArray

from agents import ArraySpec, Specs, build
from agents.builder import LearningAgent
from agents.struct_types import prepared
from pipeline import environments
from pipeline.acting import stored_policies
from pipeline.acting.frame_stacks import stacked
from pipeline.experiment.config import UsageError
from pipeline.experiment.run_directory import RunDirectory
from pipeline.experiment.sections import Experiment
from pipeline.messages.contents import Array
from pipeline.records import checkpoint
from pipeline.records.checkpoint import BadCheckpoint, Checkpoint
from pipeline.records.counters import Counters
from pipeline.security import strangers

log = logging.getLogger(__name__)

_FIELD = "agent.initial_policy"
_BESIDE = ("noise", "state", "fractions")
"""Inputs of a network beside its observation."""
_NAMED = 6
"""Layers that a message names, the first of them."""
_OF_RUN = ("open_support",)
"""Layers whose weights are no result of learning: the run decides them by its own rewards."""


class Layer(NamedTuple):
    """What a layer is called in its agent."""

    network: str
    """Empty of the one that acts; "other" of all others but target networks."""
    kind: str
    """Such as "dense"; "fixed" or "embedding" before it where nothing trains it, or no observation reaches it."""
    place: int
    """Among those of its kind, from 1."""

    def __str__(self) -> str:
        return f"{self.kind} {self.place}" + (f" of the {self.network} networks" if self.network else "")


class Fit(NamedTuple):
    """How the layers of two agents agree."""

    taken: list[Layer]
    anew: list[str]
    """Each layer that starts anew, and why, in words."""


class Source(NamedTuple):
    """What is begun from."""

    path: Path
    experiment: Experiment
    """Of its run."""
    layers: dict[Layer, dict[str, NDArray[Any]]]
    """The weights of each, by name."""
    is_whole: bool
    """Whether networks beside the acting one are there, too."""


class BeginningLearner(Protocol):
    """A `pipeline.learner.learner.Learner`, as far as it is given first weights."""

    agent: LearningAgent

    def state(self) -> dict[str, Array]:
        """A copy of all that training changes, by name."""

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes on from what `state` gave; of several learners, all will."""


def refuse_unfit(experiment: Experiment, specs: Specs) -> None:
    """Refuses an initial policy that cannot be begun from, by building both networks once.

    Args:
      experiment: whose.
      specs: of what its network sees.

    Raises:
      UsageError: there is none, it cannot be read, or none of its layers fits.
    """
    agent = build(experiment.agent.kind, specs, experiment.agent, open_fields=True)
    _fit(_source(experiment), experiment, _layers(agent))


def begin(experiment: Experiment, learner: BeginningLearner, counters: Counters) -> list[str]:
    """Gives a learner the weights of its initial policy, as far as they fit, and its target network copies of them.

    Args:
      experiment: whose `agent.initial_policy` is taken.
      learner: with its first weights.
      counters: that what starts anew is entered into.

    Returns:
      A sentence of what starts anew; none if nothing does.

    Raises:
      UsageError: see `refuse_unfit`; nothing has been changed.
    """
    agent: Any = learner.agent
    here, source = _layers(agent), _source(experiment)
    found = _fit(source, experiment, here)
    for layer in found.taken:
        for name, variable in here[layer].items():
            variable.assign(source.layers[layer][name])
    agent.initialize()  # TF-Agents': copies the weights into the target network
    learner.restore({name: array.numpy() for name, array in learner.state().items()})
    log.info("%d of %d layers begin with the weights of %s", len(found.taken), len(here), source.path)
    counters.started_anew = found.anew
    if not found.anew:
        return []
    return [f"{_FIELD}={str(source.path)!r} has no weights for some layers, which start anew: {_few(found.anew)}"]


def _fit(source: Source, experiment: Experiment, here: Mapping[Layer, Mapping[str, Any]]) -> Fit:
    """How the layers of a source fit those of an agent.

    Raises:
      UsageError: none does.
    """
    found, is_same_kind = Fit([], []), source.experiment.agent.kind == experiment.agent.kind
    for layer, weights in here.items():
        if layer.kind.endswith(_OF_RUN):
            continue
        there = source.layers.get(layer, {})
        if layer.network and not (source.is_whole and is_same_kind):
            reason = f"agent.kind was {source.experiment.agent.kind!r}" if source.is_whole else "policies have none"
            found.anew.append(f"{layer}: {reason}")
        elif not there:
            found.anew.append(f"{layer}: there is none")
        elif (had := _shapes(there)) != (has := _shapes(weights)):
            found.anew.append(f"{layer}: {_words(had)} there, {_words(has)} here")
        else:
            found.taken.append(layer)
    if not found.taken:
        raise UsageError(
            f"{_FIELD}={str(source.path)!r}: none of its layers fits this network ({_few(found.anew)}): give the "
            "network layers of the same sizes, such as agent.hidden_units="
            f"{list(getattr(source.experiment.agent, 'hidden_units', ()))}, or leave {_FIELD} out"
        )
    return found


def _few(sentences: list[str]) -> str:
    more = len(sentences) - _NAMED
    return "; ".join(sentences[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shapes(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _words(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


_NUMBER = re.compile(r"_(\d+)(?=/|$)")


def _layers(agent: LearningAgent) -> dict[Layer, dict[str, tf.Variable]]:
    """The variables of every layer that learns, or that the network sees by, by name."""
    acting = agent.acting_model
    target = getattr(agent, "_target_q_network", None)
    ours = {id(weight) for weight in acting.weights}
    left_out = {id(weight) for weight in getattr(target, "variables", ())} - ours
    others = [each for each in agent.variables if id(each) not in ours | left_out and "/" in each.name]
    learned, embeddings = {id(weight) for weight in acting.trainable_weights}, _embeddings(acting)
    found: dict[Layer, dict[str, tf.Variable]] = {}
    for network, variables in (("", acting.weights), ("other", others)):
        numbered: dict[str, dict[tuple[int, ...], dict[str, tf.Variable]]] = defaultdict(lambda: defaultdict(dict))
        for variable in {id(each): each for each in variables}.values():
            layer, _, name = variable.name.partition(":")[0].rpartition("/")
            kind = _NUMBER.sub("", layer)
            is_learned = id(variable) in learned or (bool(network) and variable.trainable)
            prefix = "embedding " if layer in embeddings else "" if is_learned else "fixed "
            number = tuple(int(digits) for digits in _NUMBER.findall(layer)) or (0,)
            numbered[prefix + kind][number][name] = variable
        for kind, layers in numbered.items():  # TensorFlow numbers layers as they are made, which is in their order
            for place, number in enumerate(sorted(layers)):
                found[Layer(network, kind, place + 1)] = layers[number]
    return found


def _embeddings(model: tf.keras.Model) -> set[str]:
    """Names of layers that nothing but noise, a state or fractions reaches: they are none of the observation's."""
    reached: dict[str, bool] = {}

    def reaches(layer: Any) -> bool:
        """Whether an observation may reach a layer, by the first place that it was put in."""
        if layer.name not in reached:
            reached[layer.name] = layer.name not in _BESIDE
            if layer.inbound_nodes and (parents := layer.inbound_nodes[0].parent_nodes):
                reached[layer.name] = any(reaches(node.outbound_layer) for node in parents)
        return reached[layer.name]

    layers = [each for each in model.submodules if isinstance(each, tf.keras.layers.Layer)]
    return {layer.name for layer in layers if layer.weights and not reaches(layer)}


class _Leaf(msgspec.Struct, frozen=True):
    spec: ArraySpec


class _Interface(msgspec.Struct, frozen=True):
    """What is read of an export's `interface.json`, which `pipeline.export` writes."""

    leaves: dict[str, _Leaf]
    num_actions: int
    masked: bool
    action_sizes: tuple[int, ...] = ()

    @property
    def specs(self) -> Specs:
        """Of one observation, as the agent sees it."""
        leaves = {name: leaf.spec for name, leaf in self.leaves.items()}
        return Specs(leaves[""] if set(leaves) == {""} else leaves, self.num_actions, self.masked, self.action_sizes)


def _source(experiment: Experiment) -> Source:
    """What `agent.initial_policy` names: a run, one of its policies or checkpoints, or an exported policy.

    Raises:
      UsageError: there is none, or it cannot be read.
    """
    given: str = experiment.agent.initial_policy
    path = Path(given).resolve()
    try:
        return _read(path)
    except UsageError as error:
        raise UsageError(f"{_FIELD}={given!r}: {error}") from None
    except BadCheckpoint as bad:
        raise UsageError(f"{_FIELD}={given!r}: the checkpoint cannot be used: {bad}") from None


def _read(path: Path) -> Source:
    if (path / "manifest.json").is_file():  # RUN/checkpoints/NUMBER
        found = Checkpoint(path)
        found.verify()
        return _of_checkpoint(path.parent.parent, found)
    if (path / "policy.msgpack").is_file():  # an export, or RUN/policies/best
        return _of_policy(path if (path / "config.toml").is_file() else path.parent.parent, path)
    run = RunDirectory(path)
    if not run.config.is_file():
        raise UsageError(
            "it is no run directory, nor a folder of a run's policies or checkpoints, nor an exported policy"
        )
    for which in ("best", "latest"):
        if (run.policies / which / "policy.msgpack").is_file():
            return _of_policy(path, run.policies / which)
    if (newest := checkpoint.newest(run.checkpoints)) is None:
        raise UsageError("the run has no policy and no whole checkpoint yet")
    return _of_checkpoint(path, newest)


def _of_policy(folder: Path, path: Path) -> Source:
    policy = stored_policies.load(path)
    experiment, agent = _agent(folder)
    variables = agent.acting_model.weights
    _assign(variables, [array.numpy() for array in policy.weights])
    return _source_of(path, experiment, agent, is_whole=False)


def _of_checkpoint(folder: Path, found: Checkpoint) -> Source:
    experiment, agent = _agent(folder)
    state = found.learner_state()
    _assign(list(agent.variables), [state[name] for name in sorted(state)])  # their names begin with their order
    return _source_of(found.path, experiment, agent, is_whole=True)


def _source_of(path: Path, experiment: Experiment, agent: LearningAgent, is_whole: bool) -> Source:
    layers = {
        layer: {name: variable.numpy() for name, variable in weights.items()}
        for layer, weights in _layers(agent).items()
    }
    return Source(path, experiment, layers, is_whole)


def _agent(folder: Path) -> tuple[Experiment, LearningAgent]:
    """The experiment of a run, or of an exported policy, and its agent with first weights, which have names."""
    run = RunDirectory(folder)
    strangers.warn(folder, strangers.FOR_LEARNING)
    experiment = run.experiment()
    if (interface := folder / "interface.json").is_file():
        specs = msgspec.json.decode(interface.read_bytes(), type=prepared(_Interface)).specs
    else:
        specs = environments.described(experiment.environment, run.specs)
    kind, seen = experiment.agent, stacked(specs, experiment.environment.frame_stack)
    return experiment, build(kind.kind, seen, kind, open_fields=True)


def _assign(variables: Sequence[tf.Variable], arrays: Sequence[NDArray[Any]]) -> None:
    if [tuple(each.shape) for each in variables] != [array.shape for array in arrays]:
        raise UsageError("its weights are not those of the network of its config.toml")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
