"""The sections of a report, and two ways to write them: Markdown, and a page for browsers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from segdistill.libs.page import data_uri, fill
from segdistill.utils.files import write_text

LARGEST = 4 << 20  # bytes of a picture that is put into the page; larger ones stay beside it


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
class Settings:
    values: Mapping[str, object]


@dataclass
class Picture:
    """A file beside the report, and in words what it shows.

    drawing: plain data with a "kind", that the page draws instead; None: it shows the file.
    """

    file: str
    title: str
    drawing: Mapping | None = None


Section = str | Heading | Table | Items | Settings | Picture


def write_report(sections: Sequence[Section], folder: Path) -> None:
    """Write report.md and report.html."""
    write_text(folder / "report.md", markdown(sections) + "\n")
    data = [plain(section, folder) for section in sections]
    write_text(folder / "report.html", fill(Path(__file__).with_name("report.html"), data))


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


def plain(section: Section, folder: Path) -> dict:
    """A section as the page's script reads it."""
    match section:
        case str():
            return {"kind": "text", "text": section}
        case Settings(values):
            return {"kind": "settings", "values": {key: str(value) for key, value in values.items()}}
        case Picture(file, title, None):
            content = (folder / file).read_bytes()
            address = data_uri(content, "image/png") if len(content) <= LARGEST else file
            return {"kind": "picture", "title": title, "address": address}
        case Picture(_, title, drawing):
            return {"title": title, **drawing}
        case _:
            return {"kind": type(section).__name__.lower(), **asdict(section)}
