"""Attributes by rule: colour, material, size and quantities with their unit.

Rules need no labels and say the same in every shop. Quantities come in one unit a dimension
(millimetres, grams, millilitres, volts, watts, amperes, pieces), so that `12"`, `1 ft` and
`30.5 cm` are the same length to whoever compares products.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

COLOURS = {
    "black": "black", "white": "white", "red": "red", "blue": "blue", "green": "green",
    "yellow": "yellow", "gray": "gray", "grey": "gray", "brown": "brown", "orange": "orange",
    "beige": "beige", "purple": "purple", "violet": "purple", "pink": "pink", "gold": "gold",
    "golden": "gold", "silver": "silver", "ivory": "ivory", "navy": "navy", "teal": "teal",
    "turquoise": "turquoise", "magenta": "magenta", "cyan": "cyan", "burgundy": "burgundy",
    "maroon": "burgundy", "tan": "beige", "cream": "ivory", "charcoal": "gray", "bronze": "bronze",
    "clear": "clear", "transparent": "clear", "multicolor": "assorted", "assorted": "assorted",
}  # fmt: skip
MATERIALS = {
    "steel": "steel", "stainless": "steel", "aluminum": "aluminum", "aluminium": "aluminum",
    "plastic": "plastic", "vinyl": "vinyl", "wood": "wood", "wooden": "wood", "oak": "wood",
    "bamboo": "bamboo", "brass": "brass", "rubber": "rubber", "fiberglass": "fiberglass",
    "fibreglass": "fiberglass", "cotton": "cotton", "leather": "leather", "glass": "glass",
    "ceramic": "ceramic", "copper": "copper", "iron": "iron", "paper": "paper",
    "cardboard": "cardboard", "nylon": "nylon", "polyester": "polyester", "silk": "silk",
    "wool": "wool", "linen": "linen", "foam": "foam", "concrete": "concrete", "pvc": "pvc",
    "acrylic": "acrylic", "canvas": "canvas", "metal": "metal", "zinc": "zinc",
}  # fmt: skip
SIZES = {
    "xs": "XS", "small": "S", "medium": "M", "large": "L", "xl": "XL", "xxl": "XXL",
    "x-large": "XL", "xx-large": "XXL", "x-small": "XS", "extra large": "XL", "mini": "mini",
    "jumbo": "jumbo", "legal": "legal", "letter": "letter",
}  # fmt: skip


class Unit(NamedTuple):
    """`factor` of the base unit of its dimension."""

    dimension: str
    factor: float


_BASE = {
    "length": "mm", "weight": "g", "volume": "ml", "voltage": "V", "power": "W", "current": "A",
    "count": "pieces", "area": "m2", "capacity": "GB",
}  # fmt: skip
UNITS: dict[str, Unit] = {}
for _dimension, _factor, _words in (
    ("length", 25.4, 'in|inch|inches|"|″|”'),
    ("length", 304.8, "ft|foot|feet|'|′"),
    ("length", 914.4, "yd|yard|yards"),
    ("length", 1.0, "mm|millimeter|millimeters|millimetre|millimetres"),
    ("length", 10.0, "cm|centimeter|centimeters|centimetre|centimetres"),
    ("length", 1000.0, "m|meter|meters|metre|metres"),
    ("weight", 28.349523125, "oz|ounce|ounces"),
    ("weight", 453.59237, "lb|lbs|pound|pounds"),
    ("weight", 1.0, "g|gram|grams"),
    ("weight", 1000.0, "kg|kilogram|kilograms"),
    ("volume", 3785.411784, "gal|gallon|gallons"),
    ("volume", 946.352946, "qt|quart|quarts"),
    ("volume", 473.176473, "pt|pint|pints"),
    ("volume", 29.5735295625, "fl oz|fluid ounce|fluid ounces"),
    ("volume", 1.0, "ml|milliliter|milliliters|millilitre|millilitres"),
    ("volume", 1000.0, "l|liter|liters|litre|litres"),
    ("voltage", 1.0, "v|volt|volts"),
    ("power", 1.0, "w|watt|watts"),
    ("power", 745.7, "hp"),
    ("current", 1.0, "amp|amps|ampere"),
    ("count", 1.0, "pc|pcs|piece|pieces|pack|pk|count|ct|sheets|sheet|pads|pens|set"),
    ("count", 12.0, "dz|dozen"),
    ("area", 0.09290304, "sq ft|sq. ft|square feet|square foot"),
    ("capacity", 1.0, "gb|gigabyte|gigabytes"),
    ("capacity", 1000.0, "tb|terabyte|terabytes"),
):
    for _word in _words.split("|"):
        UNITS[_word] = Unit(_dimension, _factor)

_NUMBER = r"(?P<number>\d+(?:[ -]\d+/\d+|/\d+|\.\d+)?|\.\d+)"
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
# `HP 21` is a printer, not horse power; a unit stands right after its number
_QUANTITY = re.compile(rf"(?<![\w.]){_NUMBER}[ -]?(?P<unit>{_UNIT})\.?(?![\w])", re.IGNORECASE)
_PACK = re.compile(r"\b(?:pack|set|box|case|lot) of (\d+)\b|\b(\d+)/(?:pack|box|case)\b", re.I)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)?", re.IGNORECASE)


class Quantity(NamedTuple):
    """A measure in the base unit of its dimension."""

    dimension: str
    value: float

    def __str__(self) -> str:
        return f"{self.value:.4g} {_BASE[self.dimension]}"


def number(text: str) -> float:
    """`1-1/2`, `3/4`, `.5` or `12` as a number. Raises `ValueError` on a division by nought."""
    whole, _, part = text.replace("-", " ").rpartition(" ")
    try:
        return float(Fraction(part)) + (float(whole) if whole else 0.0)
    except ZeroDivisionError:
        raise ValueError(f"{text} divides by nought") from None


def quantities(text: str) -> list[Quantity]:
    """Every measure that `text` states, in the order in which it states them."""
    found: list[tuple[int, Quantity]] = []
    for match in _QUANTITY.finditer(text):
        unit = UNITS[match["unit"].lower()]
        try:
            value = number(match["number"]) * unit.factor
        except ValueError:
            continue
        found.append((match.start(), Quantity(unit.dimension, value)))
    found += [
        (match.start(), Quantity("count", float(match[1] or match[2])))
        for match in _PACK.finditer(text)
    ]
    return [quantity for _, quantity in sorted(found)]


def attributes(title: str, text: str = "") -> dict[str, str]:
    """Colour, material, size and one quantity a dimension; the title wins over the text.

    Several colours or materials are given in the order in which they stand, joined by a comma.
    """
    found: dict[str, str] = {}
    for source in (title, text):
        words = [match.group().lower() for match in _WORD.finditer(source)]
        for name, known in (("colour", COLOURS), ("material", MATERIALS)):
            values = dict.fromkeys(
                known[part] for word in words for part in (word, *word.split("-")) if part in known
            )
            if values and name not in found:
                found[name] = ", ".join(values)
        size = next((SIZES[word] for word in words if word in SIZES), None)
        if size is not None:
            found.setdefault("size", size)
        for quantity in quantities(source):
            found.setdefault(quantity.dimension, str(quantity))
    return found
