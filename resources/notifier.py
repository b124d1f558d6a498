"""Where alerts go: a webhook, a mail address, both or nowhere. Addresses and passwords stay in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from dagster import ConfigurableResource

from persona_assets.alerts import Alert, DeliveryError, Encryption, MailServer, mail_alerts, post_alerts
from persona_assets.errors import ConfigurationError

WEBHOOK = "PERSONA_ALERT_WEBHOOK"
MAIL_TO = "PERSONA_ALERT_MAIL_TO"
MAIL_FROM = "PERSONA_ALERT_MAIL_FROM"
SERVER = "PERSONA_SMTP_HOST"
PORT = "PERSONA_SMTP_PORT"
ENCRYPTION = "PERSONA_SMTP_ENCRYPTION"
USER = "PERSONA_SMTP_USER"
PASSWORD = "PERSONA_SMTP_PASSWORD"  # noqa: S105  # the name of a variable
_PORTS: dict[Encryption, int] = {"none": 25, "starttls": 587, "tls": 465}


class Notifier(ConfigurableResource):  # type: ignore[type-arg]  # no resource value other than itself
    """Sends alerts to what the environment names; it has no fields, so that the UI shows no secret."""

    def send(self, alerts: Sequence[Alert]) -> dict[str, str]:
        """Send alerts by every way that is set up.

        Returns:
            What became of each way: `delivered`, or why not. Empty where nothing is set up.
        """
        return {way: _outcome(deliver, alerts) for way, deliver in _ways().items()}


def _ways() -> dict[str, Callable[[Sequence[Alert]], None]]:
    ways: dict[str, Callable[[Sequence[Alert]], None]] = {}
    if url := os.environ.get(WEBHOOK):
        ways["webhook"] = lambda alerts: post_alerts(url, alerts)
    if receivers := os.environ.get(MAIL_TO):
        ways["mail"] = lambda alerts: _mail(receivers.replace(",", " ").split(), alerts)
    return ways


def _outcome(deliver: Callable[[Sequence[Alert]], None], alerts: Sequence[Alert]) -> str:
    try:
        deliver(alerts)
    except (DeliveryError, ConfigurationError) as error:
        return f"not delivered: {error}"
    return "delivered"


def _mail(receivers: Sequence[str], alerts: Sequence[Alert]) -> None:
    host = os.environ.get(SERVER)
    if not host:
        raise ConfigurationError(f"{MAIL_TO} is set, but {SERVER} is not: name the mail server that takes the mail.")
    wanted = os.environ.get(ENCRYPTION) or "starttls"
    fitting: list[Encryption] = [name for name in _PORTS if name == wanted]
    if not fitting:
        raise ConfigurationError(f"{ENCRYPTION} is {wanted!r}; it can be {', '.join(_PORTS)}.")
    port = os.environ.get(PORT) or str(_PORTS[fitting[0]])
    if not port.isdigit():
        raise ConfigurationError(f"{PORT} is {port!r}; a port is a number.")
    server = MailServer(host, int(port), fitting[0], os.environ.get(USER) or None, os.environ.get(PASSWORD) or None)
    mail_alerts(server, os.environ.get(MAIL_FROM) or receivers[0], receivers, alerts)
