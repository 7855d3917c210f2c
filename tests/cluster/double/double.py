"""The double as a test uses it: a server on a thread of its own, a kubeconfig that leads to it."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from tests.cluster.double.certificates import Certificates
from tests.cluster.double.execution import Command, Executor
from tests.cluster.double.faults import Faults
from tests.cluster.double.nodes import NAMESPACES, PODS, Nodes
from tests.cluster.double.server import KNOWN, TOKEN, Server
from tests.cluster.double.store import Json, Kind, Store

T = TypeVar("T")

_PLURALS = {
    (group_version, kind): (group_version, plural) for (group_version, plural), (kind, _) in KNOWN.items()
}


class Double:
    """An API server with a cluster behind it, on a port of the loopback interface."""

    def __init__(
        self,
        objects: Iterable[Json],
        executor: Executor,
        faults: Faults | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._certificates = certificates
        self.faults = faults or Faults()
        self._executor = executor
        self._objects = [_grown_up(item) for item in objects]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="API double", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self.store = Store()
        self.nodes = Nodes(self.store, self.faults)
        self.server = Server(self.store, self.nodes, self.faults, self._executor)
        for item in self._objects:
            self.store.create(_PLURALS[item["apiVersion"], item["kind"]], item)
        self._runner = web.AppRunner(self.server.app, shutdown_timeout=0.5)
        await self._runner.setup()
        certificates = self._certificates
        context = certificates.server_context() if certificates is not None else None
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self.nodes.close()
        for node in list(self.server.streams):
            self.server.drop(node)
        await self._runner.cleanup()
        for command in self.server.started:
            await command.kill()
        # Handlers of connections that are gone wait for what will not come.
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    # ── for tests, from their own thread ─────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        return f"http{'s' if self._certificates is not None else ''}://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path, *, token: str = TOKEN, namespace: str = "") -> Path:
        """Write a kubeconfig with the contexts "lab" (the current one) and "elsewhere" (where nobody listens)."""
        context = {"cluster": "lab", "user": "operator", **({"namespace": namespace} if namespace else {})}
        cluster, user = {"server": self.url}, {"token": token}
        if self._certificates is not None:
            cluster |= {"certificate-authority-data": self._certificates.authority_data}
            user = {
                "client-certificate": str(self._certificates.client),
                "client-key": str(self._certificates.client_key),
            }
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [
                {"name": "lab", "cluster": cluster},
                {"name": "elsewhere", "cluster": {"server": "http://127.0.0.1:9"}},
            ],
            "users": [{"name": "operator", "user": user}],
            "contexts": [
                {"name": "lab", "context": context},
                {"name": "elsewhere", "context": {"cluster": "elsewhere", "user": "operator"}},
            ],
        }
        path.write_text(json.dumps(body), encoding="utf-8")
        return path

    def call(self, what: Callable[[], T]) -> T:
        """Do something where the server lives."""

        async def do() -> T:
            return what()

        result: T = self._run(do())
        return result

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that is asked where the server lives."""

        async def wait() -> None:
            while not holds():
                await asyncio.sleep(0.005)

        self._run(wait())

    def objects(self, group_version: str, plural: str) -> list[Json]:
        """All objects of a kind as they are now."""
        return self.call(lambda: copy.deepcopy(self.store.all((group_version, plural))))

    def left(self) -> list[str]:
        """What sessions have on the cluster: "daemonsets/NAME"."""

        def look() -> list[str]:
            label = "client-ip-probe/session"
            return [
                f"{kind[1]}/{body['metadata']['name']}"
                for kind, body in self.store.everything()
                if label in (body["metadata"].get("labels") or {})
            ]

        return self.call(look)

    def pod_on(self, node: str) -> Json:
        """The agent's pod on a node."""
        return next(
            pod
            for pod in self.store.all(PODS)
            if pod["spec"].get("nodeName") == node and pod["metadata"].get("ownerReferences")
        )

    def wait_for(self, command: Command) -> int:
        """The exit code of a command of pods/exec."""
        code: int = self._run(command.wait())
        return code

    def kill(self, node: str) -> None:
        """Kill the command that runs on a node, as the kernel does that has no memory left."""
        self._run(self.server.commands[node].kill())

    def evict(self, node: str, message: str = "The node was low on resource: memory.") -> None:
        """End the agent's pod on a node as a kubelet does that lacks something: its streams break."""

        def do() -> None:
            self.nodes.evict(self.pod_on(node), message)
            self.server.drop(node)

        self.call(do)


def _grown_up(item: Json) -> Json:
    """An object with what a real server and real kubelets add to it."""
    item = copy.deepcopy(item)
    if item["kind"] == "Node":
        labels = item["metadata"].setdefault("labels", {})
        labels.setdefault("kubernetes.io/os", "linux")
        labels.setdefault("kubernetes.io/arch", "amd64")
        info = {
            "operatingSystem": labels["kubernetes.io/os"],
            "architecture": "amd64",
            "kubeletVersion": "v1.36.0",
        }
        item.setdefault("status", {})["nodeInfo"] = info
        item["status"].setdefault("conditions", [{"type": "Ready", "status": "True"}])
    return item


def namespaces(*names: str) -> list[Json]:
    """Namespaces as objects."""
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]


def as_kind(kind: Kind) -> str:
    return KNOWN[kind][0]


__all__ = ["NAMESPACES", "Double", "namespaces"]
