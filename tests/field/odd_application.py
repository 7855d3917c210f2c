"""An application that is slow, fails, or hangs up, when the path of the request says so.

Run as a script: NAME PORT and the addresses whose X-Forwarded-For it believes (its last entry). Paths with "slow" wait
2 s, with "bad" are answered 400, with "close" not at all, with "fail-NAME" 503 by the application of that name.
"""

import asyncio
import json
import sys

NAME, PORT, BELIEVED = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


async def read_request(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.split("\r\n")[:-2]
    fields = [
        (name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
    ]
    named = dict(fields)
    if "content-length" in named:
        await reader.readexactly(int(named["content-length"]))
    while named.get("transfer-encoding") == "chunked":
        length = int((await reader.readline()).split(b";")[0], 16)
        await reader.readexactly(length + 2)
        if not length:
            break
    return start.split(" ")[1], fields


def answer(path, fields, peer):
    forwarded = ",".join(value for name, value in fields if name == "x-forwarded-for")
    believed = forwarded and peer[0] in BELIEVED
    told = {
        "client_host": forwarded.rpartition(",")[2].strip() if believed else peer[0],
        "x_forwarded_for": forwarded,
        "x_real_ip": dict(fields).get("x-real-ip"),
    }
    body = json.dumps(told).encode()
    status = (
        "503 Service Unavailable"
        if f"fail-{NAME}" in path
        else "400 Bad Request"
        if "bad" in path
        else "200 OK"
    )
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"X-Lab-Peer: {peer[0]} {peer[1]}", f"X-Lab-Pod: {NAME}", "", ""]
    return "\r\n".join(lines).encode() + body


async def serve(reader, writer):
    peer = writer.get_extra_info("peername")
    try:
        while True:
            path, fields = await read_request(reader)
            if "slow" in path:
                await asyncio.sleep(2)
            if "close" in path:
                break
            writer.write(answer(path, fields, peer))
            await writer.drain()
            if dict(fields).get("connection") == "close":
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client went away
    writer.close()


async def main():
    server = await asyncio.start_server(serve, "", PORT)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
