"""Every bound of the browser function, with its reason and unit.

Those a client may change are arguments of `page` and arrive in a `Bounds`; the rest are constants here.
"""

from dataclasses import dataclass

#: Fetches at the same time: what Firefox does to one host over HTTP/1.1, and a total that stays below the manifest's `processes`.
PER_HOST = 6
AT_ONCE = 16

#: Threads that fetch, those included that wait for the node to give up a connection nobody wants any more.
THREADS = 24

#: Connections kept open without a request. Each holds a descriptor, of which the manifest asks 128.
IDLE_CONNECTIONS = 32

#: Redirects of one resource, immediate `meta refresh` of the page included. Firefox follows 20; nobody honest needs 10.
REDIRECTS = 10

#: Bytes of one response's head, interim (1xx) heads included. Firefox stops at 384 KiB, most servers at 16 KiB.
HEAD_BYTES = 128 * 1024

#: Interim responses before the real one.
INTERIM_RESPONSES = 16

#: Decoded bytes of one document, style sheet, image or font, and of one film or sound.
DOCUMENT_BYTES = 8 * 1024 * 1024
SHEET_BYTES = 4 * 1024 * 1024
RESOURCE_BYTES = 12 * 1024 * 1024

#: Bytes of text of all documents and style sheets as packed. Nested frames and imports may repeat each other, so that
#: a small page could ask for a huge result.
TEXT_BYTES = 48 * 1024 * 1024

#: Frames within frames, and style sheets imported by style sheets.
FRAME_DEPTH = 3
IMPORT_DEPTH = 8

#: The viewport a page is packed for, in CSS pixels: Tor Browser's first window size. One density, the common one.
VIEWPORT_WIDTH = 1400
VIEWPORT_HEIGHT = 900

#: Cookies kept during one visit. Firefox keeps 180 for a site.
COOKIES = 200

#: Entries of the list of what is missing, and characters of one address in it. The count is always told.
MISSING_ENTRIES = 300
MISSING_CHARACTERS = 400

#: Longest address that is fetched. Firefox's bar stops at 64 Ki; servers at 8 Ki.
URL_CHARACTERS = 16 * 1024

#: Seconds of CPU time for one page. Below the manifest's `cpu`: a page that takes more must still leave as a padded error.
WORK_SECONDS = 40

#: Longest `srcset`, `sizes` and media condition that is read, in characters. The longest honest ones have a few thousand.
CHOICE_CHARACTERS = 256 * 1024
CONDITION_CHARACTERS = 2 * 1024

#: The largest padded result.
RESULT_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Bounds:
    """The bounds of one visit that its client may change."""

    #: Resources fetched, the page itself included.
    resources: int = 500
    #: Decoded bytes of all resources together.
    bytes: int = 24 * 1024 * 1024
    #: Seconds for everything.
    seconds: float = 60.0
    #: Seconds for one resource, its redirects included.
    resource_seconds: float = 30.0
    #: Decoded bytes of one film or sound.
    media_bytes: int = 4 * 1024 * 1024
