"""Builds provider clients, destinations and policies from the configuration; no network calls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from receiver.errors import ConfigurationError
from receiver.settings import load
from worker.configuration import file as configuration_file
from worker.configuration.destination_policy import DestinationPolicy
from worker.configuration.event_policy import EventPolicy
from worker.configuration.file import Configuration, DeclaredDestination
from worker.configuration.settings import ApiSettings, ConfirmationSettings, DestinationSettings
from worker.destinations.base import Destination, DestinationContext
from worker.http.client import HttpClient
from worker.messages.text import Texts
from worker.providers.base import ProviderApi
from worker.providers.capabilities import HasWebhookSubscriptions, ReportsOrders, VerifiesCodes
from worker.providers.registry import provider_apis

# Calls per minute where the provider documents no limit.
_DEFAULT_LIMIT = 1_000
# A list of all services or of a long history is several MiB.
_LARGEST_ANSWER = 16 * 1_048_576
_SLACK_HOST = "hooks.slack.com"


@dataclass(frozen=True, slots=True)
class Api:
    """A provider's client and its rate limits."""

    client: ProviderApi
    settings: ApiSettings

    def budget_of(self, call: str) -> str:
        """The budget class that ``call`` counts towards."""
        known = self.client.calls.get(call)
        return (known.budget if known else None) or call

    def limit(self, budget: str) -> int:
        """Calls per minute in the budget class ``budget``."""
        return self.settings.limit(budget, self.client.limits.get(budget, _DEFAULT_LIMIT))


@dataclass(frozen=True, slots=True)
class Integrations:
    """The configured providers and destinations.

    ``provider_http`` may reach the providers' hosts only, ``destination_http`` those of the
    destinations.
    """

    apis: Mapping[str, Api]
    destinations: Mapping[str, Destination]
    policies: Mapping[str, DestinationPolicy]
    policy: EventPolicy
    configuration: Configuration
    provider_http: HttpClient
    destination_http: HttpClient

    def close(self) -> None:
        """Close every connection."""
        self.provider_http.close()
        self.destination_http.close()


def connect_integrations() -> Integrations:
    """Build everything that is configured.

    Raises:
        ConfigurationError: a variable or a key of the configuration file is invalid.
    """
    configuration = configuration_file.read()
    settings = {name: load(ApiSettings, f"{name}_") for name in provider_apis()}
    provider_http = _provider_http(settings)
    destination_http = _destination_http(load(DestinationSettings))
    apis = {
        name: _api(name, provider_http, api_settings)
        for name, api_settings in settings.items()
        if api_settings.api_key is not None
    }
    for name, api_settings in settings.items():
        _check_api(name, api_settings)
    policy = EventPolicy(
        confirming=frozenset(n for n, api in apis.items() if api.client.can_confirm),
        verifying=frozenset(
            n
            for n, api in apis.items()
            if isinstance(api.client, VerifiesCodes) and api.settings.verify_back != "off"
        ),
        confirmed_services=frozenset(load(ConfirmationSettings).auto_confirm),
        routing=configuration.routing,
        asking=frozenset(n for n, api in apis.items() if isinstance(api.client, ReportsOrders)),
        full_reveal=frozenset(
            each.policy.name for each in configuration.destinations if each.policy.reveal == "full"
        ),
    )
    return Integrations(
        apis=apis,
        destinations={
            each.policy.name: _destination(each, destination_http)
            for each in configuration.destinations
        },
        policies={each.policy.name: each.policy for each in configuration.destinations},
        policy=policy,
        configuration=configuration,
        provider_http=provider_http,
        destination_http=destination_http,
    )


@contextmanager
def connected_api(name: str) -> Iterator[Api]:
    """One provider's API, built from the environment and closed at the end of the block.

    Raises:
        ConfigurationError: a variable is missing or invalid.
    """
    settings = {each: load(ApiSettings, f"{each}_") for each in provider_apis()}
    if settings[name].api_key is None:
        raise ConfigurationError(f"{name.upper()}_API_KEY: is required")
    http = _provider_http(settings)
    try:
        api = _api(name, http, settings[name])
        _check_api(name, settings[name])
        yield api
    finally:
        http.close()


def _check_api(name: str, settings: ApiSettings) -> None:
    api, prefix = provider_apis()[name], name.upper()
    if settings.verify_back == "on" and not issubclass(api, VerifiesCodes):
        raise ConfigurationError(f"{prefix}_VERIFY_BACK: must be off; this API cannot verify codes")
    if settings.webhook_care == "on" and not issubclass(api, HasWebhookSubscriptions):
        raise ConfigurationError(
            f"{prefix}_WEBHOOK_CARE: must be off; this API has no webhook subscriptions"
        )
    options = {"VERIFY_BACK": settings.verify_back, "WEBHOOK_CARE": settings.webhook_care}
    for variable, value in options.items():
        if value == "on" and settings.api_key is None:
            raise ConfigurationError(f"{prefix}_{variable}: requires {prefix}_API_KEY; set it")
    if not settings.rate_limits.keys() <= api.limits.keys():
        raise ConfigurationError(
            f"{prefix}_RATE_LIMITS: unknown class of calls; use {', '.join(api.limits)}"
        )


def _provider_http(apis: Mapping[str, ApiSettings]) -> HttpClient:
    urls = [urlsplit(api.api_url) for api in apis.values() if api.api_url]
    defaults = [urlsplit(api.default_url) for api in provider_apis().values()]
    try:
        return HttpClient(
            allowed_hosts=[url.netloc for url in [*urls, *defaults]],
            plain_http_hosts=[url.netloc for url in urls if url.scheme == "http"],
            private_hosts=[url.netloc for url in urls],
            max_response_bytes=_LARGEST_ANSWER,
        )
    except ValueError as error:
        variables = [f"{name.upper()}_API_URL" for name, api in apis.items() if api.api_url]
        raise ConfigurationError(f"{', '.join(variables)}: {error}") from None


def _destination_http(settings: DestinationSettings) -> HttpClient:
    hosts = settings.destination_allowed_hosts
    try:
        return HttpClient(
            allowed_hosts=[_SLACK_HOST, *hosts], plain_http_hosts=hosts, private_hosts=hosts
        )
    except ValueError as error:
        raise ConfigurationError(f"DESTINATION_ALLOWED_HOSTS: {error}") from None


def _api(name: str, http: HttpClient, settings: ApiSettings) -> Api:
    api = provider_apis()[name]
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    try:
        client = api(http, base_url=settings.api_url or api.default_url, api_key=key)
        return Api(client, settings)
    except ValueError as error:
        raise ConfigurationError(f"{name.upper()}_API_KEY: {error}") from None


def _destination(declared: DeclaredDestination, http: HttpClient) -> Destination:
    try:
        texts = Texts.of(declared.templates)
    except ConfigurationError as error:
        raise declared.source.at("templates").error(str(error)) from None
    context = DestinationContext(http, texts, os.environ)
    try:
        return declared.kind.make(declared.policy.name, declared.options, context)
    except ValueError as error:
        problem = str(error)
    if declared.source.file is None:
        raise ConfigurationError(_for_environment(problem))
    option, _, rest = problem.partition(": ")
    raise declared.source.at(option).error(rest)


def _for_environment(problem: str) -> str:
    """The problem of a destination that no file declares, reworded to start with its variable."""
    by_variable = re.sub(r"^\w+: the variable (\w+) ", r"\1: ", problem)
    return re.sub(r"^(from|to): ", lambda key: f"EMAIL_{key[1].upper()}: ", by_variable)
