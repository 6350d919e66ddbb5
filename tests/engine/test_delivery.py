"""Delivery to real receivers on this machine: signed, retried, in order, and never under two keys."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.catalog.control import ControlDatabase
from engine.clock import NS_PER_SECOND
from engine.config import Channel
from engine.config_units import Duration
from engine.delivery.outbox import BATCH, Outbox, Retries
from engine.delivery.webhook import Attempt, WebhookSender, signature
from engine.errors import BadConfig, BadRequest, NotFound, Unavailable
from tests.engine.test_alert_store import Server, rule_of

S = NS_PER_SECOND
T0 = 1_700_000_000 * S
SECRET = "a-very-secret-key"


class Receiver(HTTPServer):
    """Answers each POST with the next of ``answers`` (status, headers), the last one for ever; keeps what it got."""

    def __init__(self, answers: list[tuple[int, dict[str, str]]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/secret-path?token=1"

    def keys(self) -> list[str]:
        return [headers["X-Tidegauge-Delivery"] for _, headers, _ in self.got]

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, dict(self.headers.items()), body))
        answers = self.server.answers
        status, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        if status == 0:
            self.close_connection = True
            return
        if status == 1:
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def receiving(*answers: int | tuple[int, dict[str, str]], tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver in a thread for the block."""
    receiver = Receiver([(answer, {}) if isinstance(answer, int) else answer for answer in answers] or [(204, {})])
    if tls is not None:
        receiver.socket = tls.wrap_socket(receiver.socket, server_side=True)
    thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        thread.join()
        receiver.server_close()


def channel_of(url: str, **changes: Any) -> Channel:
    return Channel(**{"name": "ops", "url": url, "secret": SECRET, **changes})


def put(control: ControlDatabase, key: str, *, channel: str = "ops", alert_id: int | None = None) -> None:
    """Put a notification into the outbox, as the transaction of an event does."""
    with control.transaction() as connection:
        if alert_id is not None:
            connection.execute(
                "INSERT OR IGNORE INTO alerts (id, fingerprint, tagset_id, rule, severity, category, labels, "
                "channels, state, threshold, summary, started_ns, cause_time_ns) VALUES "
                "(?, ?, 0, 'r', 'info', 'custom', '{}', '[]', 'resolved', 0, '', 0, 0)",
                (alert_id, str(alert_id)),
            )
        connection.execute(
            "INSERT INTO notifications (delivery, channel, alert_id, event, body, created_ns, next_attempt_ns) "
            "VALUES (?, ?, ?, 'firing', ?, ?, ?)",
            (key, channel, alert_id, json.dumps({"delivery": key, "name": "Zürich"}), T0, T0),
        )


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlDatabase]:
    database = ControlDatabase(str(tmp_path / "control.db"))
    yield database
    database.close()


def outbox_of(control: ControlDatabase, url: str, **changes: Any) -> Outbox:
    """Return an outbox without jitter: waits of 2, 4, 8 … seconds."""
    return Outbox(control, {"ops": channel_of(url)}, share=lambda: 0.0, **changes)


# ---- one request ----


def test_the_request_is_signed_and_carries_its_key(control: ControlDatabase) -> None:
    put(control, "key-1")
    with receiving() as receiver:
        assert outbox_of(control, receiver.url).deliver_due(T0 + 5 * S) == 1
    ((path, headers, body),) = receiver.got
    assert path == "/hook/secret-path?token=1"
    assert json.loads(body) == {"delivery": "key-1", "name": "Zürich"}
    assert headers["X-Tidegauge-Delivery"] == "key-1"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Tidegauge-Timestamp"] == "1700000005"
    expected = hmac.new(SECRET.encode(), b"1700000005." + body, hashlib.sha256).hexdigest()
    assert headers["X-Tidegauge-Signature"] == f"sha256={expected}"


def test_the_signature_of_a_known_message() -> None:
    """HMAC-SHA256("key", "1.{}"), computed with OpenSSL: printf '1.{}' | openssl dgst -sha256 -hmac key."""
    known = "1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224"
    assert signature("key", "1", b"{}") == f"sha256={known}"


def test_headers_of_the_channel_are_sent_and_no_signature_without_a_secret() -> None:
    with receiving() as receiver:
        sender = WebhookSender(channel_of(receiver.url, secret=None, headers={"Authorization": "Bearer x"}))
        assert sender.send("key-1", b"{}", T0) == Attempt(True, 204)
    ((_, headers, _),) = receiver.got
    assert headers["Authorization"] == "Bearer x"
    assert "X-Tidegauge-Signature" not in headers


@pytest.mark.parametrize(
    ("answer", "attempt"),
    [
        ((200, {}), Attempt(True, 200)),
        ((299, {}), Attempt(True, 299)),
        ((500, {}), Attempt(False, 500, "the answer was 500")),
        ((404, {}), Attempt(False, 404, "the answer was 404")),
        ((503, {"Retry-After": "30"}), Attempt(False, 503, "the answer was 503", 30 * S)),
        ((503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), Attempt(False, 503, "the answer was 503")),
    ],
)
def test_what_the_answer_means(answer: tuple[int, dict[str, str]], attempt: Attempt) -> None:
    with receiving(answer) as receiver:
        assert WebhookSender(channel_of(receiver.url)).send("key-1", b"{}", T0) == attempt


def test_a_redirect_is_not_followed() -> None:
    with receiving() as elsewhere, receiving((302, {"Location": elsewhere.url})) as receiver:
        attempt = WebhookSender(channel_of(receiver.url)).send("key-1", b"{}", T0)
    assert (attempt.delivered, attempt.status) == (False, 302)
    assert "redirects are not followed" in str(attempt.error)
    assert elsewhere.got == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (0, "the connection was closed without an answer (http://127.0.0.1:"),
        (1, "the answer is not HTTP: BadStatusLine (http://127.0.0.1:"),
    ],
)
def test_an_answer_that_is_none_is_a_failure(answer: int, error: str) -> None:
    with receiving(answer) as receiver:
        attempt = WebhookSender(channel_of(receiver.url)).send("key-1", b"{}", T0)
    assert not attempt.delivered
    assert str(attempt.error).startswith(error)


def test_a_receiver_that_is_not_there_or_does_not_answer_is_a_failure() -> None:
    with receiving() as receiver:
        url = receiver.url
    attempt = WebhookSender(channel_of(url)).send("key-1", b"{}", T0)
    assert str(attempt.error).startswith("no connection: Connection refused")
    silent = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    try:
        url = f"http://127.0.0.1:{silent.server_port}/"
        sender = WebhookSender(channel_of(url, timeout=Duration.parse("100ms")))
        assert str(sender.send("key-1", b"{}", T0).error).startswith("no answer within 100ms")
    finally:
        silent.server_close()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"url": "ftp://127.0.0.1/secret-path"}, "needs http:// or https://"),
        ({"url": "http:///secret-path"}, "a host"),
        ({"url": "http://127.0.0.1/secret path"}, "without spaces"),
        ({"url": "http://127.0.0.1/secret-path\r\nX: y"}, "without spaces"),
        ({"url": "http://127.0.0.1:99999/secret-path"}, "cannot be read"),
        ({"url": "http://ann:secret@127.0.0.1/"}, "a user name or a password"),
        ({"headers": {"X-A": "secret\r\nX-B: 1"}}, "'X-A' has a character"),
        ({"headers": {"X A": "secret"}}, "'X A' has a character"),
        ({"headers": {"host": "secret"}}, "'host' is set by Tidegauge itself"),
        ({"headers": {"X-Tidegauge-Signature": "secret"}}, "is set by Tidegauge itself"),
    ],
)
def test_a_channel_that_cannot_be_used_is_refused_at_once_without_telling_secrets(
    control: ControlDatabase, changes: dict[str, Any], cause: str
) -> None:
    channel = channel_of(**{"url": "http://127.0.0.1/", **changes})
    with pytest.raises(BadConfig, match="cannot notify channel 'ops'") as caught:
        Outbox(control, {"ops": channel})
    assert cause in str(caught.value)
    assert "secret" not in str(caught.value)


# ---- secrets and TLS ----


def test_secrets_are_in_no_repr_error_log_or_row(control: ControlDatabase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    put(control, "key-1")
    with receiving(500) as receiver:
        channel = channel_of(receiver.url, headers={"Authorization": "Bearer hidden"})
        outbox = Outbox(control, {"ops": channel})
        for round_number in range(3):
            outbox.deliver_due(T0 + round_number * 100 * S)
        texts = [repr(WebhookSender(channel)), repr(outbox.find()), caplog.text]
    outbox.deliver_due(T0 + 10_000 * S)
    texts += [repr(row) for row in control.rows("SELECT * FROM notifications")]
    assert "Connection refused" in texts[-1]
    for text in texts:
        for secret in (SECRET, "hidden", "secret-path", "token=1"):
            assert secret not in text


def test_certificates_are_verified() -> None:
    sender = WebhookSender(channel_of("https://127.0.0.1/"))
    assert sender._tls is not None
    assert sender._tls.verify_mode == ssl.CERT_REQUIRED
    assert sender._tls.check_hostname


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_a_self_signed_certificate_is_refused_unless_trusted(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
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
    with receiving(tls=context) as receiver:
        url = receiver.url.replace("http:", "https:")
        refused = WebhookSender(channel_of(url)).send("key-1", b"{}", T0)
        assert str(refused.error).startswith("the certificate is not trusted: self")
        trusted = ssl.create_default_context(cafile=str(certificate))
        assert WebhookSender(channel_of(url), tls=trusted).send("key-2", b"{}", T0).delivered
    assert receiver.keys() == ["key-2"]


# ---- retries ----


def test_after_an_error_the_same_key_is_sent_again_until_it_is_delivered(control: ControlDatabase) -> None:
    put(control, "key-1")
    with receiving(500, 502, 204) as receiver:
        outbox = outbox_of(control, receiver.url)
        assert outbox.deliver_due(T0) == 0
        assert outbox.deliver_due(T0 + 2 * S - 1) == 0
        assert outbox.deliver_due(T0 + 2 * S) == 0
        assert outbox.deliver_due(T0 + 6 * S) == 1
        assert outbox.deliver_due(T0 + 10**6 * S) == 0
    assert receiver.keys() == ["key-1"] * 3
    assert len({body for _, _, body in receiver.got}) == 1
    (notification,) = outbox.find()
    assert (notification.state, notification.attempts) == ("delivered", 3)
    assert (notification.delivered_ns, notification.last_status, notification.last_error) == (
        T0 + 6 * S,
        204,
        None,
    )
    assert outbox.counts() == {"waiting": 0, "delivered": 1, "dead": 0}


def test_a_crash_between_sending_and_noting_sends_the_same_key_again(control: ControlDatabase, tmp_path: Path) -> None:
    put(control, "key-1")
    with receiving() as receiver:
        outbox = outbox_of(control, receiver.url, sender=lambda channel: ClosingSender(channel, control.close))
        with pytest.raises(Unavailable):
            outbox.deliver_due(T0)
        again = ControlDatabase(str(tmp_path / "control.db"))
        restarted = outbox_of(again, receiver.url)
        assert restarted.find()[0].state == "waiting"
        assert restarted.deliver_due(T0 + S) == 1
        assert restarted.deliver_due(T0 + 2 * S) == 0
        again.close()
    assert receiver.keys() == ["key-1", "key-1"]
    assert receiver.got[0][2] == receiver.got[1][2]


class ClosingSender(WebhookSender):
    """Goes down after the receiver has answered and before that can be noted."""

    def __init__(self, channel: Channel, go_down: Callable[[], None]) -> None:
        super().__init__(channel)
        self._go_down = go_down

    def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
        attempt = super().send(delivery, body, now_ns)
        self._go_down()
        return attempt


def test_while_the_answer_cannot_be_noted_nothing_is_sent_again(control: ControlDatabase) -> None:
    put(control, "key-1")
    with control.transaction() as connection:
        connection.execute("CREATE TRIGGER full BEFORE UPDATE ON notifications BEGIN SELECT raise(ABORT, 'full'); END")
    with receiving() as receiver:
        outbox = outbox_of(control, receiver.url)
        for second in range(3):
            with pytest.raises(Exception, match="full"):
                outbox.deliver_due(T0 + second * S)
        with control.transaction() as connection:
            connection.execute("DROP TRIGGER full")
        assert outbox.deliver_due(T0 + 5 * S) == 1
    assert receiver.keys() == ["key-1"]
    assert outbox.counts()["delivered"] == 1


def test_after_the_last_attempt_a_notification_is_dead_visible_and_can_be_revived(
    control: ControlDatabase,
) -> None:
    put(control, "key-1")
    with receiving(500, 500, 500, 204) as receiver:
        outbox = outbox_of(control, receiver.url, retries=Retries(attempts=3))
        for second in (0, 10, 20, 30):
            outbox.deliver_due(T0 + second * S)
        (dead,) = outbox.find(state="dead")
        assert (dead.attempts, dead.dead_ns, dead.last_error) == (3, T0 + 20 * S, "the answer was 500")
        assert outbox.counts() == {"waiting": 0, "delivered": 0, "dead": 1}
        outbox.revive(dead.id, T0 + 40 * S)
        assert outbox.deliver_due(T0 + 40 * S) == 1
    assert receiver.keys() == ["key-1"] * 4
    with pytest.raises(BadRequest, match="it is delivered, want dead"):
        outbox.revive(dead.id, T0)
    with pytest.raises(NotFound):
        outbox.revive(99, T0)


def test_waits_double_up_to_the_longest_and_jitter_only_shortens_them() -> None:
    retries = Retries()
    assert [retries.wait_ns(failures, 0.0) // S for failures in (1, 2, 3, 9, 10, 25, 10**6)] == [
        *(2, 4, 8),
        *(512, 600, 600, 600),
    ]
    for share in (0.0, 0.3, 0.999999):
        for failures in range(1, 26):
            longest = retries.wait_ns(failures, 0.0)
            assert longest // 2 <= retries.wait_ns(failures, share) <= longest
    for share, hours in ((0.0, 2.8), (0.999999, 1.4)):
        total_ns = sum(retries.wait_ns(failures, share) for failures in range(1, retries.attempts))
        assert round(total_ns / (3_600 * S), 1) == hours


@pytest.mark.parametrize(("asked_s", "waited_s"), [(1, 2), (30, 30), (100_000, 600)])
def test_the_receiver_may_ask_for_more_time_within_bounds(
    control: ControlDatabase, asked_s: int, waited_s: int
) -> None:
    put(control, "key-1")
    with receiving((429, {"Retry-After": str(asked_s)})) as receiver:
        outbox = outbox_of(control, receiver.url)
        outbox.deliver_due(T0)
    assert outbox.find()[0].next_attempt_ns == T0 + waited_s * S


def test_from_the_breaching_sample_to_the_signed_notification_and_over_a_restart(tmp_path: Path) -> None:
    server = Server(str(tmp_path / "alerts.db"), [rule_of()])
    with receiving(500, 204) as receiver:
        server.tick(0, {7: 95.0})
        assert outbox_of(server.control, receiver.url).deliver_due(T0) == 0
        server.restart()
        assert server.tick(5, {7: 95.0}) == []
        outbox = outbox_of(server.control, receiver.url)
        assert outbox.deliver_due(T0 + 5 * S) == 1
        server.tick(10, {7: 50.0})
        assert outbox.deliver_due(T0 + 10 * S) == 1
    told = [json.loads(body) for _, _, body in receiver.got]
    assert [(each["event"], each["alert"]["state"]) for each in told] == [
        ("firing", "firing"),
        ("firing", "firing"),
        ("resolved", "resolved"),
    ]
    assert [each["delivery"] for each in told] == receiver.keys()
    assert len(set(receiver.keys())) == 2
    server.control.close()


# ---- order and channels ----


def test_what_one_alert_tells_arrives_in_order_and_others_do_not_wait(control: ControlDatabase) -> None:
    put(control, "a-firing", alert_id=1)
    put(control, "a-resolved", alert_id=1)
    put(control, "b-firing", alert_id=2)
    with receiving(500, 204) as receiver:
        outbox = outbox_of(control, receiver.url)
        assert outbox.deliver_due(T0) == 0
        assert outbox.deliver_due(T0 + S) == 1
        assert outbox.deliver_due(T0 + 2 * S) == 1
        assert outbox.deliver_due(T0 + 3 * S) == 1
    assert receiver.keys() == ["a-firing", "b-firing", "a-firing", "a-resolved"]


def test_a_dead_notification_does_not_hold_up_the_next_of_its_alert(control: ControlDatabase) -> None:
    put(control, "firing", alert_id=1)
    put(control, "resolved", alert_id=1)
    with receiving(500, 204) as receiver:
        outbox = outbox_of(control, receiver.url, retries=Retries(attempts=1))
        outbox.deliver_due(T0)
        assert outbox.deliver_due(T0 + S) == 1
    assert receiver.keys() == ["firing", "resolved"]


def test_channels_fail_by_themselves(control: ControlDatabase) -> None:
    put(control, "to-bad", channel="bad", alert_id=1)
    put(control, "to-bad-2", channel="bad", alert_id=2)
    put(control, "to-good", channel="good", alert_id=1)
    with receiving(500) as bad, receiving() as good:
        channels = {"bad": channel_of(bad.url, name="bad"), "good": channel_of(good.url, name="good")}
        outbox = Outbox(control, channels)
        assert outbox.channels == ("bad", "good")
        assert outbox.deliver_due(T0, "good") == 1
        assert outbox.deliver_due(T0) == 0
    assert good.keys() == ["to-good"]
    assert bad.keys() == ["to-bad"]


def test_what_waits_for_a_channel_that_is_gone_is_dead_and_says_so(control: ControlDatabase) -> None:
    put(control, "key-1", channel="gone")
    outbox = Outbox(control, {})
    assert outbox.deliver_due(T0) == 0
    (notification,) = outbox.find()
    assert (notification.state, notification.last_error) == ("dead", "the channel is not configured")


def test_one_call_takes_a_batch(control: ControlDatabase) -> None:
    for number in range(BATCH + 5):
        put(control, f"key-{number}")
    sent: list[str] = []

    class Collector:
        def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
            sent.append(delivery)
            return Attempt(True, 204)

    outbox = Outbox(control, {"ops": channel_of("http://127.0.0.1/")}, sender=lambda channel: Collector())
    assert [outbox.deliver_due(T0) for _ in range(3)] == [BATCH, 5, 0]
    assert sent == [f"key-{number}" for number in range(BATCH + 5)]


def test_two_threads_never_send_the_same_notification(control: ControlDatabase) -> None:
    for number in range(20):
        put(control, f"key-{number}")
    sent: list[str] = []
    barrier = threading.Barrier(4)

    class Collector:
        def send(self, delivery: str, body: bytes, now_ns: int) -> Attempt:
            sent.append(delivery)
            return Attempt(True, 204)

    outbox = Outbox(control, {"ops": channel_of("http://127.0.0.1/")}, sender=lambda channel: Collector())

    def deliver() -> None:
        barrier.wait()
        outbox.deliver_due(T0)

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == sorted(f"key-{number}" for number in range(20))


def test_notifications_are_found_by_each_filter(control: ControlDatabase) -> None:
    put(control, "key-1", alert_id=1)
    put(control, "key-2", channel="chat", alert_id=1)
    put(control, "key-3", alert_id=2)
    outbox = outbox_of(control, "http://127.0.0.1/")

    def keys(**filters: Any) -> list[str]:
        return [notification.delivery for notification in outbox.find(**filters)]

    assert keys() == ["key-3", "key-2", "key-1"]
    assert keys(alert_id=1) == ["key-2", "key-1"]
    assert keys(channel="ops", before_id=3) == ["key-1"]
    assert keys(state="waiting", limit=1) == ["key-3"]
    assert keys(state="delivered") == []
    with pytest.raises(BadRequest, match="got state 'lost', want waiting, delivered, dead"):
        keys(state="lost")
