"""A client that writes its requests itself, byte by byte: what a well-behaved client library would not send.

Run as a script: a JSON list of connections on stdin, one JSON line on stdout for each, in their order. Each connection
is {"target", "port", "from_port", "texts": [...], "pipelined", "parts", "patience", "tls"}; `texts` are requests
(Latin-1), sent one after the other's answer, or all at once. Knows nothing of the project.
"""

import json
import socket
import ssl
import sys
import threading
import time

APART = 0.002  # seconds between the starts of connections
PART_APART = 0.05  # seconds between the parts of a request that goes out in parts


def receive(connection, rest):
    """One answer, and what came after it."""
    data = rest
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
            if b"chunked" in fields.get(b"transfer-encoding", b""):
                if body.endswith(b"0\r\n\r\n"):
                    return data, b""
            elif b"content-length" in fields:
                length = int(fields[b"content-length"])
                if len(body) >= length:
                    end = len(head) + 4 + length
                    return data[:end], data[end:]
        chunk = connection.recv(65536)
        if not chunk:
            return data, b""
        data += chunk


def send(connection, data, parts):
    step = max(1, -(-len(data) // max(1, parts)))
    for start in range(0, len(data), step):
        if start:
            time.sleep(PART_APART)
        connection.sendall(data[start : start + step])


def exchange(connection, wish, result):
    connection.connect((wish["target"], wish["port"]))
    result["source"], result["source_port"] = connection.getsockname()[:2]
    if wish.get("prefix"):
        connection.sendall(bytes.fromhex(wish["prefix"]))
    if wish.get("tls"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    texts = [text.encode("latin-1") for text in wish["texts"]]
    if wish.get("pipelined"):
        connection.sendall(b"".join(texts))
    rest = b""
    for text in texts:
        if not wish.get("pipelined"):
            send(connection, text, wish.get("parts", 1))
        data, rest = receive(connection, rest)
        if not data:
            break
        result["answers"].append(data.decode("latin-1"))
    result["outcome"] = "answered" if len(result["answers"]) == len(texts) else "empty"


def ask(wish, result):
    family = socket.AF_INET6 if ":" in wish["target"] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(wish.get("patience", 8))
        try:
            connection.bind(("", wish.get("from_port", 0)))
            result["source_port"] = connection.getsockname()[1]
            exchange(connection, wish, result)
        except TimeoutError:
            result["outcome"] = "timeout"
        except ConnectionRefusedError:
            result["outcome"] = "refused"
        except OSError as error:
            result["outcome"] = type(error).__name__


def main():
    wishes = json.load(sys.stdin)
    results = [{"outcome": "", "answers": [], "source": "", "source_port": 0} for _ in wishes]
    threads = []
    for wish, result in zip(wishes, results, strict=True):
        thread = threading.Thread(target=ask, args=(wish, result))
        thread.start()
        threads.append(thread)
        if wish.get("at_once"):
            time.sleep(0 if wish["at_once"] is True else wish["at_once"])
        else:
            thread.join()
            time.sleep(wish.get("apart", APART))
    for thread in threads:
        thread.join()
    for result in results:
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
