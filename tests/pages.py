"""HTML pages as tests see them: as text, and in a browser."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any


class Structure(HTMLParser):
    """Tags with their attributes, the text outside script and style, and whether tags close in order."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


class Watched:
    """A tab that shows the page, and what it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.tab = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        self.tab.goto(self.address)

    def column(self, number: int) -> list[str]:
        """The text of a column of the first table, of the rows that are shown."""
        script = "(rows, i) => rows.filter(row => row.offsetParent).map(row => row.cells[i].textContent.trim())"
        return self.tab.locator("table.board").first.locator("tbody tr").evaluate_all(script, number)

    def header(self, name: str) -> Any:
        return self.tab.locator("table.board").first.locator("th", has_text=name).first

    def is_quiet(self) -> bool:
        return self.said == [] and {url for url in self.requests if url != "data:,"} == {self.address}
