"""The tokenizer against html5lib's, and what is written against html5lib's tree."""

import random
import time
from types import SimpleNamespace

import html5lib
import pytest
from html5lib import html5parser
from html5lib._tokenizer import HTMLTokenizer

import tokens
from tokens import Doctype, End, Raw, Start, Text

PIECES = [
    "<p>", "</p>", "<div a=1 b='2' c=\"3\">", "text", " ", "&amp;", "&lt;b&gt;", "&copy", "&notit;", "&#65;", "&#x42", "&#0;", "<", ">", "&",
    "<!-- c -->", "<!-->", "<!--->", "<!-- a --!>", "<!--", "-->", "<!doctype html>", "<!bogus>", "<?php ?>", "</ x>", "</>", "<a href=x?a=1&copy=2&lt;>",
    "<br/>", "<img/src=x>", "<x/y/z>", "<b =a ==b>", "<b a='>", "<b a=\"x>", "'", '"', "<b a = 'v' >", "<b a=v/>", "<b a=`v`>", "<b a=a'b>",
    "<script>", "</script>", "</script >", "<!--<script>", "</SCRIPT/x>", "<style>", "</style>", "a{b:c}<b>", "<title>", "</title>",
    "<textarea>", "</textarea>", "<xmp>", "</xmp>", "<svg>", "</svg>", "<math>", "</math>", "<mi>", "</mi>", "<path/>", "<foreignObject>",
    "</foreignObject>", "\n", "\t", "é", "𝄞", "<table>", "<tr>", "<td>", "</table>", "<P CLASS=Q>", "<b a=1 a=2>", "<noembed>", "</noembed>",
    "<iframe>", "</iframe>", "</p a=b>", "<b\n>", "<b\tx\n=\fy>", "<0>", "<é>", "<bé c>", "&nosuch;", "&amp=", "<i t='&amp=&lt=&gt;'>", "</", "<b",
]


class Recorder(HTMLTokenizer):
    """Writes down the tokens that html5lib's tree is built of."""

    def __iter__(self):
        Recorder.seen = []
        for token in super().__iter__():
            data = token.get("data")
            Recorder.seen.append(dict(token, data=data.copy() if hasattr(data, "copy") else data))
            yield token


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    monkeypatch.setattr(html5parser, "_tokenizer", SimpleNamespace(HTMLTokenizer=Recorder))


def oracle(source: str) -> list[tuple]:
    html5lib.parse(source)
    found: list[tuple] = []
    for token in Recorder.seen:
        kind = token["type"]
        if kind in (1, 2):  # characters
            if found and found[-1][0] == "text":
                found[-1] = ("text", found[-1][1] + token["data"])
            else:
                found.append(("text", token["data"]))
        elif kind in (3, 5):
            given: dict[str, str] = {}
            for name, value in token["data"].items() if hasattr(token["data"], "items") else token["data"]:
                given.setdefault(name, value)
            found.append(("start", token["name"], given))
        elif kind == 4:
            found.append(("end", token["name"]))
    return found


def ours(source: str) -> list[tuple]:
    found: list[tuple] = []
    for token in tokens.tokens(source):
        if isinstance(token, (Text, Raw)):
            if token.text and found and found[-1][0] == "text":
                found[-1] = ("text", found[-1][1] + token.text)
            elif token.text:
                found.append(("text", token.text))
        elif isinstance(token, Start):
            found.append(("start", token.name, token.attributes))
        elif isinstance(token, End):
            found.append(("end", token.name))
    return found


def test_it_cuts_as_html5lib_does():
    rng = random.Random(7)
    for _ in range(6000):
        source = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
        assert ours(source) == oracle(source), source


@pytest.mark.parametrize("source", ["<select><style>", "<frameset><title>"])
def test_what_depends_on_the_tree_is_not_known(source):
    """Where browsers ignore an element, its content is read as raw text here. What is written is escaped in either case."""
    assert any(isinstance(token, (Raw, Text)) for token in tokens.tokens(source + "<b>"))


def test_character_references_in_attributes_are_not_those_of_text():
    (tag,) = [token for token in tokens.tokens("<a href='?a&copy=1&lt=2&lt;&copy;&#65;&notin;&notit;'>") if isinstance(token, Start)]
    assert tag.attributes["href"] == "?a&copy=1&lt=2<©A∉&notit;"


def test_cdata_is_text_in_svg_only():
    assert ours("<svg><![CDATA[<b>]]></svg><![CDATA[<b>]]>") == [
        ("start", "svg", {}), ("text", "<b>"), ("end", "svg"), ("text", "]]>")]


def test_xhtml_closes_itself():
    assert [type(token) for token in tokens.tokens("<div/><br/><script/>x", xml=True)] == [Start, End, Start, Start, End, Text]
    assert [type(token) for token in tokens.tokens("<div/><br/>x")] == [Start, Start, Text]


def test_a_document_of_many_unclosed_things_takes_no_more_than_its_length():
    for piece in ("<!--", "<b a='", "<", "<svg>", "</", "<script>", "<title>", "<a b=", "<!", "<textarea><!--", "<![CDATA["):
        begin = time.process_time()
        list(tokens.tokens(piece * 100_000))
        assert time.process_time() - begin < 3, piece
