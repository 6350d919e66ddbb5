"""What sends to a channel, by the channel's type."""

from __future__ import annotations

from collections.abc import Callable

from engine.config import Channel
from engine.delivery.attempt import Sender
from engine.delivery.chat import slack_sender, sms_sender
from engine.delivery.email import EmailSender
from engine.delivery.webhook import WebhookSender

SENDERS: dict[str, Callable[[Channel], Sender]] = {
    "webhook": WebhookSender,
    "slack": slack_sender,
    "email": EmailSender,
    "sms": sms_sender,
}


def sender_of(channel: Channel) -> Sender:
    """Return what sends to ``channel``.  Raises BadConfig where its settings do not allow for it."""
    return SENDERS[channel.type](channel)
