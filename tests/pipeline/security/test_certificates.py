"""The authority of a run on several hosts: what its certificates say, and who can read the files."""

import datetime
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.experiment.config import UsageError
from pipeline.security import certificate_authority
from pipeline.security.certificate_authority import (
    CLIENTS,
    INFERENCE,
    METRICS,
    OPERATOR,
    PEERS,
    REPLAY,
    ROLES,
    Authority,
    canonical_host,
)

ROOT = Path(__file__).resolve().parents[3]


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.fixture
def made(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "certificates")
    made.create(["Learner-Host", "10.0.0.2", "fd00:0::1"], days=30, authority_days=300)
    return made


def test_every_role_has_a_certificate_of_its_name_and_purpose_by_this_authority(made: Authority) -> None:
    root = certificate(made.certificate)
    for role in ROLES:
        leaf = certificate(made.of(role))
        leaf.verify_directly_issued_by(root)
        (name,) = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert name.value == role
        purposes = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        serves, calls = role in (REPLAY, METRICS, INFERENCE, PEERS), role in (*CLIENTS, OPERATOR, PEERS)
        expected = {ExtendedKeyUsageOID.SERVER_AUTH: serves, ExtendedKeyUsageOID.CLIENT_AUTH: calls}
        assert purposes == [purpose for purpose, holds in expected.items() if holds]
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        remaining = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        assert datetime.timedelta(days=29) < remaining <= datetime.timedelta(days=30)


def test_the_replay_is_known_by_all_its_names_and_addresses(made: Authority) -> None:
    names = certificate(made.of(REPLAY)).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["learner-host", "10.0.0.2", "fd00::1"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.2", "fd00::1"]


def test_only_the_owner_can_read_anything(made: Authority) -> None:
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
    files = list(made.folder.iterdir())
    assert len(files) == len(ROLES) + 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_what_is_there_is_not_overwritten(made: Authority) -> None:
    before = {path: path.read_bytes() for path in made.folder.iterdir()}
    with pytest.raises(UsageError, match="already"):
        made.create(["host"], 1, 1)
    assert {path: path.read_bytes() for path in made.folder.iterdir()} == before


def test_renewal_keeps_the_authority_and_the_names_and_makes_new_keys(made: Authority) -> None:
    before = {path: path.read_bytes() for path in made.folder.iterdir()}
    made.renew([], days=60)
    assert made.certificate.read_bytes() == before[made.certificate]
    old = x509.load_pem_x509_certificate(before[made.of(REPLAY)])
    new = certificate(made.of(REPLAY))
    new.verify_directly_issued_by(certificate(made.certificate))
    assert new.public_key() != old.public_key()
    assert new.not_valid_after_utc > old.not_valid_after_utc
    of = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(of) == old.extensions.get_extension_for_class(of)
    made.renew(["elsewhere"], days=60)
    names = certificate(made.of(REPLAY)).extensions.get_extension_for_class(of).value
    assert names.get_values_for_type(x509.DNSName) == ["elsewhere"]


def test_no_certificate_outlives_its_authority(made: Authority) -> None:
    made.renew([], days=1000)
    assert certificate(made.of("collector")).not_valid_after_utc == certificate(made.certificate).not_valid_after_utc


def test_an_authority_that_has_ended_renews_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Authority(tmp_path / "old")
    with monkeypatch.context() as patch:
        past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=20)
        patch.setattr(certificate_authority, "_now", lambda: past)
        made.create(["host"], days=5, authority_days=10)
    with pytest.raises(UsageError, match="ended on"):
        made.renew([], 5)


def test_a_key_of_another_authority_renews_nothing(made: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.create(["host"], 1, 1)
    (made.folder / "ca.key").write_bytes((other.folder / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="not the key"):
        made.renew([], 5)


@pytest.mark.parametrize("host", ["a b", "", "-a", "a..b", "10.0.0.300", "host:9443", "*.host", "x\ny", "é"])
def test_hosts_that_cannot_be_are_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        Authority(tmp_path / "new").create([host], 1, 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("host", "expected"), [("A.b-C", "a.b-c"), ("[::1]", "::1"), ("0:0::1", "::1"), ("h", "h")])
def test_hosts_have_one_spelling(host: str, expected: str) -> None:
    assert canonical_host(host) == expected


def test_a_folder_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(UsageError, match="chmod 700"):
        Authority(tmp_path).create(["host"], 1, 1)
    assert not list(tmp_path.iterdir())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.certificates", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_command_says_what_each_file_is_for(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    result = run(f"--folder={folder}", "--hosts=localhost,127.0.0.1", "--days=7")
    assert result.returncode == 0, result.stderr
    assert all(path.name in result.stdout for path in folder.iterdir())
    result = run(f"--folder={folder}", "--renew")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--folder is missing"),
        (["--folder={}"], "--hosts is missing"),
        (["--folder={}", "--hosts=a b"], "neither a host name"),
        (["--folder={}", "--renew"], "cannot be renewed"),
        (["--folder={}", "--hosts=a", "--days=0"], "days"),
        (["--folder={}", "--hosts=a", "--days=99999999"], "at most"),
        (["--folder={}", "--hosts=a", "b"], "unexpected argument 'b'"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(arguments: list[str], words: str, tmp_path: Path) -> None:
    result = run(*(argument.format(tmp_path / "new") for argument in arguments))
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
