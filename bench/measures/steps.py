"""Bytes a second over time as SVG, a line for each service. Light and dark pages alike."""

from html import escape

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 280, 56, 60, 36
STEP = 2.0
"""Seconds that one point is the mean of."""
COLOURS = ("#9aa7b5", "#c08a2d", "#6b4fa0", "#a78bdb")
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.axis{stroke:#9aa7b5;fill:none}.line{fill:none;stroke-width:1.6}@media(prefers-color-scheme:dark){text{fill:#ddd}}"


def draw(series: dict[str, list[tuple[float, int]]]) -> str:
    """Of each name: at which second how many bytes came."""
    lines = {}
    for name, came in series.items():
        values = [0.0] * (int(max(at for at, _ in came) / STEP) + 1)
        for at, count in came:
            values[int(max(0.0, at) / STEP)] += count / STEP / 1e6
        lines[name] = values
    seconds = max(map(len, lines.values())) * STEP
    most = max(max(values) for values in lines.values())
    wide, high = WIDTH - LEFT - 10, HEIGHT - TOP - BOTTOM

    def x(second: float) -> float:
        return LEFT + wide * second / seconds

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">', f"<style>{STYLE}</style>"]
    parts.append(f'<text x="{LEFT}" y="18">MB/s to all clients together, by seconds since the first came</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{TOP + high}H{WIDTH - 10}"/>')
    for part in (0, 0.5, 1):
        parts.append(f'<text x="{LEFT - 8}" y="{TOP + high * (1 - part) + 4:.1f}" text-anchor="end">{most * part:.1f}</text>')
    for second in range(0, int(seconds) + 1, 30):
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{second} s</text>')
    left = float(LEFT)
    for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
        points = " ".join(f"{x((number + 0.5) * STEP):.1f},{TOP + high * (1 - value / most):.1f}" for number, value in enumerate(values))
        parts.append(f'<polyline class="line" stroke="{colour}" points="{points}"/>')
        parts.append(f'<path d="M{left:.0f} 38h18" stroke="{colour}" stroke-width="3"/><text x="{left + 24:.0f}" y="42">{escape(name)}</text>')
        left += 44 + 7 * len(name)
    return "\n".join([*parts, "</svg>", ""])
