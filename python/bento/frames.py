"""Frames: JSON objects, one in each message between the runtime and the node (`spec/function-api.md`).

The package `json` is not imported: with `re` and `enum` behind it, it would cost 6 ms of every cold start. Its C half, `_json`,
does all the work here and needs none of these. Where an interpreter lacks that half, `json` is used after all.
"""

FRAME_BYTES_MAX = 65_536
"""Longest frame, in both directions."""


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _no_object(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} cannot be put into a frame")


try:
    from _json import encode_basestring, make_encoder, make_scanner
except ImportError:
    import json

    def _parts(value: object, _level: int) -> tuple[str, ...]:
        return (json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")),)

    def _scan(text: str, start: int) -> tuple[object, int]:
        return json.JSONDecoder(parse_constant=_no_constant).raw_decode(text, start)
else:

    class _Rules:
        """What `json.JSONDecoder` would tell the scanner."""

        strict = True
        object_hook = None
        object_pairs_hook = None
        parse_float = float
        parse_int = int
        parse_constant = staticmethod(_no_constant)

    _scan = make_scanner(_Rules)
    # Text is not escaped to ASCII: a character would then take up to twelve bytes, and 6,000 of them not fit into a frame.
    _parts = make_encoder(None, _no_object, encode_basestring, None, ":", ",", False, False, False)


def encode(frame: dict) -> bytes:
    """The bytes of a frame. Text in it must be free of lone surrogates: see `clean`."""
    return "".join(_parts(frame, 0)).encode()


def decode(data: bytes | bytearray | memoryview) -> dict:
    """The frame in these bytes; `ValueError` if there is none."""
    text = str(data, "utf-8").strip(" \t\r\n")
    try:
        frame, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("a frame is not JSON") from None
    if end != len(text) or type(frame) is not dict:
        raise ValueError("a frame is not a JSON object")
    return frame


def clean(text: str, characters: int) -> str:
    """The text as a plain `str` of at most so many characters, fit for a frame."""
    # `str`'s own methods, since the text may be of a function's subclass of `str` with methods of its own.
    kept = str.__getitem__(text, slice(0, characters + 1))
    kept = kept.encode("utf-8", "replace").decode()
    if len(kept) > characters:
        kept = kept[: characters - 1] + "…"
    return kept
