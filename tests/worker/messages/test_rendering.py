"""Custom templates: what they may do, and the errors of those that cannot work."""

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
    """Write custom templates: ``title_txt`` stands for ``title.txt``."""
    for name, text in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, "utf-8")
    return folder


def test_built_in_templates_show_every_field() -> None:
    """For one notification and for several, as text and as HTML."""
    texts = Texts()
    for rendered in (texts.text(EVERY), texts.html(EVERY), texts.body(SMS), texts.html([SMS])):
        for fact in ("123456", "telegram", "ord_example", "+447700900123", "not verified"):
            assert fact in rendered
        assert "12:20 UTC, 19 min left" in rendered
    assert texts.heading(EVERY) == "2 codes, 2 notices · telegram"
    assert texts.heading([SMS]) == texts.summary(SMS) == texts.title(SMS)
    assert texts.summary(EVERY[2]).endswith(": The order was cancelled.")


def test_a_title_is_the_same_with_a_template_as_without(tmp_path: Path) -> None:
    """A directory without a title template does not change the title."""
    of_templates = Texts.of(tmp_path)
    assert [of_templates.title(each) for each in EVERY] == [Texts().title(each) for each in EVERY]


def test_a_heading_names_few_services_and_late_codes() -> None:
    """It is one line for any number of notifications."""
    services = [replace(SMS, service=f"service{n}", marks=("late",)) for n in range(7)]
    assert Texts().heading(services) == (
        "7 late codes · service0, service1, service2, service3, service4 and 2 more"
    )
    assert Texts().heading([SMS, replace(SMS, marks=("late",))]) == "2 codes · telegram"


def test_a_long_code_is_whole_among_several() -> None:
    """The title cuts it, the body does not."""
    code = "x" * 200
    assert code in Texts().text([SMS, replace(SMS, code=code)])


def test_custom_templates_override_built_in_ones(tmp_path: Path) -> None:
    """They may include built-in ones, and files beside them."""
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
def test_template_errors_are_found_at_the_start(tmp_path: Path, place: str) -> None:
    """With file and line."""
    name, _, _ = place.partition(":")
    (tmp_path / name).write_text(WRONG[place], "utf-8")
    with pytest.raises(ConfigurationError) as refused:
        Texts.of(tmp_path)
    rendered = str(refused.value)
    assert rendered.startswith(f"{tmp_path}/{place}: ")
    assert len(rendered) > len(f"{tmp_path}/{place}: ") + 5
    assert "\n" not in rendered


def test_wrong_directories_and_files(tmp_path: Path) -> None:
    """A missing directory, a misspelt name and a binary file are errors."""
    with pytest.raises(ConfigurationError, match="not a directory"):
        Texts.of(tmp_path / "nowhere")
    (tmp_path / "titel.txt").write_text("x", "utf-8")
    with pytest.raises(ConfigurationError, match=r"titel\.txt: unknown template; name it title"):
        Texts.of(tmp_path)
    (tmp_path / "titel.txt").rename(tmp_path / "title.txt")
    (tmp_path / "title.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="UTF-8"):
        Texts.of(tmp_path)


def test_a_template_that_fails_later_prevents_no_delivery(tmp_path: Path) -> None:
    """The built-in template is used instead, and the log names the template."""
    texts = Texts.of(
        write(tmp_path, title_txt="{% if code == '1' %}{{ 1 // 0 }}{% else %}ok{% endif %}")
    )
    with structlog.testing.capture_logs() as lines:
        assert texts.title(replace(SMS, code="1")) == Texts().title(replace(SMS, code="1"))
    (line,) = lines
    assert (line["event"], line["template"]) == ("template.failed", "title.txt")
    assert line["error"] == "ZeroDivisionError"


def test_a_custom_title_is_one_line(tmp_path: Path) -> None:
    """It is cut to its limit, and never empty."""
    texts = Texts.of(
        write(tmp_path, title_txt="{% if code %}a\n\x1b[31mb{{ 'x' * 999 }}{% endif %}")
    )
    assert texts.title(SMS).startswith("a bxxx")
    assert len(texts.title(SMS)) == 300
    assert texts.title(EVERY[1]) == Texts().title(EVERY[1])


def test_untrusted_html_is_escaped(tmp_path: Path) -> None:
    """In the built-in template, and in a custom one."""
    hostile = replace(
        SMS, text="<script>alert(1)</script>", service='"><img src=x>', code="<b>1</b>"
    )
    own = Texts.of(
        write(tmp_path, message_html="{% for n in notifications %}{{ n.text }}{% endfor %}")
    )
    for texts in (Texts(), own):
        for rendered in (texts.html([hostile]), texts.html([hostile, SMS])):
            assert "<script" not in rendered
            assert "<img" not in rendered
            assert "<b>1" not in rendered
            assert "&lt;script&gt;" in rendered
