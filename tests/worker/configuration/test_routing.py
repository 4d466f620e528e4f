"""Routes: what fits, whatever is known of an event."""

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
    country="GB",
    phone_number="+447700900123",
    order_state="received",
)


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ({}, True),
        ({"service": ["telegram"]}, True),
        ({"service": ["Telegram"]}, True),
        ({"service": ["tele"]}, False),
        ({"service": ["tele*"]}, True),
        ({"service": ["whatsapp", "telegram"]}, True),
        ({"phone": ["+44*"]}, True),
        ({"phone": ["44*"]}, False),
        ({"phone": ["+4477009001??"]}, True),
        ({"country": ["[FG][BR]"]}, True),
        ({"state": ["received"], "provider": ["daisysim"]}, False),
        ({"state": ["received"], "provider": ["virtualsms"]}, True),
        ({"type": ["order.*"]}, False),
        ({"type": ["*"]}, True),
    ],
)
def test_what_fits(words: dict[str, list[str]], fits: bool) -> None:
    """Exact texts, globs and lists; every word that is named must fit."""
    assert Match.of(words).fits(SMS) is fits


def test_a_condition_in_words() -> None:
    """A person reads what it looks at; a whole number is masked, and its beginning is not."""
    numbers = ["+44*", "+447700900123"]
    condition = Match.of({"service": ["telegram", "whats*"], "phone": numbers})
    assert condition.words == "service telegram or whats*, phone +44* or +4477•••••123"
    assert "900123" not in repr(condition)
    assert Match.of({}).words == "anything"


@pytest.mark.parametrize("word", ["service", "country", "phone", "state"])
@pytest.mark.parametrize("pattern", ["*", "?", "x"])
def test_what_is_not_known_fits_nothing(word: str, pattern: str) -> None:
    """A route for a service does not take events that have none."""
    assert not Match.of({word: [pattern]}).fits(Subject(type="sms.received", provider="p"))


def test_an_orders_steps_are_told_where_they_are_asked_for() -> None:
    """A route for a service is for its codes, unless it names other types."""
    step = Subject(type="order.confirmed", provider="virtualsms", service="telegram")
    assert not Match.of({"service": ["telegram"]}).fits(step)
    assert Match.of({"service": ["telegram"], "type": ["order.*"]}).fits(step)


def test_an_unknown_word_is_an_error() -> None:
    """The file's reader refuses it before; here it must not be passed over."""
    with pytest.raises(KeyError):
        Match.of({"colour": ["red"]})


TEXTS = st.text(st.sampled_from("abAB+*?[]!.\n "), min_size=1, max_size=6)


@given(pattern=TEXTS, value=TEXTS)
def test_globs_are_those_of_the_standard_library(pattern: str, value: str) -> None:
    """In any case, each pattern fits what fnmatch says it does."""
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
def test_all_that_fit_until_one_stops(routes: tuple[Route, ...], subject: Subject) -> None:
    """What is told is the union of the fitting routes up to the first that stops, each once."""
    wanted: set[str] = set()
    for route in routes:
        if route.match.fits(subject):
            wanted |= set(route.to)
            if route.stop:
                break
    assert Routing("abc", routes).of(subject) == sorted(wanted)
