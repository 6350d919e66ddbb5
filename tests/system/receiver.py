"""A webhook receiver on loopback that keeps what it is sent."""

from __future__ import annotations

import http.server
import json
import queue
import threading
import time
from typing import Any


class Receiver:
    """Collects the bodies of POST requests; ``wait`` returns the first that satisfies a condition."""

    def __init__(self) -> None:
        received: queue.Queue[tuple[float, dict[str, str], dict[str, Any]]] = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.put((time.time(), dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._received = received
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait(self, seconds: float, **wanted: str) -> tuple[float, dict[str, Any]]:
        """Return when and what was received with these values: ``event``, ``rule`` or a label of the alert."""
        deadline = time.monotonic() + seconds
        while True:
            remaining = deadline - time.monotonic()
            assert remaining > 0, f"no notification with {wanted} within {seconds} s"
            try:
                at, _, body = self._received.get(timeout=remaining)
            except queue.Empty:
                continue
            known = {"event": body["event"], "rule": body["alert"]["rule"], **body["alert"]["labels"]}
            if all(known.get(name) == value for name, value in wanted.items()):
                return at, body

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
