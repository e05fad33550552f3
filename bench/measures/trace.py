"""Bytes over time as SVG, with marks for what happened meanwhile. Light and dark pages alike."""

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 220, 64, 40, 36
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}.line{fill:none;stroke:#6b4fa0;stroke-width:1.3}.page{fill:#e7c66b;opacity:.45}.axis{stroke:#9aa7b5}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.line{stroke:#a78bdb}.page{fill:#8a6d1f}.axis{stroke:#66727f}}"
)


def draw(values: list[int], step: float, marks: list[tuple[float, float]]) -> str:
    """Bytes in each interval of `step` seconds; marks are spans of seconds."""
    seconds = len(values) * step
    most = max(values) or 1
    wide, high = WIDTH - LEFT - 10, HEIGHT - TOP - BOTTOM

    def x(second: float) -> float:
        return LEFT + wide * max(0.0, min(second, seconds)) / seconds

    points = " ".join(f"{x((number + 0.5) * step):.1f},{TOP + high * (1 - value / most):.1f}" for number, value in enumerate(values))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">', f"<style>{STYLE}</style>"]
    parts.append(f'<text class="head" x="{LEFT}" y="22">kB/s to the client, on its line; marked: a page is on its way</text>')
    parts += [f'<rect class="page" x="{x(begin):.1f}" y="{TOP}" width="{x(end) - x(begin):.1f}" height="{high}"/>' for begin, end in marks]
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{TOP + high}H{WIDTH - 10}"/>')
    for part in (0, 0.5, 1):
        parts.append(f'<text x="{LEFT - 8}" y="{TOP + high * (1 - part) + 4:.1f}" text-anchor="end">{most * part / step / 1000:.0f}</text>')
    for second in range(0, int(seconds) + 1, 20):
        parts.append(f'<text x="{x(second):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{second} s</text>')
    return "\n".join([*parts, f'<polyline class="line" points="{points}"/>', "</svg>", ""])
