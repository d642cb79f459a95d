"""The colors of the report page and of every plot."""

from typing import NamedTuple


class Theme(NamedTuple):
    """Background, text and lines."""

    paper: str
    ink: str
    muted: str  # secondary text
    line: str


LIGHT = Theme("#ffffff", "#16191d", "#59616c", "#e4e7eb")
DARK = Theme("#15181c", "#eceff3", "#a0a9b5", "#2d333b")
GRAY, BLUE = "#7a8699", "#3b82f6"
SERIES = ("#d97706", BLUE, "#0d9488", "#db2777", "#8b5cf6")  # can be seen on either paper
BADGES = ("#9b1c1c", "#fde8e8"), ("#7a4a05", "#fdf3d3"), ("#14603a", "#dcf5e6")  # ink, paper
