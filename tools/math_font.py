"""Cut theme/math.woff2 out of Latin Modern Math: the characters of CHARACTERS.

    apt-get download fonts-lmodern && dpkg -x fonts-lmodern_*.deb lm
    pip install fonttools brotli
    python tools/math_font.py $(find lm -name latinmodern-math.otf)

The font is under the GUST Font License, which lets a part of it be used and
asks that it not be called by the whole's name. Only whoever needs another
character runs this; the book is built from what it wrote.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FONT = ROOT / "theme" / "math.woff2"
# A browser draws the variable x as U+1D465 and γ as U+1D6FE: mathematical
# italic. U+1D455, an italic h, is not assigned: U+210E is.
ITALIC = (set(range(0x1D434, 0x1D468)) - {0x1D455}) | {0x210E}
GREEK = set(range(0x1D6FC, 0x1D717)) | {0x1D719}
PLAIN = (
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 \xa0"
    "()[]{}|+,./:=<>!;'*%-^~±·×αβγδεζηθικλμνξπρσςτυφχψωΓΔΣΩℝℓ‖′…⋯←→∂∇∑∏−∞≈≥≤≠≪≫⋅⟨⟩∈√∝∼ˆ˜¯"
)
CHARACTERS = ITALIC | GREEK | set(map(ord, PLAIN))


def cut(source):
    """Write the part of the font at `source` that has CHARACTERS."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    font = TTFont(source)
    prime = large_prime(font)
    for table in font["cmap"].tables:
        if 0x2032 in table.cmap:
            table.cmap[0x2032] = prime
    options = subset.Options(flavor="woff2", layout_features=[], hinting=False)
    options.drop_tables += ["FFTM"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=CHARACTERS)
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 3, 4, 6):
            record.string = "CourseMath"
    font.flavor = "woff2"
    font.save(FONT)
    missing = [chr(c) for c in CHARACTERS - set(font.getBestCmap())]
    print(f"{FONT.stat().st_size} bytes; not in the font: {missing}")


def large_prime(font):
    """Return the prime that is drawn for the size of an exponent.

    It belongs to the feature `ssty`, without which the part is half as large.
    """
    name = font.getBestCmap()[0x2032]
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            alternates = getattr(table, "alternates", {}) or getattr(
                table, "mapping", {}
            )
            if name in alternates:
                found = alternates[name]
                return found if isinstance(found, str) else found[0]
    raise SystemExit(f"{name} has no form for exponents in this font")


if __name__ == "__main__":
    cut(sys.argv[1])
