"""What the browser function adds to a page or writes itself: the head that forbids requests, the list of what is missing,
pages around files that are no pages, and immediate refreshes."""

import re

import charset
import mime
import urls
from fetch import Resource
from tokens import attribute, text

_PLAIN = ("text/", "application/json", "application/xml", "application/javascript", "application/x-javascript", "application/yaml")
_REFRESH = re.compile(r"\s*(\d*)(?:\.[\d.]*)?(?:\s*[;,\s]\s*(.*))?\Z", re.S)
_REFRESH_URL = re.compile(r"url\s*=\s*(.*)\Z", re.S | re.I)

# What a packed page may load: what is in it. Nothing else is needed, so that this also catches what the rewriting missed.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; media-src data:; frame-src data:; "
    "form-action http: https:; base-uri 'none'"
)


def head(scripts: bool, frame: bool) -> str:
    """The beginning of a packed page's head."""
    policy = _POLICY + ("; script-src 'unsafe-inline' 'unsafe-eval' data:" if scripts else "; script-src 'none'")
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><meta charset="utf-8">'
        '<meta name="referrer" content="no-referrer"><meta http-equiv="x-dns-prefetch-control" content="off">'
        + ("" if frame else "<!-- packed by Bento -->")
    )


def missing(entries: list[dict[str, str]]) -> str:
    """The list at a page's end."""
    if not entries:
        return ""
    lines = "".join(
        f"<li style='all:revert'><code style='all:revert'>{text(entry['url'])}</code> {text(entry['reason'])}</li>" for entry in entries
    )
    count = len(entries)
    return (
        "<details style='all:revert;clear:both;margin:1em;padding:.3em .6em;font:12px/1.5 sans-serif;color:#555;background:#f4f4f4;"
        "border:1px solid #ccc;overflow-wrap:anywhere;text-align:left'>"
        f"<summary style='all:revert'>{count} {'part' if count == 1 else 'parts'} of this page could not be fetched</summary>"
        f"<ul style='all:revert'>{lines}</ul></details>"
    )


def frame_page(title: str, body: str, style: str = "") -> str:
    """A small page of our own."""
    return (
        f"<!DOCTYPE html><html><head>{head(False, False)}<title>{text(title)}</title>"
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>{body}'
    )


def view(resource: Resource, kind: str, name: str, attached: bool) -> str:
    """A page around a file that is none: an image, a text, or something to save."""
    content = resource.header("Content-Type")
    if not attached and (image := mime.of_image(content, resource.body)):
        return frame_page(
            name,
            f'<img alt="{attribute(name)}" src="{mime.data_url(image, resource.body)}">',
            "body{margin:0;display:grid;place-items:center;min-height:100vh;background:#222}img{max-width:100%;max-height:100vh}",
        )
    if not attached and (kind.startswith(_PLAIN) or kind.endswith(("+json", "+xml"))):
        written = text(charset.plain(resource.body, content))
        return frame_page(name, f"<pre>\n{written}</pre>", "pre{white-space:pre-wrap;overflow-wrap:anywhere}")
    data = mime.data_url(kind if kind not in mime.HTML else "application/octet-stream", resource.body)
    if not attached and kind.startswith(("video/", "audio/")):
        element = kind.partition("/")[0]
        return frame_page(name, f'<{element} controls src="{data}"></{element}>', "video{max-width:100%}")
    label = name or "file"
    return frame_page(
        name,
        f'<p>This address is no page but a file of {len(resource.body)} bytes ({text(kind)}): '
        f'<a download="{attribute(re.sub(r"[^ -~]|[/:]", "_", label)[:100])}" href="{data}">save {text(label)}</a></p>',
        "body{font:16px/1.5 sans-serif;margin:2em}",
    )


def refresh(content: str) -> tuple[int, str] | None:
    """Seconds and address of a refresh (HTML standard, section 4.2.5.3); None if it is none."""
    found = _REFRESH.match(content)
    if not found or not found[1] and not content.strip().startswith("."):
        return None
    place = (found[2] or "").strip()
    if named := _REFRESH_URL.match(place):
        place = named[1]
    if place[:1] in ("'", '"'):
        place = place[1:].partition(place[0])[0]
    return int(found[1][:6] or "0"), urls.tidy(place)
