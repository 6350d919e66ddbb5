"""A mail server in the test's own process that records mails: as much of SMTP as a client needs (RFC 5321)."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Mail:
    """One mail as it arrived; ``user`` and ``password`` of the login, ``encrypted`` by either kind of TLS."""

    sender: str
    recipients: tuple[str, ...]
    text: bytes
    encrypted: bool
    login: tuple[str, str] | None


class MailServer:
    """``refuse`` maps the beginning of a command to the line that answers it instead; ``mails`` has what was taken.

    ``starttls``: the context to offer STARTTLS with.  ``tls``: the context of a server that speaks TLS at once.
    """

    def __init__(
        self,
        *,
        refuse: dict[str, str] | None = None,
        starttls: ssl.SSLContext | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.mails: list[Mail] = []
        self.refuse = refuse or {}
        self.starttls, self.tls = starttls, tls
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # A client that does not trust the certificate goes without a word.
                with suppress(OSError), _Conversation(outer, self.request) as conversation:
                    conversation.run()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Conversation:
    def __init__(self, server: MailServer, socket: ssl.SSLSocket) -> None:
        self._server, self._socket = server, socket
        self._encrypted = False
        self._login: tuple[str, str] | None = None
        self._file = socket.makefile("rb")

    def __enter__(self) -> _Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def _encrypt(self, context: ssl.SSLContext) -> None:
        self._file.close()
        self._socket = context.wrap_socket(self._socket, server_side=True)
        self._file = self._socket.makefile("rb")
        self._encrypted = True

    def _say(self, line: str) -> None:
        self._socket.sendall(line.encode() + b"\r\n")

    def run(self) -> None:
        if self._server.tls is not None:
            self._encrypt(self._server.tls)
        self._say("220 ready")
        sender, recipients = "", list[str]()
        while line := self._file.readline().decode().rstrip("\r\n"):
            answer = next(
                (answer for start, answer in self._server.refuse.items() if line.upper().startswith(start.upper())),
                None,
            )
            verb = line.split(" ")[0].upper()
            if answer is not None:
                self._say(answer)
            elif verb == "EHLO":
                self._say("250-here")
                if self._server.starttls is not None and not self._encrypted:
                    self._say("250-STARTTLS")
                self._say("250 AUTH PLAIN")
            elif verb == "STARTTLS" and self._server.starttls is not None:
                self._say("220 go ahead")
                self._encrypt(self._server.starttls)
            elif verb == "AUTH":
                _, user, password = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                self._login = (user, password)
                self._say("235 welcome")
            elif verb == "MAIL":
                sender, recipients = line.partition(":")[2].split(" ")[0].strip("<>"), []
                self._say("250 fine")
            elif verb == "RCPT":
                recipients.append(line.partition(":")[2].strip("<>"))
                self._say("250 fine")
            elif verb == "DATA":
                self._say("354 go ahead")
                lines = list(iter(self._file.readline, b".\r\n"))
                self._server.mails.append(
                    Mail(sender, tuple(recipients), b"".join(lines), self._encrypted, self._login)
                )
                self._say("250 taken")
            else:
                self._say("221 bye" if verb == "QUIT" else "250 fine")
                if verb == "QUIT":
                    return
