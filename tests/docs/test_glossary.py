"""The glossary: its fields exist, its configs and commands are taken, and its translations follow its own formulas."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents import DqnConfig
from pipeline.experiment import config, fields
from pipeline.experiment.sections import Experiment

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "glossary.md"
SECTIONS = {field.name for field in msgspec.structs.fields(Experiment)}
FIELDS = {field.name for section in fields.sections() for field in section.fields} | {"agent.kind"}


def text() -> str:
    return PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(), re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    section = text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table, f"there is no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def unknown_fields(page: str) -> set[str]:
    """Names in backticks that begin as a field of a section does, and are none."""
    named = re.findall(r"`(\w+)\.(\w+)[^`]*`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    return {f"{section}.{name}" for section, name in named if section in SECTIONS} - FIELDS


def commands(shell: str) -> Iterator[list[str]]:
    """Words behind `-m pipeline.train` in each of our training commands."""
    for line in shell.replace("\\\n", " ").splitlines():
        if "-m pipeline.train " in line:
            yield shlex.split(line.partition("-m pipeline.train ")[2])


def flags(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        found.setdefault(name, []).append(value)
    return found


def configured(command: dict[str, list[str]]) -> Experiment:
    """The experiment of a command's flags; a config that is a file is a block of the page that is saved as that."""
    overrides, seed = tuple(command.get("set", [])), int(command["seed"][0]) if "seed" in command else None
    (name,) = command["config"]
    if not name.endswith(".toml"):
        return config.load(name, overrides, seed)
    saved = re.search(rf"[Ss]ave\s+this\s+as\s+`{re.escape(name)}`:\n\n```toml\n(.*?)```", text(), re.DOTALL)
    assert saved, f"no block of the page is saved as {name}"
    return config.parse(saved[1], overrides, seed)


def ours(config_name: str) -> Experiment:
    """The experiment of the page's only command with that config."""
    found = [flags(words) for shell in blocks("sh") for words in commands(shell)]
    (command,) = (command for command in found if command["config"] == [config_name])
    return configured(command)


# The tables.


def test_every_field_that_the_page_names_exists() -> None:
    assert unknown_fields(text()) == set()
    assert unknown_fields("`replay.capacity`, `replay.size = 3` and `pipeline.train`") == {"replay.size"}


def test_every_translation_of_a_setting_is_a_field_or_says_why_not() -> None:
    for theirs, whose, translation in rows("Settings"):
        named = {f"{section}.{name}" for section, name in re.findall(r"`(\w+)\.(\w+)", translation)}
        assert named & FIELDS or translation.startswith(("none: ", "see `", "`seed`")), theirs
        assert whose, theirs


@pytest.mark.parametrize("heading", ["Words", "Settings"])
def test_every_term_has_one_row_and_they_are_in_alphabetical_order(heading: str) -> None:
    terms = [row[0].strip("`").lower() for row in rows(heading)]
    assert len(terms) == len(set(terms))
    assert terms == sorted(terms)
    assert len(terms) > 40


def test_every_word_is_explained_in_one_sentence() -> None:
    for word, meaning, *_ in rows("Words"):
        assert re.fullmatch(r"[A-Z`][^.]*(\.\w[^.]*)*\.", meaning), f"{word}: {meaning}"


def test_see_leads_to_a_row() -> None:
    terms = {row[0] for row in rows("Settings")}
    for _, _, translation in rows("Settings"):
        for other in re.findall(r"\bsee (`\w+`)", translation):
            assert other in terms, translation


# The translations.


def test_configs_and_commands_of_the_page_are_taken() -> None:
    for block in blocks("toml"):
        config.parse(block)
    found = [flags(words) for shell in blocks("sh") for words in commands(shell)]
    assert len(found) == 2
    for command in found:
        assert set(command) <= {"config", "run_dir", "seed", "set"}
        configured(command)


def keywords(call: ast.Call) -> dict[str, Any]:
    return {
        word.arg: ast.literal_eval(word.value)
        for word in call.keywords
        if word.arg and not isinstance(word.value, ast.Name)
    }


def test_the_config_does_what_the_script_of_sb3_does() -> None:
    (script,) = blocks("python")
    calls = [node for node in ast.walk(ast.parse(script)) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func).rpartition(".")[2]: call for call in calls}
    theirs = keywords(names["DQN"]) | keywords(names["EvalCallback"]) | keywords(names["learn"])
    experiment = ours("from_sb3.toml")
    agent, exploration, replay = experiment.agent, experiment.exploration, experiment.replay
    assert isinstance(agent, DqnConfig)
    assert experiment.environment.id == ast.literal_eval(names["make"].args[0])
    assert experiment.seed == theirs.pop("seed")
    assert agent.learning_rate == theirs.pop("learning_rate")
    assert agent.discount == theirs.pop("gamma")
    assert list(agent.hidden_units) == theirs.pop("policy_kwargs")["net_arch"]
    assert replay.capacity == theirs.pop("buffer_size")
    assert replay.min_size == theirs.pop("learning_starts")
    batch_size, every, updates = theirs.pop("batch_size"), theirs.pop("train_freq"), theirs.pop("gradient_steps")
    total = theirs.pop("total_timesteps")
    assert experiment.collect.lanes * experiment.collect.collectors == 1
    assert experiment.learner.batch_size == batch_size
    assert replay.samples_per_insert == updates * batch_size / every
    assert agent.target_update_period == max(theirs.pop("target_update_interval"), every) * updates / every
    assert exploration.epsilon_decay_steps == theirs.pop("exploration_fraction") * total
    assert exploration.epsilon_final == theirs.pop("exploration_final_eps")
    assert experiment.stop.environment_steps == total
    assert experiment.evaluation.every_steps == theirs.pop("eval_freq")
    assert experiment.evaluation.episodes == theirs.pop("n_eval_episodes")
    assert theirs == {}, "what the script sets and this test does not compare"
    assert (agent.loss, agent.double, agent.n_step, agent.gradient_clip_norm) == ("huber", False, 1, 10.0)


def test_the_command_does_what_the_command_of_cleanrl_does() -> None:
    (line,) = (block for block in blocks("sh") if "cleanrl/dqn.py" in block)
    _, _, *words = shlex.split(line.replace("\\\n", " "))
    assert words.pop() == "--save-model"
    theirs = {flag.removeprefix("--"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    experiment = ours("cartpole")
    agent, exploration, replay = experiment.agent, experiment.exploration, experiment.replay
    assert isinstance(agent, DqnConfig)
    assert experiment.environment.id == theirs.pop("env-id")
    number = {name: float(value) for name, value in theirs.items()}
    assert experiment.seed == number.pop("seed")
    assert experiment.stop.environment_steps == (total := number.pop("total-timesteps"))
    assert agent.learning_rate == number.pop("learning-rate")
    assert experiment.collect.lanes * experiment.collect.collectors == number.pop("num-envs")
    assert replay.capacity == number.pop("buffer-size")
    assert agent.discount == number.pop("gamma")
    assert agent.target_update_tau == number.pop("tau")
    every, batch_size = number.pop("train-frequency"), number.pop("batch-size")
    assert agent.target_update_period == number.pop("target-network-frequency") / every
    assert experiment.learner.batch_size == batch_size
    assert replay.samples_per_insert == batch_size / every
    assert exploration.epsilon_initial == number.pop("start-e")
    assert exploration.epsilon_final == experiment.evaluation.epsilon == number.pop("end-e")
    assert exploration.epsilon_decay_steps == number.pop("exploration-fraction") * total
    assert replay.min_size == number.pop("learning-starts")
    assert number == {}, "what the command sets and this test does not compare"
    assert (agent.loss, agent.double, agent.n_step, agent.gradient_clip_norm) == ("mse", False, 1, 0.0)
