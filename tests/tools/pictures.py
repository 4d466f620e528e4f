"""Renders example messages into deploy/pictures: python -m tests.tools.pictures.

Draws Slack's blocks as an HTML page that looks like Slack, and takes screenshots with a headless
Chromium. Run it again after a change of the texts or the layout of messages.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.worker.destinations.conftest import SMS
from worker.destinations import _slack_blocks
from worker.messages.text import Notification, Texts

PICTURES = Path(__file__).parents[2] / "deploy" / "pictures"

_RECEIVED = datetime(2025, 11, 22, 7, 51, 2, tzinfo=UTC)
ONE = replace(
    SMS,
    received_at=_RECEIVED,
    composed_at=_RECEIVED + timedelta(seconds=1),
    valid_until=_RECEIVED + timedelta(minutes=15),
)

_STYLE = """
body { margin: 0; padding: 20px 24px; background: #fff; color: #1d1c1d;
  font: 15px/22px Lato, "Noto Sans", "DejaVu Sans", sans-serif; }
.message { display: grid; grid-template-columns: 36px 1fr; gap: 0 8px; }
.face { width: 36px; height: 36px; border-radius: 6px; background: #2f6f5e; color: #fff;
  font: bold 17px/36px monospace; text-align: center; }
.name { font-weight: 900; }
.app { background: #e8e8e8; color: #616061; font: bold 10px/14px sans-serif; padding: 1px 3px;
  border-radius: 2px; margin: 0 4px; }
.time { color: #616061; font-size: 12px; }
.header { font-size: 18px; font-weight: 900; line-height: 24px; margin: 4px 0 8px; }
pre, code { border: 1px solid #ddd; background: #f8f8f8; border-radius: 4px;
  font: 12px/18px Monaco, "DejaVu Sans Mono", monospace; }
pre { padding: 8px; margin: 4px 0; white-space: pre-wrap; }
code { padding: 2px 3px 1px; color: #e01e5a; font-weight: bold; }
blockquote { border-left: 4px solid #ddd; border-radius: 8px; margin: 4px 0;
  padding-left: 12px; white-space: pre-wrap; }
.rich { white-space: pre-wrap; margin: 2px 0; }
.section { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 24px; margin: 8px 0;
  max-width: 640px; white-space: pre-wrap; }
.context { color: #616061; font-size: 12px; line-height: 18px; margin-top: 8px; }
"""


def slack(notifications: Sequence[Notification]) -> str:
    """An HTML page that shows the message in a channel."""
    blocks = "".join(_block(b) for b in _slack_blocks.payload(notifications, Texts())["blocks"])
    return (
        f"<!DOCTYPE html><meta charset=utf-8><style>{_STYLE}</style><div class=message>"
        "<div class=face>c</div><div><span class=name>codecatch</span><span class=app>APP</span>"
        f"<span class=time>7:51 AM</span>{blocks}</div></div>"
    )


def _block(block: Mapping[str, Any]) -> str:
    match block:
        case {"type": "header", "text": {"text": text}}:
            return f"<div class=header>{html.escape(text)}</div>"
        case {"type": "section", "fields": fields}:
            cells = "".join(f"<div>{html.escape(field['text'])}</div>" for field in fields)
            return f"<div class=section>{cells}</div>"
        case {"type": "context", "elements": elements}:
            text = " ".join(html.escape(element["text"]) for element in elements)
            return f"<div class=context>{text}</div>"
        case {"type": "rich_text", "elements": elements}:
            return "".join(map(_rich_text, elements))
    raise ValueError(block["type"])


def _rich_text(element: Mapping[str, Any]) -> str:
    text = "".join(
        f"<code>{html.escape(each['text'])}</code>"
        if each.get("style", {}).get("code")
        else html.escape(each["text"])
        for each in element["elements"]
    )
    match element["type"]:
        case "rich_text_preformatted":
            return f"<pre>{text}</pre>"
        case "rich_text_quote":
            return f"<blockquote>{text}</blockquote>"
        case _:
            return f"<div class=rich>{text}</div>"


def many(number: int) -> list[Notification]:
    """The codes of a busy minute."""
    services = ("telegram", "whatsapp", "google", "uber", "discord")
    assert SMS.received_at is not None
    return [
        replace(
            SMS,
            code=f"{(index * 271_829 + 483_921) % 1_000_000:06}",
            service=services[index * 7 % 5],
            order_id=f"ord-{771 + index}",
            phone_number=f"+4477009{index * 1_013 % 100_000:05}",
            received_at=SMS.received_at + timedelta(seconds=2 * index),
            marks=("not verified",) if index == 3 else (),
        )
        for index in range(number)
    ]


def screenshot(page: str, name: str, *, width: int, height: int) -> None:
    """Take a screenshot of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is not installed: install chromium or google-chrome")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(page)
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--disable-component-update", "--hide-scrollbars"),
                *(f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"),
                *(f"--screenshot={PICTURES / name}", path.as_uri()),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    screenshot(slack([ONE]), "slack.png", width=720, height=410)
    screenshot(slack(many(12)), "slack-many.png", width=720, height=420)
    screenshot(Texts().html([ONE]), "email.png", width=640, height=445)
