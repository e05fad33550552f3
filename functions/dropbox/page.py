"""The page that decrypts a drop in its reader's browser: one file that asks for nothing but the drop."""

import base64
import hashlib
from pathlib import Path

_HERE = Path(__file__).parent


def html() -> bytes:
    """The page. Its policy names its own script and style by their digests, and lets nothing else in."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page = (_HERE / "page.html").read_text(encoding="utf-8")
    for mark, text in (("{policy}", policy), ("{style}", style), ("{script}", script)):
        page = page.replace(mark, text, 1)
    return page.encode()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
