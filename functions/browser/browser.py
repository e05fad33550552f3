"""Browser: fetches a web page at the node, with all it needs, and sends it back as one file of a size that does not name it.

What leaves is a padded payload (`bento.pad`): a line of JSON, the page as one HTML file that makes no request when it is opened,
and, if wanted, an archive. A page that could not be fetched leaves with the same size as one that could.
"""

import json

from bento import pad

import show
import urls
import warc as archives
from bounds import RESULT_BYTES, Bounds
from fetch import Fetcher
from visit import Visit
from wire import Trouble


#: A payload that only says what went wrong is shorter than this, so that the smallest size must hold so much.
ERROR_BYTES = 12 * 1024


def page(
    api,
    url: str,
    bucket: int = 1_000_000,
    sizes: list[int] | None = None,
    scripts: bool = False,
    warc: bool = False,
    max_resources: int = 500,
    max_bytes: int = 24 * 1024 * 1024,
    max_media: int = 4 * 1024 * 1024,
    timeout: float = 60,
    resource_timeout: float = 30,
    authorities: str | None = None,
) -> None:
    """Fetches one page with all it needs and sends it padded to a multiple of `bucket` bytes, or to one of `sizes`.

    `scripts`: keep and pack them; else none are left. `warc`: append an archive of every exchange. `max_bytes`: of all resources
    together, `max_media`: of one film or sound. `authorities`: certificates in PEM that are trusted beside the node's.
    """
    buckets = sizes if sizes else bucket
    bounds = Bounds(int(max_resources), int(max_bytes), float(timeout), float(resource_timeout), int(max_media))
    pad.write_padded(api.output, _packed(api, url, buckets, bounds, scripts, warc, authorities), buckets)


def leave(
    api,
    url: str,
    node: str,
    invocation: str,
    shutdown: str,
    drop: str,
    to: str,
    expires: float,
    bucket: int = 1_000_000,
    sizes: list[int] | None = None,
    scripts: bool = False,
    warc: bool = False,
    authorities: str | None = None,
    conclave: str | None = None,
) -> None:
    """Fetches one page as `page` does, and leaves it in a Dropbox on another node, so that its client need not wait for it.

    The input is the Dropbox to install there, as a bundle, under the client's own tokens. What is left is padded as `page` says and then encrypted to
    `to` (`age1…`): its size tells neither node, nor whoever watches the client fetch it, which page it is. `drop`, `expires`: as Dropbox
    takes them. `conclave`: where the other node is a conclave, which are accepted.
    """
    # Imported only now: `page`, which is what most invocations run, needs none of them.
    import hashlib
    import io

    buckets = sizes if sizes else bucket
    pad.size(ERROR_BYTES, buckets)
    # First of all: a node that does not take it is told before anything is fetched.
    dropbox = api.nodes.install(node, _files(api.input.read()), invocation, shutdown, conclave)
    payload = _packed(api, url, buckets, Bounds(), scripts, warc, authorities)
    whole = io.BytesIO()
    pad.write_padded(_Whole(whole), payload, buckets)
    del payload
    with api.seal(to, whole.getvalue()) as sealed:
        content = sealed.read()
    del whole
    with dropbox.invoke("drop", input=content, drop=drop, size=len(content), expires=expires) as kept:
        told = json.loads(kept.read())
    if told["sha256"] != hashlib.sha256(content).hexdigest():
        raise OSError("the Dropbox keeps something else than it was given")
    api.output.write(json.dumps({"bytes": len(content)}).encode())


class _Whole:
    """Stands for an output where the bytes are wanted themselves."""

    def __init__(self, file) -> None:
        self.write = file.write

    def length(self, count: int) -> None:
        """There is nobody to tell."""


def _files(bundle: bytes) -> dict[str, bytes]:
    import io
    import tarfile

    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}


def _packed(api, url: str, buckets: "int | list[int]", bounds: Bounds, scripts: bool, warc: bool, authorities: str | None) -> bytes:
    """The payload, short enough for the largest padded size."""
    # Before anything is fetched: an argument that makes padding impossible must not depend on what the page is.
    smallest = pad.size(ERROR_BYTES, buckets)
    payload = _visited(api, url, bounds, scripts, warc, authorities)
    try:
        if pad.size(payload, buckets) > max(RESULT_BYTES, smallest):
            raise pad.TooLarge
    except pad.TooLarge:
        payload = _error(url, f"the packed page has {len(payload)} bytes, more than the largest padded size holds")
    return payload


def _visited(api, url: str, bounds: Bounds, scripts: bool, warc: bool, authorities: str | None) -> bytes:
    begun = None
    try:
        address = urls.tidy(str(url))
        if "://" not in address.partition("?")[0]:
            address = "https://" + address
        if urls.scheme(address) not in ("http", "https"):
            raise Trouble("only addresses with http: or https: can be fetched")
        address = urls.normal(address)
        archive = archives.Archive(address) if warc else None
        begun = fetcher = Fetcher(api, bounds, address, archive, authorities)
        visit = Visit(fetcher, bounds, scripts)
        html = visit.page()
        missing = visit.missing()
        header = {"url": visit.url, "status": visit.status, "title": visit.title, "fetched": fetcher.count, "bytes": fetcher.bytes,
                  "missing": missing}
        return _payload(header, html + show.missing(missing).encode("utf-8", "replace"), archive.finish() if archive else b"")
    except (Trouble, urls.BadUrl) as error:
        return _error(url, str(error))
    except MemoryError:
        return _error(url, "the page needs more memory than the function has")
    except Exception as error:
        # Whatever fails must leave with the promised size: an observer would see the difference.
        return _error(url, f"the browser failed: {type(error).__name__}: {error}")
    finally:
        if begun is not None:
            begun.close()


def _error(url: str, text: str) -> bytes:
    """The payload of a page that could not be fetched. Short, so that every allowed size holds it."""
    return _payload({"outcome": "error", "error": text[:400], "url": str(url)[:400]}, b"", b"")


def _payload(header: dict, html: bytes, archive: bytes) -> bytes:
    known = {"outcome": "page", "error": None, "url": "", "status": 0, "title": "", "html": len(html), "warc": len(archive),
             "fetched": 0, "bytes": 0, "missing": []}
    # In ASCII: the line then ends at the first line feed for every reader.
    return json.dumps(known | header).encode() + b"\n" + html + archive
