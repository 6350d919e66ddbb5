"""Everywhere else: a message in words handed to Apprise, which speaks to over a hundred services by their URLs.

Apprise (github.com/caronc/apprise, BSD 2-Clause) is an optional package: ``pip install 'tidegauge[apprise]'``.  What
it logs may quote a URL, which holds tokens, so nothing of it reaches our log: of a failure only the status is told.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any

from engine.config import Channel
from engine.delivery.attempt import Attempt
from engine.delivery.message import Message
from engine.errors import BadConfig

_STATUS = re.compile(r"\berror=([0-9]{3})\b")


class _Said(logging.Handler):
    """Keeps what Apprise logs in a thread until it is asked for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._threads = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        self._threads.said = getattr(self._threads, "said", "") + record.getMessage() + "\n"

    def take(self) -> str:
        said, self._threads.said = getattr(self._threads, "said", ""), ""
        return str(said)


_SAID = _Said()


class AppriseSender:
    """Sends to the service behind the Apprise URL of ``channel``.

    Raises BadConfig where the package is missing or does not know the URL.  One thread at a time.
    """

    def __init__(self, channel: Channel) -> None:
        try:
            import apprise
        except ImportError:
            raise BadConfig(
                f"cannot notify channel {channel.name!r}: type apprise needs the package of that name: "
                "pip install 'tidegauge[apprise]'"
            ) from None
        logger = logging.getLogger("apprise")
        logger.propagate = False
        if _SAID not in logger.handlers:
            logger.addHandler(_SAID)
        asset = apprise.AppriseAsset(async_mode=False, app_id="Tidegauge", app_desc="Tidegauge")
        self._channel = channel
        self._plugin: Any = apprise.Apprise.instantiate(channel.url or "", asset=asset)
        _SAID.take()
        if self._plugin is None:
            raise BadConfig(
                f"cannot notify channel {channel.name!r}: Apprise does not know the URL ({channel.shown_url})"
            )
        self._plugin.socket_connect_timeout = self._plugin.socket_read_timeout = channel.timeout.seconds

    def __repr__(self) -> str:
        return f"AppriseSender(channel={self._channel.name!r}, to={self._channel.shown_url!r})"

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        """Hand the message over once; every failure is told in the answer, none is raised."""
        message, channel = Message(body), self._channel
        text = message.fill(channel.text, "apprise", group_template=channel.group_text)
        _SAID.take()
        try:
            taken = bool(
                self._plugin.notify(body=text, title=message.subject(channel.subject), notify_type=_kind(message))
            )
        except Exception as error:  # What over a hundred services may raise is not known.
            return Attempt(False, error=f"Apprise failed: {type(error).__name__} ({channel.shown_url})")
        if taken:
            return Attempt(True)
        status = _STATUS.search(_SAID.take())
        if status is None:
            return Attempt(False, error=f"the service did not take it ({channel.shown_url})")
        return Attempt(False, int(status[1]), f"the answer was {status[1]} ({channel.shown_url})")


def _kind(message: Message) -> str:
    """Return Apprise's kind of a message, by which services choose a colour or a sign."""
    if message.fields["event"] == "resolved":
        return "success"
    if message.about_alert:
        return {"critical": "failure", "warning": "warning"}.get(message.fields["severity"], "info")
    return "warning" if message.about_group and message.fields["firing"] != "0" else "info"
