"""Where notifications go: one Struct for all kinds of channels, and which settings each kind has."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from engine.config_base import MASK, SECRET, Name, Settings
from engine.config_units import Duration, within

ChannelType = Literal["webhook", "slack", "email", "sms", "apprise", "dashboard"]
ADDRESS = re.compile(r"[!-+\--;=?A-~]+@[!-+\--;=?A-~]+")

APPRISE_URL = re.compile(r"[a-z0-9][a-z0-9+.-]*://\S+")

_GROUPING = ("group_by", "group_wait", "group_interval", "group_repeat")
_SHARED = ("name", "type", "timeout", "budget", "heartbeat", "digest", *_GROUPING)
#: The settings of each kind: those it needs, and those it may have beside the shared ones.
NEEDED: dict[ChannelType, tuple[str, ...]] = {
    "webhook": ("url",),
    "slack": ("url",),
    "email": ("server", "from", "to"),
    "sms": ("url", "to"),
    "apprise": ("url",),
    "dashboard": (),
}
POSSIBLE: dict[ChannelType, tuple[str, ...]] = {
    "webhook": (*_SHARED, "url", "headers", "secret"),
    "slack": (*_SHARED, "url", "text", "group_text"),
    "email": (*_SHARED, "server", "from", "to", "security", "user", "password", "subject", "text", "group_text"),
    "sms": (*_SHARED, "url", "headers", "to", "payload", "encoding", "text", "group_text"),
    "apprise": (*_SHARED, "url", "subject", "text", "group_text"),
    "dashboard": (*_SHARED, "keep"),
}


class Channel(Settings, frozen=True, kw_only=True):
    """Where notifications go; which settings belong to which type: :data:`NEEDED`, :data:`POSSIBLE`.

    ``secret`` signs a webhook's body: HMAC-SHA256 in the header X-Tidegauge-Signature.  ``subject``,
    ``text``, ``group_text`` and the values of ``payload`` are templates (engine/delivery/message.py).
    ``group_by``: without it each event is a message of its own; with no labels all are in one group.
    """

    name: Name
    type: ChannelType = "webhook"
    # Whoever knows the URL of a Slack channel may write there.
    url: Annotated[str | None, SECRET] = None
    headers: Annotated[dict[str, str], SECRET] = msgspec.field(default_factory=dict)
    secret: Annotated[str | None, SECRET] = None
    timeout: Annotated[Duration, within("100ms", "1m")] = Duration.parse("5s")
    budget: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    heartbeat: Annotated[Duration, within("10s", "1d")] | None = None
    digest: Annotated[Duration, within("10m", "30d")] | None = None
    group_by: tuple[str, ...] | None = None
    group_wait: Annotated[Duration, within("0s", "1h")] = Duration.parse("30s")
    group_interval: Annotated[Duration, within("1s", "1d")] = Duration.parse("5m")
    group_repeat: Annotated[Duration, within("1m", "30d")] | None = None
    server: str | None = None
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password: Annotated[str | None, SECRET] = None
    from_: str | None = msgspec.field(default=None, name="from")
    to: tuple[str, ...] = ()
    subject: str = "{event}: {summary}"
    text: str | None = None
    group_text: str | None = None
    payload: Annotated[dict[str, str], SECRET] = msgspec.field(default_factory=lambda: {"to": "{to}", "text": "{text}"})
    encoding: Literal["json", "form"] = "json"
    keep: Annotated[int, Meta(ge=1, le=100_000)] = 1_000

    @property
    def shown_url(self) -> str | None:
        """The URL without its path, which is often as good as a password; None where it has none or no host.

        Of an Apprise URL only the scheme: what stands for the host there may be a token.
        """
        try:
            parts = urlsplit(self.url or "")
            host, port = parts.hostname, parts.port
        except ValueError:
            return None
        if self.type == "apprise":
            return f"{parts.scheme}://..." if parts.scheme else None
        if not host:
            return None
        shown_host = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{shown_host}" + ("" if port is None else f":{port}")

    def __repr__(self) -> str:
        plain = (
            "name",
            "type",
            "timeout",
            "budget",
            "heartbeat",
            "digest",
            *_GROUPING,
            "server",
            "security",
            "user",
            "from_",
            "to",
            "subject",
            "text",
            "group_text",
            "encoding",
            "keep",
        )
        shown = [f"{name}={getattr(self, name)!r}" for name in plain]
        shown.append(f"url={self.shown_url!r}")
        shown += [f"{name}={dict.fromkeys(getattr(self, name), MASK)!r}" for name in ("headers", "payload")]
        shown += [f"{name}={None if getattr(self, name) is None else MASK!r}" for name in ("secret", "password")]
        return f"Channel({', '.join(shown)})"
