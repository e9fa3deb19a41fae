"""The sections of a report, and two ways to write them: Markdown, and a page for browsers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segdistill.libs.page import fill
from segdistill.utils.files import write_text


@dataclass
class Heading:
    text: str
    level: int = 2


@dataclass
class Table:
    """Cells are texts; the first columns (``texts``) to the left, the others to the right.

    totals: rows that stay below the others, however these are sorted.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    totals: Sequence[Sequence[str]] = ()
    texts: int = 1


@dataclass
class Items:
    items: Sequence[str]


@dataclass
class Code:
    """A command, as a block of its own."""

    text: str


@dataclass
class Settings:
    values: Mapping[str, object]


@dataclass
class Picture:
    """A file beside the report, in words what it shows, and as plain data with a "kind", which the page draws."""

    file: str
    title: str
    drawing: Mapping


Section = str | Heading | Table | Items | Code | Settings | Picture


def write_report(sections: Sequence[Section], folder: Path) -> None:
    """Write report.md and report.html."""
    write_text(folder / "report.md", markdown(sections) + "\n")
    page = fill(Path(__file__).with_name("report.html"), list(map(plain, sections)))
    write_text(folder / "report.html", page)


def markdown(sections: Sequence[Section]) -> str:
    return "\n\n".join(map(markdown_of, sections))


def markdown_of(section: Section) -> str:
    match section:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Table():
            return markdown_table(section)
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Code(text):
            return f"    {text}"
        case Settings(values):
            width = max(map(len, values))
            return "\n".join(["```", *(f"{key:{width}}  {value}" for key, value in values.items()), "```"])
        case Picture(file, title):
            return f"![{title}]({file})"
        case _:
            return section


def markdown_table(table: Table) -> str:
    """Padded, so that a terminal shows it well."""
    rows, texts = [*table.rows, *table.totals], table.texts
    widths = [max(3, *(len(row[i]) for row in (table.header, *rows))) for i in range(len(table.header))]
    rule = ["-" * width for width in widths]
    rule[texts:] = [f"{line[1:]}:" for line in rule[texts:]]
    aligned = [
        [row[i].ljust(widths[i]) if i < texts else row[i].rjust(widths[i]) for i in range(len(row))]
        for row in (table.header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def plain(section: Section) -> dict:
    """A section as the page's script reads it."""
    match section:
        case str():
            return {"kind": "text", "text": section}
        case Settings(values):
            return {"kind": "settings", "values": {key: str(value) for key, value in values.items()}}
        case Picture():
            return dict(section.drawing)
        case _:
            return {"kind": type(section).__name__.lower(), **asdict(section)}
