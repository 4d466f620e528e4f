"""The errors that a simulated provider answers; each API encodes them in its own format."""

from __future__ import annotations


class ApiError(Exception):
    """An error of the provider's documents, identified by the code that they give it.

    Attributes:
        code: the last part of a VirtualSMS problem type, or a DaisySIM machine code.
        retry_after: seconds that the caller must wait.
    """

    def __init__(self, code: str, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.retry_after = retry_after
