"""Writes one sample after the other to a server until its input ends, then says how long each took to be acknowledged.

A process of its own, so that what is measured is the server and not the threads of whoever attacks it:

    python -m tests.system.writing HOST PORT NAME
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

#: Between an acknowledgement and the next write.
PAUSE_SECONDS = 0.005


def main(host: str, port: int, name: str) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    start_ns = time.time_ns() // 10**9 * 10**9
    seconds: list[float] = []
    failure = ""
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        number = len(seconds)
        line = f"acked,writer={name} value={number} {start_ns + number * 1_000_000}"
        began = time.perf_counter()
        connection.request("POST", "/write", line, {"Authorization": "Bearer writer"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 204:
            failure = f"{answer.status} {body!r}"
            break
        seconds.append(time.perf_counter() - began)
    json.dump({"seconds": seconds, "failure": failure}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
