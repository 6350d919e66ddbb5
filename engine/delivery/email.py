"""One attempt to hand a notification to a mail server (SMTP, RFC 5321; STARTTLS, RFC 3207; mail, RFC 5322).

The Message-ID comes from the delivery key, so a mail that is sent again after a crash is the same mail.
Nothing said here contains the password or what the server answered beyond its code.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.config_check import split_address
from engine.delivery.attempt import Attempt, failure_text
from engine.delivery.message import Message
from engine.errors import BadConfig

_ACCEPTED = 250


class EmailSender:
    """Sends through the mail server of ``channel``.  Raises BadConfig for one without server, from or to.

    ``tls``: what to trust, by default the certificate authorities of the machine.  One thread at a time.
    """

    def __init__(self, channel: Channel, *, tls: ssl.SSLContext | None = None) -> None:
        address = split_address(channel.server or "")
        if address is None or channel.from_ is None or not channel.to:
            raise BadConfig(f"cannot notify channel {channel.name!r}: want server as HOST:PORT, from and to")
        self._channel, self._from = channel, channel.from_
        self._host, self._port = address
        self._tls = tls or ssl.create_default_context()

    def __repr__(self) -> str:
        return f"EmailSender(channel={self._channel.name!r}, to={self._channel.server!r})"

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        """Hand the mail over once; every failure is told in the answer, none is raised.

        Accepted for at least one recipient is a delivery: again would be twice for that one.  Whom the server
        refused is counted in the answer's ``error``.  The channel's timeout counts for each step.
        """
        try:
            with self._connected() as server:
                refused = server.send_message(self._mail(delivery, body, now_ns), self._from, self._channel.to)
        except smtplib.SMTPException as error:
            # A broken connection or a timeout comes wrapped.
            cause = error.__context__
            if isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(cause, OSError):
                return self._failed(failure_text(cause, self._channel.timeout), None)
            return self._failed(_refusal(error), _code(error))
        except OSError as error:
            return self._failed(failure_text(error, self._channel.timeout), None)
        except ValueError:
            return self._failed("the mail cannot be written with these addresses", None)
        told = f"{len(refused)} of {len(self._channel.to)} recipients were refused" if refused else None
        return Attempt(True, _ACCEPTED, told)

    def _failed(self, cause: str, code: int | None) -> Attempt:
        return Attempt(False, code, f"{cause} ({self._channel.server})")

    def _connected(self) -> smtplib.SMTP:
        channel, name = self._channel, socket.gethostname()
        seconds = channel.timeout.seconds
        if channel.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, local_hostname=name, timeout=seconds, context=self._tls
            )
        else:
            server = smtplib.SMTP(self._host, self._port, local_hostname=name, timeout=seconds)
        try:
            if channel.security == "starttls":
                server.starttls(context=self._tls)
            if channel.user is not None and channel.password is not None:
                server.login(channel.user, channel.password)
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, delivery: str, body: bytes, now_ns: int) -> EmailMessage:
        message = Message(body)
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._from
        mail["To"] = ", ".join(self._channel.to)
        mail["Subject"] = message.subject(self._channel.subject)
        mail["Date"] = format_datetime(datetime.fromtimestamp(now_ns // NS_PER_SECOND, UTC))
        mail["Message-ID"] = f"<{delivery}@tidegauge.invalid>"
        mail["X-Tidegauge-Delivery"] = delivery
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.fill(self._channel.text, "email", group_template=self._channel.group_text))
        return mail


def _refusal(error: smtplib.SMTPException) -> str:
    code = _code(error)
    shown = "" if code is None else f" ({code})"
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"the mail server refused user and password{shown}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"the mail server refused every recipient{shown}"
    if isinstance(error, smtplib.SMTPSenderRefused):
        return f"the mail server refused the sender{shown}"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "the mail server does not offer what the channel needs: STARTTLS, a login, or addresses beyond ASCII"
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return "the mail server closed the connection"
    if code is None:
        return f"the mail server and we did not agree on a way: {type(error).__name__}"
    return f"the mail server refused the mail{shown}"


def _code(error: smtplib.SMTPException) -> int | None:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return next((int(code) for code, _ in error.recipients.values()), None)
    return int(error.smtp_code) if isinstance(error, smtplib.SMTPResponseException) else None
