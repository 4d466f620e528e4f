"""The bare endpoint, which only reads the body and answers: an upper bound for Starlette."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def receive(request: Request) -> JSONResponse:
    """Give the receiver's answer."""
    await request.body()
    return JSONResponse({"status": "accepted", "event": "0" * 26}, status_code=202)


app = Starlette(routes=[Route("/webhooks/virtualsms", receive, methods=["POST"])])


def serve(application: Starlette, port: int) -> None:
    """Serve with the receiver's event loop and parser, but uvicorn's own protocol class."""
    uvicorn.run(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
