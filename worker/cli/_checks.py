"""What ``codecatch doctor`` looks at, one function for each subject; none shows a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from receiver import queue
from receiver.database import heartbeats
from receiver.database.engine import Database, kind_of
from receiver.errors import ConfigurationError
from receiver.inbox.store import FAILED, PENDING
from receiver.inbox.store import QUARANTINED as EVENT_QUARANTINED
from receiver.providers.registry import registry
from receiver.settings import BrokerSettings, StoreSettings, load
from receiver.vault import index_key
from worker.cli._store import check_exists, spooled
from worker.configuration.file import Configuration
from worker.configuration.settings import ApiSettings, ConfirmationSettings
from worker.messages.text import timestamp
from worker.providers.capabilities import Vouches
from worker.providers.registry import provider_apis
from worker.queries import statistics
from worker.reconciliation import claim as claims
from worker.runtime.integrations import Integrations, connect_integrations
from worker.schema import migrate as schema
from worker.schema.states import DEAD, UNKNOWN

FINE: Final = "ok"
NOTICE: Final = "notice"
BROKEN: Final = "broken"
_RECENTLY: Final = timedelta(hours=24)
_LONG_UNHANDLED_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ReportedOrder:
    """One thing that was looked at: ``notice`` may be as wanted, ``broken`` is essential."""

    level: str
    name: str
    says: str


def examine() -> list[ReportedOrder]:
    """Everything about this installation, as its environment describes it."""
    reported_orders = [*_database(), *_spool(), _broker(), *_providers()]
    try:
        integrations = connect_integrations()
    except ConfigurationError as error:
        return [*reported_orders, ReportedOrder(BROKEN, "destinations", str(error))]
    integrations.close()
    return [*reported_orders, *_destinations(integrations)]


def _database() -> Iterator[ReportedOrder]:
    try:
        settings = load(StoreSettings)
        keys = settings.keys
        check_exists(settings.url)
    except ConfigurationError as error:
        yield ReportedOrder(BROKEN, "database", str(error))
        return
    database = Database(settings.url)
    try:
        yield from _opened(database, keys)
    except SQLAlchemyError as error:
        kind = kind_of(error)
        yield ReportedOrder(BROKEN, "database", f"DATABASE_URL: it does not answer ({kind})")
    finally:
        database.dispose()


def _opened(database: Database, keys: list[bytes]) -> Iterator[ReportedOrder]:
    kind = "PostgreSQL" if database.is_postgresql else "SQLite"
    if not schema.is_current(database):
        says = f"{kind} answers, but has another schema than this version: codecatch migrate"
        yield ReportedOrder(BROKEN, "database", says)
        return
    yield ReportedOrder(FINE, "database", f"{kind} answers and is migrated")
    try:
        index_key.open_vault(database, keys)
    except ConfigurationError as error:
        yield ReportedOrder(BROKEN, "encryption", str(error))
    else:
        says = "ENCRYPTION_KEYS open the database"
        more = f"; {len(keys)} keys, the first seals" if len(keys) > 1 else ""
        yield ReportedOrder(FINE, "encryption", says + more)
    with database.reading() as session:
        yield from _parts(session, database)
        yield from _reconciliation(session)
        yield from _attention(session, database)


def _spool() -> Iterator[ReportedOrder]:
    waiting = spooled()
    if waiting:
        events = f"{waiting} acknowledged event{'' if waiting == 1 else 's'}"
        says = f"{events} on this host until the database is back and has taken them"
        yield ReportedOrder(NOTICE, "spool", says)


def _parts(session: Session, database: Database) -> Iterator[ReportedOrder]:
    now = database.now(session)
    work = {"worker": "handles events", "sender": "confirms orders and tells destinations"}
    for part, does in work.items():
        if heartbeats.alive(session, part, now):
            yield ReportedOrder(FINE, part, f"is alive: it {does}")
        else:
            says = f"gave no sign of life lately: nothing {does}; start it: codecatch run {part}"
            yield ReportedOrder(BROKEN, part, says)


def _reconciliation(session: Session) -> Iterator[ReportedOrder]:
    for row in claims.histories(session):
        name, watched = f"{row.provider} orders", claims.count_open(session, row.provider)
        read = f"read at {timestamp(row.answered_at)}" if row.answered_at else "not read yet"
        says = f"{watched} open ones are asked for; the newest were {read}"
        if row.failures:
            yield ReportedOrder(NOTICE, name, f"{says}, and cannot be now: {row.error}")
        else:
            yield ReportedOrder(FINE, name, says)


def _attention(session: Session, database: Database) -> Iterator[ReportedOrder]:
    now = database.now(session)
    waits = statistics.oldest_unhandled_seconds(session, now)
    pending = statistics.count_events(session, PENDING)
    if waits > _LONG_UNHANDLED_SECONDS:
        says = f"{pending} stored and not handled yet, the oldest for {waits:.0f} seconds"
        yield ReportedOrder(NOTICE, "events", says)
    for state, then in (
        (FAILED, "then, once the reason is gone: codecatch events replay --state failed"),
        (EVENT_QUARANTINED, "then: codecatch events release ID, or discard ID"),
    ):
        count = statistics.count_events(session, state)
        if count:
            says = f"{count} {state}; look: codecatch events list --state {state}; {then}"
            yield ReportedOrder(NOTICE, "events", says)
    given_up = statistics.count_deliveries(session, (DEAD, UNKNOWN))
    if given_up:
        says = f"{given_up} dead or unknown; look: codecatch deliveries list --state dead; then: "
        yield ReportedOrder(NOTICE, "deliveries", says + "codecatch deliveries retry ID")
    yield from _refused(session, now)
    stale = statistics.count_stale(session, now - _RECENTLY)
    if stale:
        says = (
            f"{stale} webhooks in 24 hours with a timestamp far from our clock: look at the "
            "clocks (VIRTUALSMS_TIMESTAMP_TOLERANCE refuses them)"
        )
        yield ReportedOrder(NOTICE, "timestamps", says)


def _refused(session: Session, now: datetime) -> Iterator[ReportedOrder]:
    """For each provider how many were refused lately, and why most of them were."""
    reasons = statistics.reasons_of_rejections(session, now - _RECENTLY)
    for provider in sorted({provider for provider, _, _ in reasons}):
        counts = [(count, reason) for name, reason, count in reasons if name == provider]
        (count, reason), total = counts[0], sum(count for count, _ in counts)
        requests = f"{total} request{'' if total == 1 else 's'} for {provider}"
        share = "" if count == total else f", {count} of them so"
        says = (
            f"{requests} refused in 24 hours{share}: {reason}; "
            f"look: codecatch rejected list --provider {provider}"
        )
        yield ReportedOrder(NOTICE, "rejected", says)


def _broker() -> ReportedOrder:
    try:
        url = load(BrokerSettings).broker_url
    except ConfigurationError as error:
        return ReportedOrder(BROKEN, "broker", str(error))
    if url is None:
        return ReportedOrder(
            BROKEN, "broker", "REDIS_URL: is required: without a broker nobody works"
        )
    app = queue.celery_app(url)
    try:
        if queue.reachable(app):
            return ReportedOrder(FINE, "broker", "answers")
    finally:
        app.close()
    return ReportedOrder(
        BROKEN, "broker", "does not answer: webhooks are kept, and handled once it does"
    )


def _providers() -> Iterator[ReportedOrder]:
    receiving = 0
    for name, provider in sorted(registry().items()):
        try:
            configured = provider(load(provider.settings_type)).configured
        except ConfigurationError as error:
            yield ReportedOrder(BROKEN, name, str(error))
            continue
        receiving += configured
        if configured:
            yield ReportedOrder(FINE, name, "its webhooks can be verified, and are received")
        else:
            variable = next(f for f in provider.settings_type.model_fields if "webhook" in f)
            says = f"{variable.upper()} is not set: its webhooks are answered with 503"
            yield ReportedOrder(NOTICE, name, says)
        if name in provider_apis():
            yield _api(name)
    if not receiving:
        yield ReportedOrder(
            BROKEN, "webhooks", "no provider is configured: nothing can be received"
        )


def _api(name: str) -> ReportedOrder:
    """Whether a provider is asked anything, and what it means if not."""
    api, variable = provider_apis()[name], f"{name.upper()}_API_KEY"
    try:
        settings = load(ApiSettings, f"{name}_")
        confirming = load(ConfirmationSettings).auto_confirm
    except ConfigurationError as error:
        return ReportedOrder(BROKEN, f"{name} API", str(error))
    vouches, confirms = issubclass(api, Vouches), api.can_confirm
    if settings.api_key is None:
        missing = [
            *(["no order is confirmed"] if confirms else []),
            *(["no code is verified: whoever learns the URL can report one"] if vouches else []),
        ]
        says = f"{variable} is not set: {' and '.join(missing) or 'it is asked nothing'}"
        level = BROKEN if settings.verify_back == "on" else NOTICE
        return ReportedOrder(level, f"{name} API", says)
    does = []
    if confirms:
        named = "every order" if "*" in confirming else f"orders for {', '.join(confirming)}"
        does.append(f"confirms {named}" if confirming else "confirms nothing (AUTO_CONFIRM=off)")
    else:
        does.append("no order needs to be confirmed: its API has no call for it")
    if vouches:
        off = settings.verify_back == "off"
        does.append(
            "codes are told unverified" if off else "codes are verified before they are told"
        )
    return ReportedOrder(FINE, f"{name} API", f"{variable} is set: {'; '.join(does)}")


def _destinations(integrations: Integrations) -> Iterator[ReportedOrder]:
    chosen = integrations.configuration
    if not integrations.policies:
        says = "none: nobody is told; read codes with codecatch codes list or wait"
        yield ReportedOrder(NOTICE, "destinations", says)
    else:
        named = ", ".join(f"{name} ({each.kind})" for name, each in integrations.policies.items())
        where = "from the environment" if chosen.file is None else f"from {chosen.file}"
        yield ReportedOrder(FINE, "destinations", f"{named}, {where}")
    routes = chosen.routing.routes
    if routes is not None:
        told = sorted({name for route in routes for name in route.to})
        count = f"{len(routes)} route{'' if len(routes) == 1 else 's'}"
        yield ReportedOrder(FINE, "routes", f"{count} to {', '.join(told)}")
        for route in routes:
            then = "; then no more" if route.stop else ""
            says = f"line {route.line}: {route.match.words} → {', '.join(route.to)}{then}"
            yield ReportedOrder(FINE, "routes", says)
        for name in sorted(set(integrations.policies) - set(told) - _told_otherwise(integrations)):
            yield ReportedOrder(NOTICE, "routes", f"no route leads to {name}: it is told nothing")
    for name, each in integrations.policies.items():
        if each.quiet_hours is not None and each.fallback is None:
            says = f"{name} has quiet hours and no fallback: codes wait until they are over"
            yield ReportedOrder(NOTICE, "destinations", says)
    if chosen.file is not None:
        yield from _unused(chosen)


def _told_otherwise(integrations: Integrations) -> set[str]:
    fallbacks = {
        each.fallback for each in integrations.policies.values() if each.fallback is not None
    }
    return fallbacks | set(integrations.policy.routing.operators())


def _unused(chosen: Configuration) -> Iterator[ReportedOrder]:
    """The variables that declare destinations only where there is no file."""
    options = [each.options.model_dump().items() for each in chosen.declared]
    used = {value for each in options for option, value in each if option.endswith("_env")}
    for variable in ("SLACK_WEBHOOK_URL", "SMTP_URL", "EMAIL_FROM", "EMAIL_TO"):
        if os.environ.get(variable) and variable not in used:
            says = f"{variable} is not used: {chosen.file} decides, and does not name it"
            yield ReportedOrder(NOTICE, "destinations", says)
