"""An archive of everything that was fetched, as WARC 1.1 (ISO 28500:2017; IIPC "WARC format 1.1").

Sections used: 4 (records), 5 (named fields), 6.2 warcinfo, 6.3 response, 6.5 request, annex A (a gzip member for each record).
A response record holds the bytes as they came, transfer and content encoding included.
"""

import base64
import gzip
import hashlib
import threading
import time
import uuid


class Archive:
    """Collects records; `finish` gives the file."""

    def __init__(self, page: str, compress: bool = True) -> None:
        self._compress = compress
        self._lock = threading.Lock()
        info = f"software: Bento browser function\r\nformat: WARC File Format 1.1\r\nisPartOf: {page}\r\n".encode()
        self._records = [self._record("warcinfo", "application/warc-fields", info)]

    def add(self, url: str, request: bytes, response: bytes) -> None:
        """One exchange: its response and its request, which name each other."""
        first, second = _name(), _name()
        records = [
            self._record("response", "application/http; msgtype=response", response, first, url),
            self._record("request", "application/http; msgtype=request", request, second, url, first),
        ]
        with self._lock:
            self._records += records

    def finish(self) -> bytes:
        """The archive."""
        with self._lock:
            return b"".join(self._records)

    def _record(self, kind: str, content: str, block: bytes, name: str | None = None, url: str = "", other: str = "") -> bytes:
        digest = base64.b32encode(hashlib.sha1(block).digest()).decode()
        fields = [
            ("WARC-Type", kind),
            ("WARC-Record-ID", name or _name()),
            ("WARC-Date", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())),
            ("WARC-Target-URI", url),
            ("WARC-Concurrent-To", other),
            ("WARC-Block-Digest", f"sha1:{digest}"),
            ("Content-Type", content),
            ("Content-Length", str(len(block))),
        ]
        head = "WARC/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in fields if value) + "\r\n"
        record = head.encode() + block + b"\r\n\r\n"
        return gzip.compress(record, mtime=0) if self._compress else record


def _name() -> str:
    return f"<urn:uuid:{uuid.uuid4()}>"
