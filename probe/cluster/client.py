"""The API server, as the rest of the program speaks to it: plain JSON, few errors, no thread for each stream.

    commands, installation, facts ─ plain calls ─▶ Api ─▶ one event loop on one thread ─▶ HTTP, WebSocket

Configuration, TLS and credentials are the `kubernetes` package's; objects stay the JSON that they are, so that a
field that is newer than that package passes through. Reads are repeated where the server says that it is busy or
goes away for a moment, and once with fresh credentials where it says that they have expired.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient

from probe.cluster.answers import mapping, page_of, parse_json, status_of
from probe.cluster.kubeconfig import Access, load_access
from probe.cluster.lister import AbsentError, ForbiddenError, Json
from probe.cluster.resources import Resource, resource_path
from probe.errors import UnavailableError
from probe.manifests.objects import MAY_INSTALL, MAY_LOOK

#: Seconds for one request; for one handshake of a stream; and between two tries of a read.
REQUEST_WITHIN = 30.0
OPEN_WITHIN = 15.0
RETRY_AFTER = (0.2, 0.5, 1.0, 2.0)

PAGE = 500  # objects in one answer
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_LINE_LIMIT = 16 << 20  # bytes of one watch event; objects in etcd are an order of magnitude shorter
_BUSY = frozenset({429, 500, 502, 503, 504})
_NOT_DONE = frozenset(
    {429, 503}
)  # refused before anything was done (API priority and fairness; shutting down)

T = TypeVar("T")
Objects = list[Json]
Clients = list[ApiClient]


class ApiError(UnavailableError):
    """The API server refused: `status` is HTTP's, `reason` and `message` are of its Status object."""

    def __init__(self, text: str, status: int, reason: str = "", message: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.message = message


class NotFoundError(ApiError):
    """There is no such object (404)."""


class ConflictError(ApiError):
    """It exists already, or was changed meanwhile (409)."""


class GoneError(ApiError):
    """What a watch or a list wanted to go on from is not kept any more (410): begin anew."""


class NotAllowedError(ForbiddenError):
    """The user may not do that (403), and one of the two documented roles would allow it."""

    def __init__(self, verb: str, resource: str, namespace: str | None) -> None:
        super().__init__(verb, resource, namespace)
        where = f" in namespace {namespace}" if namespace else ""
        looks = verb in {"get", "list", "watch"} and resource not in {"events", "pods/exec"}
        role, words = (MAY_LOOK, "may look") if looks else (MAY_INSTALL, "may install")
        said = "get and create" if resource == "pods/exec" else verb
        text = f'you may not {said} {resource}{where}: that takes the role "{words}", {role} of `probe manifests`'
        self.args = (f"{text}; ask who runs the cluster for it",)


class UnreachableError(UnavailableError):
    """The API server does not answer."""


class Api:
    """A connection to one cluster. Calls may come from any thread; they raise UnavailableError and its kin.

    `namespace` is the context's own, "default" without one.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self.context = access.context
        self.namespace = access.namespace
        self.server = access.server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="API server", daemon=True)
        self._thread.start()
        self._client: ApiClient | None = None
        self._retired: Clients = []  # their streams may still be open

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """Read the configuration as kubectl does. Raises UnavailableError where it leads to no cluster."""
        api = cls(load_access(kubeconfig, context))
        try:
            api.run(api._renew())
        except BaseException:
            api.close()
            raise
        return api

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections; may be called twice."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(TimeoutError):
            self.run(self._close_clients(), within=5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        if not self._thread.is_alive():
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], within: float | None = None) -> T:
        """Wait for something that is done on the loop. An interruption here ends it there.

        Raises what it raises; TimeoutError after `within` seconds.
        """
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(within)
        except BaseException:
            future.cancel()
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin something on the loop, and do not wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # ── plain calls ──────────────────────────────────────────────────────────────────────────────────────────

    def list(self, group_version: str, plural: str, namespace: str | None = None) -> Objects:
        """Every object of a kind (`probe.cluster.lister.Lister`)."""
        return self.run(self.alist(Resource(group_version, plural, ""), namespace))[0]

    def find(self, resource: Resource, namespace: str | None = None, *, labels: str = "") -> Objects:
        """Every object of a kind that a label selector admits, with its kind filled in."""
        return self.run(self.alist(resource, namespace, labels=labels))[0]

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """One object. Raises NotFoundError."""
        return self.run(self.aget(resource, name, namespace))

    def create(self, resource: Resource, body: Json, *, dry_run: bool = False) -> Json:
        """Create an object; as the server keeps it. Raises ConflictError where it exists."""
        namespace = body["metadata"].get("namespace") if resource.namespaced else None
        query = {"dryRun": "All"} if dry_run else {}
        path = resource_path(resource, namespace)
        return self.run(self.request("POST", path, ("create", resource, namespace), query=query, body=body))

    def delete(self, resource: Resource, name: str, namespace: str | None = None, *, uid: str = "") -> None:
        """Begin to delete an object, and this very one where `uid` is given. Raises NotFoundError, ConflictError."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        path = resource_path(resource, namespace, name)
        self.run(self.request("DELETE", path, ("delete", resource, namespace), body=body))

    def version(self) -> tuple[int, int]:
        """The server's version, (1, 36)."""
        answer = self.run(self.request("GET", "/version", ("get", _VERSION, None)))
        numbers = [re.match(r"[0-9]{1,4}", str(answer.get(part))) for part in ("major", "minor")]
        if numbers[0] is None or numbers[1] is None:
            raise ApiError(f"{self.server} does not say which Kubernetes it is; check --context", 200)
        return int(numbers[0].group()), int(numbers[1].group())

    def serves(self, group: str) -> bool:
        """Whether the cluster knows an API group."""
        try:
            self.run(self.request("GET", f"/apis/{group}", ("get", _VERSION, None)))
        except (AbsentError, NotFoundError, ForbiddenError):
            return False
        return True

    # ── on the loop ──────────────────────────────────────────────────────────────────────────────────────────

    async def aget(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """`get`, on the loop."""
        path = resource_path(resource, namespace, name)
        return await self.request("GET", path, ("get", resource, namespace))

    async def alist(
        self, resource: Resource, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> tuple[Objects, str]:
        """All pages of a list, and the version from which a watch goes on."""
        query = {"limit": str(PAGE)}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        path, wanted = resource_path(resource, namespace), ("list", resource, namespace)
        items: Objects = []
        while True:
            try:
                answer = await self.request("GET", path, wanted, query=query)
            except GoneError:
                if "limit" not in query:
                    raise
                # The pages were too slow for the server's memory: all at once, from the beginning.
                query.pop("continue", None)
                query.pop("limit")
                items.clear()
                continue
            page = page_of(answer, resource)
            items += page.items
            if not page.going_on:
                return items, page.version
            query["continue"] = page.going_on

    async def watch(
        self, resource: Resource, namespace: str | None, version: str, *, labels: str = ""
    ) -> AsyncIterator[Json]:
        """Changes since `version`: {"type": "ADDED", "object": …}. Ends where the server ends it.

        Raises GoneError where the version is too old.
        """
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "300",
        }
        query |= {"labelSelector": labels} if labels else {}
        path, wanted = resource_path(resource, namespace), ("watch", resource, namespace)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_WITHIN, sock_read=330)
        async with self._send("GET", path, wanted, query=query, timeout=timeout) as response:
            try:
                async for event in _lines(response.content):
                    if event.get("type") == "ERROR":
                        raise refusal_of(mapping(event.get("object")), 500, wanted)
                    yield event
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._unreachable(error) from error

    async def request(
        self,
        method: str,
        path: str,
        wanted: tuple[str, Resource, str | None],
        *,
        query: dict[str, str] | None = None,
        body: Json | None = None,
    ) -> Json:
        """One request and its answer, tried again where the server is busy or not there for a moment.

        What creates is tried again only where it was certainly not done.
        """
        timeout = aiohttp.ClientTimeout(total=REQUEST_WITHIN, sock_connect=OPEN_WITHIN)
        for pause in (*RETRY_AFTER, None):
            try:
                async with self._send(
                    method, path, wanted, query=query, body=body, timeout=timeout
                ) as response:
                    return parse_json(await response.read())
            except ApiError as error:
                if pause is None or error.status not in (_BUSY if method != "POST" else _NOT_DONE):
                    raise
            except (aiohttp.ClientError, TimeoutError) as error:
                again = method != "POST" or isinstance(error, aiohttp.ClientConnectorError)
                if pause is None or not again or isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
                    raise self._unreachable(error) from error
            await asyncio.sleep(pause)
        raise AssertionError("the last try answers or raises")

    @contextlib.asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        wanted: tuple[str, Resource, str | None],
        *,
        timeout: aiohttp.ClientTimeout,
        query: dict[str, str] | None = None,
        body: Json | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send, once more with fresh credentials where these are refused; anything but success is raised."""
        for last in (False, True):
            session, options = await self._session()
            options["headers"]["Content-Type"] = "application/json"
            data = None if body is None else msgspec.json.encode(body)
            url = self._access.server + path
            async with session.request(
                method, url, params=query, data=data, timeout=timeout, **options
            ) as response:
                if response.status == 401 and not last:
                    await self._renew()
                    continue
                if response.status >= 400:
                    raise refusal_of(parse_json(await response.read()), response.status, wanted)
                yield response
                return

    async def exec(
        self, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> aiohttp.ClientWebSocketResponse:
        """Run a command in a pod: a WebSocket of binary messages, each beginning with the number of its channel.

        `protocol` of the answer is v5.channel.k8s.io, where a channel can be closed alone, or v4. Raises
        ForbiddenError, NotFoundError, ApiError, UnreachableError.
        """
        wanted = ("create", PODS_EXEC, namespace)
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
        query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query += [("tty", "false"), *(("command", word) for word in command)]
        for last in (False, True):
            session, options = await self._session()
            try:
                stream: aiohttp.ClientWebSocketResponse = await session.ws_connect(
                    self._access.server + path,
                    params=query,
                    protocols=CHANNEL_PROTOCOLS,
                    max_msg_size=0,  # one message is what the kubelet read at once; the stream's reader bounds the rest
                    timeout=aiohttp.ClientWSTimeout(ws_close=5.0),
                    **options,
                )
                return stream
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 401 and not last:
                    await self._renew()
                    continue
                raise _not_opened(error.status, wanted) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._unreachable(error) from error
        raise AssertionError("the second try answers or raises")

    async def _renew(self) -> None:
        """Read the configuration anew: tokens in it, or what its plugins give, may have changed."""
        before, self._client = self._client, ApiClient(await self._access.configuration())
        if before is not None:
            self._retired.append(before)

    async def _close_clients(self) -> None:
        clients = [*self._retired, *([self._client] if self._client is not None else [])]
        self._client, self._retired = None, []
        for client in clients:
            await client.close()

    async def _session(self) -> tuple[aiohttp.ClientSession, dict[str, Any]]:
        """The session of the client, and what every request of it is given."""
        client = self._client
        if client is None:
            raise UnreachableError("the connection to the cluster is closed; run the command again")
        rest = client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        headers = {"User-Agent": "client-ip-probe", "Accept": "application/json"}
        await client.update_params_for_auth(headers, None, ["BearerToken"], "", "GET", None)
        options: dict[str, Any] = {"headers": headers}
        if client.configuration.tls_server_name:
            options["server_hostname"] = client.configuration.tls_server_name
        if client.configuration.proxy:
            options["proxy"] = client.configuration.proxy
        return rest.pool_manager, options

    def _unreachable(self, error: Exception) -> UnreachableError:
        why = _why(error) or "it does not answer in time"
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            what = f"the certificate or TLS of the cluster's API server {self.server} is not accepted"
            return UnreachableError(f"{what}: {why}; check certificate-authority in the kubeconfig")
        return UnreachableError(
            f"the cluster's API server {self.server} cannot be reached: {why}; check the network, and --context"
        )


def _why(error: Exception) -> str:
    """Why a connection was not made or broke, in the system's words; "" where there are none."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error)


_VERSION = Resource("v1", "the server's version", "", namespaced=False)
PODS_EXEC = Resource("v1", "pods/exec", "PodExecOptions", namespaced=True)


def _not_opened(status: int, wanted: tuple[str, Resource, str | None]) -> UnavailableError:
    """The error for a stream that the server would not open; its words are not kept in a refused handshake."""
    if status >= 500:
        return ApiError(
            f"no stream to the pod could be opened ({status}); see whether the API server reaches the node's kubelet, "
            "port 10250",
            status,
        )
    if status == 404:
        return NotFoundError("the pod is not there any more; run the command again", status)
    return refusal_of({"message": "the handshake was refused"}, status, wanted)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[Json]:
    """The JSON objects of a stream, one a line."""
    buffer = bytearray()
    async for chunk in stream.iter_any():
        buffer += chunk
        *lines, rest = buffer.split(b"\n")
        for line in lines:
            if line.strip():
                yield parse_json(bytes(line))
        buffer = bytearray(rest)
        if len(buffer) > _LINE_LIMIT:
            raise ApiError(
                "the API server sent a change that is longer than any object; check --context", 500
            )


def refusal_of(answer: Json, status: int, wanted: tuple[str, Resource, str | None]) -> UnavailableError:
    """The error for a Status object (meta/v1 Status) that answered what was wanted: verb, resource, namespace."""
    verb, resource, namespace = wanted
    said = status_of(answer)
    code, reason, message = said.code or status, said.reason, said.message
    where = f" in namespace {namespace}" if namespace else ""
    what = f"{verb} {resource.plural}{where}"
    match code:
        case 401:
            return ApiError(
                "the cluster does not accept your credentials: they are wrong or have expired; log in again and "
                "check `kubectl auth whoami`",
                401, reason, message,
            )  # fmt: skip
        case 403 if (
            reason in {"", "Forbidden"} and "PodSecurity" not in message and "admission" not in message
        ):
            return NotAllowedError(verb, resource.plural, namespace)
        case 403:
            return ApiError(
                f"the cluster refuses to {what}: {message}; ask who runs the cluster", 403, reason, message
            )
        case 404 if not said.about_an_object:
            # The server does not know the path: the whole resource is absent, not one object of it.
            return AbsentError(resource.group_version, resource.plural)
        case 404:
            lack = f"there is no {resource.singular} {said.name}{where}; see `kubectl get {resource.plural}`"
            return NotFoundError(lack, 404, reason, message)
        case 409:
            return ConflictError(f"cannot {what}: {message}; run the command again", 409, reason, message)
        case 410:
            return GoneError(f"cannot {what}: {message}; run the command again", 410, reason, message)
        case _:
            return ApiError(
                f"the API server answered {code} to {what}: {message or reason}; try again later",
                code,
                reason,
                message,
            )
