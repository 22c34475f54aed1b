"""``nanofleet serve``: the fleet over HTTP, for programs that speak OpenAI's API."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from controller.cli import address, options, output, session
from controller.cli.options import Kind
from controller.cli.output import Format
from protos import extras
from protos.errors import InvalidRequest

if TYPE_CHECKING:
    from controller import Fleet
    from controller.cli.plain import Plain
    from controller.web.log import OnRequest
    from controller.web.server import Certificate

PORT = 7480


def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = f"127.0.0.1:{PORT}",
    models: Annotated[
        str, typer.Option(metavar="NAME,…", help="Which models to offer.  [default: all]")
    ] = "",
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM.")] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Listen for others without TLS.")
    ] = False,
    form: options.Output = Format.TABLE,
    home: options.Home = None,
) -> None:
    """Serve the fleet over HTTP, as OpenAI's API.

    Runs until Ctrl-C; what is being answered then is answered to its end. On a loopback address
    no key is needed until one was made (`nanofleet key add`). -o jsonl (or json) prints a line for
    each request.

    Example: nanofleet serve --listen 127.0.0.1:7480
    """
    if form is Format.YAML:
        raise InvalidRequest(
            "A log has no end, and YAML needs one.", fix="Use -o jsonl.", field="output"
        )
    try:
        from controller.web import app, server
    except ModuleNotFoundError as error:
        raise extras.missing(error, "serve") from error
    host, port = address.split(listen, PORT)
    offered = [name.strip() for name in models.split(",") if name.strip()]
    certificate = _certificate(tls_cert, tls_key)

    async def run(fleet: "Fleet") -> None:
        has_keys = fleet.any_key_made()
        server.check_reach(
            host,
            has_keys=has_keys,
            has_tls=certificate is not None,
            is_insecure_ok=insecure_http,
        )
        making = app.application(
            fleet, is_local=server.is_loopback(host), models=offered, on_request=_log(form)
        )
        async with making as service:
            with server.bound(host, port) as listening:
                url = _url(host, listening.getsockname()[1], has_tls=certificate is not None)
                ready = partial(_print_ready, fleet, url, has_keys, form)
                await server.serve(service, listening, certificate, ready)

    session.run(home, run)


def _print_ready(fleet: "Fleet", url: str, has_keys: bool, form: Format) -> None:
    if form is not Format.TABLE:
        output.line({"event": "ready", "url": url, "needs_key": has_keys})
        return
    model = next((entry.name for entry in fleet.artifacts(Kind.MODEL.number) if entry.name), "NAME")
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    key = " -H 'Authorization: Bearer KEY'" if has_keys else ""
    who = "whoever has a key" if has_keys else "this machine, without a key"
    output.text(
        f"{fleet.name} is at {url}/v1 for {who}: curl {url}/v1/chat/completions"
        f"{key} -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


def _log(form: Format) -> "OnRequest":
    if form is Format.TABLE:
        return lambda _: None
    return lambda said: output.line({"event": "request", **cast("dict[str, Plain]", said)})


def _certificate(chain: Path | None, key: Path | None) -> "Certificate | None":
    from controller.web import server

    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise InvalidRequest(
            "TLS needs a certificate and its key.",
            fix="Give both --tls-cert and --tls-key.",
            field="tls-cert",
        )
    certificate = server.Certificate(chain, key)
    certificate.check()
    return certificate


def _url(host: str, port: int, *, has_tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if has_tls else 'http'}://{shown}:{port}"
