"""Links and explanations of latents, from a server that answers as Neuronpedia does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from mosaic.config.profiles import SAESpec
from mosaic.publish.neuronpedia import latent_pages

SCOPE = SAESpec(12, "16k", "gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")
PLACE = "gemma-2-2b/12-gemmascope-res-16k"


class Site(BaseHTTPRequestHandler):
    """Explains latent 5, has nothing to say of 6, and fails on 7."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        said = {"5": [{"description": "words of thanks"}], "6": []}.get(self.path.split("/")[-1])
        self.send_response(200 if said is not None else 500)
        self.end_headers()
        self.wfile.write(json.dumps({"explanations": said}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    Site.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_links_exist_for_gemma_scope_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = latent_pages(SCOPE, [55])
    assert list(found["page"]) == [f"https://www.neuronpedia.org/{PLACE}/55"]
    assert found["explanation"].isna().all()
    assert latent_pages(SAESpec(1, "256", folder="x"), [5]).isna().all(axis=None)


def test_explanations_are_asked_for_once_the_site_answers(site: str) -> None:
    found = latent_pages(SCOPE, [5, 6], site)
    assert list(found["explanation"]) == ["words of thanks", None]
    assert Site.asked == [f"/api/feature/{PLACE}/5", f"/api/feature/{PLACE}/6"]


def test_the_first_failure_ends_the_asking(site: str) -> None:
    found = latent_pages(SCOPE, [7, 5], site)
    assert found["explanation"].isna().all()
    assert found["page"].notna().all()
    assert len(Site.asked) == 1


def test_without_network_there_are_links_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = latent_pages(SCOPE, [5], "http://127.0.0.1:9")
    assert found["explanation"].isna().all()
