"""Named points at which a crash splits two effects; inert unless a test arms them.

``CODECATCH_FAILPOINTS`` holds ``NAME=ACTION`` pairs, separated by commas. The actions: ``kill``
(SIGKILL to this process, as a power cut would), ``pause:SECONDS``, and ``fail`` (raises
:class:`FailpointReached`). ``NAME=ACTION@FILE`` acts only while FILE exists, and takes it away in
the moment it acts, so that a process that is started again passes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path


class FailpointReached(Exception):
    """A test asked for a failure here."""


def _parse(text: str) -> Mapping[str, str]:
    pairs = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name: action for name, _, action in pairs}


_ARMED: Mapping[str, str] = _parse(os.environ.get("CODECATCH_FAILPOINTS", ""))


def reach(name: str) -> None:
    """Do what a test armed the point ``name`` with; nothing, if none did."""
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
