"""`egeunet serve`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from egeunet.cli.console import console_reporter
from egeunet.cli.options import Weights
from egeunet.errors import needs_extra
from egeunet.serve.limits import Limits


def serve(
    weights: Weights = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Photos worked on at a time; one per core by default."),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Requests taken at a time; more are answered with 503.")
    ] = Limits.requests,
    max_mb: Annotated[
        float, typer.Option(min=0, help="The largest body, in megabytes.")
    ] = Limits.body_bytes / 1e6,
    max_megapixels: Annotated[float, typer.Option(min=0, help="The largest photo.")] = Limits.pixels
    / 1e6,
    max_files: Annotated[
        int, typer.Option(min=1, help="The most photos of a batch.")
    ] = Limits.files,
    seconds: Annotated[
        float, typer.Option(min=0, help="For a request to arrive, and then to be answered.")
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
        typer.Option(help="Let pages of this origin ask (CORS); may be repeated. None by default."),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="Folder of the page served at /; by default the one in the package."),
    ] = None,
) -> None:
    """Segment photos over HTTP: masks, overlays or JSON, one photo or several a request.

    Listens on this machine alone unless --host says otherwise. /docs has the API. Photos are kept
    in memory until they are answered; logs are JSON on stderr and tell nothing of them.

    Research use only; not a medical device or a diagnosis.

    For example:

        egeunet serve --port 8000

        curl --data-binary @photo.jpg -H "Content-Type: image/jpeg"
        "127.0.0.1:8000/v1/segment?format=mask" -o mask.png
    """
    with needs_extra("serve"):
        from egeunet.serve.app import create_app
        from egeunet.serve.server import run
    from egeunet.environment import count_cores
    from egeunet.inference.segmenter import Segmenter
    from egeunet.inference.weights import find_weights, weights_name

    if not token and not _is_local(host):
        console_reporter().warn(f"everybody who reaches {host}:{port} may ask: set EGEUNET_TOKEN.")
    path = find_weights(weights)
    app = create_app(
        Segmenter(path),
        name=weights_name(path),
        workers=workers or count_cores(),
        limits=Limits(
            body_bytes=int(max_mb * 1e6),
            pixels=int(max_megapixels * 1e6),
            files=max_files,
            seconds=seconds,
            requests=requests,
        ),
        tokens=token or (),
        origins=allow_origin or (),
        page=page,
    )
    run(app, host, port, grace=2 * seconds)  # to arrive, and to be answered


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
