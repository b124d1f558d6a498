"""Alerts reach a webhook and a mail server, or say why they did not; servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers.receivers import Mailbox, Webhook, free_port, mail_server, webhook_server

from persona_assets.alerts import Alert, DeliveryError, MailServer, mail_alerts, post_alerts
from resources.notifier import Notifier

ALERT = Alert(
    "embedded",
    "n24",
    "no_drift_since_first_measurement",
    "embedded/n24/remeasurement_drift",
    "drift",
    "drift. 12 of 12 sources drop; triggers LOW from a share of 0.75",
    {"estimate": 1.0, "p": 0.000244, "n": 12.0},
    "1234",
)
HIDDEN = "T0K3N"


@pytest.fixture
def webhook(request: pytest.FixtureRequest) -> Iterator[Webhook]:
    with webhook_server(getattr(request, "param", [200]), HIDDEN) as server:
        yield server


def test_the_webhook_gets_text_and_facts(webhook: Webhook) -> None:
    post_alerts(webhook.url, [ALERT])
    (body,) = webhook.bodies
    assert webhook.content_type == "application/json"
    assert "the rates of unchanged adapters fell" in body["text"] and "12 of 12 sources drop" in body["text"]
    (alert,) = body["alerts"]
    assert (alert["study"], alert["verdict"], alert["numbers"]["p"]) == ("n24", "drift", 0.000244)


@pytest.mark.parametrize("webhook", [[503, 429, 200]], indirect=True)
def test_what_may_pass_is_tried_again(webhook: Webhook) -> None:
    post_alerts(webhook.url, [ALERT], pause=0.01)
    assert len(webhook.bodies) == 3


@pytest.mark.parametrize("webhook", [[500]], indirect=True)
def test_it_gives_up_after_three_times(webhook: Webhook) -> None:
    with pytest.raises(DeliveryError, match="the webhook answered 500, 3 times") as raised:
        post_alerts(webhook.url, [ALERT], pause=0.01)
    assert len(webhook.bodies) == 3
    assert HIDDEN not in str(raised.value)


@pytest.mark.parametrize(("webhook", "code"), [([404], 404), ([302], 302)], indirect=["webhook"])
def test_a_refusal_is_final(webhook: Webhook, code: int) -> None:
    with pytest.raises(DeliveryError, match=f"answered {code}"):
        post_alerts(webhook.url, [ALERT], pause=0.01)
    assert len(webhook.bodies) == 1


def test_nobody_there_and_no_address() -> None:
    with pytest.raises(DeliveryError, match=r"could not be reached \(ConnectionError\), 3 times") as raised:
        post_alerts(f"http://127.0.0.1:{free_port()}/{HIDDEN}", [ALERT], pause=0.01)
    assert HIDDEN not in str(raised.value)
    with pytest.raises(DeliveryError, match="check its address"):
        post_alerts(HIDDEN, [ALERT])


@pytest.fixture
def mail(request: pytest.FixtureRequest) -> Iterator[tuple[Mailbox, MailServer]]:
    with mail_server(getattr(request, "param", [])) as (box, port):
        yield box, MailServer("127.0.0.1", port, "none")


@pytest.mark.parametrize("mail", [["451 later"]], indirect=True)
def test_mail_is_handed_in_and_tried_again(mail: tuple[Mailbox, MailServer]) -> None:
    box, server = mail
    mail_alerts(server, "studies@example.org", ["ada@example.org", "grace@example.org"], [ALERT], pause=0.01)
    (envelope,) = box.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("studies@example.org", ["ada@example.org", "grace@example.org"])
    text = envelope.content.decode()
    assert "Subject: embedded, study n24, no_drift_since_first_measurement" in text
    assert "12 of 12 sources drop" in text


@pytest.mark.parametrize("mail", [["550 no"]], indirect=True)
def test_refused_mail_is_final(mail: tuple[Mailbox, MailServer]) -> None:
    with pytest.raises(DeliveryError, match="the mail server answered 550"):
        mail_alerts(mail[1], "studies@example.org", ["ada@example.org"], [ALERT], pause=0.01)
    assert mail[0].mails == []


def test_a_server_without_encryption_gets_no_mail_unless_told(mail: tuple[Mailbox, MailServer]) -> None:
    host, port = mail[1].host, mail[1].port
    with pytest.raises(DeliveryError):
        mail_alerts(MailServer(host, port, "starttls"), "a@example.org", ["b@example.org"], [ALERT], pause=0.01)
    assert mail[0].mails == []


def test_the_environment_says_where_alerts_go(
    webhook: Webhook, mail: tuple[Mailbox, MailServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PERSONA_ALERT_WEBHOOK", "PERSONA_ALERT_MAIL_TO"):
        monkeypatch.delenv(name, raising=False)
    assert Notifier().send([ALERT]) == {}
    monkeypatch.setenv("PERSONA_ALERT_WEBHOOK", webhook.url)
    monkeypatch.setenv("PERSONA_ALERT_MAIL_TO", "ada@example.org, grace@example.org")
    assert Notifier().send([ALERT]) == {
        "webhook": "delivered",
        "mail": "not delivered: PERSONA_ALERT_MAIL_TO is set, but PERSONA_SMTP_HOST is not: "
        "name the mail server that takes the mail.",
    }
    monkeypatch.setenv("PERSONA_SMTP_HOST", mail[1].host)
    monkeypatch.setenv("PERSONA_SMTP_PORT", str(mail[1].port))
    monkeypatch.setenv("PERSONA_SMTP_ENCRYPTION", "maybe")
    assert Notifier().send([ALERT])["mail"].endswith("it can be none, starttls, tls.")
    monkeypatch.setenv("PERSONA_SMTP_ENCRYPTION", "none")
    assert Notifier().send([ALERT]) == {"webhook": "delivered", "mail": "delivered"}
    assert mail[0].mails[0].rcpt_tos == ["ada@example.org", "grace@example.org"]
    assert Notifier().model_dump() == {}  # the UI shows fields of resources
