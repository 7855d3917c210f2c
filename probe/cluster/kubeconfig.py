"""Whom to speak to: the kubeconfig that kubectl would read, one context of it, and credentials from it.

Credentials are read again whenever they are refused, so that a token that a plugin or another program renews is
taken up in the middle of a session.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import yaml  # type: ignore[import-untyped] # for its errors, which `kubernetes` lets through
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, InClusterConfigLoader
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from probe.errors import UnavailableError
from probe.render.escape import escape

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: What the package raises for a file that is no kubeconfig, beside its own error.
_MALFORMED = (
    ConfigException, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, yaml.YAMLError,
)  # fmt: skip


class Access(Protocol):
    """A way to a cluster."""

    @property
    def context(self) -> str:
        """The context's name."""
        ...

    @property
    def namespace(self) -> str:
        """Its namespace."""
        ...

    @property
    def server(self) -> str:
        """The API server's URL, without a slash at its end."""
        ...

    async def configuration(self) -> Configuration:
        """How to connect, with credentials that are fresh."""
        ...


def load_access(kubeconfig: Path | None, context: str | None) -> Access:
    """`--kubeconfig`, $KUBECONFIG, ~/.kube/config, or the pod that we run in. Raises UnavailableError."""
    given = str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG", "")
    paths = given or str(Path.home() / ".kube" / "config")
    there = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().is_file()]
    if there:
        return FileAccess.load(paths, context)
    if kubeconfig is None and not given and os.environ.get(SERVICE_HOST_ENV_NAME):
        return PodAccess()
    if kubeconfig is not None:
        raise UnavailableError(f"there is no kubeconfig {kubeconfig}; name the one that kubectl uses")
    raise UnavailableError(f"there is no kubeconfig ({paths}); give --kubeconfig FILE, or set KUBECONFIG")


@dataclass(frozen=True, slots=True)
class FileAccess:
    """One context of kubeconfig files, several of them joined as kubectl does."""

    paths: str
    context: str
    namespace: str
    server: str

    @classmethod
    def load(cls, paths: str, context: str | None) -> FileAccess:
        """Raises UnavailableError where the context, its cluster, or its user is not there."""
        document = _merged(paths)
        contexts = _named(document, "contexts")
        name = context or str(document.get("current-context") or "")
        if not contexts:
            raise UnavailableError(
                f"the kubeconfig {paths} holds no contexts; name the one that kubectl uses"
            )
        known = f"it has {escape(', '.join(sorted(contexts)))}"
        if not name:
            raise UnavailableError(f"the kubeconfig {paths} has no current context; give --context ({known})")
        if name not in contexts:
            raise UnavailableError(
                f"the kubeconfig {paths} has no context {name!a}; give --context ({known})"
            )
        chosen = _mapping(contexts[name].get("context"))
        cluster = _mapping(_named(document, "clusters").get(str(chosen.get("cluster")), {}).get("cluster"))
        if not cluster.get("server"):
            raise UnavailableError(
                f"the kubeconfig {paths} has no server for the context {name!a}; set its cluster"
            )
        server = str(cluster["server"]).rstrip("/")
        if not server.startswith(("http://", "https://")):
            raise UnavailableError(
                f"the kubeconfig {paths}: {server[:80]!a} is no URL of an API server; set its cluster's server"
            )
        return cls(paths, name, str(chosen.get("namespace") or "default"), server)

    async def configuration(self) -> Configuration:
        """How to connect, with what the file or its plugin says now."""
        configuration = Configuration(connection_pool_maxsize=0)  # no limit: one stream for each node
        told = _Complaints()
        try:
            with told.heard():
                loader = KubeConfigLoader(
                    KubeConfigMerger(self.paths).config, active_context=self.context, config_base_path=None
                )
                if loader._user is None:  # the package looks into it all the same
                    loader._user = {}
                await loader.load_and_set(configuration)
        except _MALFORMED as error:
            raise UnavailableError(
                f"the kubeconfig {self.paths} cannot be used: {_one_line(error)}; see `kubectl config view`"
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"{error.filename or self.paths}, of the kubeconfig, cannot be read: {error.strerror}; check the path"
            ) from error
        if told.texts and "BearerToken" not in configuration.api_key and configuration.cert_file is None:
            said = re.sub(r"\[Errno \d+\] ", "", told.texts[0])
            raise UnavailableError(f"the kubeconfig's way to log in failed: {said}; log in again")
        return configuration


class PodAccess:
    """The service account of the pod that we run in."""

    context = "in-cluster"

    def __init__(self) -> None:
        try:
            self.namespace = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or "default"
            self.server = self._load().host
        except (OSError, ConfigException) as error:
            raise UnavailableError(
                f"the pod's service account cannot be used: {_one_line(error)}; give --kubeconfig FILE"
            ) from error

    async def configuration(self) -> Configuration:
        """How to connect, with the token as it is mounted now."""
        return self._load()

    def _load(self) -> Configuration:
        configuration = Configuration(connection_pool_maxsize=0)
        loader = InClusterConfigLoader(str(_ACCOUNT / "token"), str(_ACCOUNT / "ca.crt"))
        loader.load_and_set(configuration)
        return configuration


def _merged(paths: str) -> dict[str, Any]:
    """The files as one document."""
    for path in paths.split(os.pathsep):
        file = Path(path).expanduser()
        if not path or not file.exists():
            continue
        try:
            document = msgspec.yaml.decode(file.read_bytes())
        except OSError as error:
            raise UnavailableError(
                f"the kubeconfig {path} cannot be read: {error.strerror or error}; check the file's rights"
            ) from error
        except _MALFORMED as error:  # msgspec's errors and Unicode's are ValueErrors
            raise UnavailableError(
                f"{path} is no kubeconfig: {_one_line(error)}; name the one that kubectl uses"
            ) from error
        if not isinstance(document, dict):
            raise UnavailableError(
                f"{path} is no kubeconfig: it holds no contexts; name the one that kubectl uses"
            )
    try:
        merged: dict[str, Any] = KubeConfigMerger(paths).config.value
    except _MALFORMED as error:
        raise UnavailableError(
            f"{paths} is no kubeconfig: {_one_line(error)}; name the one that kubectl uses"
        ) from error
    return merged


def _named(document: dict[str, Any], part: str) -> dict[str, dict[str, Any]]:
    """The entries of a part by their names."""
    found = {}
    listed = document.get(part)
    for entry in listed if isinstance(listed, Iterable) else ():
        value = getattr(entry, "value", entry)
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            found[value["name"]] = value
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    """An object of the file, empty where it is none."""
    return value if isinstance(value, Mapping) else {}


class _Complaints(logging.Handler):
    """Hears what the package would log, so that it can be said in our own words."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first words."""
        self.texts.append(" ".join(record.getMessage().split())[:300])

    @contextlib.contextmanager
    def heard(self) -> Any:
        """While the package works."""
        logger = logging.getLogger("kubernetes")
        logger.addHandler(self)
        propagates, logger.propagate = logger.propagate, False
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.propagate = propagates


def _one_line(error: Exception) -> str:
    said = " ".join(str(error).split()).replace('in "<byte string>", ', "in ")
    return escape(said[:300]) or type(error).__name__
