"""`python -m jepsen serve`: the runs in a browser. Reads the store and nothing else; loopback only."""

from pathlib import Path

from aiohttp import web

from jepsen.report import all_runs, one_run
from jepsen.store import TEST

HOST = "127.0.0.1"
TEXT = (".edn", ".log", ".jsonl", ".json", ".toml")


def make_app(store: Path) -> web.Application:
    """The application over this store."""
    root = store.resolve()

    async def index(request: web.Request) -> web.Response:
        return web.Response(text=all_runs(root), content_type="text/html")

    async def file(request: web.Request) -> web.StreamResponse:
        path = (root / request.match_info["path"]).resolve()
        if not path.is_relative_to(root):
            raise web.HTTPNotFound
        folder = path.parent if path.name == "index.html" else path
        if (folder / TEST).is_file():
            if folder == path and not request.path.endswith("/"):
                raise web.HTTPFound(request.path + "/")
            return web.Response(text=one_run(folder), content_type="text/html")
        if not path.is_file():
            raise web.HTTPNotFound
        headers = {"Content-Type": "text/plain; charset=utf-8"} if path.suffix in TEXT else None
        return web.FileResponse(path, headers=headers)

    app = web.Application()
    app.router.add_get("/", index)
    app.router.add_get("/{path:.+}", file)
    return app


def serve(store: Path, port: int) -> None:
    """Until Ctrl-C."""
    web.run_app(make_app(store), host=HOST, port=port)
