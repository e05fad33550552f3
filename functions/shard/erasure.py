"""Erasure codes: a stripe of a file becomes pieces of one size, of which any `k` rebuild it.

`Rs` is Reed-Solomon from zfec: exactly any k, and at most 256 pieces. `Fountain` is RaptorQ (RFC 6330) from the package `raptorq`: pieces
without end, each a little longer than a k-th, so that k of them are enough but for about one stripe in a million; then one more is.
Neither knows of files, nodes or keys.
"""

RS_PIECES_MAX = 256
"""Most pieces of a stripe: zfec counts in bytes."""

FOUNTAIN_PIECES_MAX = 4_096
"""Most pieces of a stripe; RaptorQ has 2^24 symbols, and those before a piece are made for it."""

PIECE_BYTES_MAX = 1024 * 1024
"""Longest piece. One piece is one request to a node."""

STRIPE_BYTES_MAX = 16 * 1024 * 1024
"""Most bytes of all pieces of a stripe together: what bounds the memory."""

FOUNTAIN_STRIPE_BYTES_MAX = 4 * 1024 * 1024
"""Longest part of a file in a stripe of RaptorQ, whose time grows faster than the part."""

SYMBOL_BYTES = 1_024
"""One symbol of RaptorQ. With its number it fits into a packet; the code does not care."""

SYMBOLS_SPARE = 2
"""Symbols that k pieces have beyond what a stripe has: with two, RFC 6330 fails once in a million."""


class TooFew(Exception):
    """These pieces do not rebuild the stripe; with others, they may."""


def make(mode: str, k: int, size: int, pieces: int) -> "Rs | Fountain":
    """The code for a file of this size, of which so many pieces are made at first."""
    if mode == "rs":
        return Rs(k, size, min(PIECE_BYTES_MAX, STRIPE_BYTES_MAX // pieces))
    if mode == "fountain":
        return Fountain(k, size, min(k * PIECE_BYTES_MAX, STRIPE_BYTES_MAX // pieces * k, FOUNTAIN_STRIPE_BYTES_MAX))
    raise ValueError(f"there is no mode {mode!r}: there are rs and fountain")


def remake(mode: str, k: int, size: int, stripe: int) -> "Rs | Fountain":
    """The code that a recipe tells of."""
    if mode == "rs":
        return Rs(k, size, -(-stripe // k))
    if mode == "fountain":
        return Fountain(k, size, stripe)
    raise ValueError(f"there is no mode {mode!r}: there are rs and fountain")


def _shared(size: int, most: int) -> tuple[int, int]:
    """How many stripes of at most so many bytes a file needs, and how long they are if all are alike."""
    stripes = max(1, -(-size // most))
    return stripes, max(1, -(-size // stripes))


class Rs:
    """Reed-Solomon. Piece i of a stripe is the same whatever the number of pieces, so that more can be made later."""

    numbers = RS_PIECES_MAX

    def __init__(self, k: int, size: int, piece_max: int) -> None:
        import zfec

        self._zfec = zfec
        self._k = k
        self.stripes, stripe = _shared(size, k * piece_max)
        self.piece = -(-stripe // k)
        self.stripe = k * self.piece
        self._encoder = zfec.Encoder(k, RS_PIECES_MAX)
        self._decoder = zfec.Decoder(k, RS_PIECES_MAX)

    def encode(self, stripe: bytes, numbers: list[int]) -> list[bytes]:
        """These pieces of a stripe, which is as long as all are."""
        parts = [stripe[at : at + self.piece] for at in range(0, self.stripe, self.piece)]
        return [bytes(piece) for piece in self._encoder.encode(parts, numbers)]

    def decode(self, pieces: dict[int, bytes]) -> bytes:
        """The stripe from pieces by number."""
        if len(pieces) < self._k:
            raise TooFew
        chosen = sorted(pieces)[: self._k]
        # zfec wants a piece that is a part of the file at its own place.
        placed: list[int | None] = [None] * self._k
        others = []
        for number in chosen:
            if number < self._k:
                placed[number] = number
            else:
                others.append(number)
        order = [others.pop() if number is None else number for number in placed]
        return b"".join(self._decoder.decode([pieces[number] for number in order], order))


class Fountain:
    """RaptorQ."""

    numbers = FOUNTAIN_PIECES_MAX

    def __init__(self, k: int, size: int, stripe_max: int) -> None:
        try:
            import raptorq
        except ImportError:
            raise RuntimeError("this node's image has no package raptorq; take the mode rs, or another node") from None

        self._raptorq = raptorq
        self._k = k
        self.stripes, stripe = _shared(size, stripe_max)
        symbols = -(-stripe // SYMBOL_BYTES)
        self.stripe = symbols * SYMBOL_BYTES
        self._symbols = -(-(symbols + SYMBOLS_SPARE) // k)
        self.piece = self._symbols * SYMBOL_BYTES

    def encode(self, stripe: bytes, numbers: list[int]) -> list[bytes]:
        """These pieces of a stripe, which is as long as all are."""
        needed = (max(numbers) + 1) * self._symbols
        encoder = self._raptorq.Encoder.with_defaults(stripe, SYMBOL_BYTES + 4)
        packets = encoder.get_encoded_packets(max(0, needed - self.stripe // SYMBOL_BYTES))
        found = []
        for number in numbers:
            mine = packets[number * self._symbols : (number + 1) * self._symbols]
            found.append(b"".join(bytes(packet[4:]) for packet in mine))
        return found

    def decode(self, pieces: dict[int, bytes]) -> bytes:
        """The stripe from pieces by number."""
        decoder = self._raptorq.Decoder.with_defaults(self.stripe, SYMBOL_BYTES + 4)
        for number in sorted(pieces):
            for index in range(self._symbols):
                # Before each symbol its number: one byte for the block, of which there is one, three for the symbol.
                packet = (number * self._symbols + index).to_bytes(4, "big") + pieces[number][index * SYMBOL_BYTES : (index + 1) * SYMBOL_BYTES]
                found = decoder.decode(packet)
                if found is not None:
                    return bytes(found)
        raise TooFew
