"""The paths and verbs of the API server, over real HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
from typing import Any

from aiohttp import WSMsgType, web

from tests.cluster.double.execution import Command, Executor
from tests.cluster.double.faults import Faults
from tests.cluster.double.nodes import DAEMON_SETS, NAMESPACES, PODS, Nodes
from tests.cluster.double.store import Json, Kind, Refused, Store

TOKEN = "first"
USER = "operator"

#: Kinds that the double knows: plural, kind, and whether they live in namespaces.
KNOWN: dict[Kind, tuple[str, bool]] = {
    ("v1", "namespaces"): ("Namespace", False),
    ("v1", "nodes"): ("Node", False),
    ("v1", "pods"): ("Pod", True),
    ("v1", "services"): ("Service", True),
    ("v1", "configmaps"): ("ConfigMap", True),
    ("v1", "serviceaccounts"): ("ServiceAccount", True),
    ("v1", "events"): ("Event", True),
    ("apps/v1", "daemonsets"): ("DaemonSet", True),
    ("apps/v1", "statefulsets"): ("StatefulSet", True),
    ("policy/v1", "poddisruptionbudgets"): ("PodDisruptionBudget", True),
    ("apps/v1", "deployments"): ("Deployment", True),
    ("discovery.k8s.io/v1", "endpointslices"): ("EndpointSlice", True),
    ("networking.k8s.io/v1", "ingresses"): ("Ingress", True),
    ("networking.k8s.io/v1", "ingressclasses"): ("IngressClass", False),
    ("networking.k8s.io/v1", "servicecidrs"): ("ServiceCIDR", False),
}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PAGE_TOKEN = "continue-{version}-{at}"


class Server:
    """One API server."""

    def __init__(self, store: Store, nodes: Nodes, faults: Faults, executor: Executor) -> None:
        self.store, self.nodes, self.faults, self.executor = store, nodes, faults, executor
        self.requests: list[tuple[str, str]] = []  # verb and resource, as they came
        self.streams: dict[str, web.WebSocketResponse] = {}  # by node
        self.commands: dict[str, Command] = {}  # by node, the last that was started there
        self.started: list[Command] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self._serve)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            self._authenticate(request)
            return await self._route(request)
        except Refused as refused:
            return web.json_response(refused.status, status=refused.code)

    def _authenticate(self, request: web.Request) -> None:
        if self.faults.unavailable > 0:
            self.faults.unavailable -= 1
            raise Refused(503, "ServiceUnavailable", "apiserver is shutting down")
        accepted = self.faults.tokens if self.faults.tokens is not None else {TOKEN}
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.secure and request.transport is not None and request.transport.get_extra_info("peercert"):
            return  # the user's certificate is of the cluster's own authority
        if given not in accepted:
            raise Refused(401, "Unauthorized", "Unauthorized")

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.path.split("/") if part]
        if parts == ["version"]:
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if parts[:1] == ["apis"] and len(parts) == 2:
            if any(kind[0].startswith(f"{parts[1]}/") for kind in KNOWN):
                return web.json_response({"kind": "APIGroup", "apiVersion": "v1", "name": parts[1]})
            raise _unknown_path()
        if parts[-1:] == ["selfsubjectaccessreviews"] and request.method == "POST":
            return web.json_response(self._review(await request.json()))
        root, rest = parts[:1], parts[1:]
        count = {"api": 1, "apis": 2}.get("".join(root), 0)
        if not count or len(rest) <= count:
            raise _unknown_path()
        group_version, rest = "/".join(rest[:count]), rest[count:]
        namespace: str | None = None
        if rest[0] == "namespaces" and len(rest) >= 3:
            namespace, rest = rest[1], rest[2:]
        kind = (group_version, rest[0])
        if kind not in KNOWN:
            raise _unknown_path()
        name, sub = (rest[1] if len(rest) > 1 else ""), "/".join(rest[2:])
        return await self._call(request, kind, namespace, name, sub)

    async def _call(
        self, request: web.Request, kind: Kind, namespace: str | None, name: str, sub: str
    ) -> web.StreamResponse:
        watch = request.query.get("watch") in {"1", "true"}
        verb = {
            "GET": "get" if name else "watch" if watch else "list",
            "POST": "create",
            "DELETE": "delete",
        }.get(request.method, request.method.lower())
        resource = f"{kind[1]}/{sub}" if sub else kind[1]
        self.requests.append((verb, resource))
        self._authorize(verb, kind, resource, namespace, name)
        if sub == "exec":
            return await self._exec(request, namespace or "", name)
        match verb:
            case "list":
                return self._list(request, kind, namespace)
            case "watch":
                return await self._watch(request, kind, namespace)
            case "get":
                return web.json_response(self.store.get(kind, namespace or "", name))
            case "create":
                return self._create(kind, namespace, await request.json(), dry_run="dryRun" in request.query)
            case "delete":
                text = await request.text()
                return self._delete(kind, namespace, name, json.loads(text) if text else {})
            case _:
                raise Refused(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )

    def _review(self, review: dict[str, Any]) -> dict[str, Any]:
        """What the user may, as the authorizer would say (SelfSubjectAccessReview)."""
        asked = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        self._authorize("create", ("authorization.k8s.io/v1", "selfsubjectaccessreviews"), "selfsubjectaccessreviews",
                        None, "")  # fmt: skip
        return {**review, "status": {"allowed": (asked["verb"], resource) not in self.faults.forbidden}}

    def _authorize(self, verb: str, kind: Kind, resource: str, namespace: str | None, name: str) -> None:
        if (verb, resource) not in self.faults.forbidden:
            return
        group = kind[0].rpartition("/")[0]
        told = f"{kind[1]}.{group}" if group else kind[1]
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        which = f' "{name}"' if name else ""
        message = (
            f'{told}{which} is forbidden: User "{USER}" cannot {verb} resource "{resource}" '
            f'in API group "{group}" {where}'
        )
        raise Refused(403, "Forbidden", message, {"name": name, "group": group, "kind": kind[1]})

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    def _list(self, request: web.Request, kind: Kind, namespace: str | None) -> web.Response:
        query = request.query
        found = self.store.select(
            kind, namespace, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        at, version = 0, self.store.version
        if token := query.get("continue"):
            _, told, place = token.split("-")
            if int(told) < self.store.oldest:
                raise Refused(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list"
                )
            at, version = int(place), int(told)
        limit = int(query.get("limit", "0")) or len(found) or 1
        metadata: Json = {"resourceVersion": str(version)}
        if at + limit < len(found):
            metadata |= {"continue": _PAGE_TOKEN.format(version=version, at=at + limit)}
            metadata |= {"remainingItemCount": len(found) - at - limit}
        items = [
            {key: value for key, value in body.items() if key not in {"kind", "apiVersion"}}
            for body in found[at : at + limit]
        ]
        body = {"kind": f"{KNOWN[kind][0]}List", "apiVersion": kind[0], "metadata": metadata, "items": items}
        return web.json_response(body)

    async def _watch(self, request: web.Request, kind: Kind, namespace: str | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        seen = int(request.query.get("resourceVersion") or 0)
        if self.faults.gone > 0:
            self.faults.gone -= 1
            self.store.forget()
        left = self.faults.watch_events
        labels = request.query.get("labelSelector", "")
        with contextlib.suppress(ConnectionError):
            while left is None or left > 0:
                if seen < self.store.oldest - 1:
                    expired = Refused(
                        410, "Expired", f"too old resource version: {seen} ({self.store.oldest})"
                    )
                    await _event(response, "ERROR", expired.status)
                    break
                for change in [each for each in self.store.history if each.version > seen]:
                    seen = change.version
                    if change.kind == kind and _concerns(change.body, namespace, labels):
                        await _event(response, change.type, change.body)
                        left = None if left is None else left - 1
                async with self.store.changed:
                    if (
                        not any(each.version > seen for each in self.store.history)
                        and seen >= self.store.oldest - 1
                    ):
                        await self.store.changed.wait()
        return response

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────

    def _create(self, kind: Kind, namespace: str | None, body: Json, *, dry_run: bool) -> web.Response:
        metadata = body.get("metadata") or {}
        if not _NAME.fullmatch(str(metadata.get("name", ""))):
            raise Refused(
                422, "Invalid", f'{KNOWN[kind][0]} "{metadata.get("name")}" is invalid: metadata.name'
            )
        if KNOWN[kind][1]:
            if metadata.get("namespace", namespace) != namespace:
                raise Refused(
                    400, "BadRequest", "the namespace of the provided object does not match the request"
                )
            metadata["namespace"] = namespace
            home = self.store.find(NAMESPACES, "", namespace or "")
            if home is None:
                details = {"name": namespace, "kind": "namespaces"}
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found', details)
            if "deletionTimestamp" in home["metadata"]:
                message = (
                    f"unable to create new content in namespace {namespace} because it is being terminated"
                )
                raise Refused(403, "Forbidden", message)
        if kind == DAEMON_SETS:
            _check_daemons(body)
        if kind == PODS and (refusal := self.nodes.refusal_of(body)):
            raise Refused(403, "Forbidden", refusal)
        if dry_run:
            return web.json_response(body, status=201)
        made = self.store.create(kind, body)
        if kind == DAEMON_SETS:
            self.nodes.daemon_set_created(made)
        if kind == PODS:
            self.nodes.pod_created(made)
        return web.json_response(made, status=201)

    def _delete(self, kind: Kind, namespace: str | None, name: str, options: Json) -> web.Response:
        body = self.store.get(kind, namespace or "", name)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != body["metadata"]["uid"]:
            message = f'Operation cannot be fulfilled on {kind[1]} "{name}": the UID in the precondition does not match'
            raise Refused(409, "Conflict", message)
        answer = copy.deepcopy(body)
        self.nodes.delete(kind, body)
        return web.json_response(answer)

    # ── pods/exec ────────────────────────────────────────────────────────────────────────────────────────────

    async def _exec(self, request: web.Request, namespace: str, name: str) -> web.StreamResponse:
        pod = self.store.get(PODS, namespace, name)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise Refused(400, "BadRequest", "Upgrade request required")
        if self.faults.exec_errors > 0:
            self.faults.exec_errors -= 1
            raise Refused(
                500, "InternalError", "error dialing backend: dial tcp 172.30.0.11:10250: i/o timeout"
            )
        command, container = request.query.getall("command", []), request.query.get("container")
        if not command:
            raise Refused(400, "BadRequest", "you must specify at least 1 command for the container")
        if container not in {each["name"] for each in pod["spec"]["containers"]}:
            raise Refused(400, "BadRequest", f"container {container} is not valid for pod {name}")
        if pod["status"].get("phase") != "Running":
            raise Refused(
                500, "InternalError", f"unable to upgrade connection: container not found ({container!r})"
            )
        node = pod["spec"]["nodeName"]
        socket = web.WebSocketResponse(protocols=self.faults.protocols, max_msg_size=0)
        await socket.prepare(request)
        self.streams[node] = socket
        running = await self.executor.start(node, command)
        self.commands[node] = running
        self.started.append(running)
        await self._talk(socket, running, node)
        return socket

    async def _talk(self, socket: web.WebSocketResponse, running: Command, node: str) -> None:
        listening = asyncio.create_task(self._listen(socket, running, node))
        try:
            with contextlib.suppress(ConnectionError):
                await socket.send_bytes(b"\x01")  # the connection stands
                if not await self._speak(socket, running, node):
                    return
                errors, code = await running.complaints(), await running.wait()
                if errors:
                    await socket.send_bytes(b"\x02" + errors)
                await socket.send_bytes(b"\x03" + json.dumps(_exit_status(code)).encode())
                await socket.close()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await running.close_input()

    async def _speak(self, socket: web.WebSocketResponse, running: Command, node: str) -> bool:
        """Pass standard output on to its end; False where the stream was dropped before."""
        sent, limit = 0, self.faults.drop_after.get(node)
        while data := await running.read():
            if limit is not None and sent + len(data) > limit:
                await socket.send_bytes(b"\x01" + data[: limit - sent])
                self.drop(node)
                return False
            await socket.send_bytes(b"\x01" + data)
            sent += len(data)
            if pause := self.faults.slow.get(node):
                await asyncio.sleep(pause)
            limit = self.faults.drop_after.get(node)
        return True

    async def _listen(self, socket: web.WebSocketResponse, running: Command, node: str) -> None:
        """Pass standard input on; its end is the end of the connection, or of its channel alone."""
        async for message in socket:
            if message.type is not WSMsgType.BINARY or not message.data:
                continue
            if message.data[0] == 0 and node not in self.faults.deaf:
                await running.write(message.data[1:])
            if message.data[:2] == b"\xff\x00" and socket.ws_protocol == "v5.channel.k8s.io":
                await running.close_input()
        await running.close_input()

    def drop(self, node: str) -> None:
        """Cut the connection of a node's stream, without a word."""
        transport = self.streams[node]._req.transport  # type: ignore[union-attr]  # it is prepared
        if transport is not None:
            transport.abort()


def _exit_status(code: int) -> Json:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    message = f"command terminated with non-zero exit code: command terminated with exit code {code}"
    causes = [{"reason": "ExitCode", "message": str(code)}]
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "NonZeroExitCode",
        "details": {"causes": causes},
    }


async def _event(response: web.StreamResponse, change: str, body: Any) -> None:
    await response.write(json.dumps({"type": change, "object": body}).encode() + b"\n")


def _concerns(body: Json, namespace: str | None, labels: str) -> bool:
    from tests.cluster.double.store import matches

    metadata = body["metadata"]
    return namespace in {None, metadata.get("namespace")} and matches(labels, metadata.get("labels") or {})


def _check_daemons(body: Json) -> None:
    spec = body.get("spec") or {}
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = spec["template"]["metadata"].get("labels") or {}
    if not wanted or any(labels.get(key) != value for key, value in wanted.items()):
        raise Refused(422, "Invalid", "`selector` does not match template `labels`")


def _unknown_path() -> Refused:
    return Refused(404, "NotFound", "the server could not find the requested resource")
