"""The reference of a config has every field, and says what each takes."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from pipeline.experiment import fields
from pipeline.experiment.config import UsageError, dump, parse, shipped, typed
from pipeline.experiment.config import load as load_config

ROOT = Path(__file__).resolve().parents[3]
ALL = [field for section in fields.sections() for field in section.fields]


def reference(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.reference", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def names_of(table: dict[str, object], prefix: str = "") -> set[str]:
    free = {"environment.kwargs", "evaluation.kwargs"}
    found: set[str] = set()
    for name, value in table.items():
        dotted = f"{prefix}{name}"
        nested = isinstance(value, dict) and dotted not in free
        found |= names_of(value, f"{dotted}.") if nested else {dotted}  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("config", shipped())
def test_every_field_of_a_resolved_config_is_there(config: str) -> None:
    resolved = tomllib.loads(dump(load_config(config)))
    assert names_of(resolved) - {"agent.kind"} <= {field.name for field in ALL}


def test_every_field_has_a_meaning() -> None:
    assert [field.name for field in ALL if not field.meaning] == []


@pytest.mark.parametrize("section", list(fields.sections()), ids=lambda section: section.title)
def test_defaults_are_what_a_config_without_them_has(section: fields.SectionDoc) -> None:
    title = section.title if "kind" in section.title else ""
    kind = (f"agent.{title.partition('] ')[2]}",) if title else ('agent.kind="dqn"',)
    lines = tuple(f"{field.name}={field.default}" for field in section.fields if field.default)
    given, left_out = (tomllib.loads("\n".join(text)) for text in ((*kind, *lines), kind))
    assert typed(given) == typed(left_out)


@pytest.mark.parametrize("field", [field for field in ALL if field.kind.startswith(("integer >=", "number >="))])
def test_bounds_are_those_that_are_held(field: fields.FieldDoc) -> None:
    least = float(field.kind.split()[2].rstrip(","))
    value = int(least) - 1 if field.kind.startswith("integer") else least - 0.5
    section = next(section for section in fields.sections() if field in section.fields)
    kind = (f"agent.{section.title.partition('] ')[2]}",) if "kind" in section.title else ()
    with pytest.raises(UsageError, match=field.name.replace(".", r"\.")):
        parse("", (*kind, f"{field.name}={value}"))


def test_the_page_is_of_these_structs() -> None:
    is_newest = (ROOT / "docs" / "config.md").read_text() == reference("--markdown").stdout
    assert is_newest, "write it anew: .venv/bin/python -m pipeline.reference --markdown > docs/config.md"


def test_a_part_can_be_asked_for() -> None:
    shown = reference("--field=replay.cap").stdout
    assert "replay.capacity = 100000  (integer >= 1)" in shown
    assert "replay.min_size" not in shown
    assert "leave --field and --kind out" in reference("--markdown", "--kind=dqn").stderr
    none = reference("--field=nowhere.to.be.found")
    assert (none.returncode, none.stdout, len(none.stderr.splitlines())) == (2, "", 1)


def test_text_is_escaped_where_a_table_needs_it() -> None:
    rows = [line for line in fields.markdown() if line.startswith("| `")]
    assert len(rows) == len(ALL)
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert msgspec.to_builtins(ALL[0])["name"] == "seed"
