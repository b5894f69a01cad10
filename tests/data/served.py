"""Fixtures for tests of downloads."""

import threading
from http.server import ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from serving import PACKED, Handler, toy, web

from jepa_lab.data.sources import fetch


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    url = f"http://127.0.0.1:{httpd.server_port}"
    httpd.script = SimpleNamespace(body=PACKED, plan=["whole"], requests=[], url=url, go_on=threading.Event())
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield httpd.script
    httpd.script.go_on.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def known(server, monkeypatch):
    """The toy set, with the local server as its one source."""
    monkeypatch.setitem(fetch.DATASETS, "toy", toy(web(server.url)))
