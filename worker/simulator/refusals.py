"""How a simulated provider says no; each API spells it in its own way."""

from __future__ import annotations


class Refused(Exception):
    """An error of a provider's documents, by the code they give it.

    Attributes:
        code: the last part of a VirtualSMS problem type, or a DaisySIM machine code.
        retry_after: seconds that the caller is asked to stay away.
    """

    def __init__(self, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after = retry_after
