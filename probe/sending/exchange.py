"""One request on a connection of its own: from the socket that is bound first to what the answer says.

Rules:

1. The socket's own address is known whatever happens, so it is bound before it is connected.
2. One deadline stands over the whole request, and one limit over everything that is read: a server can neither
   hold us nor fill us.
3. Whatever a server does is an outcome, never an exception.
4. Certificates are not verified: it is asked which way a request goes, and no secret is sent.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any, cast

import msgspec

from analysis.asked import TOKEN_HEADER, Asked, Outcome
from probe import __version__
from probe.sending.claims import endpoint, proxy_header
from probe.sending.echo import understand
from probe.sending.orders import Order
from probe.sending.target import is_name

#: Bytes of an answer, head and body, that are read at most.
ANSWER_LIMIT = 64 * 1024

_WORDS = 200  # characters of another's words that are kept


class Answer(msgspec.Struct):
    """What came of it, as far as it came."""

    outcome: Outcome = "error"
    status: int | None = None
    body: bytes = b""
    detail: str = ""


class _TooMuchError(OSError):
    """The server sent more than is read."""


def send(order: Order) -> Asked:
    """Send one request and wait for its answer, `order.patience` seconds at most. Raises nothing."""
    started = time.time()
    deadline = time.monotonic() + order.patience
    answer = Answer()
    source, destination = "", endpoint(order.address, order.port)
    try:
        where = socket.getaddrinfo(
            order.address, order.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(where[0], where[1]) as connection:
            source = _bind(connection, order, where[4])
            _exchange(connection, order, where[4], deadline, answer)
    except (OSError, ValueError) as error:  # a family or an address that is not ours, or no address at all
        answer.detail = answer.detail or _words(error)
    echo = understand(answer.body, (order.claim.name,) if order.claim else ()) if _may_echo(answer) else None
    unknown = "::" if ":" in order.address else "0.0.0.0"  # noqa: S104 - where no socket could be bound
    details = [answer.detail, echo.detail if echo is not None else ""]
    return Asked(
        source=source or endpoint(order.source or unknown, order.source_port),
        destination=destination,
        started=started,
        ended=time.time(),
        outcome=answer.outcome,
        token=order.token,
        status=answer.status,
        saw=echo.saw if echo is not None else None,
        forged=((order.claim.name, order.claim.value),) if order.claim else (),
        detail="; ".join(filter(None, details)),
    )


def _may_echo(answer: Answer) -> bool:
    """Whether the body is the application's own: a redirect or a complaint may come from anyone on the way."""
    return answer.outcome == "answered" and answer.status is not None and 200 <= answer.status < 300


def _bind(connection: socket.socket, order: Order, destination: tuple[Any, ...]) -> str:
    """Bind to the address that the kernel would take by itself, so that the port stays known in any end."""
    source = order.source
    if not source:
        with socket.socket(connection.family, socket.SOCK_DGRAM) as route:
            route.connect(destination)  # sends nothing
            source = route.getsockname()[0]
    scope = destination[2:] if connection.family == socket.AF_INET6 else ()
    connection.bind((source.partition("%")[0], order.source_port, *scope))
    name = connection.getsockname()
    return endpoint(name[0].partition("%")[0], name[1])


def _exchange(
    connection: socket.socket, order: Order, destination: tuple[Any, ...], deadline: float, answer: Answer
) -> None:
    """Everything between the bound socket and the answer; every way in which it can fail is an outcome."""
    try:
        _connect(connection, destination, deadline)
        _ask(connection, order, deadline, answer)
    except TimeoutError:
        if answer.outcome != "answered":
            answer.outcome, answer.detail = "timeout", f"no answer within {order.patience:g} s"
        else:
            answer.detail = f"the answer had not ended after {order.patience:g} s"
    except ConnectionRefusedError as error:
        answer.outcome, answer.detail = "refused", _words(error)
    except (ConnectionResetError, BrokenPipeError) as error:
        if answer.outcome != "answered":
            answer.outcome, answer.detail = "reset", _words(error)
        else:
            answer.detail = "the connection was reset within the answer"
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        answer.outcome, answer.detail = "empty", "the connection was closed within TLS"
    except OSError as error:
        if answer.outcome != "answered":
            answer.detail = _words(error)


def _connect(connection: socket.socket, destination: tuple[Any, ...], deadline: float) -> None:
    connection.settimeout(_left(deadline))
    connection.connect(destination)


def _ask(connection: socket.socket, order: Order, deadline: float, answer: Answer) -> None:
    if order.claim is not None and order.claim.in_front:
        header = proxy_header(order.claim, endpoint(order.address, order.port))
        _send(connection, header, deadline)
    if order.tls:
        connection.settimeout(_left(deadline))
        connection = _tls().wrap_socket(connection, server_hostname=_server_name(order.host))
    with connection:
        _send(connection, _request(order), deadline)
        read_response(connection, deadline, answer)


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def _server_name(host: str) -> str | None:
    """What goes into SNI: no address (RFC 6066 §3), and nothing that could not be a host's name."""
    return host.removesuffix(".") if is_name(host) else None


def _request(order: Order) -> bytes:
    fields = [
        ("Host", order.authority),
        ("User-Agent", f"client-ip-probe/{__version__}"),
        ("Accept", "application/json, text/plain;q=0.9, */*;q=0.1"),
        ("Connection", "close"),
        (TOKEN_HEADER, order.token),
    ]
    if order.claim is not None and not order.claim.in_front:
        fields.append((order.claim.name, order.claim.value))
    lines = [f"GET {order.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    # A value is sent as it was typed, whatever bytes these are.
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _send(connection: socket.socket, data: bytes, deadline: float) -> None:
    """All of it, and not longer than to the deadline (for `sendall` the timeout is one of the whole)."""
    connection.settimeout(_left(deadline))
    connection.sendall(data)


class _Incoming(io.RawIOBase):
    """A socket's bytes, under the deadline and the limit; what `http.client` takes for a socket."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left = ANSWER_LIMIT
        self.received = 0

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 - the signature is that of a socket
        """Itself, buffered."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: self._left]
        if not view:
            raise _TooMuchError(f"the answer is longer than {ANSWER_LIMIT // 1024} KiB")
        self._connection.settimeout(_left(self._deadline))
        try:
            number = self._connection.recv_into(view)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            number = 0  # many servers close without TLS's own goodbye
        self._left -= number
        self.received += number
        return number


def read_response(connection: socket.socket, deadline: float, answer: Answer) -> None:
    """Read a response up to its end or ANSWER_LIMIT, and put down what came. Raises OSError."""
    incoming = _Incoming(connection, deadline)
    response = HTTPResponse(cast("socket.socket", incoming), method="GET")
    try:
        response.begin()
        answer.outcome, answer.status = "answered", response.status
        while chunk := response.read1(ANSWER_LIMIT):
            answer.body += chunk
    except IncompleteRead as error:
        answer.body += error.partial
        answer.detail = "the answer was cut off"
    except _TooMuchError as error:
        answer.detail = str(error)
    except (HTTPException, ValueError) as error:
        if not incoming.received:
            answer.outcome, answer.detail = "empty", "the connection was closed without an answer"
        elif answer.outcome != "answered":
            answer.detail = f"that is no HTTP answer: {_words(error)}"
        else:
            answer.detail = f"the answer's body is broken: {_words(error)}"
    finally:
        response.close()


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError where it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _words(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ascii(text)[1:-1][:_WORDS]
