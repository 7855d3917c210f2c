"""Certificates as a cluster has them: an authority of its own, the server's, and a user's."""

from __future__ import annotations

import base64
import ssl
import subprocess
from pathlib import Path


class Certificates:
    """Made by openssl in a folder, valid for a day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
                      "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=kubernetes",
                      "-addext", "keyUsage=critical,keyCertSign,digitalSignature")  # fmt: skip
        self._sign("server", "/CN=kube-apiserver", "subjectAltName=IP:127.0.0.1,DNS:kubernetes")
        self._sign("client", "/O=system:masters/CN=operator", "extendedKeyUsage=clientAuth")
        self.client, self.client_key = folder / "client.crt", folder / "client.key"

    @property
    def authority_data(self) -> str:
        """The authority's certificate as a kubeconfig holds it."""
        return base64.b64encode((self._folder / "ca.crt").read_bytes()).decode()

    def server_context(self) -> ssl.SSLContext:
        """Who connects must show a certificate of the authority."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._folder / "ca.crt"))
        context.load_cert_chain(self._folder / "server.crt", self._folder / "server.key")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _sign(self, name: str, subject: str, extension: str) -> None:
        (self._folder / f"{name}.ext").write_text(f"{extension}\nauthorityKeyIdentifier=keyid\n")
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)  # fmt: skip
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "1",
                      "-out", f"{name}.crt", "-extfile", f"{name}.ext")  # fmt: skip

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)
