"""The pages as a site: `make site` builds it, each page is in its menu, and a broken link ends it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("site")  # built once
ROOT = Path(__file__).resolve().parents[2]
MENU = set(re.findall(r"^\s+- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))


def test_every_page_is_in_the_menu_once() -> None:
    assert {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")} == MENU


@pytest.fixture(scope="module")
def mkdocs() -> Path:
    done = subprocess.run(["make", "site"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / ".site" / "bin" / "mkdocs"


@pytest.mark.slow
@pytest.mark.usefixtures("mkdocs")
def test_the_site_is_searched() -> None:
    built = ROOT / "build" / "site"
    found = json.loads((built / "search" / "search_index.json").read_text())["docs"]
    assert any("samples_per_insert" in entry["text"] for entry in found)
    fetched = re.findall(r'(?:src|<link[^>]+href)="?(https?://[^">\s]+)', (built / "index.html").read_text())
    assert not fetched, "pages need no other server"


@pytest.mark.slow
@pytest.mark.parametrize("link", ["nowhere.md", "runs.md#no-such-heading", "../pipeline/train.py"])
def test_a_broken_link_ends_the_build(link: str, mkdocs: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    page = tmp_path / "docs" / "index.md"
    page.write_text(page.read_text() + f"\n[broken]({link})\n")
    done = subprocess.run([mkdocs, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert link in done.stdout + done.stderr
