"""The ceiling: an endpoint that reads the body and answers, and does nothing else."""

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def receive(request: Request) -> JSONResponse:
    """Answer as the receiver does."""
    await request.body()
    return JSONResponse({"status": "accepted", "event": "0" * 26}, status_code=202)


app = Starlette(routes=[Route("/webhooks/virtualsms", receive, methods=["POST"])])


def serve(application: Starlette, port: int) -> None:
    """Serve it on the loop and the parser that the receiver uses, with uvicorn's own protocol."""
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
