"""Figures for two themes and for phones, made from the chapters' svg.

matplotlib draws each figure once, on white. A page gets two files of it, and
shows the one of its theme. In the dark one, each color has the contrast with
the dark background that it had with white. In both, letters have a contrast
of 4.5 or more. A figure is never shown so small that its letters are under
LEAST pixels: it scrolls sideways instead. Who hears the page gets the values
that were measured, in the alternative text.
"""

import colorsys
import hashlib
import re
import sys
from functools import cache
from html import escape
from math import ceil
from pathlib import Path

from docutils import nodes
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))  # Sphinx is not started from there

import figure_values  # noqa: E402

LEAST = 11  # css pixels, height of a letter with its ascender and descender
READABLE = 4.5  # contrast of letters: WCAG's AA
WHITE, DARK = "#ffffff", "#121212"  # the theme's backgrounds
PX_PER_PT = 4 / 3
COLOR = re.compile(r"#[0-9a-fA-F]{6}\b")
# matplotlib draws a text as a group of paths, with its size as the scale.
TEXT = re.compile(
    r'<g style="fill: (#[0-9a-fA-F]{6})([^>]*scale\((0\.\d+) -0\.\d+\)")>'
)
# One in black has no color of its own.
BLACK = re.compile(r'<g transform="[^"]*scale\(0\.\d+ -0\.\d+\)">')


def rgb(color):
    """Return the three parts of "#rrggbb", from 0 to 1."""
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def luminance(color):
    """Return WCAG's relative luminance of "#rrggbb"."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(color)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(color, other):
    """Return WCAG's contrast of two colors, from 1 to 21."""
    low, high = sorted([luminance(color), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@cache
def with_contrast(color, background, wanted):
    """Return the color, lighter or darker, with that contrast or nearly.

    Hue and saturation stay. It is as light as needed on a dark background,
    as dark as needed on a light one.
    """
    hue, _, saturation = colorsys.rgb_to_hls(*rgb(color))
    low, high = 0.0, 1.0
    for _ in range(20):
        lightness = (low + high) / 2
        parts = colorsys.hls_to_rgb(hue, lightness, saturation)
        found = "#" + "".join(f"{round(255 * part):02x}" for part in parts)
        # The wanted luminance, not the wanted contrast: that has two sides.
        base = luminance(background) + 0.05
        target = base * wanted if background == DARK else base / wanted
        if luminance(found) + 0.05 < target:
            low = lightness
        else:
            high = lightness
    return found


def recolor(svg, background):
    """Return the svg with the colors that this background needs."""

    def text(match):
        color, rest, _ = match.groups()
        wanted = max(contrast(color, WHITE), READABLE) if color != WHITE else 1
        if background != WHITE or contrast(color, WHITE) < wanted:
            # A little more, since a color is rounded to 8 bits.
            color = with_contrast(color, background, wanted * 1.01)
        return f'<g style="fill: {color.upper()}{rest}>'

    def black(match):
        return match[0].replace("<g", '<g style="fill: #000000"')

    def other(match):
        color = match[0]
        if background == WHITE or color.isupper():
            return color
        return (
            background
            if color == WHITE
            else with_contrast(color, background, contrast(color, WHITE))
        )

    # Paper is transparent. In upper case: done already.
    svg = svg.replace(f'style="fill: {WHITE}"', 'style="fill: none"')
    return COLOR.sub(other, TEXT.sub(text, BLACK.sub(black, svg)))


def size_of(svg):
    """Return width, height and the least legible width, in css pixels."""
    width, height = (
        float(re.search(rf'<svg[^>]*\b{side}="([\d.]+)pt"', svg)[1])
        for side in ("width", "height")
    )
    # The letters' heights in points; of exponents, that of their base.
    letters = [100 * float(scale) for scale in re.findall(r"scale\((0\.\d+) -0", svg)]
    least = LEAST / min(letters) * width if letters else 0
    return round(width * PX_PER_PT), round(height * PX_PER_PT), ceil(least)


def shown_in(nodes_of_section):
    """Yield a section's images, and the texts that its cells printed, in order."""
    for node in nodes_of_section:
        for part in node.findall(nodes.Element):
            if isinstance(part, nodes.image):
                yield part
            elif part.get("mime_type") == "text/plain":
                yield part.astext()


def say_values(app, doctree):
    """End each figure's alternative text with what the run measured."""
    for page in doctree.children:
        sections = [[n] for n in page.children if isinstance(n, nodes.section)]
        top = [n for n in page.children if not isinstance(n, nodes.section)]
        for section in [top, *sections]:
            shown = list(shown_in(section))
            images = [part for part in shown if not isinstance(part, str)]
            for image, measured in zip(images, figure_values.values(shown)):
                image["alt"] = figure_values.complete(image.get("alt", ""), measured)


def visit_image(translator, node):
    """Write a figure of a chapter; leave other images to Sphinx."""
    builder = translator.builder
    source = Path(builder.srcdir) / node["uri"]
    if source.suffix != ".svg" or node["uri"] not in builder.images:
        HTML5Translator.visit_image(translator, node)
        return
    svg = source.read_text(encoding="utf8")
    width, height, least = size_of(svg)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    name = hashlib.sha256(svg.encode()).hexdigest()[:16]
    body = []
    for theme, background in (("light", WHITE), ("dark", DARK)):
        file = f"{name}-{theme}.svg"
        place = Path(builder.outdir) / builder.imagedir / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(recolor(svg, background), encoding="utf8")
        body.append(
            f'<img class="for-{theme}" src="{builder.imgpath}/{file}" '
            f'alt="{escape(node.get("alt", ""))}" width="{width}" height="{height}" '
            f'loading="lazy" style="min-width: {least}px"/>'
        )
    translator.body.append(
        f'<div class="drawing"><div class="scroller" data-label="Figure">'
        f"{''.join(body)}</div></div>"
    )
    raise nodes.SkipNode


def depart_image(translator, node):
    """Finish an image that was left to Sphinx."""
    HTML5Translator.depart_image(translator, node)


def setup(app):
    """Draw images so."""
    app.connect("doctree-read", say_values)
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
