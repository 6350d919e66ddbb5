"""Slack, e-mail and SMS against real receivers on this machine: what arrives, what failures say, what stays secret."""

from __future__ import annotations

import email
import email.message
import email.policy
import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.config_units import Duration
from engine.delivery.attempt import Attempt
from engine.delivery.chat import slack_sender, slack_text, sms_sender
from engine.delivery.email import EmailSender
from engine.delivery.message import DEFAULT_TEXTS, Message
from engine.delivery.senders import SENDERS, sender_of
from engine.errors import BadConfig
from tests.mail_server import MailServer
from tests.recording_server import Answer, RecordingServer

T0 = 1_700_000_000 * NS_PER_SECOND
PASSWORD = "a-very-secret-password"


def body_of(**changes: Any) -> bytes:
    alert = {
        "id": 7,
        "rule": "cpu",
        "severity": "critical",
        "category": "system",
        "state": "firing",
        "labels": {"host": "web-1", "rule": "of the label"},
        "value": 96.5123456789,
        "threshold": 90.0,
        "summary": "CPU of web-1 at 96.5 %",
        "started_at": "2023-11-14T22:13:00Z",
        "fired_at": "2023-11-14T22:13:30Z",
        "resolved_at": None,
        **changes,
    }
    return json.dumps({"delivery": "key-1", "event": "firing", "channel": "ops", "alert": alert}).encode()


def mail_channel(address: str, **changes: Any) -> Channel:
    values = {"server": address, "from_": "tg@example.org", "to": ("a@example.org", "b@example.org"), **changes}
    return Channel(name="mail", type="email", **{"security": "none", **values})


# ---- templates ----


def test_every_field_of_a_message() -> None:
    template = "{id} {rule} {severity} {category} {state} {value} {threshold} {resolved_at} {labels} {host} {nothing}"
    filled = Message(body_of()).fill(template + " {event} {channel} {delivery} {{x}}", "sms")
    assert filled == (
        "7 cpu critical system firing 96.5123 90 - host=web-1, rule=of the label web-1 (no nothing) "
        "firing ops key-1 {x}"
    )


@pytest.mark.parametrize("kind", sorted(DEFAULT_TEXTS))
def test_default_texts_use_only_fields_that_every_alert_has(kind: str) -> None:
    assert "(no " not in Message(body_of()).fill(None, kind)


def group_body(**more: str) -> bytes:
    alert = json.loads(body_of())["alert"]
    alerts = [{**alert, "events": ["firing"]}, {**alert, "events": [], "labels": {"host": "<b>\n"}}]
    content = {"message": "2 alerts fire (team=a&b)", "group": {"team": "a&b"}, "total": 5, "firing": 2}
    head = {"delivery": "key-2", "event": "group", "channel": "ops", "alert": None}
    return json.dumps({**head, **content, "alerts": alerts, **more}).encode()


def test_a_group_has_texts_of_its_own() -> None:
    message = Message(group_body())
    assert message.fill("never", "slack", escape=slack_text) == (
        "*group* 2 alerts fire (team=a&amp;b)\n"
        "firing: CPU of web-1 at 96.5 % [critical] host=web-1, rule=of the label\n"
        "still firing: CPU of web-1 at 96.5 % [critical] host=&lt;b&gt; \n"
        "and 3 more"
    )
    listed = Message(group_body(list="https://tide.example.org/v1/notifications/7"))
    assert listed.fields["alerts"].endswith("\nand 3 more: https://tide.example.org/v1/notifications/7")
    assert Message(group_body(list="/v1/notifications/7")).fill(None, "sms", group_template="{list}") == (
        "GET /v1/notifications/7"
    )
    assert message.fill(None, "sms") == "2 alerts fire (team=a&b)"
    assert (
        message.fill(None, "sms", group_template="{team} {total} {firing} {labels} {host}")
        == "a&b 5 2 team=a&b (no host)"
    )
    assert message.subject("{event}: {summary}") == "group: 2 alerts fire (team=a&b)"
    assert "(no " not in message.fill(None, "email")


def test_a_notification_without_an_alert_says_its_sentence_whatever_the_template() -> None:
    body = json.dumps({"event": "heartbeat", "channel": "ops", "delivery": "k", "alert": None, "message": "alive"})
    assert Message(body.encode()).fill("{rule}", "slack") == "heartbeat: alive"


@given(st.text(), st.text(min_size=1))
def test_no_label_can_add_a_line(value: str, name: str) -> None:
    text = Message(body_of(labels={"host": value, name: value}, summary=value)).fill("{labels}{host}{summary}", "sms")
    assert text.isprintable()


@given(st.text())
def test_slack_text_is_escaped_reversibly(text: str) -> None:
    escaped = slack_text(text)
    assert not set("<>") & set(escaped)
    assert escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == text


# ---- Slack and SMS ----


def test_slack_gets_a_text_in_which_labels_cannot_call_everyone() -> None:
    with RecordingServer(lambda _: Answer(200, b"ok")) as server:
        channel = Channel(name="chat", type="slack", url=server.url + "/services/T/B/x", text="*{rule}* {summary}")
        attempt = slack_sender(channel).send("key-1", body_of(summary="<!channel> & Zürich"), T0)
    assert attempt == Attempt(True, 200)
    (request,) = server.seen
    assert (request.method, request.path) == ("POST", "/services/T/B/x")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-tidegauge-delivery"] == "key-1"
    assert json.loads(request.body) == {"text": "*cpu* &lt;!channel&gt; &amp; Zürich"}


@pytest.mark.parametrize("encoding", ["json", "form"])
def test_sms_sends_the_payload_that_the_gateway_wants(encoding: Any) -> None:
    payload = {"To": "{to}", "Body": "{text}", "key": "k3y", "ref": "{delivery}"}
    with RecordingServer() as server:
        channel = Channel(
            name="phone",
            type="sms",
            url=server.url + "/send",
            to=("+15550100", "+15550101"),
            payload=payload,
            encoding=encoding,
            headers={"Authorization": "Bearer x"},
            text='{severity}: "{summary}"',
        )
        assert sms_sender(channel).send("key-1", body_of(), T0).delivered
    (request,) = server.seen
    if encoding == "form":
        got = {name: value for name, (value,) in parse_qs(request.body.decode(), strict_parsing=True).items()}
    else:
        got = json.loads(request.body)
    assert got == {
        "To": "+15550100,+15550101",
        "Body": 'critical: "CPU of web-1 at 96.5 %"',
        "key": "k3y",
        "ref": "key-1",
    }
    assert request.headers["authorization"] == "Bearer x"


def test_slack_that_is_busy_says_when_to_come_again() -> None:
    with RecordingServer(lambda _: Answer(429, b"", {"Retry-After": "30"})) as server:
        channel = Channel(name="chat", type="slack", url=server.url + "/services/hidden")
        attempt = slack_sender(channel).send("key-1", body_of(), T0)
    assert (attempt.delivered, attempt.status, attempt.retry_after_ns) == (False, 429, 30 * NS_PER_SECOND)
    assert "hidden" not in repr(attempt) + repr(channel) + repr(slack_sender(channel))


# ---- e-mail ----


def parsed(text: bytes) -> email.message.EmailMessage:
    mail = email.message_from_bytes(text, policy=email.policy.default)
    assert isinstance(mail, email.message.EmailMessage)
    return mail


def test_a_mail_arrives_with_subject_text_and_key() -> None:
    with MailServer() as server:
        channel = mail_channel(server.address, text="{summary}\n.\nvalue {value}")
        attempt = EmailSender(channel).send("key-1", body_of(summary="Zürich\r\nBcc: c@example.org"), T0)
    assert attempt == Attempt(True, 250)
    (got,) = server.mails
    assert (got.sender, got.recipients) == ("tg@example.org", ("a@example.org", "b@example.org"))
    mail = parsed(got.text)
    assert mail["Subject"] == "firing: Zürich  Bcc: c@example.org"
    assert mail["Bcc"] is None
    assert mail["To"] == "a@example.org, b@example.org"
    assert mail["Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert (mail["Message-ID"], mail["X-Tidegauge-Delivery"]) == ("<key-1@tidegauge.invalid>", "key-1")
    assert mail.get_content().replace("\r\n", "\n").startswith("Zürich  Bcc: c@example.org\n")


def test_again_under_the_same_key_is_the_same_mail() -> None:
    with MailServer() as server:
        sender = EmailSender(mail_channel(server.address))
        for _ in range(2):
            sender.send("key-1", body_of(), T0)
    assert server.mails[0] == server.mails[1]


@pytest.mark.parametrize(
    ("refuse", "changes", "status", "error"),
    [
        ({"RCPT": "550 no such user"}, {}, 550, "the mail server refused every recipient (550)"),
        ({"MAIL": "553 not you"}, {}, 553, "the mail server refused the sender (553)"),
        ({"DATA": "451 later"}, {}, 451, "the mail server refused the mail (451)"),
        ({"MAIL": "421 closing"}, {}, 421, "the mail server refused the sender (421)"),
        ({}, {"security": "starttls"}, None, "the mail server does not offer what the channel needs"),
    ],
)
def test_what_a_refusal_says(refuse: dict[str, str], changes: dict[str, Any], status: int | None, error: str) -> None:
    with MailServer(refuse=refuse) as server:
        attempt = EmailSender(mail_channel(server.address, **changes)).send("key-1", body_of(), T0)
    assert (attempt.delivered, attempt.status) == (False, status)
    assert str(attempt.error).startswith(error)
    assert str(attempt.error).endswith(f"({server.address})")
    assert server.mails == []


def test_a_mail_that_some_recipients_get_is_delivered_and_says_so() -> None:
    with MailServer(refuse={"RCPT TO:<b@": "550 no such user"}) as server:
        attempt = EmailSender(mail_channel(server.address)).send("key-1", body_of(), T0)
    assert attempt == Attempt(True, 250, "1 of 2 recipients were refused")
    assert [mail.recipients for mail in server.mails] == [("a@example.org",)]


def test_a_server_that_is_not_there_or_is_silent_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        channel = mail_channel(address, timeout=Duration.parse("100ms"))
        assert EmailSender(channel).send("key-1", body_of(), T0) == Attempt(
            False, None, f"no answer within 100ms ({address})"
        )
    gone = EmailSender(channel).send("key-1", body_of(), T0)
    assert str(gone.error).startswith("no connection: Connection refused")


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The context of a server with a certificate of its own, and one that trusts it."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificate with openssl")
    directory: Path = tmp_path_factory.mktemp("tls")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, ssl.create_default_context(cafile=str(certificate))


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_login_over_tls(security: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    own, trusting = contexts
    with MailServer(**{security: own}) as server:  # type: ignore[arg-type]
        channel = mail_channel(server.address, security=security, user="ann", password=PASSWORD)
        refused = EmailSender(channel).send("key-0", body_of(), T0)
        assert str(refused.error).startswith("the certificate is not trusted: self")
        assert EmailSender(channel, tls=trusting).send("key-1", body_of(), T0).delivered
    (mail,) = server.mails
    assert (mail.encrypted, mail.login) == (True, ("ann", PASSWORD))


def test_a_refused_login_does_not_tell_the_password(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    own, trusting = contexts
    with MailServer(starttls=own, refuse={"AUTH": f"535 not {PASSWORD}"}) as server:
        channel = mail_channel(server.address, security="starttls", user="ann", password=PASSWORD)
        sender = EmailSender(channel, tls=trusting)
        attempt = sender.send("key-1", body_of(), T0)
    assert str(attempt.error).startswith("the mail server refused user and password (535)")
    assert PASSWORD not in repr(attempt) + repr(sender) + repr(channel)


def test_every_type_has_a_sender() -> None:
    pytest.importorskip("apprise")
    channel = {
        "webhook": Channel(name="a", url="http://x"),
        "slack": Channel(name="a", type="slack", url="http://x"),
        "sms": Channel(name="a", type="sms", url="http://x"),
        "email": mail_channel("127.0.0.1:25"),
        "apprise": Channel(name="a", type="apprise", url="json://127.0.0.1/"),
    }
    assert {kind: type(sender_of(each)).__name__ for kind, each in channel.items()} == {
        "webhook": "WebhookSender",
        "slack": "WebhookSender",
        "sms": "WebhookSender",
        "email": "EmailSender",
        "apprise": "AppriseSender",
    }
    assert set(channel) == set(SENDERS)
    with pytest.raises(BadConfig, match="a dashboard has no receiver, want GET /v1/dashboard"):
        sender_of(Channel(name="a", type="dashboard"))
    with pytest.raises(BadConfig, match="cannot notify channel 'mail': want server"):
        sender_of(mail_channel("nowhere"))
