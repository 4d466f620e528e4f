"""What every destination is: something that can be told one notification.

A destination returns ``None`` from :meth:`Destination.send` when its far side has taken the
notification, and raises :class:`DeliveryError` otherwise. That is the whole contract: planning,
retrying, pausing and giving up are decided by :mod:`worker.deliveries`.
"""

from __future__ import annotations

import abc
from typing import ClassVar

from worker.messages import Notification


class DeliveryError(Exception):
    """A notification that was not, or perhaps not, delivered.

    Args:
        reason: words for an operator; holds no code, phone number, URL or credential.
        permanent: trying again cannot help.
        retry_after: seconds the far side asked us to stay away, if it did.
        unknown: the far side may have taken it (the answer never came).
    """

    def __init__(
        self,
        reason: str,
        *,
        permanent: bool = False,
        retry_after: float | None = None,
        unknown: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after
        self.unknown = unknown


class Destination(abc.ABC):
    """One configured place that people read.

    ``kind`` is the word that names the class in a configuration; ``deadline`` is the longest
    that :meth:`send` may take, in seconds; ``name`` is unique among the configured destinations.
    """

    kind: ClassVar[str]
    deadline: ClassVar[float]

    def __init__(self, name: str) -> None:
        self.name = name

    @abc.abstractmethod
    def send(self, notification: Notification) -> None:
        """Tell it, within ``deadline`` seconds; callable from several threads at once.

        Raises:
            DeliveryError: it was not taken, or nobody can know.
        """
