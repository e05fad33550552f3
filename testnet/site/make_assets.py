#!/usr/bin/python3
"""Made the binary files of `gazette/` once; they are committed, so nobody needs to run this.

Needs Chromium (draws the scenes), ImageMagick (encodes them) and, for the fonts, fonttools with brotli and Debian's
`fonts-oldstandard`: `make_assets.py [TTF-DIRECTORY]`. Every number comes from a seed, so the pictures stay the same.
"""

import math
import random
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent / "gazette"
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]


def ridge(rng: random.Random, width: int, base: float, height: float, rough: float = 0.55) -> str:
    """A mountain line by midpoint displacement, closed below."""
    points = {0: base + rng.uniform(-1, 1) * height, 64: base + rng.uniform(-1, 1) * height}
    step, spread = 64, height
    while step > 1:
        for at in range(0, 64, step):
            points[at + step // 2] = (points[at] + points[at + step]) / 2 + rng.uniform(-1, 1) * spread / 2
        step, spread = step // 2, spread * rough
    line = " ".join(f"{at * width / 64:.1f},{points[at]:.1f}" for at in sorted(points))
    return f"{line} {width},2000 0,2000"


def sky(stops: list[str]) -> str:
    lines = "".join(f'<stop offset="{at / (len(stops) - 1):.2f}" stop-color="{colour}"/>' for at, colour in enumerate(stops))
    return f'<linearGradient id="s" x1="0" y1="0" x2="0" y2="1">{lines}</linearGradient>'


def hills(seed: int, width: int, height: int, stops: list[str], near: list[str], extra: str = "", sun: str = "") -> str:
    rng = random.Random(seed)
    layers = "".join(
        f'<polygon points="{ridge(rng, width, height * (0.48 + 0.13 * at), height * (0.16 - 0.03 * at))}" fill="{colour}"/>'
        for at, colour in enumerate(near)
    )
    return f'<defs>{sky(stops)}</defs><rect width="{width}" height="{height}" fill="url(#s)"/>{sun}{layers}{extra}'


def sea(seed: int, width: int, height: int, stops: list[str], water: list[str], extra: str) -> str:
    rng = random.Random(seed)
    level = height * 0.58
    waves = "".join(
        f'<path d="M{x:.0f} {y:.0f}q{length / 4:.0f} -3 {length / 2:.0f} 0t{length / 2:.0f} 0" stroke="#fff" '
        f'stroke-opacity="{rng.uniform(0.05, 0.4):.2f}" fill="none" stroke-width="{1 + (y - level) / 130:.1f}"/>'
        for x, y, length in ((rng.uniform(-20, width), level + 4 + (height - level) * rng.random() ** 1.6, rng.uniform(20, 140)) for _ in range(230))
    )
    return (
        f'<defs>{sky(stops)}<linearGradient id="w" x1="0" y1="0" x2="0" y2="1"><stop stop-color="{water[0]}"/>'
        f'<stop offset="1" stop-color="{water[1]}"/></linearGradient></defs><rect width="{width}" height="{height}" fill="url(#s)"/>'
        f'<rect y="{level}" width="{width}" height="{height}" fill="url(#w)"/>{waves}{extra}'
    )


def lighthouse(x: float, y: float, scale: float) -> str:
    return (
        f'<g transform="translate({x} {y}) scale({scale})"><polygon points="-260,120 -150,20 -60,-5 70,-2 190,40 330,130" fill="#2c2a33"/>'
        '<polygon points="1200,-420 26,-228 26,-206 1200,-120" fill="#fff3c4" opacity=".28"/>'
        '<polygon points="-1200,-330 -26,-228 -26,-206 -1200,-230" fill="#fff3c4" opacity=".16"/>'
        '<polygon points="-34,0 34,0 24,-190 -24,-190" fill="#efe6d8"/><polygon points="-32,-36 32,-36 30,-76 -30,-76" fill="#b5382c"/>'
        '<polygon points="-28,-112 28,-112 26,-152 -26,-152" fill="#b5382c"/><rect x="-36" y="-200" width="72" height="12" fill="#2c2a33"/>'
        '<rect x="-18" y="-236" width="36" height="36" fill="#ffe9a6"/><polygon points="-26,-236 26,-236 0,-272" fill="#2c2a33"/>'
        '<rect x="40" y="-46" width="78" height="48" fill="#d8cdbd"/><polygon points="34,-46 124,-46 79,-82" fill="#7d3028"/>'
        '<rect x="70" y="-30" width="14" height="18" fill="#ffe9a6"/></g>'
    )


def boats(seed: int, width: int, level: float, count: int) -> str:
    rng, out = random.Random(seed), []
    for at in range(count):
        x, scale = width * (at + 0.5 + rng.uniform(-0.3, 0.3)) / count, rng.uniform(0.7, 1.5)
        hull, sail = rng.choice(["#7d3028", "#243b53", "#3d5a40", "#efe6d8"]), rng.choice(["#f7efe2", "#e9c46a", "#e8dcc8"])
        out.append(
            f'<g transform="translate({x:.0f} {level + rng.uniform(10, 150):.0f}) scale({scale:.2f})"><path d="M-40 0h84l-14 20h-58z" fill="{hull}"/>'
            f'<path d="M0 -4v-96l44 92z" fill="{sail}"/><path d="M-5 -6v-80l-30 78z" fill="{sail}" opacity=".85"/>'
            f'<path d="M-34 24h70l-20 8h-36z" fill="#000" opacity=".15"/></g>'
        )
    return "".join(out)


def town(seed: int, width: int, height: int, stops: list[str], tones: list[str], light: str) -> str:
    rng, out = random.Random(seed), []
    for layer, tone in enumerate(tones):
        x = -20.0
        while x < width:
            broad, tall = rng.uniform(38, 90), height * rng.uniform(0.2, 0.5) * (1.25 - 0.28 * layer)
            top = height * (0.86 + 0.07 * layer) - tall
            out.append(f'<rect x="{x:.0f}" y="{top:.0f}" width="{broad:.0f}" height="{height}" fill="{tone}"/>')
            if rng.random() < 0.5:
                out.append(f'<polygon points="{x:.0f},{top:.0f} {x + broad:.0f},{top:.0f} {x + broad / 2:.0f},{top - rng.uniform(15, 60):.0f}" fill="{tone}"/>')
            for row in range(int(tall // 22)):
                for column in range(int(broad // 16)):
                    if rng.random() < 0.36:
                        out.append(
                            f'<rect x="{x + 6 + column * 16:.0f}" y="{top + 9 + row * 22:.0f}" width="7" height="11" fill="{light}" '
                            f'opacity="{rng.uniform(0.35, 1):.2f}"/>'
                        )
            x += broad + rng.choice([0, 0, 6, 18])
    return f'<defs>{sky(stops)}</defs><rect width="{width}" height="{height}" fill="url(#s)"/>{"".join(out)}'


def orchard(seed: int, width: int, height: int) -> str:
    rng, trees = random.Random(seed), []
    for row in range(5):
        y, size = height * (0.52 + 0.1 * row), 18 + 17 * row
        for at in range(14 - 2 * row):
            x = width * (at + 0.5) / (14 - 2 * row) + rng.uniform(-8, 8)
            trees.append(f'<rect x="{x - size / 10:.0f}" y="{y:.0f}" width="{size / 5:.0f}" height="{size:.0f}" fill="#4a3628"/>')
            for _ in range(9):
                tone = rng.choice(["#4f6d3a", "#6a8a4a", "#3f5a31", "#86a35c"])
                trees.append(f'<circle cx="{x + rng.gauss(0, size / 2.2):.0f}" cy="{y - size / 3 + rng.gauss(0, size / 3):.0f}" r="{size / 2.3:.0f}" fill="{tone}"/>')
            for _ in range(6):
                trees.append(f'<circle cx="{x + rng.gauss(0, size / 2):.0f}" cy="{y - size / 3 + rng.gauss(0, size / 3):.0f}" r="{max(2, size / 14):.0f}" fill="#c8452f"/>')
    return hills(seed, width, height, ["#9cc3d5", "#e6efe4", "#f6ecd0"], ["#b9c99a", "#93ab6d"], f'<rect y="{height * 0.55}" width="{width}" height="{height}" fill="#9db56f"/>' + "".join(trees))


def railway(seed: int, width: int, height: int) -> str:
    arches = "".join(f'<path d="M{x} {height}v-{height * 0.22:.0f}a38 38 0 0 1 76 0v{height * 0.22:.0f}z" fill="#c9b79c"/>' for x in range(20, width, 100))
    cars = "".join(
        f'<rect x="{x}" y="{height * 0.44:.0f}" width="128" height="50" rx="8" fill="#7d3028"/>'
        + "".join(f'<rect x="{x + 12 + at * 28}" y="{height * 0.44 + 10:.0f}" width="18" height="18" fill="#ffe9a6"/>' for at in range(4))
        for x in range(130, 700, 136)
    )
    extra = f'<rect y="{height * 0.56:.0f}" width="{width}" height="{height}" fill="#8a7a63"/>{arches}{cars}<rect y="{height * 0.545:.0f}" width="{width}" height="10" fill="#3b3630"/>'
    return hills(seed, width, height, ["#f2d5b8", "#f7e7cf", "#fbf3e4"], ["#b7a58c", "#9c8f77"], extra)


def type_case(seed: int, width: int, height: int) -> str:
    rng, out = random.Random(seed), []
    for row in range(6):
        for column in range(9):
            x, y = column * width / 9, row * height / 6
            out.append(f'<rect x="{x + 5:.0f}" y="{y + 5:.0f}" width="{width / 9 - 10:.0f}" height="{height / 6 - 10:.0f}" rx="4" fill="{rng.choice(["#54463a", "#4b3e33", "#5d4d3f"])}"/>')
            for _ in range(rng.randint(2, 5)):
                letter, turn = rng.choice("ABCDEFGHKLMNOPRSTWabdefghkmnrst&1270"), rng.uniform(-24, 24)
                px, py = x + rng.uniform(22, width / 9 - 30), y + rng.uniform(26, height / 6 - 18)
                out.append(
                    f'<g transform="translate({px:.0f} {py:.0f}) rotate({turn:.0f})"><rect x="-12" y="-15" width="26" height="32" fill="#2a2a2c"/>'
                    f'<rect x="-14" y="-17" width="26" height="32" fill="{rng.choice(["#a9a9ad", "#8f8f94", "#bdbdc0"])}"/>'
                    f'<text x="-1" y="7" font-family="P052" font-size="24" text-anchor="middle" fill="#222">{letter.replace("&", "&amp;")}</text></g>'
                )
    return f'<rect width="{width}" height="{height}" fill="#3a2f26"/>{"".join(out)}'


def loop(seed: int, width: int, height: int) -> str:
    rng, out = random.Random(seed), []
    for at in range(42):
        r, turn = 40 + at * 6, rng.uniform(0, 360)
        out.append(
            f'<circle cx="{width / 2}" cy="{height / 2}" r="{r}" fill="none" stroke="{rng.choice(["#c8452f", "#243b53", "#d9a441", "#efe6d8", "#5b7f77"])}" '
            f'stroke-width="{rng.choice([2, 3, 3, 5])}" stroke-dasharray="{rng.uniform(60, 900):.0f} {rng.uniform(10, 120):.0f}" '
            f'transform="rotate({turn:.0f} {width / 2} {height / 2})" stroke-linecap="round"/>'
        )
    return f'<rect width="{width}" height="{height}" fill="#1d2733"/>{"".join(out)}'


def draw(scene: str, width: int, height: int, target: Path) -> None:
    """An SVG scene as a PNG with a little grain, which a camera would have left."""
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "scene.html"
        page.write_text(f'<style>*{{margin:0}}</style><svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{scene}</svg>')
        subprocess.run([*CHROMIUM, f"--user-data-dir={place}/profile", f"--window-size={width},{max(height, 400)}", f"--screenshot={target}", str(page)], check=True, capture_output=True)
    subprocess.run(["convert", target, "-crop", f"{width}x{height}+0+0", "+repage", "-seed", "7", "-attenuate", "0.12", "+noise", "Gaussian", "-modulate", "100,88", target], check=True)


def encode(source: Path, name: str, *options: str) -> None:
    subprocess.run(["convert", source, "-strip", *options, HERE / name], check=True)


def photographs(work: Path) -> None:
    dusk, noon, dawn = ["#1f2a44", "#5d4a66", "#c96f4a", "#f0b46c"], ["#6fa8c7", "#c5dde0", "#f2ead6"], ["#3d4f73", "#b0879a", "#f2c6a0"]
    scenes = {
        "lighthouse": (sea(3, 1200, 675, dusk, ["#b8694d", "#1b2438"], lighthouse(800, 470, 1.25)), 1200, 675),
        "harbour": (sea(8, 800, 500, noon, ["#7fb0b8", "#2f5d70"], boats(8, 800, 290, 7)), 800, 500),
        "mountains": (hills(21, 800, 500, dawn, ["#8d86a3", "#645f80", "#45415f", "#2b2940"], sun='<circle cx="560" cy="190" r="46" fill="#ffe9c9"/>'), 800, 500),
        "town": (town(5, 800, 500, ["#0f1830", "#27304f", "#5a4a68"], ["#2a3152", "#1b2140", "#10142b"], "#ffd98a"), 800, 500),
        "orchard": (orchard(13, 800, 500), 800, 500),
        "railway": (railway(17, 800, 500), 800, 500),
        "type": (type_case(4, 800, 500), 800, 500),
        "loop": (loop(9, 640, 640), 640, 640),
    }
    for name, (scene, width, height) in scenes.items():
        draw(scene, width, height, work / f"{name}.png")
    encode(work / "lighthouse.png", "lighthouse-1200.jpg", "-quality", "93")
    encode(work / "lighthouse.png", "lighthouse-600.jpg", "-resize", "600x", "-quality", "86")
    encode(work / "harbour.png", "harbour.webp", "-quality", "94")
    encode(work / "harbour.png", "harbour.jpg", "-quality", "86")
    encode(work / "town.png", "town.avif", "-quality", "75")
    encode(work / "town.png", "town.jpg", "-quality", "86")
    for name in ("mountains", "orchard", "railway", "type"):
        encode(work / f"{name}.png", f"{name}.jpg", "-resize", "720x", "-quality", "93", "-interlace", "Plane")
    for number, name in enumerate(("harbour", "orchard", "railway", "mountains", "town", "type"), 1):
        encode(work / f"{name}.png", f"thumb-{number}.jpg", "-gravity", "center", "-crop", "60%x60%+0+0", "-resize", "160x100^", "-quality", "88")
    encode(work / "loop.png", "loop.png", "-resize", "440x440", "-dither", "None", "-colors", "32", "-define", "png:compression-level=9")


def small_images(work: Path) -> None:
    encode(Path("xc:#f7f1e3"), "paper.png", "-seed", "3", "-resize", "128x128!", "-attenuate", "0.05", "+noise", "Gaussian", "-colorspace", "Gray", "-auto-level", "+level-colors", "#f3ecdb,#fbf6ea", "-colors", "16")
    rng = random.Random(1)
    for number, (tone, other) in enumerate([("#243b53", "#d9a441"), ("#7d3028", "#efe6d8"), ("#3d5a40", "#e9c46a"), ("#5b4a6b", "#f2c6a0")], 1):
        head = f'<rect width="160" height="160" fill="{other}"/><circle cx="80" cy="66" r="34" fill="{tone}"/><path d="M18 160c4-52 34-58 62-58s58 6 62 58z" fill="{tone}"/>'
        if number % 2:
            head += f'<path d="M46 60c0-42 68-42 68 0 0-20-68-24-68 0z" fill="#222" opacity=".55"/><circle cx="68" cy="66" r="9" fill="none" stroke="{other}" stroke-width="3"/><circle cx="94" cy="66" r="9" fill="none" stroke="{other}" stroke-width="3"/><path d="M77 66h8" stroke="{other}" stroke-width="3"/>'
        else:
            head += f'<path d="M40 70c-6-56 86-56 80 0l-8 40c4-50-6-56-32-56s-36 8-32 56z" fill="#222" opacity=".5"/>'
        (HERE / f"columnist-{number}.svg").write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 160 160">{head}</svg>\n')
    cells = [[rng.random() < 0.82 for _ in range(13)] for _ in range(13)]
    number, squares = 0, []
    for row in range(13):
        for column in range(13):
            white = cells[row][column] if row * 13 + column <= 84 else cells[12 - row][12 - column]
            x, y = column * 22 + 2, row * 22 + 2
            squares.append(f'<rect x="{x}" y="{y}" width="22" height="22" fill="{"#fff" if white else "#222"}" stroke="#222"/>')
            if white and rng.random() < 0.2:
                number += 1
                squares.append(f'<text x="{x + 2}" y="{y + 8}" font-size="7" font-family="sans-serif">{number}</text>')
    with tempfile.TemporaryDirectory() as place:
        page = Path(place) / "grid.html"
        page.write_text(f'<style>*{{margin:0}}</style><svg xmlns="http://www.w3.org/2000/svg" width="290" height="290">{"".join(squares)}</svg>')
        subprocess.run([*CHROMIUM, f"--user-data-dir={place}/profile", "--window-size=290,290", f"--screenshot={work}/grid.png", str(page)], check=True, capture_output=True)
    encode(work / "grid.png", "crossword.png", "-colors", "16")
    frames: list[str] = []
    for at in range(8):
        turn = at * math.pi / 4
        frames += ["(", "-size", "72x72", "xc:#f7f1e3", "-fill", "none", "-stroke", "#222", "-strokewidth", "3", "-draw", "circle 36,36 36,6",
                   "-stroke", "#b5382c", "-draw", f"line 36,36 {36 + 24 * math.sin(turn):.0f},{36 - 24 * math.cos(turn):.0f}", ")"]
    subprocess.run(["convert", "-delay", "25", "-loop", "0", *frames, "-layers", "Optimize", HERE / "clock.gif"], check=True)
    for name, seed, width, height, tone in (("advert-tea", 31, 300, 250, "#3d5a40"), ("advert-hats", 32, 300, 250, "#7d3028"), ("advert-ferry", 33, 728, 90, "#243b53")):
        words = {"advert-tea": ("HOLLIS & VANE", "Teas of the Upper Coast"), "advert-hats": ("MERIDIAN", "Hats for all weathers"), "advert-ferry": ("THE 8.15 FERRY", "runs again from Monday")}[name]
        scene = hills(seed, width, height, [tone, "#efe6d8"], ["#00000022", "#00000033"]) + (
            f'<rect x="10" y="10" width="{width - 20}" height="{height - 20}" fill="none" stroke="#f7f1e3" stroke-width="2"/>'
            f'<text x="{width / 2}" y="{height / 2 - 4}" fill="#fff" font-family="P052" font-weight="bold" font-size="{30 if height > 100 else 26}" text-anchor="middle">{words[0].replace("&", "&amp;")}</text>'
            f'<text x="{width / 2}" y="{height / 2 + 24}" fill="#fff" font-family="P052" font-style="italic" font-size="17" text-anchor="middle">{words[1]}</text>'
        )
        draw(scene, width, height, work / f"{name}.png")
        encode(work / f"{name}.png", f"{name}.{'gif' if name.endswith('hats') else 'png' if name.endswith('ferry') else 'jpg'}", "-colors", "64", "-quality", "70")
    icon = '<rect width="64" height="64" rx="10" fill="#222"/><text x="32" y="49" font-family="P052" font-weight="bold" font-size="50" text-anchor="middle" fill="#f7f1e3">L</text>'
    draw(f'<g transform="scale(2.8125)">{icon}</g>', 180, 180, work / "icon.png")
    encode(work / "icon.png", "touch-icon.png", "-colors", "32")
    encode(work / "icon.png", "favicon.ico", "-resize", "32x32", "-colors", "16")


def sound() -> None:
    """A bell: a few partials that fade."""
    rate = 8000
    partials = [(523, 1.0, 2.2), (1046, 0.6, 3.0), (1318, 0.4, 3.6), (2093, 0.25, 5.0)]
    with wave.open(str(HERE / "bell.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate)
        file.writeframes(bytes(
            int(128 + 52 * sum(volume * math.exp(-fade * at / rate) * math.sin(6.28318 * tone * at / rate) for tone, volume, fade in partials))
            for at in range(3 * rate)
        ))


def fonts(directory: Path) -> None:
    """Latin subsets under another name, as the licence (OFL 1.0, reserved font name) asks for changed fonts."""
    from fontTools import subset
    from fontTools.ttLib import TTFont

    for style in ("Regular", "Italic", "Bold"):
        font = TTFont(directory / f"OldStandard-{style}.ttf")
        options = subset.Options()
        options.flavor, options.layout_features, options.hinting = "woff2", ["kern", "liga", "onum", "lnum", "smcp"], False
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=[*range(0x20, 0x7F), *range(0xA0, 0x180), *range(0x2010, 0x2040), 0x20AC, 0x2116, 0x2190, 0x2192])
        cutter.subset(font)
        for record in font["name"].names:
            if record.nameID in (1, 3, 4, 6, 16):
                record.string = str(record).replace("Old Standard", "Gazette").replace("OldStandard", "Gazette")
        font.flavor = "woff2"
        font.save(HERE / f"gazette-{style.lower()}.woff2")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        photographs(Path(scratch))
        small_images(Path(scratch))
    sound()
    if len(sys.argv) > 1:
        fonts(Path(sys.argv[1]))
