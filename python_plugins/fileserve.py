"""Serves a folder of documents, with Markdown rendered to pages. Off until the INI file configures it:

    [file_server]
    documents = docs:/srv/documentation

docs/fileserve.md describes every key. Files of other types are better served by `[paths] documents`, which needs no
Python; this plugin is for Markdown, for the magic variables, and for the access log of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import re
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from plugincore.baseplugin import BasePlugin, PluginOff

try:
    import markdown
except ImportError:
    markdown = None  # type: ignore[assignment]
try:
    import pygments.formatters
    import pygments.styles
except ImportError:
    pygments = None  # type: ignore[assignment]

DEFAULT_ROUTE = "doc"
MARKDOWN = {".md", ".markdown"}
PAGES = {".html", ".htm"}
EXTENSIONS = ["extra", "sane_lists", "toc"]
MOST_INCLUDES = 100

ENVELOPE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
@CSS@
</head>
<body>
@BODY@
</body>
</html>
"""

MAGIC = re.compile(r"@(TITLE|INCLUDE|TIME|FILETIME)=([^@\r\n]*)@")
HEADING = re.compile(r"<h[1-6][^>]*>(.*?)</h[1-6]>", re.DOTALL)
TAG = re.compile(r"<[^>]*>")


class FileServe(BasePlugin):
    """Documents under one route: Markdown as pages, everything else as it is."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        section = _section(self.config, "file_server")
        documents = str(section.get("documents") or "").strip()
        if not documents:
            raise PluginOff("[file_server] documents is not set")
        route, _, folder = documents.rpartition(":")
        self._plugin_id = route.strip().strip("/") or DEFAULT_ROUTE
        found = _existing(folder.strip(), kwargs.get("prog_args"))
        if found is None or not found.is_dir():
            raise ValueError(f"[file_server] documents: {folder} is no folder; give route:folder, as in docs:/srv/docs")
        self.root = found.resolve()
        self.index_file = str(section.get("indexfile") or "index.html")
        self.log_file = section.get("common_log") or None
        self.logs_includes = _is_true(section.get("log_includes"))
        self.css = _css(section.get("markdown_css"), section.get("highlight_css"))
        self.envelope = self._read_envelope(section.get("markdown_envelope"))
        if markdown is None:
            self.log.info("Markdown is served as text; for pages: pip install Markdown Pygments")

    def _read_envelope(self, name: Any) -> str:
        if not name:
            return ENVELOPE
        path = Path(str(name)).expanduser()
        candidates = [path] if path.is_absolute() else [self.root / path, Path.cwd() / path]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise ValueError(f"[file_server] markdown_envelope: {name} is not there")
        text = found.read_text(encoding="utf-8")
        if "@BODY@" not in text:
            raise ValueError(f"[file_server] markdown_envelope: {name} has no @BODY@")
        return text

    async def request_handler(self, **data: Any) -> Any:
        request, client_ip = data["request"], data["client_ip"]
        response = await self._answer(request, data["subpath"], client_ip)
        if isinstance(response, web.FileResponse):
            # What it sends is known when it has been sent.
            await response.prepare(request)
            await response.write_eof()
            size = response.body_length
        else:
            size = len(response.body or b"")
        # As it was asked for, percent-encoded: nothing in it can break a line.
        self._log(client_ip, request.rel_url.raw_path, response.status, size, request)
        return response

    async def _answer(self, request: Any, subpath: str | None, client_ip: str) -> Any:
        if request.method not in ("GET", "HEAD"):
            return web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if subpath is None:
            return web.HTTPMovedPermanently(f"{request.rel_url.raw_path}/")
        path = self.find(subpath)
        if path is not None and path.is_dir():
            if subpath and not subpath.endswith("/"):
                return web.HTTPMovedPermanently(f"{request.rel_url.raw_path}/")
            names = [self.index_file, "index.html", "index.md"]
            index = (self.find(f"{subpath}{name}") for name in names)
            path = next((found for found in index if found is not None and found.is_file()), None)
        elif subpath.endswith("/"):
            path = None
        if path is None or not path.is_file():
            return web.json_response({"error": f"no such document: {subpath}"}, status=404)
        if path.suffix.lower() not in MARKDOWN | PAGES:
            return web.FileResponse(path)
        page = Page(self, path, client_ip, request)
        try:
            text, kind = await asyncio.get_running_loop().run_in_executor(None, page.render)
        except OSError as error:
            self.log.warning(f"{path} cannot be read: {error.strerror}")
            return web.json_response({"error": f"this document cannot be read: {subpath}"}, status=403)
        return _whole(text, kind, request)

    def find(self, name: str, beside: Path | None = None) -> Path | None:
        """The document of that name, never one outside the folder or in hiding."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if "\0" in name or "\\" in name or any(part.startswith(".") for part in parts if part != ".."):
            return None
        start = self.root if beside is None or name.startswith("/") else beside
        try:
            path = start.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return path if path == self.root or self.root in path.parents else None

    def _log(self, client_ip: str, path: str, status: int, size: int, request: Any) -> None:
        if self.log_file:
            version = f"HTTP/{request.version[0]}.{request.version[1]}"
            self.log.common_log(
                ip=client_ip,
                path=path,
                size=size,
                method=request.method,
                protocol=version,
                status=status,
                file=self.log_file,
            )

    def log_include(self, client_ip: str, path: Path) -> None:
        """Includes are lines of their own when `log_includes` asks for it."""
        if self.log_file and self.logs_includes:
            name = "/" + path.relative_to(self.root).as_posix()
            size = path.stat().st_size
            self.log.common_log(
                ip=client_ip, path=name, size=size, method="INCLUDE", protocol="file", status=200, file=self.log_file
            )


class Page:
    """One document on its way to a page. Runs on a thread: it reads files."""

    def __init__(self, plugin: FileServe, path: Path, client_ip: str, request: Any) -> None:
        self.plugin = plugin
        self.path = path
        self.client_ip = client_ip
        self.title: str | None = None
        self.includes = 0

    def render(self) -> tuple[str, str]:
        """The text to send, and its content type."""
        source = self._expand(self.path, ())
        if self.path.suffix.lower() in PAGES:
            return source, "text/html"
        if markdown is None:
            return source, "text/markdown"
        extensions = [*EXTENSIONS, "codehilite"] if pygments is not None else EXTENSIONS
        body = markdown.markdown(source, extensions=extensions, output_format="html")
        title = self.title or _first_heading(body) or self.path.stem
        own = {"TITLE": html.escape(title), "CSS": self.plugin.css, "BODY": body}
        envelope = MAGIC.sub(lambda match: self._value(match, self.plugin.root / "envelope", ()), self.plugin.envelope)
        return re.sub("@(TITLE|CSS|BODY)@", lambda match: own[match[1]], envelope), "text/html"

    def _expand(self, path: Path, above: tuple[Path, ...]) -> str:
        text = path.read_text(encoding="utf-8", errors="replace")
        return MAGIC.sub(lambda match: self._value(match, path, (*above, path)), text)

    def _value(self, match: re.Match[str], path: Path, above: tuple[Path, ...]) -> str:
        name, argument = match[1], match[2].strip()
        if name == "TITLE":
            # The title of a page, not of its parts.
            if len(above) == 1:
                self.title = argument
            return ""
        if name == "TIME":
            return _formatted(time.time(), argument.lstrip("+"))
        target, _, form = argument.partition("+")
        found = self.plugin.find(target.strip(), path.parent)
        if found is None or not found.is_file():
            self.plugin.log.warning(f"{path}: @{name}={argument}@: no such document")
            return f"[{name.lower()}: no such document: {target.strip()}]"
        if name == "FILETIME":
            return _formatted(found.stat().st_mtime, form)
        self.includes += 1
        if found in above or self.includes > MOST_INCLUDES:
            self.plugin.log.warning(f"{path}: @INCLUDE={argument}@ includes itself, or too much")
            return f"[include: {target.strip()} includes itself, or too much]"
        self.plugin.log_include(self.client_ip, found)
        return self._expand(found, above)


def _existing(name: str, prog_args: Any) -> Path | None:
    """A path of the INI file: from the current folder, then from the file's."""
    if not name:
        return None
    path = Path(name).expanduser()
    beside = Path(getattr(prog_args, "ini_file", None) or ".").absolute().parent / path
    return path if path.is_absolute() or path.exists() else beside


def _section(config: Any, name: str) -> Any:
    for known, section in dict(config or {}).items():
        if str(known).lower() == name:
            return section
    return {}


def _is_true(value: Any) -> bool:
    return value is True or str(value).strip().lower() in ("true", "enabled", "on", "1", "enable", "yes")


def _css(markdown_css: Any, highlight_css: Any) -> str:
    """Links to style sheets; a style of Pygments, by its name, is put into the page."""
    lines = [_link(address) for address in _addresses(markdown_css)]
    style = str(highlight_css or "default").strip()
    if pygments is not None and style in pygments.styles.get_all_styles():
        rules = pygments.formatters.HtmlFormatter(style=style).get_style_defs(".codehilite")
        lines.append(f"<style>\n{rules}\n</style>")
    elif highlight_css:
        lines.extend(_link(address) for address in _addresses(highlight_css))
    return "\n".join(lines)


def _addresses(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else str(value or "").split()


def _link(address: str) -> str:
    return f'<link rel="stylesheet" href="{html.escape(address)}">'


def _first_heading(body: str) -> str | None:
    match = HEADING.search(body)
    return html.unescape(TAG.sub("", match[1])).strip() if match else None


def _formatted(seconds: float, form: str) -> str:
    return time.strftime(form.replace("\0", "") or "%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _whole(text: str, kind: str, request: Any) -> Any:
    """A page, or 304 for a client that has it as it is."""
    tag = hashlib.sha256(text.encode()).hexdigest()[:32]
    known = request.if_none_match
    if known is not None and any(one.value in ("*", tag) for one in known):
        response = web.Response(status=304)
    else:
        response = web.Response(text=text, content_type=kind)
    # Weak: the server may compress the page.
    response.headers["ETag"] = f'W/"{tag}"'
    return response
