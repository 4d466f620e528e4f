"""The checks of ``codecatch doctor``, one function for each subject; none shows a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from receiver import queue
from receiver.clock import iso
from receiver.database import compatibility, heartbeats, probe
from receiver.database.engine import Database
from receiver.database.trouble import AWAY, kind_of, reason_of
from receiver.errors import ConfigurationError
from receiver.inbox import spool
from receiver.inbox.store import FAILED, PENDING
from receiver.inbox.store import QUARANTINED as EVENT_QUARANTINED
from receiver.providers.base import Provider
from receiver.providers.registry import registry
from receiver.settings import BrokerSettings, SpoolSettings, StoreSettings, load
from receiver.vault import index_key
from worker.cli._output import counted
from worker.cli._store import check_exists, look_at_spool
from worker.configuration import file as configuration_file
from worker.configuration.event_policy import EVERY_SERVICE, matches_service
from worker.configuration.file import Configuration
from worker.configuration.settings import ApiSettings, ConfirmationSettings
from worker.outbox import clock_jumps
from worker.providers.capabilities import VerifiesCodes
from worker.providers.registry import provider_apis
from worker.queries import destinations, statistics
from worker.queries.filters import SERVICE, newest_names
from worker.reconciliation import claim as claims
from worker.runtime.integrations import Integrations, connect_integrations
from worker.schema import migrate as schema
from worker.schema.states import DEAD, UNKNOWN

FINE: Final = "ok"
NOTICE: Final = "notice"
BROKEN: Final = "broken"
_RECENT: Final = timedelta(hours=24)
_LONG_UNHANDLED_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: ``broken`` needs a fix, ``notice`` may be intended."""

    level: str
    name: str
    message: str


def examine() -> list[Check]:
    """Run every check on the installation that the environment configures."""
    checks = [*_database(), *_spool(), _broker(), *_providers()]
    try:
        integrations = connect_integrations()
    except ConfigurationError as error:
        return [*checks, Check(BROKEN, "destinations", str(error))]
    integrations.close()
    return [*checks, *_destinations(integrations)]


def _database() -> Iterator[Check]:
    try:
        settings = load(StoreSettings)
        keys = settings.keys
        check_exists(settings.url)
    except ConfigurationError as error:
        yield Check(BROKEN, "database", str(error))
        return
    database = Database(settings.url)
    try:
        yield from _open_database(database, keys)
    except SQLAlchemyError as error:
        reason, kind = reason_of(error), kind_of(error)
        wrong = "does not answer" if reason == AWAY else f"cannot be used: {reason}"
        says = f"DATABASE_URL: the database {wrong} ({kind})"
        yield Check(BROKEN, "database", says)
    finally:
        database.dispose()


def _open_database(database: Database, keys: list[bytes]) -> Iterator[Check]:
    kind = "PostgreSQL" if database.is_postgresql else "SQLite"
    try:
        found = compatibility.version(database)
        misfit = found.misfit
    except ConfigurationError as error:
        misfit = str(error)
    if misfit is not None:
        yield Check(BROKEN, "database", misfit)
        return
    fits = "is current" if schema.is_current(database) else f"{found.revision:04} fits"
    wrong = probe.reason(database)
    if wrong is None:
        yield Check(FINE, "database", f"{kind} takes writes; its schema {fits}")
    else:
        says = f"{kind} answers, but nothing can be stored: {wrong}"
        yield Check(BROKEN, "database", says)
    try:
        index_key.open_vault(database, keys)
    except ConfigurationError as error:
        yield Check(BROKEN, "encryption", str(error))
    else:
        says = "ENCRYPTION_KEYS match the database"
        more = f"; {len(keys)} keys, the first encrypts new values" if len(keys) > 1 else ""
        yield Check(FINE, "encryption", says + more)
    with database.reading() as session:
        now = database.now(session)
        yield from _parts(session, now)
        yield from _clock(session, now)
        yield from _reconciliation(session)
        yield from _attention(session, database)
        yield from _removed(session)
        yield from _confirmed_services(session)


def _confirmed_services(session: Session) -> Iterator[Check]:
    """The services of ``AUTO_CONFIRM`` that no order has: their names may be misspelt."""
    confirmed = load(ConfirmationSettings).auto_confirm
    if not confirmed or EVERY_SERVICE in confirmed:
        return
    seen = newest_names(session, *SERVICE)
    unseen = [each for each in confirmed if not any(matches_service(each, name) for name in seen)]
    if unseen:
        says = (
            f"no order was ever for {' or '.join(unseen)}; check the spelling of AUTO_CONFIRM "
            "(codecatch orders list shows the services)"
        )
        yield Check(NOTICE, "confirmation", says)


def _spool() -> Iterator[Check]:
    folder = load(SpoolSettings).spool_dir
    if folder is None:
        return
    unusable = spool.reason_unusable(folder)
    if unusable is not None:
        says = (
            f"SPOOL_DIR: nothing can be written there ({unusable}); webhooks are refused with 503 "
            "while the database is away"
        )
        yield Check(BROKEN, "spool", says)
    found = look_at_spool()
    if found.depth:
        events = counted(found.depth, "acknowledged event")
        says = f"{events} in this host's spool, not yet in the database"
        yield Check(NOTICE, "spool", says)
    if found.unreadable:
        says = (
            f"cannot read {', '.join(found.unreadable)} in this host's spool: locked or damaged; "
            "there may be acknowledged events in it"
        )
        yield Check(BROKEN, "spool", says)


def _parts(session: Session, now: datetime) -> Iterator[Check]:
    tasks = {"worker": "handles events", "sender": "confirms orders and delivers messages"}
    for part, task in tasks.items():
        if heartbeats.alive(session, part, now):
            yield Check(FINE, part, f"running; {task}")
        else:
            says = f"no recent heartbeat; no process {task}; start one: codecatch run {part}"
            yield Check(BROKEN, part, says)


def _clock(session: Session, now: datetime) -> Iterator[Check]:
    until = clock_jumps.held_until(session, now)
    if until is not None:
        says = (
            "the clock was set, or codecatch was stopped for long; check the time: nothing is "
            f"erased or given up for its age before {iso(until, 'seconds')}"
        )
        yield Check(NOTICE, "clock", says)


def _reconciliation(session: Session) -> Iterator[Check]:
    for row in claims.history_rows(session):
        name, polled = f"{row.provider} orders", claims.count_open(session, row.provider)
        at = row.answered_at
        read = f"last read at {iso(at, 'seconds')}" if at else "not read yet"
        says = f"open orders that are polled: {polled}; order list: {read}"
        if row.failures:
            yield Check(NOTICE, name, f"{says}; the last attempt failed: {row.error}")
        else:
            yield Check(FINE, name, says)


def _attention(session: Session, database: Database) -> Iterator[Check]:
    now = database.now(session)
    age = statistics.oldest_unhandled_seconds(session, now)
    pending = statistics.count_events(session, PENDING)
    if age > _LONG_UNHANDLED_SECONDS:
        says = f"{pending} stored but not handled, the oldest for {age:.0f} seconds"
        yield Check(NOTICE, "events", says)
    for state, then in (
        (FAILED, "after you fix the cause, run codecatch events replay --state failed"),
        (EVENT_QUARANTINED, "then run codecatch events release ID or codecatch events discard ID"),
    ):
        count = statistics.count_events(session, state)
        if count:
            says = f"{count} {state}; list them: codecatch events list --state {state}; {then}"
            yield Check(NOTICE, "events", says)
    given_up = statistics.count_deliveries(session, (DEAD, UNKNOWN))
    if given_up:
        says = (
            f"{given_up} dead or unknown; list them: codecatch deliveries list --state dead "
            "(or unknown); then run codecatch deliveries retry ID"
        )
        yield Check(NOTICE, "deliveries", says)
    yield from _rejected(session, now)
    stale = statistics.count_stale(session, now - _RECENT)
    if stale:
        says = (
            f"{stale} webhooks in 24 hours with a timestamp far from this host's clock; check the "
            "clocks (VIRTUALSMS_TIMESTAMP_TOLERANCE rejects such webhooks)"
        )
        yield Check(NOTICE, "timestamps", says)


def _removed(session: Session) -> Iterator[Check]:
    """Destinations that are not configured any more, and have pending deliveries."""
    try:
        configured = {each.policy.name for each in configuration_file.read().destinations}
    except ConfigurationError:
        return  # reported among the destinations
    for name, count in destinations.removed(session, configured).items():
        says = (
            f"{counted(count, 'delivery', 'deliveries')} of {name}, which is not configured any "
            f"more; run codecatch deliveries move --from {name} --to NAME, or codecatch deliveries "
            f"drop --from {name}"
        )
        yield Check(NOTICE, "deliveries", says)


def _rejected(session: Session, now: datetime) -> Iterator[Check]:
    """For each provider, the number of recently rejected requests and the main reason."""
    reasons = statistics.reasons_of_rejections(session, now - _RECENT)
    for provider in sorted({provider for provider, _, _ in reasons}):
        counts = [(count, reason) for name, reason, count in reasons if name == provider]
        (count, reason), total = counts[0], sum(count for count, _ in counts)
        requests = f"{counted(total, 'request')} for {provider}"
        share = "" if count == total else f", most often ({count})"
        says = (
            f"{requests} rejected in 24 hours{share}: {reason}; "
            f"list them: codecatch rejected list --provider {provider}"
        )
        yield Check(NOTICE, "rejected", says)
    # Only authentic requests above a provider's rate are recorded with this status.
    flooded = statistics.rejections_with(session, 429, now - _RECENT)
    for name in sorted(flooded.keys() & registry().keys()):
        requests = f"{flooded[name]} request{'' if flooded[name] == 1 else 's'} for {name}"
        says = (
            f"{requests} in 24 hours above {name.upper()}_RATE: somebody else may have the token; "
            f"rotate it: add a new one to {_webhook_variable(registry()[name])}, set it at the "
            "provider, then remove the old one"
        )
        yield Check(NOTICE, "rejected", says)


def _broker() -> Check:
    try:
        url = load(BrokerSettings).broker_url
    except ConfigurationError as error:
        return Check(BROKEN, "broker", str(error))
    if url is None:
        return Check(
            BROKEN, "broker", "REDIS_URL: is required; the worker and the sender need a broker"
        )
    app = queue.celery_app(url)
    try:
        if queue.reachable(app):
            return Check(FINE, "broker", "answers")
    finally:
        app.close()
    return Check(
        BROKEN, "broker", "does not answer; webhooks are stored, and handled once it is back"
    )


def _providers() -> Iterator[Check]:
    receiving = 0
    for name, provider in sorted(registry().items()):
        try:
            configured = provider(load(provider.settings_type)).configured
        except ConfigurationError as error:
            yield Check(BROKEN, name, str(error))
            continue
        receiving += configured
        if configured:
            yield Check(FINE, name, "webhooks are verified and received")
        else:
            says = f"{_webhook_variable(provider)} is not set; webhooks are refused with 503"
            yield Check(NOTICE, name, says)
        if name in provider_apis():
            yield _api(name)
    if not receiving:
        yield Check(
            BROKEN, "webhooks", "no provider is configured; set one of the variables named above"
        )


def _webhook_variable(provider: type[Provider]) -> str:
    """The variable of what authenticates the provider's webhooks."""
    return next(each for each in provider.settings_type.model_fields if "webhook" in each).upper()


def _api(name: str) -> Check:
    """Whether the provider's API is configured, and the consequences if not."""
    api, variable = provider_apis()[name], f"{name.upper()}_API_KEY"
    try:
        settings = load(ApiSettings, f"{name}_")
        confirming = load(ConfirmationSettings).auto_confirm
    except ConfigurationError as error:
        return Check(BROKEN, f"{name} API", str(error))
    vouches, confirms = issubclass(api, VerifiesCodes), api.can_confirm
    if settings.api_key is None:
        missing = [
            *(["no order is confirmed"] if confirms else []),
            *(
                ["no code is verified, so anyone who knows the webhook URL can report one"]
                if vouches
                else []
            ),
        ]
        says = f"{variable} is not set: {' and '.join(missing) or 'the API is not called'}"
        level = BROKEN if settings.verify_back == "on" else NOTICE
        return Check(level, f"{name} API", says)
    effects = []
    if confirms:
        named = "every order" if "*" in confirming else f"orders for {', '.join(confirming)}"
        effects.append(f"confirms {named}" if confirming else "confirms nothing (AUTO_CONFIRM=off)")
    else:
        effects.append("orders need no confirmation (the API has no call for it)")
    if vouches:
        off = settings.verify_back == "off"
        effects.append(
            "codes are delivered unverified" if off else "codes are verified before delivery"
        )
    return Check(FINE, f"{name} API", f"{variable} is set: {'; '.join(effects)}")


def _destinations(integrations: Integrations) -> Iterator[Check]:
    configuration = integrations.configuration
    if not integrations.policies:
        says = "none configured; read codes with codecatch codes list or codecatch wait"
        yield Check(NOTICE, "destinations", says)
    else:
        named = ", ".join(f"{name} ({each.kind})" for name, each in integrations.policies.items())
        where = (
            "from the environment" if configuration.file is None else f"from {configuration.file}"
        )
        yield Check(FINE, "destinations", f"{named}, {where}")
    routes = configuration.routing.routes
    if routes is not None:
        reached = sorted({name for route in routes for name in route.to})
        count = counted(len(routes), "route")
        yield Check(FINE, "routes", f"{count} to {', '.join(reached)}")
        for route in routes:
            stop = "; stop" if route.stop else ""
            says = f"{route.key}: {route.match.description} → {', '.join(route.to)}{stop}"
            yield Check(FINE, "routes", says)
        receiving = {*reached, *_reached_without_route(integrations)}
        for name in sorted(set(integrations.policies) - receiving):
            yield Check(NOTICE, "routes", f"no route leads to {name}, so it receives nothing")
    for name, each in integrations.policies.items():
        if each.quiet_hours is not None and each.fallback is None:
            says = f"{name} has quiet hours and no fallback, so codes wait until they end"
            yield Check(NOTICE, "destinations", says)
    if configuration.file is not None:
        yield from _unused(configuration)


def _reached_without_route(integrations: Integrations) -> set[str]:
    """Destinations that receive messages as a fallback or for operators."""
    fallbacks = {
        each.fallback for each in integrations.policies.values() if each.fallback is not None
    }
    return fallbacks | set(integrations.policy.routing.operators())


def _unused(configuration: Configuration) -> Iterator[Check]:
    """Set variables that declare destinations only if there is no file."""
    options = [each.options.model_dump().items() for each in configuration.destinations]
    used = {value for each in options for option, value in each if option.endswith("_env")}
    for variable in ("SLACK_WEBHOOK_URL", "SMTP_URL", "EMAIL_FROM", "EMAIL_TO"):
        if os.environ.get(variable) and variable not in used:
            says = f"{variable} is not used: {configuration.file} does not name it"
            yield Check(NOTICE, "destinations", says)
