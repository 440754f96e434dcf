"""A certificate authority of a test's own, and the certificates of its servers."""

import re
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_DAYS = "2"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
# As strict as Python 3.13 asks for: what a CA may do, and whose key signed.
_OF_CA = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash")
_OF_SERVER = """\
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName={names}
"""


@dataclass(frozen=True)
class Issued:
    """A server's certificate and its key, a file each, in PEM form."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """What a server of Python's shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def in_one_file(self) -> Path:
        """Return a file with key and certificate in it, as Kafka's key stores of type PEM have them."""
        path = self.certificate.with_suffix(".store.pem")
        path.write_text(self.key.read_text() + self.certificate.read_text())
        path.chmod(0o600)
        return path


class Authority:
    """A CA. ``certificate`` is what a client has to trust. Skips the test where the program openssl is missing."""

    def __init__(self, directory: Path, name: str = "CA of a test") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs the program openssl, to make certificates")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        extensions = (part for each in _OF_CA for part in ("-addext", each))
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, "-days", _DAYS, "-subj", f"/CN={name}", *extensions)

    def issue(self, *names: str) -> Issued:
        """Return the certificate of a server that is called so: ``DNS:localhost``, ``IP:127.0.0.1``."""
        stem = self._directory / re.sub(r"\W", "-", names[0])
        key, request, certificate, extensions = (stem.with_suffix(f".{end}") for end in ("key", "csr", "pem", "ext"))
        extensions.write_text(_OF_SERVER.format(names=",".join(names)))
        _openssl("req", "-new", *_KEY, "-keyout", key, "-out", request, "-subj", "/CN=server of a test")
        signed_by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, *signed_by, "-days", _DAYS, "-out", certificate)
        return Issued(certificate, key)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
