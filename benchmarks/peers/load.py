"""The clients of work 10, the same for every server: closed loops over kept connections, one thread.

Standard library only, and no event loop: some ten microseconds of a core per request, a fraction of what a
server needs, so that it is the server that is measured.
"""

import json
import select
import socket
import time


def run(port, path, bodies, connections, seconds, warm):
    """Return requests/s, milliseconds p50 and p99, and the first answer; a file has the bodies.

    Each connection sends its next request when the last one's answer is whole. The first `warm` seconds are
    not counted; it goes on until each connection has had four answers since, if that takes longer.
    """
    with open(bodies) as file:
        requests = [_request(port, path, body.encode()) for body in json.load(file)]
    poll = select.epoll()
    clients = {}
    number = 0
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        poll.register(client, select.EPOLLIN)
        clients[client.fileno()] = [client, b"", 0.0]
    begin = time.perf_counter() + warm
    end = begin + seconds
    taken, first = [], None
    for held in clients.values():
        number = _send(held, requests, number)
    now = time.perf_counter()
    while now < end or len(taken) < 4 * connections:
        for descriptor, _ in poll.poll(1.0):
            held = clients[descriptor]
            part = held[0].recv(1 << 20)
            if not part:
                raise RuntimeError("the server closed a connection")
            held[1] = answer = held[1] + part if held[1] else part
            if not _is_whole(answer):
                continue
            now = time.perf_counter()
            if first is None:
                first = answer
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(answer[:2000].decode(errors="replace"))
            if now >= begin:
                taken.append(now - held[2])
            held[1] = b""
            number = _send(held, requests, number)
        now = time.perf_counter()
    seconds = now - begin
    for held in clients.values():
        held[0].close()
    taken.sort()
    return {
        "rate": len(taken) / seconds,
        "p50": 1000 * taken[len(taken) // 2],
        "p99": 1000 * taken[int(0.99 * len(taken))],
        "requests": len(taken),
        "answer": first.partition(b"\r\n\r\n")[2].decode(),
        "client_cpu": time.process_time() / (seconds + warm),
    }


def _request(port, path, body):
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _send(held, requests, number):
    held[2] = time.perf_counter()
    held[0].sendall(requests[number % len(requests)])
    return number + 1


def _is_whole(answer):
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return len(body) >= int(line[15:])
    raise RuntimeError(f"an answer without a length: {head!r}")
