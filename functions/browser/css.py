"""Style sheets with everything they refer to put into them.

Cut into tokens as CSS Syntax Level 3 does, as far as addresses need it: strings, comments, `url(`, at-rules and blocks. All
else passes through as it is. Measured: two thirds of the time of tinycss2, which is the oracle of the tests.
"""

import re
from dataclasses import dataclass
from typing import Protocol

_WHITE = " \t\r\n\f"
_TOKEN = re.compile(
    r"""(?P<comment>/\*.*?(?:\*/|\Z))
    |(?P<string>"(?:[^"\\\n\r\f]|\\(?:\r\n|.|\Z))*"?|'(?:[^'\\\n\r\f]|\\(?:\r\n|.|\Z))*'?)
    |(?P<white>[ \t\r\n\f]+)
    |(?P<cdo><!--|-->)
    |(?P<word>[@\#]?(?:[-\w]|[^\x00-\x7f]|\\[0-9a-fA-F]{1,6}(?:\r\n|[ \t\r\n\f])?|\\[^\n\r\f])+\(?)
    |(?P<sign>[{}()\[\];:,])
    |(?P<other>[^"'\s@\#\-\w\\{}()\[\];:,/<]+|.)""",
    re.S | re.X,
)
_UNQUOTED = re.compile(r"[ \t\r\n\f]*((?:[^\"'()\\ \t\r\n\f\x00-\x08\x0e-\x1f\x7f]|\\[0-9a-fA-F]{1,6}(?:\r\n|[ \t\r\n\f])?|\\[^\n\r\f])*)[ \t\r\n\f]*(?:\)|\Z)")
_QUOTE = re.compile(r"[ \t\r\n\f]*[\"']")
_BAD_URL = re.compile(r"(?:[^)\\]|\\.)*\)?", re.S)
_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})(?:\r\n|[ \t\r\n\f])?|(\r\n|[\n\r\f])|(.))", re.S)
_CLOSES = {"(": ")", "[": "]", "{": "}"}
# What a browser can use in @font-face. Of several formats it takes the first; the others are not fetched.
_FONT_FORMATS = {"woff2", "woff2-variations", "woff", "woff-variations", "truetype", "truetype-variations", "opentype",
                 "opentype-variations", "collection"}
_OLD_FONTS = (".eot", ".svg", ".svgz")
# Functions in which a string is an address.
_IMAGE_FUNCTIONS = {"image-set(", "-webkit-image-set(", "src(", "image("}


class Environment(Protocol):
    """What a style sheet needs from the page it belongs to."""

    def image(self, base: str, reference: str) -> str:
        """A CSS value for an image, such as `url("data:…")`."""

    def font(self, base: str, reference: str) -> str | None:
        """`url("data:…")` for a font, empty if it is not there yet; None if it cannot be had."""

    def imported(self, base: str, reference: str, trail: tuple[str, ...]) -> str | None:
        """An imported style sheet, packed; None if it is not there. `trail`: the sheets it is imported by."""

    def shows(self, ranges: str) -> bool:
        """False if the page has no character of this `unicode-range`."""


@dataclass
class _Token:
    kind: str
    text: str


def unescape(text: str) -> str:
    """A name or string with its escapes undone."""
    return _ESCAPE.sub(_unescaped, text) if "\\" in text else text


def _unescaped(found: re.Match) -> str:
    if found.group(1):
        code = int(found.group(1), 16)
        return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"
    return found.group(3) or ""


def unquote(text: str) -> str:
    """What a string token says."""
    ended = len(text) > 1 and text[-1] == text[0]
    return unescape(text[1:-1] if ended else text[1:])


def _tokens(source: str) -> list[_Token]:
    found, at, size = [], 0, len(source)
    while at < size:
        match = _TOKEN.match(source, at)
        kind, text = match.lastgroup, match.group()
        at = match.end()
        if kind == "word" and text[-1] == "(":
            kind = "function"
            if len(text) < 30 and unescape(text).lower() == "url(" and _QUOTE.match(source, at) is None:
                address = _UNQUOTED.match(source, at)
                if address:
                    kind, text, at = "url", unescape(address.group(1)), address.end()
                else:
                    kind, text, at = "bad", "", _BAD_URL.match(source, at).end()
        elif kind == "comment":
            # Comments are left out, but where two words would become one.
            if not found or found[-1].kind not in ("word", "other"):
                continue
            kind, text = "white", "/**/"
        elif kind == "cdo":
            continue
        found.append(_Token(kind, text))
    return found


def pack(source: str, base: str, environment: Environment, trail: tuple[str, ...] = ()) -> str:
    """A whole style sheet, with every block closed, so that more can follow it."""
    # No zero character: with one begins a mark (`marks`).
    return _Sheet(_tokens(source.replace("\x00", "\ufffd")), base, environment, trail).packed()


def pack_style(source: str, base: str, environment: Environment) -> str:
    """A `style` attribute, or a presentation attribute of SVG."""
    return _Sheet(_tokens(source), base, environment, (), inline=True).packed()


class _Sheet:
    def __init__(self, tokens: list[_Token], base: str, environment: Environment, trail: tuple[str, ...], inline: bool = False) -> None:
        self.tokens = tokens
        self.base = base
        self.environment = environment
        self.trail = trail
        self.inline = inline
        self.out: list[str] = []
        self.at = 0
        self.open: list[str] = []
        # How many of these are braces, and where the next semicolon or brace stands: looked up often.
        self.braces = 0
        self.sign_at = -1

    def packed(self) -> str:
        beginning = True
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.kind == "word" and token.text[0] == "@" and not self.inline:
                name = unescape(token.text[1:]).lower()
                if name == "charset" and not self.open:
                    self._until_semicolon()
                elif name == "import" and not self.open:
                    # Elsewhere than at the beginning an import has no effect, as little as one within a block.
                    words = self._until_semicolon()
                    if beginning:
                        self._import(words)
                elif name == "namespace":
                    self.out.append("".join(self._written(word) for word in self._until_semicolon()) + ";")
                elif name == "font-face":
                    beginning = False
                    self._font_face()
                elif name == "layer" and self._is_statement():
                    # Layers may be named between imports.
                    self.out.append("".join(map(self._written, self._until_semicolon())) + ";")
                else:
                    beginning = False
                    self._copy(token)
                continue
            if token.kind != "white":
                beginning = False
            self._copy(token)
        while self.open:
            self.out.append(_CLOSES[self.open.pop()[-1]])
        return harmless("".join(self.out))

    def _copy(self, token: _Token) -> None:
        self.at += 1
        kind, text = token.kind, token.text
        if kind == "function" or kind == "sign" and text in _CLOSES:
            name = unescape(text).lower() if kind == "function" else text
            if name == "url(":
                self._quoted_url()
                return
            self.open.append(name)
            self.braces += name == "{"
        elif kind == "sign" and text in ")]}":
            if not self.open:
                # A brace too many would end the block an importing sheet has put around this one.
                self.out.append("" if text != "}" else "\\}")
                return
            if _CLOSES[self.open[-1][-1]] != text:
                if text == "}" and self.braces:
                    # A brace ends what was left open within its block.
                    while self.open[-1] != "{":
                        self.out.append(_CLOSES[self.open.pop()[-1]])
                else:
                    return
            self.braces -= self.open.pop() == "{"
        elif kind == "url":
            self.out.append(self.environment.image(self.base, text))
            return
        elif kind == "string" and self.open and self.open[-1] in _IMAGE_FUNCTIONS:
            self.out.append(self.environment.image(self.base, unquote(text)))
            return
        self.out.append(self._written(token))

    def _written(self, token: _Token) -> str:
        kind, text = token.kind, token.text
        if kind == "white":
            return text if text == "/**/" else "\n" if "\n" in text else " "
        if kind == "url":
            return string(text, "url")
        if kind == "bad":
            return "url()"
        if kind == "string":
            return string(unquote(text))
        if kind == "other" and text[-1] == "<" and not self._next_is("="):
            return text + " "
        return text

    def _next_is(self, sign: str) -> bool:
        return self.at < len(self.tokens) and self.tokens[self.at].text.startswith(sign)

    def _quoted_url(self) -> None:
        """`url("…")`, behind its opening parenthesis."""
        address, depth = None, 1
        while self.at < len(self.tokens) and depth:
            token = self.tokens[self.at]
            self.at += 1
            if token.kind == "string" and address is None:
                address = unquote(token.text)
            elif token.kind == "function" or token.text == "(":
                depth += 1
            elif token.text == ")" and token.kind == "sign":
                depth -= 1
        self.out.append(self.environment.image(self.base, address or ""))

    def _until_semicolon(self) -> list[_Token]:
        """The rest of a statement, the at-word included, behind its semicolon."""
        begin, depth = self.at, 0
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.kind == "function" or token.kind == "sign" and token.text in _CLOSES:
                depth += 1
            elif token.kind == "sign" and token.text in ")]}":
                depth -= 1
                if depth < 0:
                    break
            elif token.text == ";" and token.kind == "sign" and depth == 0:
                self.at += 1
                return self.tokens[begin:self.at - 1]
            self.at += 1
        return self.tokens[begin:self.at]

    def _is_statement(self) -> bool:
        if self.sign_at < self.at:
            signs = (at for at in range(self.at, len(self.tokens)) if self.tokens[at].kind == "sign" and self.tokens[at].text in ";{")
            self.sign_at = next(signs, len(self.tokens))
        return self.sign_at == len(self.tokens) or self.tokens[self.sign_at].text == ";"

    def _import(self, words: list[_Token]) -> None:
        """`@import ADDRESS [layer | layer(NAME)] [supports(CONDITION)] [MEDIA]` becomes blocks around what it imports."""
        rest = words[1:]
        while rest and rest[0].kind == "white":
            rest.pop(0)
        if not rest:
            return
        first = rest.pop(0)
        if first.kind == "string":
            address = unquote(first.text)
        elif first.kind == "url":
            address = first.text
        elif first.kind == "function" and unescape(first.text).lower() == "url(" and rest and rest[0].kind != "sign":
            inside, rest = _parenthesised(rest)
            strings = [token for token in inside if token.kind == "string"]
            address = unquote(strings[0].text) if strings else ""
        else:
            return
        around: list[str] = []
        while rest and rest[0].kind == "white":
            rest.pop(0)
        if rest and rest[0].text.lower() == "layer" and rest[0].kind == "word":
            rest.pop(0)
            around.append("@layer")
        elif rest and rest[0].text.lower() == "layer(":
            inside, rest = _parenthesised(rest[1:])
            around.append("@layer " + "".join(map(self._written, inside)))
        while rest and rest[0].kind == "white":
            rest.pop(0)
        if rest and rest[0].text.lower() == "supports(":
            inside, rest = _parenthesised(rest[1:])
            around.append("@supports (" + "".join(map(self._written, inside)) + ")")
        media = "".join(map(self._written, rest)).strip()
        if media:
            around.append("@media " + media)
        sheet = self.environment.imported(self.base, address, self.trail)
        if sheet is None:
            # An empty layer still has its place in the order of layers.
            sheet = ""
        self.out.append("".join(head + "{" for head in around) + sheet + "}" * len(around) + "\n")

    def _font_face(self) -> None:
        """`@font-face { … }`: of several sources the first that a browser can use, and none at all if no text needs it."""
        begin = self.at
        self.at += 1
        while self.at < len(self.tokens) and self.tokens[self.at].kind == "white":
            self.at += 1
        if self.at >= len(self.tokens) or self.tokens[self.at].text != "{":
            self.at = begin
            self._copy(self.tokens[begin])
            return
        self.at += 1
        kept, source = [], None
        while self.at < len(self.tokens) and self.tokens[self.at].text != "}":
            words = self._until_semicolon()
            while words and words[0].kind == "white":
                words.pop(0)
            if not words:
                continue
            name = unescape(words[0].text).lower()
            colon = next((at for at, token in enumerate(words) if token.text == ":" and token.kind == "sign"), None)
            value = words[colon + 1:] if colon is not None else []
            if name == "src":
                source = value  # a later one replaces an earlier one, which was for older browsers
            else:
                if name == "unicode-range" and not self.environment.shows("".join(token.text for token in value)):
                    source, kept = None, []
                    self._skip_block()
                    return
                kept.append("".join(map(self._written, words)))
        self.at += 1
        written = self._font_source(source or [])
        if written:
            self.out.append("@font-face{" + ";".join([*kept, "src:" + written]) + "}")

    def _skip_block(self) -> None:
        while self.at < len(self.tokens) and self.tokens[self.at].text != "}":
            self._until_semicolon()
        self.at += 1

    def _font_source(self, value: list[_Token]) -> str:
        written: list[str] = []
        for words in _split(value, ","):
            first = next((token for token in words if token.kind != "white"), None)
            if first is None:
                continue
            if first.kind == "function" and unescape(first.text).lower() == "local(":
                written.append("".join(map(self._written, words)).strip())
                continue
            address = first.text if first.kind == "url" else next((unquote(t.text) for t in words if t.kind == "string"), None)
            if address is None:
                continue
            forms = _formats(words)
            if forms and not forms & _FONT_FORMATS:
                continue
            if not forms and not address[:5].lower() == "data:" and address.split("?")[0].split("#")[0].lower().endswith(_OLD_FONTS):
                continue
            packed = self.environment.font(self.base, address)
            if packed is not None:
                form = f" format({string(min(forms))})" if forms else ""
                written += [packed + form] if packed else []
                break
        return ",".join(written)


def _formats(words: list[_Token]) -> set[str]:
    """What `format(…)` names."""
    for at, token in enumerate(words):
        if token.kind == "function" and token.text.lower() == "format(":
            inside, _ = _parenthesised(words[at + 1:])
            return {unquote(t.text).lower() if t.kind == "string" else t.text.lower() for t in inside if t.kind in ("string", "word")}
    return set()


def _parenthesised(words: list[_Token]) -> tuple[list[_Token], list[_Token]]:
    """What stands before the closing parenthesis of a function, and what after it."""
    depth = 1
    for at, token in enumerate(words):
        if token.kind == "function" or token.text == "(" and token.kind == "sign":
            depth += 1
        elif token.text == ")" and token.kind == "sign":
            depth -= 1
            if depth == 0:
                return words[:at], words[at + 1:]
    return words, []


def _split(words: list[_Token], sign: str) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    depth = 0
    for token in words:
        if token.kind == "function" or token.kind == "sign" and token.text in _CLOSES:
            depth += 1
        elif token.kind == "sign" and token.text in ")]}":
            depth -= 1
        if token.text == sign and token.kind == "sign" and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def string(value: str, function: str = "") -> str:
    """A string as CSS, in which no HTML parser can see a tag."""
    written = "".join(
        f"\\{ord(character):x} " if character in "\"'\\<&" or character < " " or character == "\x7f" else character for character in value
    )
    return f'{function}("{written}")' if function else f'"{written}"'


def harmless(sheet: str) -> str:
    """A style sheet that no HTML parser can take for a tag or comment. Only escapes such as `\\<` still need it here."""
    return re.sub(r"\\?<(?=[A-Za-z/!?])", lambda _: "\\3c ", sheet)
