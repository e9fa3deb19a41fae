"""Web pages that are one file: a template with data in it."""

import base64
import json
from pathlib import Path

PLACE = "{{data}}"


def fill(template: Path, data: object) -> str:
    """The text of ``template`` with plain data as JSON in the place of ``{{data}}``, inside a <script> of type
    application/json. No text of the data can end that script."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return template.read_text(encoding="utf-8").replace(PLACE, text)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address, ``kind`` such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
