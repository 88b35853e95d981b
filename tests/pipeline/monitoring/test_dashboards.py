"""What TensorBoard is given of a run: which settings, under which name, in which entry, in which order."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.experiment.config import load
from pipeline.messages.contents import CollectorReport
from pipeline.monitoring import dashboards, metrics, seldom


def make_report(**given: Any) -> CollectorReport:
    required = {field.name: 0 for field in msgspec.structs.fields(CollectorReport) if field.required}
    return msgspec.convert({**required, "process": "p", "returns": [], "lengths": [], **given}, CollectorReport)


def test_settings_are_what_differs_from_the_defaults_of_the_kind() -> None:
    plain = dashboards.settings(load("cartpole", ('agent.kind="dqn"', "agent.learning_rate=0.001")))
    assert {"seed", "environment.id", "agent.kind", "agent.n_step"} <= set(plain)
    assert "agent.gradient_clip_value" not in plain
    assert not any(name.startswith(("stop.", "checkpoint.")) for name in plain)
    other = dashboards.settings(load("cartpole", ("agent.gradient_clip_value=0.01",)))
    assert other["agent.gradient_clip_value"] == 0.01
    assert set(other) - set(plain) == {"agent.gradient_clip_value"}


def test_what_a_sweep_varies_comes_first_even_at_its_default() -> None:
    found = dashboards.settings(load("cartpole"), ["agent.gradient_clip_value", "agent.num_atoms"])
    assert next(iter(found)) == "agent.gradient_clip_value"
    assert "agent.num_atoms" not in found, "this kind has none"


@pytest.mark.parametrize(
    ("folder", "fields", "name", "first"),
    [
        ("runs/first", None, "first", "seed"),
        ("mine/first", None, "mine/first", "seed"),
        ("runs/rates/agent.learning_rate=0.01,agent.n_step=3/seed-1", ["agent.learning_rate", "agent.n_step"],
         "0.01,3 s1", "agent.learning_rate"),
        ("runs/search/trial-0007/seed-0", ["agent.n_step"], "trial-0007 s0", "agent.n_step"),
    ],
)  # fmt: skip
def test_trials_have_short_names(tmp_path: Path, folder: str, fields: list[str] | None, name: str, first: str) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    if fields is not None:
        (path.parents[1] / "sweep.json").write_text(json.dumps({"fields": fields}))
    start = dashboards.beginning(load("cartpole"), "train", path)[2]
    info = HParamsPluginData.FromString(start.value[0].metadata.plugin_data.content).session_start_info
    assert info.group_name == name
    columns = dashboards.beginning(load("cartpole"), "train", path)[1]
    experiment = HParamsPluginData.FromString(columns.value[0].metadata.plugin_data.content).experiment
    assert experiment.hparam_infos[0].name == first
    shown = {column.name for column in experiment.hparam_infos if column.differs}
    assert shown == set(fields or ["agent.kind", "agent.learning_rate", "agent.n_step", "environment.id", "seed"])


def test_an_environment_without_an_id_is_named_by_its_import_path() -> None:
    assert dashboards.settings(load("cartpole_memory"))["environment.id"].startswith("pipeline.environments.classic:")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fields": 3}', "no JSON"])
def test_a_file_of_the_name_of_ours_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    assert seldom.trial(tmp_path / "a" / "b", tmp_path / "sweep.json") == ("a/b", [])


def test_returns_sort_first_and_machinery_last() -> None:
    report = make_report(returns=[1.0], lengths=[2], environment_steps=5, bytes_sent=9, windows=3, bytes_received=1)
    tags = [*metrics.collector_scalars([report]), *metrics.episode_scalars(report), "evaluation/mean_return"]
    tags += ["learner/loss", "replay/size", "speed/train_seconds", *metrics.checkpoint_scalars(1.0, 1.0, 1)]
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in sorted(tags)))
    assert groups[:2] == ["episode", "evaluation"]
    assert groups[-2:] == ["speed", "system"]


def test_collectors_are_one_entry_and_each_ones_values_another() -> None:
    reports = [
        make_report(index=0, epsilon=0.1, episodes=3, environment_steps=100, weights_age=4, resident_bytes=2**20),
        make_report(index=1, epsilon=0.3, episodes=5, environment_steps=300, weights_age=8, resident_bytes=3 * 2**20),
    ]
    found = metrics.collector_scalars(reports)
    assert found["exploration/epsilon"] == pytest.approx(0.2)
    assert (found["system/episodes"], found["system/environment_steps"]) == (8.0, 400.0)
    assert (found["system/weights_age_gradient_steps"], found["system/collectors_mib"]) == (6.0, 4.0)
    own = seldom.collectors_own(reports[1])
    assert own["exploration/epsilon/collector-1"] == pytest.approx(0.3)
    assert not set(own) & set(found)
