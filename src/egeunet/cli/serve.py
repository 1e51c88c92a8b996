"""`egeunet serve`."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.options import Threshold, Tta, Weights
from egeunet.errors import UsageError, needs_extra
from egeunet.serve.limits import Limits


def serve(
    weights: Weights = None,
    threshold: Threshold = None,
    tta: Tta = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes; by default one per core.")
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Maximum number of open requests; more get status 503.")
    ] = Limits.requests,
    max_mb: Annotated[
        float, typer.Option(min=0, help="Largest request body, in megabytes.")
    ] = Limits.body_bytes / 1e6,
    max_megapixels: Annotated[float, typer.Option(min=0, help="Largest image.")] = Limits.pixels
    / 1e6,
    max_files: Annotated[
        int, typer.Option(min=1, help="Maximum number of images in a batch.")
    ] = Limits.files,
    seconds: Annotated[
        float,
        typer.Option(min=0, help="Time for a body to arrive, and to be segmented."),
    ] = Limits.seconds,
    token: Annotated[
        list[str] | None,
        typer.Option(
            envvar="EGEUNET_TOKEN",
            show_envvar=True,
            help="Bearer token that clients must send; may be repeated. None by default.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Let pages of this origin send requests (CORS); may be repeated. None by default."
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Folder of the page served at /; by default the one in the package."),
    ] = None,
) -> None:
    r"""Segment images over HTTP: masks, overlays or JSON, one image or several per request.

    Listens on this machine only unless --host says otherwise. /docs describes the API. Images are
    kept in memory until the response is sent and never logged; the log is JSON on stderr.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet serve --port 8000

        curl --data-binary @image.jpg -H "Content-Type: image/jpeg" \
            "127.0.0.1:8000/v1/segment?format=mask" -o mask.png
    """
    if not token and "EGEUNET_TOKEN" in os.environ:
        raise UsageError("EGEUNET_TOKEN is empty: set it to a token, or unset it to need none.")
    with needs_extra("serve"):
        from egeunet.serve.app import create_app
        from egeunet.serve.middleware import configure_logging, log
        from egeunet.serve.server import run
    from egeunet.environment import count_cores
    from egeunet.inference.segmenter import Segmenter
    from egeunet.inference.weights import find_weights, weights_name

    configure_logging()  # first, so that every line of the log is JSON
    path = find_weights(weights)
    limits = Limits(
        body_bytes=int(max_mb * 1e6),
        pixels=int(max_megapixels * 1e6),
        files=max_files,
        seconds=seconds,
        requests=requests,
    )
    app = create_app(
        Segmenter(path, threshold=threshold, tta=tta),
        name=weights_name(path),
        workers=workers or count_cores(),
        limits=limits,
        tokens=token or (),
        origins=allow_origin or (),
        page=page,
    )
    if not token and not _is_local(host):
        log.warning("Anyone who can reach this address may send requests: set EGEUNET_TOKEN.")
    run(app, host, port, limits)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
