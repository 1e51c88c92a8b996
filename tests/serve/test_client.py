import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from egeunet import Segmenter
from egeunet.errors import EgeunetError, UsageError
from egeunet.inference import rle
from egeunet.serve import Client


def test_an_image_comes_back_as_each_form(service, image, tmp_path):
    client, result = Client(service.url), Segmenter()(image)
    (tmp_path / "a.jpg").write_bytes(image)
    values = client.segment(tmp_path / "a.jpg")
    assert values == client.segment(image) | {"source": str(tmp_path / "a.jpg")}
    assert (rle.decode(values["mask"]) == result.mask).all()
    assert client.mask(image).startswith(b"\x89PNG")
    assert client.overlay(image).startswith(b"\x89PNG")
    assert client.models()[0]["name"] == "isic2018"


@pytest.mark.parametrize("url", ["nonsense", "127.0.0.1:8000"])
def test_an_address_without_its_scheme_is_refused_at_once(url):
    with pytest.raises(UsageError, match="expected http://"):
        Client(url)


def test_a_batch_keeps_the_names_at_home(service, image, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(image)
    named, bare, bad = Client(service.url).segment_batch([path, image, b"no image"])
    assert (named["source"], bare["source"]) == (str(path), None)
    assert "not an image" in bad["error"]


def test_a_refusal_is_the_sentence_of_the_service(service, tmp_path):
    with pytest.raises(EgeunetError, match="not an image"):
        Client(service.url).segment(b"no image")
    with pytest.raises(EgeunetError, match=r"Cannot read .*none\.jpg"):
        Client(service.url).segment(tmp_path / "none.jpg")
    with pytest.raises(EgeunetError, match="Not Found"):
        Client(service.url + "/nowhere").models()


def test_it_asks_again_while_the_service_is_busy(start, image):
    with start("--requests", "1") as service, ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(Client(service.url, retries=20).segment, [image] * 4))
        assert all(one == answers[0] for one in answers)
        with service.stopped():
            asked = clients.submit(Client(service.url).segment, image)
            service.wait_for_open(1)
            with pytest.raises(EgeunetError, match="busy"):
                Client(service.url, retries=0).segment(image)
        assert asked.result() == answers[0]


def test_it_waits_for_a_service_that_is_not_there_yet(start, image):
    with start() as service:
        service.process.kill()
        service.process.wait()
        with pytest.raises(EgeunetError, match="does not answer"):
            Client(service.url, retries=0).models()
        answers = []
        client = Client(service.url, retries=8)
        asking = threading.Thread(target=lambda: answers.append(client.segment(image)))
        asking.start()
        with start(port=service.port):
            asking.join(60)
    assert answers[0]["width"] == 160


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
def test_an_end_under_load_and_a_new_start_lose_nothing(start, tmp_path, number, code):
    """Clients that ask again get every answer, each its own."""
    widths = range(64, 184)
    for width in widths:
        Image.new("RGB", (width, 64)).save(tmp_path / f"{width}.png")
    with start() as service, ThreadPoolExecutor(6) as clients:
        client = Client(service.url, retries=10)
        asked = [clients.submit(client.segment, tmp_path / f"{width}.png") for width in widths]
        while sum(one.done() for one in asked) < 20:
            time.sleep(0.01)
        service.process.send_signal(number)
        assert service.process.wait(60) == code
        assert not asked[-1].done(), "it ended after the load, not under it"
        with start(port=service.port):
            assert [one.result(60)["width"] for one in asked] == list(widths)


def test_a_token_is_sent(start, image):
    with start(EGEUNET_TOKEN="schlüssel") as service:
        assert Client(service.url, token="schlüssel").segment(image)["width"] == 160
        with pytest.raises(EgeunetError, match="token"):
            Client(service.url).segment(image)


def test_a_redirect_does_not_take_the_token_elsewhere(image):
    """The token went along with the redirected request, to whatever host it named."""
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(307)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            client = Client(f"http://127.0.0.1:{server.server_port}", token="secret")
            with pytest.raises(EgeunetError, match="answered 307"):
                client.models()
            client.close()
        finally:
            server.shutdown()
            serving.join()
    assert asked == [("/v1/models", "Bearer secret")]
