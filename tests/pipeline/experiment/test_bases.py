"""A config on top of another: what is merged, what starts anew, and what a mistake is answered with."""

import functools
import itertools
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.experiment.bases import merged
from pipeline.experiment.config import SHIPPED, UsageError, dump, load, parse, shipped
from pipeline.experiment.resume import differences
from pipeline.experiment.run_directory import RunDirectory

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config into the folder of the test and returns its path."""

    def written(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return written


def refusal(path: str, *overrides: str) -> str:
    """The one-line answer to a config that cannot be."""
    with pytest.raises(UsageError) as caught:
        load(path, overrides)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_tables_are_merged_and_values_and_lists_are_replaced(write: Write) -> None:
    write("base.toml", "[agent]\nn_step = 2\nhidden_units = [8, 9]\n[environment.kwargs]\na = {b = 1, c = 2}\nd = 4\n")
    derived = 'base = "base.toml"\n[agent]\nhidden_units = [7]\n[environment.kwargs]\na = {c = 3}\n'
    experiment: Any = load(write("derived.toml", derived))
    assert (experiment.agent.n_step, experiment.agent.hidden_units) == (2, (7,))
    assert experiment.environment.kwargs == {"a": {"b": 1, "c": 3}, "d": 4}


def test_a_bare_name_is_a_shipped_config(write: Write) -> None:
    write("cartpole.toml", "this is not looked at")
    path = write("derived.toml", 'base = "cartpole"\nseed = 4\n')
    assert load(path) == load("cartpole", seed=4)


def test_a_path_is_relative_to_the_file_that_names_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("root.toml", "agent.n_step = 5")
    write("middle/base.toml", 'base = "../root.toml"\nagent.double = false')
    path = write("leaf.toml", 'base = "middle/base.toml"\nseed = 3')
    expected = parse("seed=3\nagent={n_step=5, double=false}")
    assert load(path) == expected
    monkeypatch.chdir(Path(path).parent)
    assert load("leaf.toml") == expected
    monkeypatch.chdir("middle")
    assert load("../leaf.toml") == expected


def test_overrides_and_seed_come_last(write: Write) -> None:
    write("base.toml", "seed = 1\nagent.n_step = 2")
    path = write("derived.toml", 'base = "base.toml"\nseed = 2\nagent.n_step = 3')
    assert load(path, ("agent.n_step=4", "agent.n_step=5"), seed=6) == parse("seed=6\nagent.n_step=5")


def test_a_string_has_shipped_configs_and_absolute_paths_as_bases(write: Write) -> None:
    path = write("base.toml", "agent.n_step = 7")
    assert parse('base = "cartpole"', ("seed=9",)) == load("cartpole", seed=9)
    assert parse(f'base = "{path}"\nseed = 2') == parse("seed = 2\nagent.n_step = 7")
    with pytest.raises(UsageError, match="absolute path"):
        parse('base = "./base.toml"')


def test_an_agent_of_another_kind_starts_anew(write: Write) -> None:
    write("base.toml", '[agent]\nkind = "c51"\nv_min = -1.0\nn_step = 5\n[replay]\ncapacity = 20_000\n')
    path = write("derived.toml", 'base = "base.toml"\nagent.kind = "dqn"\nagent.double = false\n')
    assert load(path) == parse("agent.double = false\nreplay.capacity = 20_000")


@pytest.mark.parametrize("stated", ["", 'kind = "dqn"\n'])
def test_an_agent_of_the_same_kind_is_merged_whether_or_not_it_is_stated(write: Write, stated: str) -> None:
    write("base.toml", "agent.n_step = 5")
    path = write("derived.toml", f'base = "base.toml"\n[agent]\n{stated}double = false\n')
    assert load(path) == parse("agent = {n_step = 5, double = false}")


def test_back_at_the_first_kind_nothing_of_it_is_left(write: Write) -> None:
    write("a.toml", "agent = {kind = 'dqn', n_step = 5}")
    write("b.toml", "base = 'a.toml'\nagent.kind = 'c51'")
    path = write("c.toml", "base = 'b.toml'\nagent.kind = 'dqn'")
    assert load(path) == parse("")


def test_a_run_directory_has_no_base_and_every_field(write: Write, tmp_path: Path) -> None:
    experiment = load(write("derived.toml", 'base = "cartpole"\nagent.n_step = 7'))
    run = RunDirectory(tmp_path / "run")
    run.create(experiment)
    written = tomllib.loads(run.config.read_text())
    assert "base" not in written
    assert written == tomllib.loads(dump(load("cartpole", ("agent.n_step=7",))))
    assert run.experiment() == experiment


@pytest.mark.parametrize(
    ("derived", "base", "changed"),
    [
        ("highway_shielded", "highway", ["environment.shield"]),
        ("cartpole_munchausen", "cartpole_dqn", ["agent.double", "agent.munchausen"]),
        *((f"minatar_{game}", "minatar_breakout", ["environment.id"]) for game in ("asterix", "freeway", "seaquest")),
    ],
)
def test_shipped_configs_differ_from_their_base_in_what_they_are_about(
    derived: str, base: str, changed: list[str]
) -> None:
    assert tomllib.loads((SHIPPED / f"{derived}.toml").read_text())["base"] == base
    assert differences(load(base), load(derived)) == changed


def test_every_shipped_base_is_a_shipped_config() -> None:
    trees = {name: tomllib.loads((SHIPPED / f"{name}.toml").read_text()) for name in shipped()}
    bases = {tree["base"] for tree in trees.values() if "base" in tree}
    assert bases
    assert bases <= set(trees)


@pytest.mark.parametrize("base", ["no_such", "no_such.toml", "./cartpole", "..", "", "x" * 5000, "a\\u0000b", "a\\nb"])
def test_a_base_that_is_not_there_is_refused(write: Write, base: str) -> None:
    path = write("derived.toml", f'base = "{base}"')
    message = refusal(path)
    assert message.startswith(f"{path}: no base ")
    assert "cartpole" in message


@pytest.mark.parametrize("value", ["3", '["cartpole"]', "true", '{name = "cartpole"}', "2020-01-31"])
def test_a_base_that_is_no_string_is_refused(write: Write, value: str) -> None:
    path = write("derived.toml", f"base = {value}")
    assert refusal(path).startswith(f"{path}: base must be ")


@pytest.mark.parametrize("section", ["agent", "stop", "environment", "nonsense"])
def test_a_base_within_a_table_is_refused(write: Write, section: str) -> None:
    path = write("derived.toml", f'[{section}]\nbase = "cartpole"')
    assert refusal(path).startswith(f"{path}: {section}.base: ")
    above = write("above.toml", 'base = "derived.toml"')
    assert refusal(above).startswith(f"{path}: {section}.base: ")


def test_an_argument_of_an_environment_may_be_called_base(write: Write) -> None:
    path = write("derived.toml", "[environment.kwargs]\nbase = 3")
    assert load(path).environment.kwargs == {"base": 3}


@pytest.mark.parametrize("line", ['base="cartpole"', 'base = "cartpole"\n', "base=3"])
def test_an_override_names_no_base(line: str) -> None:
    assert refusal("cartpole", line).startswith(f"--set={line.strip()}: ")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_is_refused_with_its_files(write: Write, length: int) -> None:
    paths = [write(f"{index}.toml", f'base = "{(index + 1) % length}.toml"') for index in range(length)]
    message = refusal(paths[0])
    assert message.startswith(f"{paths[-1]}: base = '0.toml' makes a circle")
    assert message.endswith(" -> ".join([*paths, paths[0]]))


def test_a_run_is_refused_in_one_line_with_exit_code_2_and_nothing_written(write: Write, tmp_path: Path) -> None:
    path = write("derived.toml", 'base = "no_such"')
    command = [sys.executable, "-m", "pipeline.train", f"--config={path}", f"--run_dir={tmp_path / 'run'}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SHIPPED.parent)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {path}: no base 'no_such'")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["derived.toml"]


def test_a_circle_by_other_names_of_a_file_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("derived.toml", 'base = "linked/derived.toml"')
    (tmp_path / "linked").symlink_to(tmp_path)
    assert "makes a circle" in refusal(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("agent.n_step = 0", "agent.n_step: "),
        ("agent.n_steps = 3", "the nearest is 'agent.n_step'"),
        ("stop.target_return = inf", "stop.target_return must be finite"),
        ("agent = 3", "agent: "),
        ("agent.kind = 'nosuch'", "there are "),
        ("[agent", "not TOML"),
    ],
)
def test_a_mistake_in_a_base_is_refused_by_its_file(write: Write, text: str, words: str) -> None:
    write("root.toml", "agent.n_step = 2")
    path = write("broken.toml", f'base = "root.toml"\n{text}')
    message = refusal(write("derived.toml", 'base = "broken.toml"\nseed = 3'))
    assert message.startswith(f"{path}: ")
    assert words in message


def test_a_base_that_is_not_text_is_refused_by_its_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"seed = 1 # \xff\xfe")
    assert "binary.toml cannot be read" in refusal(write("derived.toml", 'base = "binary.toml"'))


def test_values_of_a_base_need_not_fit_each_other_before_those_on_top_of_them(write: Write) -> None:
    write("base.toml", "replay.capacity = 500\nreplay.min_size = 501")
    path = write("derived.toml", 'base = "base.toml"\nreplay.capacity = 50_000')
    assert load(path) == parse("replay = {capacity = 50_000, min_size = 501}")


def test_a_misspelt_base_is_told_its_name(write: Write) -> None:
    assert "the nearest is 'base'" in refusal(write("derived.toml", 'bases = "cartpole"'))


VALUES = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
KEYS = st.sampled_from(["a", "b", "c"])
ARGUMENTS = st.dictionaries(KEYS, st.recursive(VALUES, lambda values: st.dictionaries(KEYS, values, max_size=3)))
"""Here the same key may be a table in one config and a value in another."""


def tables(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    """Tables of which keys in capitals are tables everywhere and others values, as the fields of a config are."""
    deeper = {key: tables(depth - 1) for key in "AB"} if depth else {}
    return st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES} | deeper)


@given(tables(2), tables(2), tables(2))
def test_merging_is_associative(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    assert merged(merged(one, two), three) == merged(one, merged(two, three))


@given(ARGUMENTS, ARGUMENTS)
def test_merging_changes_neither_and_nothing_adds_nothing(one: dict[str, Any], two: dict[str, Any]) -> None:
    before = repr((one, two))
    together = merged(one, two)
    assert repr((one, two)) == before
    assert merged(together, {}) == merged({}, together) == merged(together, two) == together


FIELDS = {
    "seed": st.integers(0, 9),
    "environment": st.fixed_dictionaries(
        {}, optional={"id": st.sampled_from(["CartPole-v1", "Acrobot-v1"]), "kwargs": ARGUMENTS}
    ),
    "replay": st.fixed_dictionaries(
        {}, optional={"capacity": st.integers(50_000, 50_009), "prioritized": st.booleans()}
    ),
    "stop": st.fixed_dictionaries({}, optional={"seconds": st.integers(1, 9), "target_return": st.integers(1, 9)}),
}
OF_KIND: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "dqn": {"double": st.booleans(), "cql_alpha": st.sampled_from([0.0, 0.5])},
    "c51": {"num_atoms": st.integers(2, 9)},
    "qr_dqn": {"num_quantiles": st.integers(2, 9)},
}
OF_ALL = {"n_step": st.integers(1, 9), "hidden_units": st.lists(st.integers(1, 9), max_size=3)}


@st.composite
def chains(draw: Any) -> list[dict[str, Any]]:
    """The tables of configs, each the base of the next; agents change their kind now and then, or do not say it."""
    kind, chain = "dqn", []
    for _ in range(draw(st.integers(2, 5))):
        tree = draw(st.fixed_dictionaries({}, optional=FIELDS))
        if draw(st.booleans()):
            before, kind = kind, draw(st.sampled_from([kind, *OF_KIND]))
            agent = draw(st.fixed_dictionaries({}, optional=OF_ALL | OF_KIND[kind]))
            tree["agent"] = agent | ({"kind": kind} if kind != before or draw(st.booleans()) else {})
        chain.append(tree)
    return chain


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value of a tree by its path; an empty table counts as one."""
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        found |= leaves(value, (*prefix, key)) if isinstance(value, dict) and value else {(*prefix, key): value}
    return found


def written_out(chain: list[dict[str, Any]]) -> dict[str, Any]:
    """The chain as one config: each value where the last file that has it says it, one line after the other."""
    lines: dict[tuple[str, ...], Any] = {}
    kind = "dqn"
    for tree in chain:
        said = tree.get("agent", {}).get("kind", kind)
        if said != kind:
            lines = {path: value for path, value in lines.items() if path[0] != "agent"}
            kind = said
        for path, value in leaves(tree).items():
            is_empty_table = value == {}
            if is_empty_table and any(other[: len(path)] == path and other != path for other in lines):
                continue  # nothing is added to a table that is there
            lines = {
                other: kept
                for other, kept in lines.items()
                if other[: len(path)] != path and path[: len(other)] != other
            }
            lines[path] = value
    out: dict[str, Any] = {}
    for path, value in lines.items():
        functools.reduce(lambda table, key: table.setdefault(key, {}), path[:-1], out)[path[-1]] = value
    return out


@settings(max_examples=50)
@given(chains(), st.data())
def test_a_chain_of_bases_is_what_it_is_written_out(chain: list[dict[str, Any]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.toml" for index in range(len(chain))]
        for path, tree in zip(paths, chain, strict=True):
            path.write_text(tomli_w.dumps(tree))
        for below, above in itertools.pairwise(paths):
            above.write_text(f'base = "{below.name}"\n{above.read_text()}')
        experiment = load(str(paths[-1]))
        assert experiment == parse(tomli_w.dumps(written_out(chain)))
        resolved = data.draw(st.sampled_from(paths), label="resolved")  # as a run directory has it
        whole = load(str(resolved))
        resolved.write_text(dump(whole))
        # A resolved config gives every field: a kind or priorities that come later find none that they could choose.
        if (whole.agent.kind, whole.replay.prioritized) == (experiment.agent.kind, experiment.replay.prioritized):
            assert load(str(paths[-1])) == experiment


def test_btr_has_the_numbers_of_its_paper_and_the_others_are_btr() -> None:
    paper = load("btr")
    agent: Any = paper.agent
    assert (agent.learning_rate, agent.discount, agent.n_step, agent.kappa) == (1e-4, 0.997, 3, 1.0)
    assert (agent.quantile_samples, agent.embedding_cosines, agent.gradient_clip_norm) == (8, 64, 10.0)
    assert paper.replay.samples_per_insert * 64 == paper.learner.batch_size == 256
    assert paper.collect.collectors * paper.collect.lanes == 64
    steps = (paper.stop.environment_steps - paper.replay.min_size) / 64
    assert paper.replay.importance_exponent_steps == pytest.approx(steps, rel=0.01)
    parts = ("munchausen", "dueling", "noisy", "double", "kind", "munchausen_scale", "munchausen_temperature")
    torso = ("image_torso", "torso_width", "torso_pooling", "torso_cells", "spectral_norm", "n_step")
    for name, of in (("minatar_btr", parts + torso), ("cartpole_btr", parts)):
        other = load(name)
        assert {field: getattr(other.agent, field) for field in of} == {field: getattr(agent, field) for field in of}
        assert other.replay.prioritized
        assert other.replay.priority_exponent == paper.replay.priority_exponent == 0.2
