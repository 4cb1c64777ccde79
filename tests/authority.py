"""Who signs certificates for tests."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.servers import HOST


class Authority:
    """Who signs certificates: of a gateway for this machine's address, and of callers."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        self.pem = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None)).public_bytes(Encoding.PEM)

    def issue(self, folder: Path, name: str, address: str = HOST) -> None:
        """Write ``<name>.crt`` and ``<name>.key``, each whole, for whoever has this address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for suffix, data in (("key", private), ("crt", self._signed(subject, key, own).public_bytes(Encoding.PEM))):
            scratch = folder / f".{name}.{suffix}"
            scratch.write_bytes(data)
            scratch.rename(folder / f"{name}.{suffix}")

    def _signed(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        return builder.add_extension(extension, critical=True).sign(self._key, hashes.SHA256())


def context(authority: Authority, folder: Path | None = None, name: str = "caller") -> ssl.SSLContext:
    """What a caller trusts, and the certificate that he shows if he has one."""
    told = ssl.create_default_context(cadata=authority.pem.decode())
    if folder is not None:
        told.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return told
