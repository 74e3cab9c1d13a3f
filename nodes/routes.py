"""What the browser asks for, under /hapax: thin over `core.library`. Read-only, but for labels and imported audits."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import folder_paths
from aiohttp import web

from ..core.audit_zip import export_zip, import_zip
from ..core.compare import compare
from ..core.directions import CaptionIndex
from ..core.directions.suggest import suggest
from ..core.errors import HapaxError
from ..core.library import EDGES, Library, NotThere, features_file
from ..core.own_names import save_name
from ..core.reproduce import reproduce
from . import folders
from .content import content_of

MOST_BODY, MOST_ZIP = 4096, 1024**3
_CHUNK = 1 << 20
# Each says that a page of any site may neither guess what this is, nor run it.
_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """The handlers, over the audits in a folder."""

    def __init__(self, base: Path) -> None:
        self.library = Library(base)

    def add_to(self, routes: web.RouteTableDef) -> None:
        """Put them into the server's table, which it also offers under /api."""
        routes.get("/hapax/audits")(_told(self.audits))
        routes.get("/hapax/audits/{audit}")(_told(self.audit))
        routes.get("/hapax/audits/{audit}/features")(_told(self.features))
        routes.get("/hapax/audits/{audit}/seeds/{seed}")(_told(self.seed))
        routes.get("/hapax/audits/{audit}/zip")(_told(self.zip))
        routes.get("/hapax/audits/{audit}/{version}/pictures/{number}")(_told(self.picture))
        routes.get("/hapax/captions")(_told(self.captions))
        routes.get("/hapax/content")(_told(self.content))
        routes.get("/hapax/compare")(_told(self.compare))
        routes.post("/hapax/audits/{audit}/label")(_told(_same_origin(self.label)))
        routes.post("/hapax/import")(_told(_same_origin(self.imported)))

    async def audits(self, request: web.Request) -> web.StreamResponse:
        """All audits, newest first."""
        return _json(await asyncio.to_thread(self.library.rows))

    async def audit(self, request: web.Request) -> web.StreamResponse:
        """One audit."""
        return await asyncio.to_thread(lambda: _json(self.library.view(request.match_info["audit"])))

    async def features(self, request: web.Request) -> web.StreamResponse:
        """What Load Features needs to find exactly the features of a prompt: folder, number and the file's hash."""
        hit = await asyncio.to_thread(self.library.find, request.match_info["audit"])
        prompt = _whole(request.query.get("prompt", "0"), 6)
        path = hit.folder / features_file(prompt)
        if not path.is_file() or path.is_symlink():
            raise NotThere(f"{hit.name} has no {path.name}; so its features can be looked at but not loaded.")
        digest = await asyncio.to_thread(content_of, path)
        return _json({"audit": hit.name, "prompt": prompt + 1, "content": digest})

    async def seed(self, request: web.Request) -> web.StreamResponse:
        """The prompt that makes one picture of the audit again."""
        asked = request.match_info
        hit = await asyncio.to_thread(self.library.find, asked["audit"])
        return _json(await asyncio.to_thread(reproduce, hit.folder, _whole(asked["seed"], 20)))

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """One picture; its address holds the version, so it may be kept."""
        asked = request.match_info
        number, edge = _whole(asked["number"]), _whole(request.query.get("edge", str(EDGES[0])))
        payload, mime = await asyncio.to_thread(self.library.picture, asked["audit"], asked["version"], number, edge)
        kept = {"Cache-Control": "private, max-age=604800, immutable"}
        return web.Response(body=payload, content_type=mime, headers=_SAFE | kept)

    async def captions(self, request: web.Request) -> web.StreamResponse:
        """The captions of an index in models/hapax that somebody who types may mean."""
        name, typed = request.query.get("index", ""), request.query.get("typed", "")

        def found() -> list[str]:
            path = folders.model_file(name)
            return suggest(_texts(path, path.stat().st_mtime_ns), typed[:200])

        return _json(await asyncio.to_thread(found))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The hash of a file in models/hapax, by which a workflow knows it."""
        name = request.query.get("name", "")
        return _json({"content": await asyncio.to_thread(lambda: content_of(folders.model_file(name)))})

    async def compare(self, request: web.Request) -> web.StreamResponse:
        """What changed between two audits."""

        def rows() -> list[dict[str, Any]]:
            return compare(*(self.library.view(request.query.get(side, "")) for side in ("before", "after")))

        return _json(await asyncio.to_thread(rows))

    async def label(self, request: web.Request) -> web.StreamResponse:
        """Save what a person calls a feature: {"feature": its id, "label": the text, or "" to take it back}."""
        body = await _body(request)
        view = await asyncio.to_thread(self.library.view, request.match_info["audit"])
        feature = body.get("feature")
        if not any(each["id"] == feature for each in view["features"]):
            raise NotThere("There is no such feature in this audit; open it again.")
        folder = self.library.find(request.match_info["audit"]).folder
        return _json({"names": await asyncio.to_thread(save_name, folder, feature, body.get("label"))})

    async def zip(self, request: web.Request) -> web.StreamResponse:
        """One audit as a zip."""
        hit = await asyncio.to_thread(self.library.find, request.match_info["audit"])
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", hit.folder.name)
        answer = web.StreamResponse(headers=_SAFE | {"Content-Disposition": f'attachment; filename="{name}.hapax.zip"'})
        with _scratch() as target:
            await asyncio.to_thread(export_zip, hit.folder, target)
            answer.content_type, answer.content_length = "application/zip", target.stat().st_size
            await answer.prepare(request)
            with target.open("rb") as file:
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    await answer.write(chunk)
            await answer.write_eof()
        return answer

    async def imported(self, request: web.Request) -> web.StreamResponse:
        """Unpack a zip that is the body, after checking it."""
        if request.content_type != "application/zip":
            raise web.HTTPUnsupportedMediaType(text="an audit's zip is sent as application/zip")
        with _scratch() as target:
            size = 0
            with target.open("wb") as file:
                async for chunk in request.content.iter_chunked(_CHUNK):
                    size += len(chunk)
                    if size > MOST_ZIP:
                        raise web.HTTPRequestEntityTooLarge(MOST_ZIP, size)
                    await asyncio.to_thread(file.write, chunk)
            wanted = request.query.get("name", "")
            folder = await asyncio.to_thread(import_zip, target, self.library.base, wanted)
        name = folder.relative_to(self.library.base).as_posix()
        return _json({"name": name, "id": next(hit.id for hit in self.library.found() if hit.name == name)})


@lru_cache(maxsize=4)
def _texts(path: Path, changed: int) -> tuple[str, ...]:
    """The captions of an index, read once a version of its file."""
    index = CaptionIndex.load(path)
    return tuple(islice(index.captions, len(index)))


def register() -> None:
    """Add the routes to ComfyUI's server, if one runs in this process."""
    # Not imported: where nodes are used without a server, it would bring all of ComfyUI's.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None:
        Routes(Path(folder_paths.get_output_directory(), folders.FOLDER)).add_to(server.routes)


def _told(handler: Handler) -> Handler:
    """Turn bad input into its one sentence, as JSON."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except HapaxError as error:
            return _json({"error": str(error)}, 404 if isinstance(error, NotThere) else 400)

    return handle


def _same_origin(handler: Handler) -> Handler:
    """Refuse what a page of another site could send, also where the server is reached by its network address."""

    async def handle(request: web.Request) -> web.StreamResponse:
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
        own = site == "same-origin" if site else urlsplit(origin).netloc.lower() == request.host.lower()
        if not own:
            raise web.HTTPForbidden(text="only ComfyUI's own page may do this")
        return await handler(request)

    return handle


async def _body(request: web.Request) -> dict[str, Any]:
    """A small JSON object."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json")
    text = await request.content.read(MOST_BODY + 1)
    while len(text) <= MOST_BODY and not request.content.at_eof():
        text += await request.content.read(MOST_BODY + 1 - len(text))
    if len(text) > MOST_BODY:
        raise web.HTTPRequestEntityTooLarge(MOST_BODY, len(text))
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HapaxError(f"The request is not JSON ({error}); send an object.") from error
    if not isinstance(body, dict):
        raise HapaxError("The request is JSON, but no object; send one.")
    return body


def _json(value: Any, status: int = 200) -> web.Response:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    headers = _SAFE | {"Cache-Control": "no-store"}
    return web.Response(body=text.encode(), status=status, content_type="application/json", headers=headers)


def _whole(text: str, digits: int = 9) -> int:
    if not re.fullmatch(rf"[0-9]{{1,{digits}}}", text):
        raise HapaxError(f"{text[:40]!r} is not a whole number.")
    return int(text)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file in ComfyUI's temp folder, gone afterwards."""
    base = Path(folder_paths.get_temp_directory())
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hapax-", dir=base) as folder:
        yield Path(folder, "audit.zip")
