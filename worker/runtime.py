"""What a worker process works with: made from the environment once, after the fork.

Making it checks everything: a setting that cannot work stops the process at its start.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from receiver import index_key, queue
from receiver.database import Database
from receiver.errors import ConfigurationError
from receiver.queue import Waker
from receiver.settings import BrokerSettings, StoreSettings, load
from receiver.vault import Vault
from worker.destinations.base import Destination
from worker.destinations.email import Email
from worker.destinations.slack import Slack
from worker.http_client import HttpClient
from worker.policy import Policy
from worker.providers.base import ProviderApi
from worker.providers.capabilities import Vouches
from worker.providers.registry import provider_apis
from worker.routing import Routing
from worker.settings import ApiSettings, ConfirmationSettings, DestinationSettings

# For calls whose provider names no limit.
_UNLIMITED = 1_000
_SLACK_HOST = "hooks.slack.com"


@dataclass(frozen=True, slots=True)
class Api:
    """One provider that can be asked, and how often."""

    client: ProviderApi
    settings: ApiSettings

    def budget_of(self, call: str) -> str:
        """The class of calls that ``call`` is counted in."""
        known = self.client.calls.get(call)
        return (known.budget if known else None) or call

    def limit(self, budget: str) -> int:
        """Calls of the class ``budget`` that may be made in a minute."""
        return self.settings.limit(budget, self.client.limits.get(budget, _UNLIMITED))


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything beyond the database and the broker that this installation may talk to."""

    http: HttpClient
    apis: Mapping[str, Api]
    destinations: Mapping[str, Destination]
    policy: Policy


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one worker process."""

    database: Database
    vault: Vault
    waker: Waker
    outside: Outside

    @property
    def policy(self) -> Policy:
        """What this installation does about an event."""
        return self.outside.policy

    def close(self) -> None:
        """Let go of every connection."""
        self.waker.close()
        self.outside.http.close()
        self.database.dispose()


def connect_outside() -> Outside:
    """Clients and destinations as the environment configures them; nothing is contacted.

    Raises:
        ConfigurationError: a variable cannot be used.
    """
    destinations = load(DestinationSettings)
    settings = {name: load(ApiSettings, f"{name}_") for name in provider_apis()}
    http = _http_client(destinations, settings)
    apis = {
        name: Api(_client(name, http, chosen), chosen)
        for name, chosen in settings.items()
        if chosen.api_key is not None
    }
    for name, chosen in settings.items():
        _check_api(name, chosen, apis)
    built = _destinations(destinations, http)
    policy = Policy(
        confirming=frozenset(n for n, api in apis.items() if api.client.can_confirm),
        verifying=frozenset(
            n
            for n, api in apis.items()
            if isinstance(api.client, Vouches) and api.settings.verify_back != "off"
        ),
        auto_confirm=load(ConfirmationSettings),
        routing=Routing(built),
    )
    return Outside(http, apis, built, policy)


def connect() -> Runtime:
    """The parts as the environment configures them.

    Raises:
        ConfigurationError: a variable is missing or cannot be used, or the database is not
            prepared for these keys.
    """
    store, broker_url = load(StoreSettings), load(BrokerSettings).broker_url
    if broker_url is None:
        raise ConfigurationError("REDIS_URL: is required")
    outside = connect_outside()
    database = Database(store.url)
    try:
        vault = index_key.open_vault(database, store.keys)
    except BaseException:
        database.dispose()
        outside.http.close()
        raise
    return Runtime(database, vault, Waker(queue.celery_app(broker_url)), outside)


class _Process:
    """The runtime of this process; a forked child must not use its parent's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None

    def get(self) -> Runtime:
        with self._lock:
            if self._runtime is None:
                self._runtime = connect()
            return self._runtime

    def close(self) -> None:
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
            self._runtime = None


process = _Process()


def _check_api(name: str, chosen: ApiSettings, apis: Mapping[str, Api]) -> None:
    prefix, limits = name.upper(), provider_apis()[name].limits
    if chosen.verify_back == "on":
        if not issubclass(provider_apis()[name], Vouches):
            raise ConfigurationError(
                f"{prefix}_VERIFY_BACK: wants off: this API vouches for nothing"
            )
        if name not in apis:
            raise ConfigurationError(f"{prefix}_VERIFY_BACK: wants {prefix}_API_KEY as well")
    if not chosen.rate_limits.keys() <= limits.keys():
        raise ConfigurationError(f"{prefix}_RATE_LIMITS: wants {'=…,'.join(limits)}=…")


def _http_client(chosen: DestinationSettings, apis: Mapping[str, ApiSettings]) -> HttpClient:
    urls = [urlsplit(api.api_url) for api in apis.values() if api.api_url]
    defaults = [urlsplit(api.default_url) for api in provider_apis().values()]
    named = chosen.destination_allowed_hosts
    try:
        return HttpClient(
            allowed_hosts=[_SLACK_HOST, *named, *(url.netloc for url in [*urls, *defaults])],
            plain_http_hosts=[*named, *(url.netloc for url in urls if url.scheme == "http")],
        )
    except ValueError as error:
        variables = [f"{name.upper()}_API_URL" for name, api in apis.items() if api.api_url]
        at_fault = ", ".join(["DESTINATION_ALLOWED_HOSTS", *variables])
        raise ConfigurationError(f"{at_fault}: {error}") from None


def _client(name: str, http: HttpClient, settings: ApiSettings) -> ProviderApi:
    api = provider_apis()[name]
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    try:
        return api(http, base_url=settings.api_url or api.default_url, api_key=key)
    except ValueError as error:
        raise ConfigurationError(f"{name.upper()}_API_KEY: {error}") from None


def _destinations(chosen: DestinationSettings, http: HttpClient) -> dict[str, Destination]:
    built: dict[str, Destination] = {}
    if chosen.slack_webhook_url is not None:
        url = chosen.slack_webhook_url.get_secret_value()
        scheme, host = urlsplit(url)[:2]
        names = {host.lower(), (urlsplit(url).hostname or "").lower()}
        allowed = {name.lower() for name in chosen.destination_allowed_hosts}
        if scheme == "https":
            allowed.add(_SLACK_HOST)
        if not names & allowed:
            raise ConfigurationError(
                "SLACK_WEBHOOK_URL: wants an https://hooks.slack.com URL, "
                "or its host in DESTINATION_ALLOWED_HOSTS"
            )
        built["slack"] = Slack("slack", url=url, http=http)
    if chosen.smtp_url is None and chosen.email_to:
        raise ConfigurationError("SMTP_URL: is required with EMAIL_TO")
    if chosen.smtp_url is not None:
        if not chosen.email_from or not chosen.email_to:
            raise ConfigurationError("SMTP_URL: wants EMAIL_FROM and EMAIL_TO as well")
        try:
            built["email"] = Email(
                "email",
                smtp_url=chosen.smtp_url.get_secret_value(),
                sender=chosen.email_from,
                recipients=chosen.email_to,
            )
        except ValueError as error:
            raise ConfigurationError(f"SMTP_URL, EMAIL_FROM or EMAIL_TO: {error}") from None
    return built
