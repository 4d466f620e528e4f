"""Everything beyond the database and the broker: providers' APIs, destinations, and what to do.

Made from the environment and the configuration file; nothing is contacted on the way.
"""

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
from worker.configuration.file import Configuration, Declared
from worker.configuration.settings import ApiSettings, ConfirmationSettings, DestinationSettings
from worker.destinations.base import Destination, Surroundings
from worker.http.client import HttpClient
from worker.messages.text import Texts
from worker.providers.base import ProviderApi
from worker.providers.capabilities import Subscribes, Vouches
from worker.providers.registry import provider_apis

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
class Integrations:
    """Everything beyond the database and the broker that this installation may talk to.

    ``asking`` reaches the providers' hosts, ``telling`` those of destinations.
    """

    apis: Mapping[str, Api]
    destinations: Mapping[str, Destination]
    policies: Mapping[str, DestinationPolicy]
    policy: EventPolicy
    configuration: Configuration
    asking: HttpClient
    telling: HttpClient

    def close(self) -> None:
        """Let go of every connection."""
        self.asking.close()
        self.telling.close()


def connect_integrations() -> Integrations:
    """Clients and destinations as they are configured.

    Raises:
        ConfigurationError: a variable, or something in the configuration file, cannot be used.
    """
    declared = configuration_file.read()
    settings = {name: load(ApiSettings, f"{name}_") for name in provider_apis()}
    asking, telling = _asking(settings), _telling(load(DestinationSettings))
    apis = {
        name: Api(_client(name, asking, chosen), chosen)
        for name, chosen in settings.items()
        if chosen.api_key is not None
    }
    for name, chosen in settings.items():
        _check_api(name, chosen, apis)
    policy = EventPolicy(
        confirming=frozenset(n for n, api in apis.items() if api.client.can_confirm),
        verifying=frozenset(
            n
            for n, api in apis.items()
            if isinstance(api.client, Vouches) and api.settings.verify_back != "off"
        ),
        confirmed_services=frozenset(load(ConfirmationSettings).auto_confirm),
        routing=declared.routing,
    )
    return Integrations(
        apis=apis,
        destinations={each.policy.name: _destination(each, telling) for each in declared.declared},
        policies={each.policy.name: each.policy for each in declared.declared},
        policy=policy,
        configuration=declared,
        asking=asking,
        telling=telling,
    )


@contextmanager
def connected_api(name: str) -> Iterator[Api]:
    """One provider's API as the environment configures it, for as long as the block lasts.

    Raises:
        ConfigurationError: a variable is missing or cannot be used.
    """
    settings = {each: load(ApiSettings, f"{each}_") for each in provider_apis()}
    if settings[name].api_key is None:
        raise ConfigurationError(f"{name.upper()}_API_KEY: is required")
    http = _asking(settings)
    try:
        apis = {name: Api(_client(name, http, settings[name]), settings[name])}
        _check_api(name, settings[name], apis)
        yield apis[name]
    finally:
        http.close()


def _check_api(name: str, chosen: ApiSettings, apis: Mapping[str, Api]) -> None:
    prefix, limits = name.upper(), provider_apis()[name].limits
    if chosen.verify_back == "on":
        if not issubclass(provider_apis()[name], Vouches):
            raise ConfigurationError(
                f"{prefix}_VERIFY_BACK: wants off: this API vouches for nothing"
            )
        if name not in apis:
            raise ConfigurationError(f"{prefix}_VERIFY_BACK: wants {prefix}_API_KEY as well")
    if chosen.webhook_care == "on":
        if not issubclass(provider_apis()[name], Subscribes):
            raise ConfigurationError(
                f"{prefix}_WEBHOOK_CARE: wants off: this API tells nothing of its webhooks"
            )
        if name not in apis:
            raise ConfigurationError(f"{prefix}_WEBHOOK_CARE: wants {prefix}_API_KEY as well")
    if not chosen.rate_limits.keys() <= limits.keys():
        raise ConfigurationError(f"{prefix}_RATE_LIMITS: wants {'=…,'.join(limits)}=…")


def _asking(apis: Mapping[str, ApiSettings]) -> HttpClient:
    """The client that asks providers."""
    urls = [urlsplit(api.api_url) for api in apis.values() if api.api_url]
    defaults = [urlsplit(api.default_url) for api in provider_apis().values()]
    try:
        return HttpClient(
            allowed_hosts=[url.netloc for url in [*urls, *defaults]],
            plain_http_hosts=[url.netloc for url in urls if url.scheme == "http"],
            private_hosts=[url.netloc for url in urls],
        )
    except ValueError as error:
        variables = [f"{name.upper()}_API_URL" for name, api in apis.items() if api.api_url]
        raise ConfigurationError(f"{', '.join(variables)}: {error}") from None


def _telling(chosen: DestinationSettings) -> HttpClient:
    """The client that tells destinations."""
    named = chosen.destination_allowed_hosts
    try:
        return HttpClient(
            allowed_hosts=[_SLACK_HOST, *named], plain_http_hosts=named, private_hosts=named
        )
    except ValueError as error:
        raise ConfigurationError(f"DESTINATION_ALLOWED_HOSTS: {error}") from None


def _client(name: str, http: HttpClient, settings: ApiSettings) -> ProviderApi:
    api = provider_apis()[name]
    key = settings.api_key.get_secret_value() if settings.api_key else ""
    try:
        return api(http, base_url=settings.api_url or api.default_url, api_key=key)
    except ValueError as error:
        raise ConfigurationError(f"{name.upper()}_API_KEY: {error}") from None


def _destination(declared: Declared, http: HttpClient) -> Destination:
    try:
        texts = Texts.of(declared.templates)
    except ConfigurationError as error:
        raise declared.source.at("templates").error(f"templates: {error}") from None
    surroundings = Surroundings(http, texts, os.environ)
    try:
        return declared.kind.make(declared.policy.name, declared.options, surroundings)
    except ValueError as error:
        words = str(error)
    if declared.source.file is None:
        raise ConfigurationError(_of_the_environment(words))
    option = words.partition(":")[0]
    raise declared.source.at(option).error(f"{declared.policy.name}: {words}")


def _of_the_environment(words: str) -> str:
    """What is wrong with a destination that no file declared, named by its variable."""
    of_variable = re.sub(r"^\w+: the variable (\w+) ", r"\1: ", words)
    return re.sub(r"^(from|to): ", lambda key: f"EMAIL_{key[1].upper()}: ", of_variable)
