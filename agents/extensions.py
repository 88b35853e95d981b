"""What is not ours: named in a config by its import path, `module:name`, or by an entry point of an installed package.

Imported where a name is none of ours. A package registers what it has in its pyproject.toml:

```toml
[project.entry-points."reverb_dqn.kinds"]
expected_sarsa = "my_package.configs:ExpectedSarsaConfig"
```
"""

import contextlib
import difflib
import functools
import importlib
import importlib.metadata
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from agents.config_fields import KindConfig

if TYPE_CHECKING:
    import tensorflow as tf

    from agents.configs.network import NetworkConfig
    from agents.exploration import ExplorationConfig
    from agents.optimizers import Optimizer

GROUPS = {
    "kinds": "agent.kind",
    "optimizers": "agent.optimizer",
    "torsos": "agent.torso",
    "schedules": "exploration.epsilon_schedule",
    "suites": "environment.id",
    "launchers": "--launcher",
}
"""What can be registered, as the last part of the entry points' group, and what names it."""
PREFIX = "reverb_dqn"
distrusted: ContextVar[str] = ContextVar("distrusted", default="")
"""Whose config is read without importing what it names, such as a run directory; empty imports it."""
_OURS = re.compile(r"(agents|pipeline\.environments)(\.\w+)*")


@functools.cache
def _entries(group: str) -> dict[str, list[str]]:
    """What installed packages register: import paths by name, several where packages disagree."""
    found: dict[str, list[str]] = {}
    for entry in importlib.metadata.entry_points(group=f"{PREFIX}.{group}"):
        if entry.value not in found.setdefault(entry.name, []):
            found[entry.name].append(entry.value)
    return found


def registered(group: str) -> dict[str, str]:
    """Import paths by name of what installed packages register, such as for `group` "kinds"."""
    return {name: paths[0] for name, paths in _entries(group).items()}


def unknown(group: str, name: str, ours: Iterable[str] = ()) -> str:
    """What is wrong with the form of a name, in words; empty if it is an import path or registered.

    Args:
      group: one of `GROUPS`.
      name: as the config gives it.
      ours: names that need no registration.
    """
    known = [*ours, *registered(group)]
    module, _, attribute = name.partition(":")
    if name in known or (_is_path(module) and _is_path(attribute)):
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    there = f"there are {', '.join(known)}, and" if known else "none is registered here, and"
    return f"no {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}: {there} your own as 'module:name'"


def _is_path(dotted: str) -> bool:
    return all(name.isidentifier() for name in dotted.split("."))


def found(group: str, name: str, field: str = "") -> Any:
    """What a name stands for; imports its module.

    Args:
      group: one of `GROUPS`.
      name: registered, or `module:name`.
      field: that has it, for messages; the group's, unless given.

    Raises:
      ValueError: there is no such thing; says why in one sentence that begins with the field.
    """
    label = f"{field or GROUPS[group]}={name!r}"
    if sentence := unknown(group, name):
        raise ValueError(f"{label}: {sentence}")
    path, *others = _entries(group).get(name, [name])
    if path == name:
        refuse_distrusted(path, label)
    if others:
        raise ValueError(
            f"{label}: it is registered twice in {PREFIX}.{group}, as {path} and {others[0]}: uninstall one of the "
            "packages, or give the path of the one that is wanted"
        )
    if path != name:
        label += f" ({path})"
    return imported(path, label)


def refuse_distrusted(path: str, label: str) -> None:
    """Refuses code that a config names, while nobody trusts it; what this library itself defines is no such code.

    Args:
      path: `module` or `module:name`.
      label: what begins the message.

    Raises:
      ValueError: it is not to be imported.
    """
    if not distrusted.get():
        return
    module, _, name = path.partition(":")
    if _OURS.fullmatch(module) and name.isidentifier():
        thing = getattr(importlib.import_module(module), name, None)
        if getattr(thing, "__module__", "") == module:
            return
    raise ValueError(f"{label} is code that {distrusted.get()} brings, and it is not trusted: none of it is imported")


def imported(path: str, label: str) -> Any:
    """What is at `module:name`, or the module at `module`.

    Args:
      path: of either form.
      label: what begins the message.

    Raises:
      ValueError: there is nothing, or its module cannot be imported; says why in one sentence.
    """
    module_name, _, name = path.partition(":")
    try:
        module: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the module raises, sys.exit() too
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{label} cannot be imported: there is no module {error.name!r}: start in its folder, put that folder "
                "into PYTHONPATH, or install its package"
            ) from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{label} cannot be imported: its module raised {reason}") from error
    try:
        return operator.attrgetter(name)(module) if name else module
    except AttributeError as error:
        near = difflib.get_close_matches(name, [one for one in vars(module) if one[0] != "_"], n=1)
        advice = f" (did you mean '{module_name}:{near[0]}'?)" if near else ""
        raise ValueError(f"{label} cannot be imported: {error}{advice}") from None


@contextlib.contextmanager
def blamed(label: str) -> Iterator[None]:
    """Around code of the user's: what that raises becomes a ValueError that begins with the field which names it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{label} raised {reason}") from error


def kind(name: str) -> type[KindConfig]:
    """The configuration's type of a kind that is not ours.

    Args:
      name: registered, or `module:Class`.

    Raises:
      ValueError: there is none, or it is no such type; says why in one sentence.
    """
    from agents.builder import BUILDERS

    if ":" not in name and name not in registered("kinds"):
        there = ", ".join([*BUILDERS, *registered("kinds")])
        raise ValueError(f"unknown agent kind {name!r}; there are {there}, and your own as 'module:Config'")
    given = found("kinds", name)
    label = f"agent.kind={name!r}"
    if not isinstance(given, type) or not issubclass(given, KindConfig):
        what = f"the class {given.__name__}" if isinstance(given, type) else f"of type {type(given).__name__}"
        raise ValueError(
            f"{label} is {what}: a kind is named by its configuration, a subclass of agents.KindConfig such as "
            "agents.DqnConfig"
        )
    tag = str(given.__struct_config__.tag)
    if tag in BUILDERS:
        if BUILDERS[tag].config is given:
            return given
        raise ValueError(f"{label} has the tag {tag!r}, which is one of ours: leave its tag out, or choose another")
    if not given.builder:
        raise ValueError(
            f"{label} does not say who builds its agent: give {given.__name__} a line builder = 'module:function'"
        )
    if tag not in (f"{given.__module__}:{given.__qualname__}", *registered("kinds")):
        raise ValueError(
            f"{label} has the tag {tag!r}, by which no other process would find it: leave its tag out, or register it "
            f"as an entry point of {PREFIX}.kinds"
        )
    if ":" not in tag and registered("kinds")[tag] != registered("kinds").get(name, name):
        raise ValueError(f"{label} has the tag {tag!r}, by which another class is registered: leave its tag out")
    return given


def optimizer(variables: "Sequence[tf.Variable]", config: "NetworkConfig") -> "Optimizer":
    """Makes the optimizer that `agent.optimizer` names, unless it is Adam, by calling that with the same arguments.

    Args:
      variables: float32, to be trained.
      config: of the agent; `agents.optimizers.settings_of` has what every optimizer takes of it.

    Raises:
      ValueError: there is none, or it makes no `agents.optimizers.Optimizer`.
    """
    from agents.optimizers import Optimizer, settings_of

    if config.optimizer == "rmsprop":
        from agents.rmsprop import RmsProp

        decay, epsilon = config.rmsprop_decay, config.rmsprop_epsilon
        return RmsProp(variables, decay=decay, epsilon=epsilon, **settings_of(config))
    if config.optimizer == "radam":
        from agents.radam import RAdam

        return RAdam(variables, epsilon=config.adam_epsilon, **settings_of(config))
    function = _function("optimizers", config.optimizer)
    with blamed(f"agent.optimizer={config.optimizer!r}"):
        made = function(variables, config)
    if not isinstance(made, Optimizer):
        raise ValueError(
            f"agent.optimizer={config.optimizer!r} made an object of type {type(made).__name__}: an optimizer here is "
            "a subclass of agents.optimizers.Optimizer, which keeps updates that are not finite from the weights"
        )
    return made


@functools.cache
def _schedule(name: str) -> Callable[["ExplorationConfig", int], float]:
    return _function("schedules", name)


def epsilon(config: "ExplorationConfig", environment_steps: int) -> float:
    """The probability of a uniform action that `exploration.epsilon_schedule` gives.

    Args:
      config: which the schedule is given, too.
      environment_steps: taken by all collectors.

    Raises:
      ValueError: there is no such schedule, it raised, or what it gave is no probability.
    """
    schedule, label = _schedule(config.epsilon_schedule), f"exploration.epsilon_schedule={config.epsilon_schedule!r}"
    try:
        probability = float(schedule(config, environment_steps))
    except Exception as error:  # of the user's code
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{label} raised at {environment_steps} environment steps: {reason}") from error
    if not 0.0 <= probability <= 1.0:
        raise ValueError(
            f"{label} gave {probability!r} at {environment_steps} environment steps, which is no probability"
        )
    return probability


def wrong_with_schedule(config: "ExplorationConfig") -> str:
    """Why `exploration.epsilon_schedule` cannot be taken, as far as its first value shows; empty if it can."""
    try:
        epsilon(config, 0)
    except ValueError as error:
        return str(error)
    return ""


def _function(group: str, name: str) -> Callable[..., Any]:
    given = found(group, name)
    if not callable(given):
        raise ValueError(f"{GROUPS[group]}={name!r} is no function, but of type {type(given).__name__}")
    function: Callable[..., Any] = given
    return function
