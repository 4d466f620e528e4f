"""The words of messages as Jinja2 templates: the built-in ones, and those that override them.

A template sees only what it is given, in a sandbox, and cannot switch off the escaping that
keeps a stranger's words from being markup. Those of a user are compiled and rendered with
examples when they are loaded, so that a mistake shows at the start.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    FileSystemLoader,
    PackageLoader,
    PrefixLoader,
    StrictUndefined,
    TemplateSyntaxError,
    nodes,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment

from receiver.errors import ConfigurationError

TITLE: Final = "title.txt"
TEXT: Final = "message.txt"
HTML: Final = "message.html"
NAMES: Final = (TITLE, TEXT, HTML)
# What an overriding template extends or includes: "builtin/message.html".
_BUILTIN: Final = "builtin"
# A file so named is none of the three, and there to be included by them.
_PARTIAL: Final = "_"
_LONGEST = 64 * 1024
_NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
# What templates are tried with, as the fields of a notification: all that can be said, a code
# that may not be shown, news of an order, and a notice of which next to nothing is known.
EXAMPLES: Final[tuple[Mapping[str, Any], ...]] = (
    {
        "delivery_id": "01EXAMPLE",
        "event_id": "01EXAMPLE",
        "type": "sms.received",
        "provider": "virtualsms",
        "order_id": "ord_example",
        "phone_number": "+447700900123",
        "service": "telegram",
        "country": "GB",
        "code": "123456",
        "text": "Your code is 123456.\nDo not share it.",
        "received_at": _NOON,
        "valid_until": _NOON + timedelta(minutes=20),
        "told_at": _NOON + timedelta(seconds=1),
        "marks": ("not verified", "repeated"),
    },
    {
        "delivery_id": "01EXAMPLE",
        "event_id": "01EXAMPLE",
        "type": "sms.received",
        "provider": "daisysim",
        "order_id": "1",
        "marks": ("late",),
    },
    {
        "delivery_id": "01EXAMPLE",
        "event_id": "01EXAMPLE",
        "type": "order.cancelled",
        "provider": "virtualsms",
        "order_id": "ord_example",
        "service": "telegram",
        "detail": "The order was given up.",
    },
    {
        "delivery_id": "01EXAMPLE",
        "event_id": "",
        "type": "operators",
        "provider": "codecatch",
        "detail": "A person is needed.",
    },
)


class Templates:
    """The built-in templates; those in ``directory`` come before them."""

    def __init__(self, directory: Path | None = None) -> None:
        builtin = PackageLoader("worker.messages", "templates")
        loaders: list[BaseLoader] = [builtin, PrefixLoader({_BUILTIN: builtin})]
        if directory is not None:
            loaders.insert(0, FileSystemLoader(directory))
        self._directory = directory
        self._environment = ImmutableSandboxedEnvironment(
            loader=ChoiceLoader(loaders),
            autoescape=lambda name: name is None or name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # Nothing is beyond escaping.
        del self._environment.filters["safe"]

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """One of :data:`NAMES` with these values."""
        return self._environment.get_template(name).render(context)

    def check(self, examples: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Compile every template of the directory, and render those of ``examples``.

        Raises:
            ConfigurationError: one of them cannot work; the text names its file and line.
        """
        for file in self._files():
            self._compile(file)
        for name, context in examples:
            try:
                self.render(name, context)
            except Exception as error:  # noqa: BLE001 - a template may raise anything
                raise ConfigurationError(self._problem(name, error)) from None

    def _files(self) -> list[Path]:
        if self._directory is None:
            return []
        if not self._directory.is_dir():
            raise ConfigurationError(f"{self._directory}: wants a directory of templates")
        files = sorted(each for each in self._directory.iterdir() if not each.name.startswith("."))
        for file in files:
            if file.name not in NAMES and not file.name.startswith(_PARTIAL):
                raise ConfigurationError(
                    f"{file}: wants one of the names {', '.join(NAMES)}, or {_PARTIAL}… for what"
                    " these include"
                )
        return files

    def _compile(self, file: Path) -> None:
        try:
            if file.stat().st_size > _LONGEST:
                raise ConfigurationError(f"{file}: wants at most {_LONGEST} bytes")
            tree = self._environment.parse(file.read_text("utf-8"), file.name, str(file))
            self._environment.get_template(file.name)
        except (OSError, UnicodeError):
            raise ConfigurationError(f"{file}: wants a file of UTF-8 that can be read") from None
        except TemplateSyntaxError as error:
            raise ConfigurationError(self._problem(file.name, error)) from None
        for modifier in tree.find_all(nodes.ScopedEvalContextModifier):
            raise ConfigurationError(
                f"{file}:{modifier.lineno}: autoescape stays on, or an SMS could be markup"
            )

    def _problem(self, name: str, error: Exception) -> str:
        """File, line and what is wrong there: where a template was last seen at work."""
        if isinstance(error, TemplateSyntaxError):
            return f"{error.filename or name}:{error.lineno}: {error.message}"
        ours = {str(file) for file in self._files()}
        frames = traceback.extract_tb(error.__traceback__)
        places = [f"{each.filename}:{each.lineno}" for each in frames if each.filename in ours]
        return f"{places[-1] if places else name}: {str(error) or type(error).__name__}"
