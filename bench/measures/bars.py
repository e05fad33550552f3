"""Bar charts as SVG: a row for each name, a column for each measure. Light and dark pages alike."""

from html import escape

NAME, BAR, GAP, ROW, HEAD = 150, 170, 70, 30, 44
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#222}.head{font-weight:600}.bar{fill:#9aa7b5}.ours{fill:#6b4fa0}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#66727f}.ours{fill:#a78bdb}}"
)


def draw(names: list[str], charts: list[tuple[str, list[float], str]]) -> str:
    """The last name is ours, and stands out. A chart is its title, a value for each name, and how to write one."""
    width, height = NAME + len(charts) * (BAR + GAP), HEAD + ROW * len(names) + 8
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">', f"<style>{STYLE}</style>"]
    for row, name in enumerate(names):
        parts.append(f'<text x="{NAME - 12}" y="{HEAD + ROW * row + 15}" text-anchor="end">{escape(name)}</text>')
    for column, (title, values, form) in enumerate(charts):
        left = NAME + column * (BAR + GAP)
        most = max(values) or 1
        parts.append(f'<text class="head" x="{left}" y="22">{escape(title)}</text>')
        for row, value in enumerate(values):
            top, length = HEAD + ROW * row, max(1.0, BAR * value / most)
            kind = "ours" if row == len(names) - 1 else "bar"
            parts.append(f'<rect class="{kind}" x="{left}" y="{top}" width="{length:.1f}" height="20" rx="2"/>')
            parts.append(f'<text x="{left + length + 6:.1f}" y="{top + 15}">{escape(form.format(value))}</text>')
    return "\n".join([*parts, "</svg>", ""])
