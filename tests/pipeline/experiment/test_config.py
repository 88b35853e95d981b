"""Experiments as TOML: what is accepted, and what a mistake is answered with."""

import ast
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from msgspec import inspect

import agents
from pipeline.experiment import config
from pipeline.experiment.config import UsageError, dump, load, parse
from pipeline.experiment.papers import departures
from pipeline.experiment.resume import differences
from pipeline.experiment.sections import Experiment, OfflineConfig

ROOT = Path(config.__file__).parents[2]


def refusal(*overrides: str, text: str = "") -> str:
    """The one-line answer to a config that cannot be."""
    with pytest.raises(UsageError) as caught:
        parse(text, overrides)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


AGENTS = [inspect.type_info(builder.config) for builder in agents.BUILDERS.values()]
"""What the section `agent` may be, which msgspec takes for any object of a class."""


def structs(kind: inspect.Type) -> Iterator[inspect.StructType]:
    """A struct and all structs in it."""
    if isinstance(kind, inspect.StructType):
        yield kind
        for field in kind.fields:
            yield from structs(field.type)
    elif isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from structs(member)
    elif isinstance(kind, inspect.Metadata):
        yield from structs(kind.type)
    elif isinstance(kind, inspect.CustomType):
        for agent in AGENTS:
            yield from structs(agent)


EXPERIMENT = inspect.type_info(Experiment)
SECTIONS = {struct.cls: struct for struct in structs(EXPERIMENT)}


def bare(kind: inspect.Type) -> inspect.Type:
    """A field's type without its description and its None."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        return bare(next(member for member in kind.types if not isinstance(member, inspect.NoneType)))
    if isinstance(kind, inspect.CustomType):
        return AGENTS[0]
    return kind


def leaves(struct: inspect.StructType, prefix: str = "") -> Iterator[tuple[str, inspect.Type]]:
    """Dotted name and type of every field that is no section."""
    for field in struct.fields:
        kind = bare(field.type)
        if isinstance(kind, inspect.StructType):
            yield from leaves(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind


LEAVES = dict(leaves(EXPERIMENT))
NUMBERS = {name: kind for name, kind in LEAVES.items() if isinstance(kind, (inspect.IntType, inspect.FloatType))}
LITERALS = {name: kind for name, kind in LEAVES.items() if isinstance(kind, inspect.LiteralType)}


def below(kind: Any) -> Any:
    """A value under a number's lower bound, or None where there is none."""
    if kind.ge is not None:
        return kind.ge - 1
    return kind.gt


def test_shipped_configs_load() -> None:
    assert "cartpole" in config.shipped()
    for name in config.shipped():
        assert isinstance(load(name), Experiment)


def test_a_config_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[agent]\nn_step = 5\n")
    assert load(str(path)) == parse("seed = 3\nagent.n_step = 5")


def test_an_unknown_config_lists_the_shipped_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load("cartpoole")
    assert "no config 'cartpoole': did you mean 'cartpole'?" in str(caught.value)
    for name in config.shipped():
        assert name in str(caught.value)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config .* it is a folder"):
        load(str(tmp_path))


def test_an_unknown_field_of_a_file_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text, words in (
        ("[agent]\nnstep = 3", "unknown field 'agent.nstep'"),
        ("[agent]\nkind = 'dqm'", "agent.kind: "),
    ):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            load(str(path))
        assert str(caught.value).startswith(f"{path}: {words}")


def test_weights_need_a_port_of_their_own() -> None:
    assert "choose another" in refusal("replay.port=5000", "replay.weights_port=5000")
    parse("", ("replay.port=5000", "replay.weights_port=5001"))


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"seed = 1 # \xff\xfe")
    with pytest.raises(UsageError, match=r"binary\.toml"):
        load(str(path))


def test_text_that_is_not_toml_is_refused_by_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[agent\n")
    with pytest.raises(UsageError, match=r"broken\.toml.*TOML"):
        load(str(path))


@pytest.mark.parametrize("line", ["=3", "a b=4", "a=1\na=2"])
def test_an_override_that_is_not_toml_is_refused_in_one_line(line: str) -> None:
    message = refusal(line)
    assert line.splitlines()[0] in message
    assert "TOML" in message


@pytest.mark.parametrize(
    ("line", "wrong", "nearest"),
    [
        ("agent.n_steps=3", "agent.n_steps", "agent.n_step"),
        ("agnt.n_step=3", "agnt", "agent"),
        ("replay.capacty=10", "replay.capacty", "replay.capacity"),
        ("sed=1", "sed", "seed"),
        ("stop.environment_step=1", "stop.environment_step", "stop.environment_steps"),
    ],
)
def test_an_unknown_field_names_the_nearest(line: str, wrong: str, nearest: str) -> None:
    message = refusal(line)
    assert repr(wrong) in message
    assert repr(nearest) in message


@pytest.mark.parametrize("name", LEAVES)
def test_a_value_of_the_wrong_type_names_field_and_type(name: str) -> None:
    kind = LEAVES[name]
    wrong = '"many"' if name in NUMBERS or isinstance(kind, inspect.BoolType) else "3.5"
    message = refusal(f"{name}={wrong}")
    assert name in message
    assert "xpected" in message


@pytest.mark.parametrize("name", [name for name in NUMBERS if below(NUMBERS[name]) is not None])
def test_a_number_below_its_range_names_field_and_bound(name: str) -> None:
    kind: Any = NUMBERS[name]
    message = refusal(f"{name}={below(kind)}")
    assert name in message
    assert (f">= {kind.ge}" if kind.ge is not None else f"> {kind.gt}") in message


@pytest.mark.parametrize("name", [name for name, kind in NUMBERS.items() if getattr(kind, "le", None) is not None])
def test_a_number_above_its_range_names_field_and_bound(name: str) -> None:
    kind: Any = NUMBERS[name]
    message = refusal(f"{name}={kind.le + 1}")
    assert name in message
    assert f"<= {kind.le}" in message


@pytest.mark.parametrize("name", [name for name, kind in NUMBERS.items() if isinstance(kind, inspect.FloatType)])
def test_nan_is_refused(name: str) -> None:
    assert name in refusal(f"{name}=nan")


@pytest.mark.parametrize(
    "name", ["replay.samples_per_insert", "agent.learning_rate", "agent.learning_rate_final", "agent.adam_epsilon"]
)
def test_infinity_is_refused_where_it_cannot_work(name: str) -> None:
    assert name in refusal(f"{name}=inf")


@pytest.mark.parametrize("name", LITERALS)
def test_an_unknown_choice_lists_the_choices(name: str) -> None:
    kind: Any = LITERALS[name]
    message = refusal(f"{name}='other'")
    assert name in message
    for choice in kind.values:
        assert str(choice) in message


def test_an_unknown_agent_kind_lists_the_kinds() -> None:
    message = refusal("agent.kind='nosuch'")
    assert "agent.kind" in message
    assert "dqn" in message


def test_hidden_units_are_checked_one_by_one() -> None:
    assert "agent.hidden_units[1]" in refusal("agent.hidden_units=[64, 0]")


def test_a_section_must_be_a_table() -> None:
    assert refusal("replay=3").startswith("--set=replay=3: replay")
    assert refusal(text="replay = 3").startswith("config: replay")


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (("collect.lanes=16", "replay.lanes_per_item=3"), ("replay.lanes_per_item", "collect.lanes")),
        (("collect.lanes=8", "replay.lanes_per_item=16"), ("replay.lanes_per_item", "collect.lanes")),
        (
            ("collect.lanes=16", "learner.batch_size=1", "learner.steps_per_call=15"),
            ("learner.batch_size", "learner.steps_per_call", "lanes"),
        ),
        (("replay.capacity=2000", "learner.batch_size=4096"), ("learner.batch_size", "replay.capacity")),
        (("replay.capacity=500", "replay.min_size=501"), ("replay.min_size", "replay.capacity")),
        (
            (
                "collect.lanes=128",
                "replay.capacity=100",
                "replay.min_size=1",
                "learner.batch_size=64",
                "learner.steps_per_call=2",
            ),
            ("replay.capacity",),
        ),
        (("collect.collectors=3", "collect.max_collectors=2"), ("collect.max_collectors=2", "collect.collectors=3")),
        (("environment.id=''",), ("environment.id", "import_path")),
        (("environment.id=''", "environment.import_path='package.module'"), ("environment.id", "import_path")),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused(overrides: tuple[str, ...], names: tuple[str, ...]) -> None:
    message = refusal(*overrides)
    for name in names:
        assert name in message


def test_a_min_size_that_whole_items_cannot_reach_is_refused() -> None:
    # 100 transitions hold 6 items of 16 lanes; 7 of them are needed for 100 transitions.
    overrides = ("collect.lanes=16", "replay.capacity=100", "replay.min_size=100", "learner.batch_size=64")
    assert "replay.min_size" in refusal(*overrides)


def test_limits_that_fit_exactly_are_accepted() -> None:
    overrides = ("collect.lanes=10", "replay.capacity=100", "replay.min_size=100", "learner.batch_size=100")
    assert parse("", overrides).replay.min_size == 100


def test_collectors_are_those_that_may_join() -> None:
    assert parse("", ("collect.collectors=3",)).collectors == 3
    assert parse("", ("collect.collectors=3", "collect.max_collectors=3")).collectors == 3
    assert parse("", ("collect.collectors=3", "collect.max_collectors=8")).collectors == 8


def test_on_policy_no_collectors_may_join() -> None:
    sections = ("agent.kind='ppo'", "exploration.strategy='boltzmann'", "exploration.temperature=1.0")
    sizes = ("collect.lanes=8", "learner.batch_size=8", "learner.steps_per_call=1", "replay.samples_per_insert=1.0")
    assert parse("", (*sections, *sizes)).collectors == 1
    assert "collect.max_collectors=0" in refusal(*sections, *sizes, "collect.max_collectors=2")


def test_overrides_apply_in_order_over_the_file() -> None:
    text = "[agent]\nn_step = 2\ndouble = false\n"
    experiment = parse(text, ("agent.n_step=3", "agent.n_step=4", "seed=5", "stop.seconds=7.5"))
    assert (experiment.agent.n_step, experiment.agent.double) == (4, False)
    assert (experiment.seed, experiment.stop.seconds) == (5, 7.5)


def test_an_override_of_a_table_keeps_its_other_fields() -> None:
    experiment = parse("", ("agent.n_step=3", "agent={double=false}"))
    assert (experiment.agent.n_step, experiment.agent.double) == (3, False)


def test_the_seed_argument_comes_last() -> None:
    assert parse("seed = 1", ("seed=2",), seed=3).seed == 3
    assert parse("seed = 1", ("seed=2",), seed=0).seed == 0


def test_whole_numbers_do_for_floats() -> None:
    assert parse("", ("stop.target_return=475",)).stop.target_return == 475.0


def test_lanes_per_item_0_stands_for_all_lanes() -> None:
    assert parse("", ("collect.lanes=10", "learner.batch_size=10")).lanes_per_item == 10
    assert parse("", ("collect.lanes=10", "replay.lanes_per_item=5", "learner.batch_size=10")).lanes_per_item == 5


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("collect.lanes=1",), 32),
        (("collect.lanes=4",), 16),
        (("collect.lanes=10",), 4),
        (("collect.lanes=16",), 4),
        (("collect.lanes=16", "learner.batch_size=1024"), 16),
        (("collect.lanes=64",), 1),
        (("collect.lanes=1", "replay.steps_per_item=3", "learner.batch_size=3"), 3),
        (("collect.lanes=4", "replay.lanes_per_item=1"), 1),
        (("collect.lanes=1", "learner.batch_size=2", "learner.steps_per_call=2"), 4),
        (("collect.lanes=1", "learner.batch_size=3", "learner.steps_per_call=1"), 1),
        (("collect.lanes=10", "replay.capacity=100", "replay.min_size=100"), 2),
    ],
)
def test_steps_per_item_0_makes_items_of_few_lanes_larger(overrides: tuple[str, ...], steps: int) -> None:
    experiment = parse("", overrides)
    assert experiment.steps_per_item == steps
    assert experiment.windows_per_item == steps * experiment.lanes_per_item
    assert experiment.item_length == steps + 1


def test_steps_that_do_not_make_whole_calls_are_refused() -> None:
    assert "replay.steps_per_item" in refusal("collect.lanes=1", "replay.steps_per_item=7")


TOML_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Values that a field's type admits."""
    match kind:
        case inspect.Metadata(extra={"ours": names}):  # others are imported
            return st.sampled_from(names)
        case inspect.Metadata():
            return values(kind.type)
        case inspect.UnionType():
            return st.one_of([values(member) for member in kind.types])
        case inspect.StructType():
            return st.builds(
                functools.partial(sensible, kind.cls), **{field.name: values(field.type) for field in kind.fields}
            )
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.TupleType():
            return st.tuples(*map(values, kind.item_types))
        case inspect.VarTupleType():
            return st.lists(values(kind.item_type), max_size=4).map(tuple)
        case inspect.DictType():
            return st.dictionaries(st.text(), TOML_VALUES, max_size=3)
        case inspect.IntType():
            return st.integers(kind.ge if kind.ge is not None else -1000, kind.le if kind.le is not None else 10**9)
        case inspect.FloatType():
            low, high = kind.ge if kind.ge is not None else kind.gt, kind.le if kind.le is not None else kind.lt
            bounds = {"exclude_min": kind.gt is not None, "exclude_max": kind.lt is not None}
            return st.floats(low, high, **bounds, allow_nan=False, allow_infinity=False)
        case inspect.StrType():
            return st.text(min_size=1)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.CustomType():
            return st.one_of([values(agent) for agent in AGENTS])
    raise AssertionError(f"no strategy for {kind}")


RARELY_FITTING = {
    *(f"{name}_schedule" for name in ("n_step", "discount", "learning_rate", "munchausen_temperature")),
    *("optimizer", "adam_epsilon", "rmsprop_decay", "rmsprop_epsilon", "weight_decay"),
    *("residual", "spectral_norm", "torso_width", "torso_pooling", "torso_cells"),
}
"""Fields whose random values others would refuse: tests of their own give them."""


def sensible(struct: Any, **fields: Any) -> Any:
    """A struct whose fields fit each other."""
    if "learning_rate_final" in fields:
        fields["learning_rate_final"] = min(fields["learning_rate_final"], fields["learning_rate"])
        for name in RARELY_FITTING & fields.keys():
            del fields[name]
    try:
        return struct(**fields)
    except ValueError:
        reject()


@st.composite
def experiments(draw: Any) -> Experiment:
    """Valid experiments: any value in every field, sizes that fit each other."""
    experiment = draw(values(EXPERIMENT))
    replace = msgspec.structs.replace
    strategy = draw(st.sampled_from(["epsilon_greedy", "boltzmann"]))
    priorities = {"prioritized": True, "initial_priority": "td_error"} if draw(st.booleans()) else {}
    if experiment.agent.priority_unit != "return":
        priorities = {}
    one_bonus = {draw(st.sampled_from(["count_bonus", "prediction_bonus"])): 0.0}
    per_item, groups, batches, items = (draw(st.integers(1, 8)) for _ in range(4))
    steps = 1 if experiment.agent.stride > 1 else draw(st.integers(0, 3))
    capacity = 24 * per_item * batches * items
    experiment = replace(
        experiment,
        collect=replace(
            experiment.collect,
            lanes=per_item * groups,
            max_collectors=draw(st.sampled_from([0, 1, 3])) * experiment.collect.collectors,
        ),
        learner=replace(
            experiment.learner,
            batch_size=per_item * batches * max(1, steps),
            precision=experiment.learner.precision if hasattr(experiment.agent, "hidden_units") else "float32",
        ),
        exploration=replace(
            experiment.exploration,
            strategy=strategy,
            epsilon_schedule="",
            ladder_alpha=0.0,
            ladder_by="collector",
            **one_bonus,
        ),
        replay=replace(
            replace(experiment.replay, prioritized=False, initial_priority="largest"),
            **priorities,
            lanes_per_item=per_item,
            steps_per_item=steps,
            shards=draw(st.integers(0, 3)),
            weights_port=0,
            capacity=capacity,
            min_size=draw(st.integers(1, 24 * per_item)),
        ),
    )
    stop, keys = experiment.stop, {key for key in experiment.collect.info_keys if key != "return"}
    if stop.target != "return":
        keys, stop = keys | {stop.target}, replace(stop, target_return=stop.target_return or 1.0)
    experiment = replace(experiment, collect=replace(experiment.collect, info_keys=tuple(sorted(keys))), stop=stop)
    experiment = replace(experiment, offline=OfflineConfig(dataset=experiment.offline.dataset))
    if experiment.is_offline or experiment.agent.offline_only or experiment.agent.on_policy:
        experiment = replace(experiment, collect=replace(experiment.collect, inference="local"))
    if not experiment.offline.dataset and hasattr(experiment.agent, "margin"):
        experiment = replace(experiment, agent=replace(experiment.agent, margin=0.0))
    if experiment.is_offline or experiment.agent.offline_only:
        dataset = "" if experiment.agent.on_policy else "runs/source"
        experiment = replace(
            experiment,
            replay=replace(experiment.replay, shards=0),
            offline=replace(experiment.offline, dataset=dataset),
            stop=replace(experiment.stop, gradient_steps=experiment.stop.gradient_steps + 1),
        )
        if dataset and hasattr(experiment.agent, "stored_state"):
            experiment = replace(experiment, agent=replace(experiment.agent, stored_state=False))
    experiment = on_policy(experiment) if experiment.agent.on_policy else experiment
    budget = experiment.stop.environment_steps
    least = max(experiment.replay.min_size, experiment.learner.batch_size) * experiment.agent.window_length
    return replace(experiment, stop=replace(experiment.stop, environment_steps=budget and budget + least))


def on_policy(experiment: Experiment) -> Experiment:
    """The same with what an on-policy agent needs."""
    replace, collect, agent = msgspec.structs.replace, experiment.collect, experiment.agent
    collect = replace(collect, collectors=min(collect.collectors, 8), max_collectors=0)
    sequences = collect.lanes * collect.collectors
    return replace(
        experiment,
        agent=replace(agent, minibatches=1) if hasattr(agent, "minibatches") else agent,
        collect=collect,
        learner=replace(experiment.learner, batch_size=sequences, steps_per_call=1),
        exploration=replace(experiment.exploration, strategy="boltzmann", temperature=1.0),
        replay=replace(
            experiment.replay,
            prioritized=False,
            initial_priority="largest",
            samples_per_insert=1.0,
            shards=min(experiment.replay.shards, 1),
        ),
    )


@settings(max_examples=50)
@given(experiments())
def test_dumped_experiments_parse_to_the_same(experiment: Experiment) -> None:
    assert parse(dump(experiment)) == experiment


@pytest.mark.parametrize(
    ("lines", "least"),
    [
        (("replay.min_size=700",), 700),
        (("replay.min_size=300", "agent.kind='r2d2'", "agent.period=4"), 1200),
        (("replay.prioritized=true", "collect.collectors=3"), 1000),
        (
            (
                "agent.kind='ppo'",
                "agent.rollout=50",
                "collect.lanes=4",
                "learner.batch_size=4",
                "learner.steps_per_call=1",
                "replay.samples_per_insert=1.0",
                "exploration.strategy='boltzmann'",
            ),
            200,
        ),
    ],
)
def test_a_budget_that_ends_before_the_first_gradient_step_is_refused(lines: tuple[str, ...], least: int) -> None:
    for budget in (1, least // 2, least - 1):
        assert f"stop.environment_steps={budget} is below" in refusal(*lines, f"stop.environment_steps={budget}")
    for budget in (0, least):
        assert parse("", (*lines, f"stop.environment_steps={budget}")).stop.environment_steps == budget


def test_a_date_among_the_arguments_of_an_environment_stays_a_date() -> None:
    experiment = parse("", ("environment.kwargs.start=2020-01-31",))
    assert parse(dump(experiment)).environment.kwargs == experiment.environment.kwargs


def test_a_dump_holds_every_field() -> None:
    written = dump(parse("", ("stop.target_return=1.0", "environment.kwargs.x=1", "environment.image_keys=[]")))
    for name in LEAVES:
        assert name.rpartition(".")[2] in written


def test_differences_are_dotted_names() -> None:
    old = parse("", ("environment.kwargs={a=1, b=2}",))
    new = parse("", ("environment.kwargs={a=1, b=3}", "agent.n_step=3", "stop.target_return=2.0", "seed=9"))
    assert differences(old, new) == ["agent.n_step", "environment.kwargs.b", "seed", "stop.target_return"]
    assert differences(old, old) == []


def test_every_field_is_described() -> None:
    for cls, struct in SECTIONS.items():
        assert cls.__doc__
        hints = get_type_hints(cls, include_extras=True)
        for field in struct.fields:
            if isinstance(bare(field.type), inspect.StructType):
                continue
            metas = [meta for meta in getattr(hints[field.name], "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
            assert [meta for meta in metas if meta.description], f"{cls.__name__}.{field.name} has no description"


def test_every_field_has_a_default() -> None:
    for struct in SECTIONS.values():
        for field in struct.fields:
            assert not field.required, f"{struct.cls.__name__}.{field.name}"


def test_every_field_is_read_somewhere() -> None:
    sources = [path for folder in ("agents", "pipeline") for path in ROOT.glob(f"{folder}/**/*.py")]
    read = {
        node.attr
        for path in sources
        if path.name not in ("config.py", "sections.py") and path.parent.name != "configs"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    fields = {name.rpartition(".")[2] for name in LEAVES} | {name.split(".")[0] for name in LEAVES}
    assert fields - read == set()


@pytest.mark.parametrize("kind", ["rainbow", "r2d2"])
def test_a_kind_with_a_papers_name_has_its_settings_in_all_sections_unless_others_are_given(kind: str) -> None:
    alone = parse(f"[agent]\nkind = '{kind}'\n")
    assert alone.replay.prioritized
    assert departures(alone) == ""
    assert (alone.exploration.strategy == "greedy") == (kind == "rainbow")
    changed = parse(f"[agent]\nkind = '{kind}'\n[replay]\nprioritized = false\n")
    assert not changed.replay.prioritized
    assert "replay.prioritized=false (there true)" in departures(changed)
    assert not parse(f"[replay]\nprioritized = false\n[agent]\nkind = '{kind}'\n").replay.prioritized


def test_a_rainbow_without_noise_explores_by_epsilon() -> None:
    experiment = parse("[agent]\nkind = 'rainbow'\nnoisy = false\n")
    assert experiment.exploration.strategy == "epsilon_greedy"
    assert "exploration.strategy='epsilon_greedy' (there 'greedy')" in departures(experiment)


def test_experiments_are_frozen() -> None:
    with pytest.raises(AttributeError):
        parse("").seed = 1  # type: ignore[misc]


def test_defaults_are_finite() -> None:
    for name in NUMBERS:
        value: Any = Experiment()
        for part in name.split("."):
            value = getattr(value, part)
        assert value is None or math.isfinite(value)
