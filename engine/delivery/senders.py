"""What sends to a channel, by the channel's type."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import Channel
from engine.delivery.attempt import Sender
from engine.delivery.chat import slack_sender, sms_sender
from engine.delivery.email import EmailSender
from engine.delivery.everywhere import AppriseSender
from engine.delivery.webhook import WebhookSender
from engine.errors import BadConfig

SENDERS: dict[str, Callable[[Channel], Sender]] = {
    "webhook": WebhookSender,
    "slack": slack_sender,
    "email": EmailSender,
    "sms": sms_sender,
    "apprise": AppriseSender,
}


def sender_of(channel: Channel) -> Sender:
    """Return what sends to ``channel``.  Raises BadConfig where its settings do not allow for it.

    A dashboard is kept by the server itself, see :class:`engine.delivery.outbox.Outbox`.
    """
    if channel.type == "dashboard":
        raise BadConfig(f"cannot notify channel {channel.name!r}: a dashboard has no receiver, want GET /v1/dashboard")
    return SENDERS[channel.type](channel)
