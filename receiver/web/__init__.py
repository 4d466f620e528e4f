"""The public HTTP receiver; only this package imports Starlette and uvicorn in ``receiver``."""

__all__ = ["app", "server"]
