"""What a config has otherwise than the paper whose name its kind bears. Imported for kinds that bear one's name."""

from typing import Any

from pipeline.experiment.sections import Experiment


def departures(experiment: Experiment) -> str:
    """What an experiment has otherwise than the paper whose name its kind bears, in a sentence; empty if nothing."""
    agent, given = experiment.agent, []
    for section, fields in agent.paper_settings.items():
        for field, value in fields.items():
            if (found := getattr(getattr(experiment, section), field)) != value:
                given.append(f"{section}.{field}={_toml(found)} (there {_toml(value)})")
    if not given:
        return ""
    return f"agent.kind={agent.kind!r} differs here from its paper ({agent.paper}): {', '.join(given)}"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
