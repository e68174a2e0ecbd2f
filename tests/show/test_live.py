"""The page that is served while a sweep trains: from its files, to this machine's own address alone, and never a folder."""

import http.client
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchorbench.show.live import ADDRESS, LivePage, server


@pytest.fixture
def shown(sweep: Path) -> LivePage:
    return LivePage(sweep)


@pytest.fixture
def port(shown: LivePage) -> Iterator[int]:
    with server(shown, 0) as serving:
        thread = threading.Thread(target=lambda: serving.serve_forever(poll_interval=0.01))
        thread.start()
        yield serving.server_port
        serving.shutdown()
        thread.join()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=30)
    connection.request(method, path, headers={"Host": host or f"{ADDRESS}:{port}"})
    answer = connection.getresponse()
    content = answer.read().decode()
    connection.close()
    return answer.status, content


def test_the_page_its_version_and_its_table_are_served(port: int, shown: LivePage) -> None:
    status, page = ask(port, "/")
    assert (status, page) == (200, shown.content().decode())
    assert "connect-src 'self'" in page
    assert "4 of 4" not in page
    assert "4 runs are finished" in page
    assert ask(port, "/version") == (200, shown.version())
    assert f'"version":"{shown.version()}"' in page
    assert ask(port, "/results.csv") == (200, (shown.folder / "results.csv").read_bytes().decode())


@pytest.mark.parametrize("path", ["/runs", "/runs/", "/sweep.json", "/../sweep.json", "//etc/passwd", "/%2e%2e/", "/?x=1"])
def test_nothing_else_is_served(port: int, path: str) -> None:
    assert ask(port, path) == (404, "not found")


def test_no_other_site_is_answered(port: int) -> None:
    """A name that someone else's server points at this address is not this machine's."""
    assert ask(port, "/", host="evil.example")[0] == 403
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    assert ask(port, "/", method="POST")[0] == 501


def test_it_listens_on_this_machine_only(shown: LivePage) -> None:
    with server(shown, 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        with pytest.raises(ValueError, match=rf"port is {serving.server_port}, which cannot be used"):
            server(shown, serving.server_port)


def test_the_page_follows_the_folder(port: int, shown: LivePage) -> None:
    before = shown.version()
    assert before == shown.version()
    lost = sorted((shown.folder / "runs").iterdir())[0]
    shutil.rmtree(lost)
    assert shown.version() != before
    _, page = ask(port, "/")
    assert "3 of 4 runs are finished" in page or "3 runs are finished" in page
    assert shown.content() is shown.content()  # written once


def test_a_folder_that_is_gone_gives_one_sentence(port: int, shown: LivePage) -> None:
    shutil.rmtree(shown.folder)
    status, text = ask(port, "/")
    assert status == 500
    assert "holds no sweep" in text


def test_a_page_in_a_browser_renews_itself(browser: Any, port: int, shown: LivePage) -> None:
    context = browser.new_context()
    tab = context.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.clock.install()
    tab.goto(f"http://{ADDRESS}:{port}/")
    tab.locator("input[type=search]").fill("0.7")
    shutil.rmtree(sorted((shown.folder / "runs").iterdir())[0])
    tab.clock.run_for(6000)
    tab.locator("header p", has_text="3 ").wait_for()
    assert tab.locator("input[type=search]").input_value() == "0.7"
    assert {url.partition(f"{ADDRESS}:{port}")[2] for url in asked} == {"/", "/version"}
    context.close()
