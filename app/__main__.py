"""Start the board: `python -m app --port 7860 --workspace workspace`.

Options may come from the environment (PORT, WORKSPACE, ALLOW). It serves 127.0.0.1 unless a password is set, and
answers a mistake with a sentence and exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import gc
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

LOOPBACK = "127.0.0.1"
USER = "tuneboard"


class Refused(Exception):
    """The board cannot start like this; the text says why and what to do."""


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked for; `allow` are the folders outside the workspace that the page may read."""
    parser = argparse.ArgumentParser(prog="tuneboard", description="A no-code board for fine-tuning language models.")
    parser.add_argument("--port", default=os.environ.get("PORT") or "7860", help="also PORT=; default 7860")
    parser.add_argument("--workspace", default=os.environ.get("WORKSPACE") or "workspace", help="also WORKSPACE=")
    parser.add_argument("--host", default=LOOPBACK, help="any other than 127.0.0.1 needs TUNEBOARD_PASSWORD")
    parser.add_argument(
        "--allow", nargs="*", default=None, metavar="DIR", help="further folders to read; also ALLOW=a:b"
    )
    given = parser.parse_args(argv)
    if not str(given.port).isdigit() or not 1 <= int(given.port) <= 65535:
        raise Refused(f"{given.port} is not a port. Give a number from 1 to 65535: PORT=7861.")
    given.port = int(given.port)
    given.workspace = Path(given.workspace).expanduser().resolve()
    named = given.allow if given.allow is not None else os.environ.get("ALLOW", "").split(os.pathsep)
    given.allow = [Path(name).expanduser().resolve() for name in named if name]
    for folder in given.allow:
        if not folder.is_dir():
            raise Refused(f"There is no folder {folder} to allow. Correct ALLOW= or --allow.")
    given.password = os.environ.get("TUNEBOARD_PASSWORD", "")
    if not _is_loopback(given.host) and not given.password:
        raise Refused(
            f"{given.host} can be reached from other machines, and whoever reaches the board can run programs on this "
            "one. Set TUNEBOARD_PASSWORD first, or leave --host away."
        )
    return given


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def claim(host: str, port: int) -> None:
    """Raise Refused when the port cannot be had; looked at before the slow part of starting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                why = f"Port {port} is taken by another program, perhaps another board."
            else:
                why = f"Port {port} of {host} cannot be used: {problem.strerror}."
            raise Refused(f"{why} Choose another one: PORT={port + 1 if port < 65535 else 7861}.") from None


def prepare(workspace: Path) -> None:
    """Make the workspace, and keep what gradio and matplotlib write inside it."""
    try:
        for name in ("runs", "datasets", "models", "exports", "cache"):
            (workspace / name).mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise Refused(
            f"{workspace} cannot be the workspace: {problem.strerror}. Choose another: WORKSPACE=..."
        ) from None
    os.environ["GRADIO_TEMP_DIR"] = str(workspace / "cache" / "page")
    os.environ["MPLCONFIGDIR"] = str(workspace / "cache" / "matplotlib")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_DEFAULT_CONCURRENCY_LIMIT"] = "8"  # said by `page.queue`, it would build the whole server anew
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        given = options(argv)
        claim(given.host, given.port)
        prepare(given.workspace)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 2

    # Hardly anything of what is made to start with is garbage; looking for it takes a fifth of the start.
    gc.disable()
    # Only now: gradio reads the environment when it is imported, and a mistake should not wait for it.
    from app import board, theme

    page = board.page(given.workspace, given.allow)
    page.launch(
        server_name=given.host,
        server_port=given.port,
        auth=(USER, given.password) if given.password else None,
        allowed_paths=[str(given.workspace / name) for name in ("runs", "exports")],
        quiet=True,
        show_error=True,
        prevent_thread_lock=True,
        _frontend=False,  # gives up when the page takes 3 s, as on a busy machine; that it answers was seen before
        **theme.launch_options(board.help_texts()),
    )
    gc.freeze()
    gc.enable()
    where = f"http://{given.host}:{given.port}"
    print(f"Tuneboard is at {where}  (workspace {given.workspace}; Ctrl-C ends the page, not the runs)", flush=True)
    page.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
