"""Tell a person that a check failed: by a webhook that takes JSON, or by mail."""

from __future__ import annotations

import smtplib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from typing import Literal

from persona_assets.errors import PersonaAssetsError

ATTEMPTS = 3
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 1.0
Encryption = Literal["none", "starttls", "tls"]


class DeliveryError(PersonaAssetsError):
    """A message did not reach its receiver; the text names no address and no password."""


@dataclass(frozen=True)
class Alert:
    """A drift check that failed.

    Attributes:
        profile: of the study.
        study: its name.
        check: name of the check.
        asset: key of the asset that was checked.
        verdict: `drift` or `confounded`.
        sentence: what the check says.
        numbers: share of drops, p and number of sources, where there are any.
        run_id: run that the check ran in.
    """

    profile: str
    study: str
    check: str
    asset: str
    verdict: str
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict)
    run_id: str = ""

    @property
    def headline(self) -> str:
        """The alert in one line."""
        what = {
            "drift": "the rates of unchanged adapters fell: the measurement has moved",
            "confounded": "two measurements were not made under the same conditions and cannot be compared",
        }.get(self.verdict, self.verdict)
        return f"{self.profile}, study {self.study}, {self.check}: {what}."


@dataclass(frozen=True)
class MailServer:
    """Where mail is handed in.

    Attributes:
        host: of the server.
        port: of the server.
        encryption: `starttls`, `tls` from the start, or `none`.
        user: to log in as; None logs in nowhere.
        password: of that user.
    """

    host: str
    port: int
    encryption: Encryption = "starttls"
    user: str | None = None
    password: str | None = None


def text_of(alerts: Sequence[Alert]) -> str:
    """Say all alerts in plain text."""
    return "\n\n".join(f"{alert.headline}\n{alert.sentence}\nAsset {alert.asset}, run {alert.run_id}." for alert in alerts)


def post_alerts(url: str, alerts: Sequence[Alert], pause: float = PAUSE_SECONDS) -> None:
    """POST the alerts as JSON: `text`, as chat tools expect it, and `alerts`, a list of objects.

    A connection that fails, a timeout, 429 and 5xx are tried again, three times in all; another answer is final.

    Raises:
        DeliveryError: it was not accepted.
    """
    import requests

    body = {"text": text_of(alerts), "alerts": [{**asdict(alert), "headline": alert.headline} for alert in alerts]}

    def attempt() -> None:
        try:
            answer = requests.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _TryAgainError(f"could not be reached ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise DeliveryError(f"the webhook cannot be used ({type(error).__name__}); check its address.") from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise _TryAgainError(f"answered {answer.status_code}")
        if not answer.ok or answer.is_redirect:
            raise DeliveryError(f"the webhook answered {answer.status_code} and did not take the message.")

    _with_retries("the webhook", attempt, pause)


def mail_alerts(
    server: MailServer, sender: str, receivers: Sequence[str], alerts: Sequence[Alert], pause: float = PAUSE_SECONDS
) -> None:
    """Send the alerts as one plain-text mail; connection errors and temporary refusals are tried again, three times in all.

    Raises:
        DeliveryError: the server did not take it.
    """
    message = EmailMessage()
    message["Subject"] = alerts[0].headline if len(alerts) == 1 else f"{len(alerts)} drift checks failed"
    message["From"], message["To"] = sender, ", ".join(receivers)
    message.set_content(text_of(alerts))

    def attempt() -> None:
        try:
            _hand_in(server, message)
        except smtplib.SMTPAuthenticationError as error:
            raise DeliveryError("the mail server refused user or password.") from error
        except (OSError, smtplib.SMTPServerDisconnected) as error:
            if isinstance(error, smtplib.SMTPResponseException | smtplib.SMTPRecipientsRefused | smtplib.SMTPNotSupportedError):
                _judge(error)
            raise _TryAgainError(f"could not be reached ({type(error).__name__})") from error

    _with_retries("the mail server", attempt, pause)


def _hand_in(server: MailServer, message: EmailMessage) -> None:
    make = smtplib.SMTP_SSL if server.encryption == "tls" else smtplib.SMTP
    with make(server.host, server.port, timeout=TIMEOUT_SECONDS) as connection:
        if server.encryption == "starttls":
            connection.starttls()
        if server.user is not None:
            connection.login(server.user, server.password or "")
        connection.send_message(message)


def _judge(error: smtplib.SMTPException) -> None:
    """Raise what a refusal means: codes below 500 are temporary, the others final."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    else:
        codes = [error.smtp_code] if isinstance(error, smtplib.SMTPResponseException) else [500]
    if all(400 <= code < 500 for code in codes):
        raise _TryAgainError(f"answered {codes[0]}") from error
    raise DeliveryError(f"the mail server answered {codes[0]} and did not take the message.") from error


class _TryAgainError(Exception):
    """An attempt failed in a way that may pass."""


def _with_retries(receiver: str, attempt: Callable[[], None], pause: float) -> None:
    last = ""
    for number in range(1, ATTEMPTS + 1):
        try:
            attempt()
        except _TryAgainError as error:
            last = str(error)
        else:
            return
        if number < ATTEMPTS:
            time.sleep(pause * number)
    raise DeliveryError(f"{receiver} {last}, {ATTEMPTS} times.")
