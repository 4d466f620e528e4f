"""Failpoints: named points between two effects, where tests inject crashes; inert by default.

``CODECATCH_FAILPOINTS`` holds ``NAME=ACTION`` pairs, separated by commas. The actions: ``kill``
(SIGKILL to this process, like a power cut), ``pause:SECONDS``, and ``fail`` (raises
:class:`FailpointReached`). ``NAME=ACTION@FILE`` acts only while FILE exists, and deletes it first,
so that a restarted process passes the point.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path


class FailpointReached(Exception):
    """A failpoint with the action ``fail`` was reached."""


def _parse(text: str) -> Mapping[str, str]:
    pairs = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name: action for name, _, action in pairs}


_ARMED: Mapping[str, str] = _parse(os.environ.get("CODECATCH_FAILPOINTS", ""))


def reach(name: str) -> None:
    """Run the action of the failpoint ``name``, if it is armed."""
    if name in _ARMED:
        _act(_ARMED[name])


def _act(armed: str) -> None:
    action, _, token = armed.partition("@")
    if token:
        try:
            Path(token).unlink()
        except FileNotFoundError:
            return
    verb, _, argument = action.partition(":")
    match verb:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "pause":
            time.sleep(float(argument))
        case "fail":
            raise FailpointReached(action)
