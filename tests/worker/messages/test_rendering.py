"""Templates of one's own: what they may do, and how one is told that they cannot work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from receiver.errors import ConfigurationError
from worker.messages.rendering import EXAMPLES
from worker.messages.text import Notification, Texts

EVERY = [Notification(**each) for each in EXAMPLES]
SMS = EVERY[0]


def write(folder: Path, **files: str) -> Path:
    """Templates of a user's: ``title_txt`` stands for ``title.txt``."""
    for name, text in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, "utf-8")
    return folder


def test_the_built_in_words_hold_every_fact() -> None:
    """Of one notification and of several, as text and as HTML."""
    texts = Texts()
    for said in (texts.text(EVERY), texts.html(EVERY), texts.body(SMS), texts.html([SMS])):
        for fact in ("123456", "telegram", "ord_example", "+447700900123", "not verified"):
            assert fact in said
        assert "12:20 UTC, 19 min left" in said
    assert texts.heading(EVERY) == "2 codes, 2 notices · telegram"
    assert texts.heading([SMS]) == texts.summary(SMS) == texts.title(SMS)
    assert texts.summary(EVERY[2]).endswith(": The order was given up.")


def test_a_title_is_the_same_with_a_template_as_without(tmp_path: Path) -> None:
    """Nobody who has templates of their own for other words sees another title."""
    of_templates = Texts.of(tmp_path)
    assert [of_templates.title(each) for each in EVERY] == [Texts().title(each) for each in EVERY]


def test_a_heading_names_few_services_and_says_what_is_late() -> None:
    """However many there are, it is one line."""
    services = [replace(SMS, service=f"service{n}", marks=("late",)) for n in range(7)]
    assert Texts().heading(services) == (
        "7 late codes · service0, service1, service2, service3, service4 and 2 more"
    )
    assert Texts().heading([SMS, replace(SMS, marks=("late",))]) == "2 codes · telegram"


def test_a_long_code_is_whole_where_several_are_told() -> None:
    """Its title has no room for it."""
    code = "x" * 200
    assert code in Texts().text([SMS, replace(SMS, code=code)])


def test_own_templates_come_first(tmp_path: Path) -> None:
    """And may build upon the built-in ones, and include files beside them."""
    write(
        tmp_path,
        title_txt="QA: {{ code or type }}",
        message_txt='{% include "_head.txt" %} {{ notifications | length }}',
        _head_txt="Dear QA,",
        message_html='{% include "builtin/message.html" %}<i>{{ heading }}</i>',
    )
    texts = Texts.of(tmp_path)
    assert texts.title(SMS) == "QA: 123456"
    assert texts.title(EVERY[2]) == "QA: order.cancelled"
    assert texts.text(EVERY) == "Dear QA, 4\n"
    assert texts.html([SMS]).startswith("<!DOCTYPE html>")
    assert texts.html([SMS]).endswith("</i>")
    assert Texts.of(None).title(SMS) == Texts().title(SMS)


WRONG = {
    "title.txt:1": "{{ code",
    "title.txt:2": "\n{{ cod }}",
    "title.txt:3": "\n\n{{ marks.nothing.more }}",
    "message.txt:2": "{% for n in notifications %}\n{{ n.colour }}{% endfor %}",
    "message.txt:1": "{{ notifications[0].__class__.__mro__ }}",
    "message.html:1": "{{ heading | safe }}",
    "message.html:2": "\n{% autoescape false %}{{ heading }}{% endautoescape %}",
    "message.html:3": "\n\n{% include 'nothing.html' %}",
    "_part.html:1": "{% endif %}",
}


@pytest.mark.parametrize("place", WRONG)
def test_what_cannot_work_is_said_at_the_start(tmp_path: Path, place: str) -> None:
    """With file and line, so that a person knows where to look."""
    name, _, _ = place.partition(":")
    (tmp_path / name).write_text(WRONG[place], "utf-8")
    with pytest.raises(ConfigurationError) as refused:
        Texts.of(tmp_path)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path}/{place}: ")
    assert len(said) > len(f"{tmp_path}/{place}: ") + 5
    assert "\n" not in said


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """Nor are a misspelt name and a file that is no text let pass."""
    with pytest.raises(ConfigurationError, match="wants a directory"):
        Texts.of(tmp_path / "nowhere")
    (tmp_path / "titel.txt").write_text("x", "utf-8")
    with pytest.raises(ConfigurationError, match=r"titel\.txt: wants one of the names title\.txt"):
        Texts.of(tmp_path)
    (tmp_path / "titel.txt").rename(tmp_path / "title.txt")
    (tmp_path / "title.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Texts.of(tmp_path)


def test_a_template_that_fails_later_keeps_no_code_from_people(tmp_path: Path) -> None:
    """The built-in words are said instead, and the log says which template it was."""
    texts = Texts.of(
        write(tmp_path, title_txt="{% if code == '1' %}{{ 1 // 0 }}{% else %}ok{% endif %}")
    )
    with structlog.testing.capture_logs() as lines:
        assert texts.title(replace(SMS, code="1")) == Texts().title(replace(SMS, code="1"))
    (line,) = lines
    assert (line["event"], line["template"]) == ("template.failed", "title.txt")
    assert line["error"] == "ZeroDivisionError"


def test_a_title_is_one_line_whatever_the_template_says(tmp_path: Path) -> None:
    """And never empty."""
    texts = Texts.of(
        write(tmp_path, title_txt="{% if code %}a\n\x1b[31mb{{ 'x' * 999 }}{% endif %}")
    )
    assert texts.title(SMS).startswith("a bxxx")
    assert len(texts.title(SMS)) == 300
    assert texts.title(EVERY[1]) == Texts().title(EVERY[1])


def test_html_of_a_stranger_stays_text(tmp_path: Path) -> None:
    """In the built-in template, and in one's own."""
    hostile = replace(
        SMS, text="<script>alert(1)</script>", service='"><img src=x>', code="<b>1</b>"
    )
    own = Texts.of(
        write(tmp_path, message_html="{% for n in notifications %}{{ n.text }}{% endfor %}")
    )
    for texts in (Texts(), own):
        for said in (texts.html([hostile]), texts.html([hostile, SMS])):
            assert "<script" not in said
            assert "<img" not in said
            assert "<b>1" not in said
            assert "&lt;script&gt;" in said
