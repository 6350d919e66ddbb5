"""Slack and SMS: a message in words as the request that an incoming webhook or an SMS gateway takes.

Slack (api.slack.com, "Sending messages using incoming webhooks" and "Formatting text"): a POST of
``{"text": ...}``, in which ``&``, ``<`` and ``>`` are escaped, or a label could call everyone in the channel.
"""

from __future__ import annotations

import json
import ssl
from urllib.parse import urlencode

from engine.config import Channel
from engine.delivery.message import Message
from engine.delivery.webhook import WebhookSender


def slack_sender(channel: Channel, *, tls: ssl.SSLContext | None = None) -> WebhookSender:
    """Return a sender to a Slack incoming webhook."""

    def form(body: bytes) -> bytes:
        text = Message(body).fill(channel.text, "slack", group_template=channel.group_text, escape=slack_text)
        return json.dumps({"text": text}, ensure_ascii=False).encode()

    return WebhookSender(channel, form=form, tls=tls)


def slack_text(text: str) -> str:
    """Return ``text`` so that Slack shows it as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def sms_sender(channel: Channel, *, tls: ssl.SSLContext | None = None) -> WebhookSender:
    """Return a sender to an SMS gateway: one request for all recipients, with the channel's payload."""

    def form(body: bytes) -> bytes:
        message = Message(body)
        extra = {
            "to": ",".join(channel.to),
            "text": message.fill(channel.text, "sms", group_template=channel.group_text),
        }
        payload = message.fill_payload(channel.payload, extra)
        if channel.encoding == "form":
            return urlencode(payload).encode()
        return json.dumps(payload, ensure_ascii=False).encode()

    kind = "application/json" if channel.encoding == "json" else "application/x-www-form-urlencoded"
    return WebhookSender(channel, form=form, content_type=kind, tls=tls)
