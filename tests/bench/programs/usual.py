"""The usual way: the payload goes to the broker, and a task inserts one row and posts once."""

import json
import os
import sys
from functools import cache

import httpx2
from celery import Celery
from sqlalchemy import Engine, create_engine, text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.bench.programs.bare import serve

TABLE = "CREATE TABLE codes (id TEXT PRIMARY KEY, order_id TEXT NOT NULL, code TEXT NOT NULL)"

celery = Celery("usual", broker=os.environ.get("USUAL_BROKER"))
celery.conf.task_ignore_result = True


@cache
def engine() -> Engine:
    """The connection pool of a worker process."""
    return create_engine(os.environ["USUAL_DATABASE"])


@cache
def client() -> httpx2.Client:
    """The HTTP client of a worker process, with keep-alive connections."""
    return httpx2.Client(timeout=7)


def handle(payload: str) -> None:
    """Insert the reported code, and post it to the sink."""
    document = json.loads(payload)
    data = document["data"]
    row = {"id": document["id"], "order": data["order_id"], "code": data["code"]}
    with engine().begin() as connection:
        connection.execute(text("INSERT INTO codes VALUES (:id, :order, :code)"), row)
    message = {"text": f"{data['code']} for order {data['order_id']}"}
    client().post(os.environ["USUAL_SINK"], json=message).raise_for_status()


task = celery.task(name="usual.handle")(handle)


async def receive(request: Request) -> JSONResponse:
    """Enqueue the payload and answer."""
    body = await request.body()
    task.delay(body.decode())
    return JSONResponse({"status": "accepted"}, status_code=202)


app = Starlette(routes=[Route("/webhooks/virtualsms", receive, methods=["POST"])])

if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
