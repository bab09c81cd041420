"""Limits on what a client may send: sizes of requests, uploads at the same time, and disk space."""

import json
from collections import Counter
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .disk import DiskBudget
from .uploads import MAX_UPLOAD_BYTES

MAX_REQUEST_BYTES = 2**20
MAX_UPLOAD_REQUEST_BYTES = MAX_UPLOAD_BYTES + 2**16  # with the names and headers around the file
MAX_UPLOADS_AT_ONCE, MAX_UPLOADS_AT_ONCE_PER_CLIENT = 16, 4


class ServerLimits:
    """ASGI middleware that refuses requests beyond the limits, and counts uploaded files in a `DiskBudget`."""

    def __init__(self, app: ASGIApp, disk: DiskBudget):
        self.app, self.disk = app, disk
        self._uploading: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        headers, is_upload = dict(scope["headers"]), scope["path"].endswith("/upload")
        length = headers.get(b"content-length", b"0")
        largest = MAX_UPLOAD_REQUEST_BYTES if is_upload else MAX_REQUEST_BYTES
        if b"transfer-encoding" in headers:
            return await _refuse(411, "The request has no Content-Length; send it in one piece.", scope, receive, send)
        if int(length) > largest:
            text = f"The request has {int(length)} bytes; send at most {largest}."
            return await _refuse(413, text, scope, receive, send)
        if not is_upload:
            return await self.app(scope, receive, send)
        client = scope["client"][0] if scope["client"] else ""
        if self._uploading.total() >= MAX_UPLOADS_AT_ONCE or self._uploading[client] >= MAX_UPLOADS_AT_ONCE_PER_CLIENT:
            text = "The app is busy: too many files are being uploaded. Try again in a minute."
            return await _refuse(503, text, scope, receive, send)
        self._uploading[client] += 1
        try:
            await self.app(scope, receive, self._counting(client, send))
        finally:
            self._uploading[client] -= 1
            if not self._uploading[client]:
                del self._uploading[client]

    def _counting(self, client: str, send: Send) -> Send:
        """Return a `send` that counts the files that an upload's answer lists."""
        body = bytearray()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    for path in _paths(bytes(body)):
                        self.disk.add(path, client)
            await send(message)

        return counting


def _paths(body: bytes) -> list[Path]:
    """Return the existing files that gradio's answer to an upload lists. An answer that refuses it is no JSON list."""
    try:
        paths = json.loads(body)
    except ValueError:
        return []
    return [Path(path) for path in paths if Path(path).is_file()] if isinstance(paths, list) else []


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(text, status_code=status)(scope, receive, send)
