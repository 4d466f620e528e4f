"""Routes: which subjects a condition matches, and which destinations follow."""

from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.configuration.routing import Match, Route, Routing, Subject

SMS = Subject(
    type="sms.received",
    provider="virtualsms",
    service="telegram",
    service_alias="tg",
    country="GB",
    country_alias="United Kingdom",
    phone_number="+447700900123",
    order_state="received",
)


@pytest.mark.parametrize(
    ("patterns", "fits"),
    [
        ({}, True),
        ({"service": ["telegram"]}, True),
        ({"service": ["Telegram"]}, True),
        ({"service": ["tele"]}, False),
        ({"service": ["tele*"]}, True),
        ({"service": ["whatsapp", "telegram"]}, True),
        ({"phone": ["+44*"]}, True),
        ({"phone": ["44*"]}, False),
        ({"phone": ["+44 77*"]}, True),
        ({"phone": ["0044 (77)*"]}, True),
        ({"phone": ["+44 7700-90[0-1]*"]}, True),
        ({"phone": ["44 7700 900123"]}, True),
        ({"phone": ["tel:+44-7700-900124"]}, False),
        ({"service": ["TG"]}, True),
        ({"service": ["t?"], "country": ["united*"]}, True),
        ({"country": ["gb"]}, True),
        ({"service": ["whatsapp"], "country": ["united*"]}, False),
        ({"phone": ["+4477009001??"]}, True),
        ({"country": ["[FG][BR]"]}, True),
        ({"state": ["received"], "provider": ["daisysim"]}, False),
        ({"state": ["received"], "provider": ["virtualsms"]}, True),
        ({"type": ["order.*"]}, False),
        ({"type": ["*"]}, True),
    ],
)
def test_a_condition_matches(patterns: dict[str, list[str]], fits: bool) -> None:
    """Exact strings, globs and lists; every key that is present must match."""
    assert Match.of(patterns).fits(SMS) is fits


def test_a_condition_has_a_description() -> None:
    """It masks a whole phone number, but not a prefix."""
    numbers = ["+44*", "+447700900123"]
    condition = Match.of({"service": ["telegram", "whats*"], "phone": numbers})
    assert condition.description == "service telegram or whats*, phone +44* or +4477•••••123"
    assert "900123" not in repr(condition)
    assert Match.of({}).description == "anything"


@pytest.mark.parametrize("key", ["service", "country", "phone", "state"])
@pytest.mark.parametrize("pattern", ["*", "?", "x"])
def test_an_unknown_field_never_matches(key: str, pattern: str) -> None:
    """A route for a service does not apply to events without one."""
    assert not Match.of({key: [pattern]}).fits(Subject(type="sms.received", provider="p"))


def test_state_changes_of_orders_match_only_by_type() -> None:
    """A route for a service applies to its codes, unless it lists other types."""
    change = Subject(type="order.confirmed", provider="virtualsms", service="telegram")
    assert not Match.of({"service": ["telegram"]}).fits(change)
    assert Match.of({"service": ["telegram"], "type": ["order.*"]}).fits(change)


def test_an_unknown_key_is_an_error() -> None:
    """The configuration file rejects it first; here it must not be ignored."""
    with pytest.raises(KeyError):
        Match.of({"colour": ["red"]})


TEXTS = st.text(st.sampled_from("abAB+*?[]!.\n "), min_size=1, max_size=6)


@given(pattern=TEXTS, value=TEXTS)
def test_globs_are_those_of_the_standard_library(pattern: str, value: str) -> None:
    """Without regard to case, a pattern matches exactly what fnmatch says."""
    subject = Subject(type="sms.received", provider="p", service=value)
    expected = fnmatch.fnmatchcase(value.lower(), pattern.lower())
    assert Match.of({"service": [pattern]}).fits(subject) is expected


SUBJECTS = st.builds(
    Subject,
    type=st.sampled_from(["sms.received", "balance.low", "order.expired"]),
    provider=st.sampled_from(["virtualsms", "daisysim"]),
    service=st.sampled_from([None, "telegram", "google"]),
)
ROUTES = st.lists(
    st.builds(
        Route,
        match=st.dictionaries(
            st.sampled_from(["provider", "service", "type"]),
            st.lists(st.sampled_from(["tele*", "virtualsms", "order.*", "*"]), min_size=1),
        ).map(Match.of),
        to=st.lists(st.sampled_from("abc"), min_size=1).map(tuple),
        stop=st.booleans(),
    ),
    max_size=5,
).map(tuple)


@given(routes=ROUTES, subject=SUBJECTS)
def test_all_matching_routes_apply_until_one_stops(
    routes: tuple[Route, ...], subject: Subject
) -> None:
    """The destinations are the union over the matching routes, up to the first with stop."""
    expected: set[str] = set()
    for route in routes:
        if route.match.fits(subject):
            expected |= set(route.to)
            if route.stop:
                break
    assert Routing("abc", routes).of(subject) == sorted(expected)
