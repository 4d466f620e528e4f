"""The Celery application and its tasks: thin adapters around one function each."""

__all__ = ["celery_app"]
