"""Jinja2 templates of messages: the built-in ones, and a user's templates that override them.

A template runs in a sandbox, sees only its context, and cannot turn off the escaping that keeps
untrusted text from becoming markup. A user's templates are compiled and rendered with examples
when they are loaded, so that mistakes show at the start.
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
# A user's template can extend or include a built-in one as "builtin/message.html".
_BUILTIN: Final = "builtin"
# The prefix of files that the other templates include.
_PARTIAL: Final = "_"
_MAX_BYTES = 64 * 1024
_NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
# Fields of the notifications that templates are tested with: a code with every field, a code that
# may not be shown, the end of an order, and a notice with few fields.
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
        "composed_at": _NOON + timedelta(seconds=1),
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
        "detail": "The order was cancelled.",
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
    """The built-in templates; files in ``directory`` override them."""

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
        # No template may bypass the escaping.
        del self._environment.filters["safe"]

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """Render one of :data:`NAMES`."""
        return self._environment.get_template(name).render(context)

    def check(self, examples: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Compile every template of the directory, and render ``examples``.

        Raises:
            ConfigurationError: a template has an error; the text names its file and line.
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
            raise ConfigurationError(
                f"{self._directory}: not a directory; create it or correct the path"
            )
        files = sorted(each for each in self._directory.iterdir() if not each.name.startswith("."))
        for file in files:
            if file.name not in NAMES and not file.name.startswith(_PARTIAL):
                raise ConfigurationError(
                    f"{file}: unknown template; name it {', '.join(NAMES)}, or {_PARTIAL}… if these"
                    " include it"
                )
        return files

    def _compile(self, file: Path) -> None:
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise ConfigurationError(f"{file}: longer than {_MAX_BYTES} bytes; shorten it")
            tree = self._environment.parse(file.read_text("utf-8"), file.name, str(file))
            self._environment.get_template(file.name)
        except (OSError, UnicodeError):
            raise ConfigurationError(f"{file}: not a readable UTF-8 file") from None
        except TemplateSyntaxError as error:
            raise ConfigurationError(self._problem(file.name, error)) from None
        for modifier in tree.find_all(nodes.ScopedEvalContextModifier):
            raise ConfigurationError(
                f"{file}:{modifier.lineno}: autoescape must stay on, or an SMS could contain markup"
            )

    def _problem(self, name: str, error: Exception) -> str:
        """File, line and error, from the last frame that belongs to one of our templates."""
        if isinstance(error, TemplateSyntaxError):
            return f"{error.filename or name}:{error.lineno}: {error.message}"
        own_files = {str(file) for file in self._files()}
        frames = traceback.extract_tb(error.__traceback__)
        locations = [
            f"{each.filename}:{each.lineno}" for each in frames if each.filename in own_files
        ]
        return f"{locations[-1] if locations else name}: {str(error) or type(error).__name__}"
