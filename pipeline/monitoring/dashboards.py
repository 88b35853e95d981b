"""What TensorBoard shows of a run beside plain curves: a layout of charts, its settings and result, histograms."""

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary as Proto
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import summary as sessions
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb

from pipeline.experiment import config
from pipeline.experiment.sections import Experiment
from pipeline.records.results import EXIT_CODES, Summary

_BUCKETS = 30
_CHARTS = {
    "learning": {
        "returns of evaluations": ["evaluation/mean_return", "evaluation/min_return", "evaluation/max_return"],
        "returns of training episodes": ["episode/return"],
        "episode length": ["episode/length"],
        "loss": ["learner/loss"],
        "TD error": ["learner/td_error"],
        "Q-values": ["learner/q_mean", "learner/q_max"],
        "exploration": ["exploration/epsilon"],
    },
    "data": {
        "samples per insert": ["replay/samples_per_insert", "replay/samples_per_insert_wanted"],
        "windows in the replay": ["replay/size"],
        "gradient steps between acting and learning": ["replay/data_age_gradient_steps"],
        "gradient steps that acting weights are behind": ["system/weights_age_gradient_steps"],
        "bytes sent per window": ["system/bytes_sent_per_transition"],
        "priorities": ["priority/mean", "priority/maximum"],
        "items whose priorities found their server away": ["priority/skipped_items"],
    },
    "speed": {
        "environment steps per second": ["speed/environment_steps_per_second"],
        "gradient steps per second": ["speed/gradient_steps_per_second"],
        "share of the time that each side waits": ["speed/learner_waits", "speed/collectors_wait"],
        "seconds of an evaluation": ["speed/evaluation_seconds"],
    },
    "health": {
        "gradient norm": ["learner/gradient_norm"],
        "skipped updates and rollbacks": ["learner/skipped_updates", "learner/rollbacks"],
        "largest Q-value over what rewards allow": ["learner/q_max_over_bound"],
        "episodes dropped for faults": ["system/faulty_episodes"],
        "share of steps in which the shield stepped in": ["shield/share_of_steps", "shield/share_of_evaluation_steps"],
        "memory, MiB": [f"system/{role}_mib" for role in ("learner", "collectors", "evaluator", "supervisor")],
        "seconds the learner stood still for a checkpoint": ["system/checkpoint_pause_seconds"],
    },
}
"""Of the tab *Custom scalars*: by category and title, the tags of a chart."""
_RESULTS = {
    "result/mean_return": "mean evaluation return at the end",
    "result/best_mean_return": "best mean evaluation return",
    "result/solved": "solved",
    "result/environment_steps": "environment steps",
    "result/gradient_steps": "gradient steps",
    "result/train_seconds": "seconds of training",
    "result/environment_steps_per_second": "environment steps per second",
    "result/gradient_steps_per_second": "gradient steps per second",
}
_FIRST = ("agent.kind", "agent.learning_rate", "agent.n_step", "environment.id", "seed")
"""Settings that tell runs apart which are of no sweep."""
_ALWAYS = (*_FIRST, "learner.batch_size")
"""Settings shown although they have their defaults: TensorBoard takes the columns of one run for all."""
_NOT_SETTINGS = ("stop.", "replay.port", "replay.weights_port", "replay.private", "checkpoint.")


def layout() -> Proto:
    """The charts, in four categories."""
    categories = [
        layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(
                    title=name, multiline=layout_pb2.MultilineChartContent(tag=[f"^{tag}$" for tag in tags])
                )
                for name, tags in charts.items()
            ],
        )
        for title, charts in _CHARTS.items()
    ]
    return _for_writer(custom_scalar.pb(layout_pb2.Layout(category=categories)))


def settings(experiment: Experiment, varied: Collection[str] = ()) -> dict[str, bool | float | str]:
    """What the tab *HParams* sorts runs by: what a sweep varies, and what differs from the defaults of this kind.

    Args:
      experiment: of the run.
      varied: dotted fields of the sweep that the run is of; they come first.
    """
    default = flat(msgspec.to_builtins(Experiment(agent=type(experiment.agent)())))
    own = flat(msgspec.to_builtins(experiment))
    own["environment.id"] = own["environment.id"] or own["environment.import_path"]  # empty would tell nothing
    chosen = [
        name
        for name, value in own.items()
        if name in _ALWAYS or (value != default.get(name) and not name.startswith(_NOT_SETTINGS))
    ]
    return {name: own[name] for name in dict.fromkeys([*varied, *chosen]) if name in own}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Nested settings by dotted names; lists as text, and what is not set left out."""
    found: dict[str, bool | float | str] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found |= flat(inner, f"{prefix}{name}.")
        elif inner is not None:
            is_plain = isinstance(inner, bool | float | str)
            found[f"{prefix}{name}"] = inner if is_plain else float(inner) if isinstance(inner, int) else str(inner)
    return found


def beginning(experiment: Experiment, command_line: str, path: Path) -> list[Proto]:
    """What is written when a run starts: settings, config and command line.

    Args:
      experiment: the run.
      command_line: that started it.
      path: of the run's directory.
    """
    name, varied = path.name if path.parent.name == "runs" else "/".join(path.parts[-2:]), list[str]()
    is_swept = len(path.parts) > 2 and (sweep := path.parents[1] / "sweep.json").is_file()
    if is_swept:
        from pipeline.monitoring import seldom

        name, varied = seldom.trial(path, sweep)
    values = settings(experiment, varied)
    columns = sessions.experiment_pb(  # it shows the first five that differ
        [api_pb2.HParamInfo(name=key, differs=key in (varied or _FIRST)) for key in values],
        [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=said) for tag, said in _RESULTS.items()],
    )
    return [
        layout(),
        _for_writer(columns),
        hparams_pb(values, trial_id=name, start_time_secs=time.time()),
        text_pb("run/command_line", f"    {command_line}"),
        text_pb("run/config", "\n".join(f"    {line}" for line in config.dump(experiment).splitlines())),
    ]


def ending(summary: Summary) -> list[Proto]:
    """What is written when a run ends."""
    status = api_pb2.STATUS_SUCCESS if EXIT_CODES.get(summary.stop_reason) == 0 else api_pb2.STATUS_FAILURE
    return [_for_writer(sessions.session_end_pb(status))]


def _for_writer(of_tensorflow: Any) -> Proto:
    """The same as TensorBoard's own kind of message, which its writer takes, where TensorBoard makes TensorFlow's."""
    return Proto.FromString(of_tensorflow.SerializeToString())


def results(summary: Summary) -> dict[str, float]:
    """The result of a run, by which sweeps are sorted."""
    values = {tag: getattr(summary, tag.partition("/")[2]) for tag in _RESULTS}
    return {tag: float(value) for tag, value in values.items() if value is not None}


def histograms(values: Mapping[str, NDArray[Any]]) -> list[Proto]:
    """Distributions by tag; numbers that are not finite are left out, and where there is no other, the tag."""
    found = {tag: array[np.isfinite(array)] for tag, array in values.items()}
    return [histogram_pb(tag, array.ravel(), buckets=_BUCKETS) for tag, array in found.items() if array.size]
