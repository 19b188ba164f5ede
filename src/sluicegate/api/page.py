"""The web page, its assets, and `/docs`: files of this package, nothing from any other host."""

from __future__ import annotations

from importlib.resources import files
from os import PathLike, stat_result
from pathlib import Path
from typing import Final

import swagger_ui_bundle
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

STATIC: Final = Path(str(files("sluicegate"))) / "static"
SWAGGER: Final = Path(swagger_ui_bundle.swagger_ui_path)

# The system's own table decides otherwise, and with `nosniff` a wrong type is a blank page.
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}

DOCS_HTML: Final = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Sluicegate API</title>
  <link rel="icon" href="static/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="docs/assets/swagger-ui-bundle.js"></script>
  <script src="docs/start.js"></script>
</body>
</html>
"""

DOCS_JS: Final = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  syntaxHighlight: false,
});
"""


class Assets(StaticFiles):
    """Static files with certain media types, which browsers ask for again by ETag each time."""

    def file_response(
        self,
        full_path: str | PathLike[str],
        stat_result: stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Answer with the file, or 304 when the client has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        media_type = MEDIA_TYPES.get(Path(full_path).suffix)
        if media_type and "content-type" in response.headers:
            response.headers["content-type"] = media_type
        response.headers["cache-control"] = "no-cache"
        return response


def install(app: FastAPI) -> None:
    """Add the routes of the page and of the documentation."""
    page = Assets(directory=STATIC, check_dir=False)

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        """Serve the one page."""
        return await page.get_response("index.html", request.scope)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """Serve the API's documentation, to be tried out with a key or the page's session."""
        return HTMLResponse(DOCS_HTML)

    @app.get("/docs/start.js", include_in_schema=False)
    async def docs_start() -> Response:
        """Start the documentation: a file of its own, for the policy allows no inline script."""
        return Response(DOCS_JS, media_type="text/javascript")

    app.mount("/docs/assets", Assets(directory=SWAGGER))
    app.mount("/static", page)
