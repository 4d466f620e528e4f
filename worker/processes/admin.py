"""The ``admin`` part: serves metrics over HTTP."""

from __future__ import annotations

import uvicorn

from receiver.settings import load
from worker.admin.settings import AdminSettings


def main() -> None:
    """Serve metrics until SIGTERM or SIGINT."""
    settings = load(AdminSettings)
    uvicorn.run(
        "worker.admin.app:create_app",
        factory=True,
        host=settings.admin_host,
        port=settings.admin_port,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
