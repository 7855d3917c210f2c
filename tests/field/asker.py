"""A client at work: plays rounds of requests one after the other, and tells what came of each.

Run as a script: a JSON list of rounds on stdin, one JSON list of results per round on stdout. Knows nothing of
the project, so that what it tells cannot be what the project believes.
"""

import json
import socket
import struct
import sys
import threading
import time

APART = 0.03  # seconds between rounds, in which the last packets of a connection arrive


def tell(stream, line):
    stream.write(line + "\n")
    stream.flush()


def body_complete(data):
    head, found, body = data.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            return bool(found) and len(body) >= int(line.split(b":")[1])
    return False


def receive(connection):
    data = b""
    while not body_complete(data) and (chunk := connection.recv(65536)):
        data += chunk
    return data


def exchange(connection, wish, result):
    connection.connect((wish["target"], wish["port"]))
    result["source"] = connection.getsockname()[0]
    if wish.get("datagram"):
        connection.send(bytes.fromhex(wish["datagram"]))
        result["data"] = connection.recv(512).hex()
        result["outcome"] = "answered"
        return
    time.sleep(wish.get("hold", 0))
    host = f"[{wish['target']}]" if ":" in wish["target"] else wish["target"]
    rounds = wish.get("keep", 0) + 1
    for number in range(rounds):
        last = number + 1 == rounds
        request = f"GET /debug/ip HTTP/1.1\r\nHost: {host}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
        request += "Connection: close\r\n\r\n" if last else "\r\n"
        connection.sendall(bytes.fromhex(wish.get("prefix", "")) + request.encode())
        result["data"] = receive(connection).decode("latin-1")
        result["outcome"] = "answered" if result["data"] else "empty"
        if not last:
            tell(sys.stderr, "kept")
            time.sleep(0.1)
    if wish.get("reset"):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def ask(wish, result):
    family = socket.AF_INET6 if ":" in wish["target"] else socket.AF_INET
    kind = socket.SOCK_DGRAM if wish.get("datagram") else socket.SOCK_STREAM
    with socket.socket(family, kind) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.settimeout(wish.get("patience", 5))
        connection.bind(("", wish.get("from_port", 0)))
        result["port"] = connection.getsockname()[1]
        try:
            exchange(connection, wish, result)
        except TimeoutError:
            result["outcome"] = "timeout"
        except ConnectionRefusedError:
            result["outcome"] = "refused"
        except OSError as error:
            result["outcome"] = type(error).__name__


def play(wishes):
    started = time.time()
    results = [{"outcome": "", "data": "", "source": "", "port": 0} for _ in wishes]
    threads = []
    for wish, result in zip(wishes, results, strict=True):
        if wish.get("at_once"):
            threads.append(threading.Thread(target=ask, args=(wish, result)))
            threads[-1].start()
        else:
            ask(wish, result)
    for thread in threads:
        thread.join()
    time.sleep(APART)
    for result in results:
        result["started"], result["ended"] = started, time.time()
    return results


def main():
    for wishes in json.load(sys.stdin):
        tell(sys.stdout, json.dumps(play(wishes)))


if __name__ == "__main__":
    main()
