"""Text to terms: one analyser for titles and queries, so that both speak the same language.

Numbers become decimals ("1-1/2", "1 1/2" and "1.5" are one term), units get one name (`12"`,
"12in." and "12 inches" are "12 in"), products of sizes a shape ("2 in. x 4 in." and "2x4" share
"2x4"), words are stemmed. What is not understood stays as it is written.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import Stemmer

MAX_TERMS = 256  # of one text; longer ones are cut, they are not titles or queries

_UNITS = {
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yds yard yards",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "gal": "gal gals gallon gallons",
    "qt": "qt qts quart quarts",
    "pt": "pt pts pint pints",
    "oz": "oz ounce ounces",
    "lb": "lb lbs pound pounds",
    "kg": "kg kilogram kilograms",
    "ml": "ml milliliter milliliters",
    "l": "liter liters litre litres",
    "volt": "v volt volts",
    "watt": "w watt watts",
    "amp": "amp amps ampere amperes",
    "hp": "hp horsepower",
    "btu": "btu btus",
    "gauge": "ga gauge",
    "pack": "pk pack packs",
    "piece": "pc pcs piece pieces",
    "degree": "deg degree degrees",
    "light": "light lights lt",
    "sq": "sq square",
    "cu": "cu cubic",
    "cfm": "cfm",
    "gpm": "gpm",
    "gpf": "gpf",
    "psi": "psi",
    "grit": "grit",
    "ct": "ct count",
    "ton": "ton tons",
}
UNITS = {name: unit for unit, names in _UNITS.items() for name in names.split()}
# too short to be a unit unless it stands right behind a number
_TIGHT = {"v", "w", "m", "l"}
STOP = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "if", "in", "into",
     "is", "it", "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there",
     "these", "they", "this", "to", "was", "will", "with", "w"}
)  # fmt: skip
_FRACTIONS = {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3",
              "⅛": " 1/8", "⅜": " 3/8", "⅝": " 5/8", "⅞": " 7/8"}  # fmt: skip
_NUMBER = r"\d+(?:,\d{3})+(?:\.\d+)?|\d+[- ]\d{1,2}/\d{1,2}(?!\d)|\d+/\d+|\d*\.\d+|\d+"
_PIECE = re.compile(rf"(?P<number>{_NUMBER})|(?P<word>[^\W\d_]+)|(?P<mark>['\"])|(?P<other>\S)")
_TOKEN = re.compile(r"[^\s,;:!?()\[\]{}|*#&+=<>~^@$%\\]+")
_TIMES = re.compile(r"(?<=[\d\"'./])\s*(?:x|×)\s*(?=\.?\d)|\s+(?:×|by)\s+(?=\.?\d)")


_BREAK = re.compile(r"(?<!\d)\s(?:in|with|for|-|–)\s|[,(]", re.IGNORECASE)


@dataclass(frozen=True)
class Term:
    """One unit of meaning. `text` is what is compared; `word` is what was written."""

    text: str
    word: str
    kind: str  # word, number, unit, code (letters and digits: a model number) or join (of hyphens)


@lru_cache(maxsize=1)
def _stemmer() -> Any:  # the library is C and has no types
    return Stemmer.Stemmer("english")


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The Snowball stem of a lower-case word."""
    return _stemmer().stemWord(word)


def number(text: str) -> str:
    """A number as a plain decimal: "1-1/2" -> "1.5", ".750" -> "0.75", "1,000" -> "1000"."""
    whole, _, rest = text.replace(" ", "-").partition("-")
    try:
        value = sum(_part(piece) for piece in (whole, rest) if piece)
    except (ValueError, ZeroDivisionError):
        return text
    if not rest and "/" in whole and value >= 1:
        return text  # "10/2" is a kind of wire, not five
    return f"{value:.4f}".rstrip("0").rstrip(".") if value < 1e9 else text


def _part(piece: str) -> float:
    top, slash, bottom = piece.replace(",", "").partition("/")
    return float(top) / float(bottom) if slash else float(top)


def clean(text: str) -> str:
    """Lower case, plain quotes and fractions, no HTML, sizes joined by " x "."""
    text = html.unescape(html.unescape(text))
    for sign, plain in _FRACTIONS.items():
        text = text.replace(sign, plain)
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"[’‘`´′]", "'", text)
    text = re.sub(r"[“”″]|''", '"', text)
    return re.sub(r"(?<=[a-z])'s\b", "", text)


def terms(text: str) -> list[Term]:
    """The terms of a text, in its order."""
    found: list[Term] = []
    cleaned = _TIMES.sub(" x ", clean(text[:4000]))
    # a mixed number may hold a blank; glue it, so that it stays one token
    cleaned = re.sub(r"(?<![\d/.])(\d{1,3}) (\d{1,2}/\d{1,2})(?![\d/])", r"\1-\2", cleaned)
    for match in _TOKEN.finditer(cleaned):
        _token(match.group().lstrip("-/'\"").rstrip("-/."), found)
        if len(found) >= MAX_TERMS:
            break
    return found[:MAX_TERMS]


def _token(token: str, found: list[Term]) -> None:
    pieces = [(m.lastgroup or "", m.group()) for m in _PIECE.finditer(token)]
    if not pieces:
        return
    bare = "".join(text for kind, text in pieces if kind in ("number", "word"))
    letters = any(kind == "word" for kind, _ in pieces)
    digits = any(kind == "number" for kind, _ in pieces)
    hyphens = "-" in token
    measured = digits and _measured(pieces)
    if letters and digits and not hyphens and not measured and "/" not in token:
        # "t9", "eb5205p", "r19": a code, compared whole
        found.append(Term(bare, token, "code"))
        return
    for at, (kind, piece) in enumerate(pieces):
        if kind == "number":
            found.append(Term(number(piece), piece, "number"))
        elif kind == "mark":
            if found and found[-1].kind == "number":
                found.append(Term("in" if piece == '"' else "ft", piece, "unit"))
        elif kind == "word":
            _word(piece, found, tight=at > 0)
    if hyphens and letters and not measured and len(bare) <= 24:
        # "pop-up" is also written "popup", "r-19" also "r19"
        found.append(Term(bare if digits else stem(bare), token, "join"))


def _measured(pieces: list[tuple[str, str]]) -> bool:
    """Whether letters only name the unit of the number before them: "5gal", "12v", '6"'."""
    return all(
        kind != "word" or (at > 0 and pieces[at - 1][0] == "number" and piece in UNITS)
        for at, (kind, piece) in enumerate(pieces)
    )


def _word(word: str, found: list[Term], tight: bool) -> None:
    after_number = bool(found) and found[-1].kind == "number"
    unit = UNITS.get(word)
    square = len(found) > 0 and found[-1].text in ("sq", "cu")
    if unit is not None and (after_number or square) and (tight or word not in _TIGHT):
        found.append(Term(unit, word, "unit"))
    elif word == "x" or word not in STOP:
        found.append(Term(word if word == "x" else stem(word), word, "word"))


def shapes(given: list[Term]) -> list[str]:
    """Sizes joined by x, without units: "2 in. x 4 in. x 8 ft." -> "2x4", "4x8"."""
    numbers: list[str | None] = []
    for term in given:
        if term.kind == "number":
            numbers.append(term.text)
        elif term.text == "x":
            numbers.append(None)
        elif term.kind != "unit" and not (
            term.kind == "word" and term.text in ("w", "h", "l", "d")
        ):
            numbers += [None, None]
    return [
        f"{left}x{right}"
        for left, cross, right in zip(numbers, numbers[1:], numbers[2:], strict=False)
        if left is not None and cross is None and right is not None
    ]


def measures(given: list[Term]) -> list[str]:
    """Numbers with their units: "12 in" -> "12_in"."""
    return [
        f"{left.text}_{right.text}"
        for left, right in pairwise(given)
        if left.kind == "number" and right.kind == "unit"
    ]


def head_length(text: str) -> int:
    """Terms before the first "in", "with", "for", dash, comma or bracket: what the thing is."""
    found = _BREAK.search(text)
    return len(plain(terms(text[: found.start()]))) if found else MAX_TERMS


def plain(given: list[Term]) -> list[Term]:
    """The terms that stand for themselves: no joins, no "x"."""
    return [term for term in given if term.kind != "join" and term.text != "x"]
