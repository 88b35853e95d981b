"""A certificate authority of one's own: who may speak with a replay on another host, and as what. No TensorFlow.

A folder holds the authority (`ca.pem`, `ca.key`) and for each role one file of key and certificate (`collector.pem`).
The role is the certificate's common name. Only the replay's certificate is good for a server, and only the others' for
a client, so that a collector's key cannot pose as the replay; those of the acting server and of metrics are a server's,
each under a name of its own. That of learners among each other is both.
"""

import datetime
import ipaddress
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.experiment.config import UsageError

REPLAY = "replay"
CLIENTS = ("learner", "collector", "evaluator")
METRICS, OPERATOR = "metrics", "operator"
"""Who shows the metrics of any host's roles, and who may read them."""
METRICS_HOST = "metrics.reverb-dqn.invalid"
"""The name in the certificate of the first: nobody's host has it, so that it cannot pose as the replay."""
INFERENCE = "inference"
"""Who passes collectors of other hosts on to the acting server."""
INFERENCE_HOST = "inference.reverb-dqn.invalid"
"""The name in its certificate, nobody's host either: collectors know it by that, wherever it is."""
PEERS = "learners"
"""What passes learners on to each other, at both ends: not to the replay, to which each goes as "learner"."""
PEERS_HOST = "learners.reverb-dqn.invalid"
ROLES = (REPLAY, *CLIENTS, METRICS, OPERATOR, INFERENCE, PEERS)
_NAMES = {METRICS: METRICS_HOST, INFERENCE: INFERENCE_HOST, PEERS: PEERS_HOST}

_CLOCK_SKEW = datetime.timedelta(minutes=10)
"""Certificates are good from a little before now: the hosts' clocks differ."""
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)


class Authority:
    """The files of a certificate authority.

    Args:
      folder: that holds them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"

    def of(self, role: str) -> Path:
        """The file with key and certificate of a role."""
        return self.folder / f"{role}.pem"

    def create(self, hosts: Sequence[str], days: int, authority_days: int) -> None:
        """Makes the authority and the certificates of all roles.

        Args:
          hosts: names and addresses under which clients reach the replay's proxy.
          days: for which the roles' certificates are good.
          authority_days: for which the authority is.

        Raises:
          UsageError: a host that cannot be, or the folder holds an authority already or is open to others.
        """
        names = _subject_names(hosts)
        taken = [path.name for path in (self.certificate, self._key, *map(self.of, ROLES)) if path.exists()]
        if taken:
            raise UsageError(f"{self.folder} holds {', '.join(taken)} already: renew it, or choose another folder")
        self._make_folder()
        key = ec.generate_private_key(ec.SECP256R1())
        now = _now()
        name = _name("reverb-dqn authority")
        certificate = (
            _begin(name, key, name, now, now + datetime.timedelta(days=authority_days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(of_authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(self._key, _private(key))
        _write(self.certificate, certificate.public_bytes(Encoding.PEM))
        self._issue(certificate, key, names, days)

    def renew(self, hosts: Sequence[str], days: int) -> None:
        """Makes new keys and certificates of all roles by the same authority.

        Args:
          hosts: as for `create`; none keeps those that the replay's certificate has.
          days: for which they are good.

        Raises:
          UsageError: there is no authority here, it has expired, or its files cannot be read.
        """
        names = _subject_names(hosts) if hosts else None
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            key = load_pem_private_key(self._key.read_bytes(), None)
            if names is None:
                old = x509.load_pem_x509_certificate(self.of(REPLAY).read_bytes())
                names = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (OSError, ValueError, TypeError, x509.ExtensionNotFound) as error:
            raise UsageError(f"{self.folder} cannot be renewed: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(f"{self.folder}: ca.key is not the key of ca.pem")
        if certificate.not_valid_after_utc <= _now():
            raise UsageError(
                f"the authority in {self.folder} ended on {certificate.not_valid_after_utc:%Y-%m-%d}: make another one "
                "in a new folder"
            )
        self._issue(certificate, key, names, days)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be made: {error}") from None
        if self.folder.stat().st_mode & 0o077:
            raise UsageError(f"{self.folder} is open to other users: chmod 700 {self.folder}, or choose a new folder")

    def _issue(
        self,
        authority: x509.Certificate,
        authority_key: ec.EllipticCurvePrivateKey,
        names: Sequence[x509.GeneralName],
        days: int,
    ) -> None:
        now = _now()
        end = min(now + datetime.timedelta(days=days), authority.not_valid_after_utc)
        for role in ROLES:
            key = ec.generate_private_key(ec.SECP256R1())
            own_names = names if role == REPLAY else [x509.DNSName(_NAMES[role])] if role in _NAMES else []
            purposes = [ExtendedKeyUsageOID.SERVER_AUTH if own_names else ExtendedKeyUsageOID.CLIENT_AUTH]
            if role == PEERS:
                purposes.append(ExtendedKeyUsageOID.CLIENT_AUTH)
            builder = (
                _begin(_name(role), key, authority.subject, now, end)
                .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
                .add_extension(_usage(of_authority=False), critical=True)
                .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
            )
            if own_names:
                builder = builder.add_extension(x509.SubjectAlternativeName(own_names), critical=False)
            certificate = builder.sign(authority_key, hashes.SHA256())
            _write(self.of(role), _private(key) + certificate.public_bytes(Encoding.PEM))


def canonical_host(host: str) -> str:
    """A host's name in lower case, or its address in the usual spelling.

    Raises:
      UsageError: it is neither.
    """
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    if not _HOST_NAME.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise UsageError(f"{host!r} is neither a host name nor an address")
    return host.lower()


def _subject_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if not hosts:
        raise UsageError("--hosts is missing: under which names or addresses do other hosts reach the replay's?")
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(map(canonical_host, hosts)):
        names.append(x509.DNSName(host))  # haproxy compares names only: addresses are there as text, too
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            continue
    return names


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _begin(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    now: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(of_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not of_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=of_authority,
        crl_sign=of_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Puts a file that only its owner can read in the place of an older one, whole or not at all."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error}") from None
