"""The server's worker: load the models, answer over HTTP on 127.0.0.1, and end when asked.

The routes are in `api`, the models in `roster`; here is only how they live and die.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

import uvicorn

from engine.contract.args import ServeArgs
from engine.contract.errors import ResourceError
from engine.contract.rundir import Run
from engine.report import Report, Stop

HOST = "127.0.0.1"
GOODBYE_SECONDS = 2
"""How long open connections may take to be told that the server ends."""


def run(args: ServeArgs, run: Run, report: Report, stop: Stop) -> None:
    """Serve until stopped: Stopped, raised by the signal, is the only way out."""
    with listening(args.port) as door:  # taken before minutes of loading
        # A server shares its cores: threads that spin while they wait make it many times slower beside other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from engine.serving.api import Api, Desk
        from engine.serving.roster import load

        roster = load(args, run.workspace, report.note)
        desk = Desk()
        server = uvicorn.Server(
            uvicorn.Config(
                Api(roster, desk).app(), log_config=None, access_log=False, lifespan="off", ws="none",
                server_header=False, timeout_graceful_shutdown=GOODBYE_SECONDS,
            )
        )  # fmt: skip
        # In a thread of its own, because uvicorn would put its own signal handlers in the place of ours.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            report.serving(f"http://{HOST}:{door.getsockname()[1]}")
            report.phase("serving")
            thread.join()
        finally:
            desk.close()
            server.should_exit = True
            thread.join(2 * GOODBYE_SECONDS)
    raise RuntimeError("The HTTP server ended by itself.")


def listening(port: int) -> socket.socket:
    """A socket bound to `port` of the loopback address, any free one for 0. Raises ResourceError when it is taken."""
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((HOST, port))
    except OSError as problem:
        door.close()
        if problem.errno == errno.EADDRINUSE:
            raise ResourceError(
                f"Port {port} is taken by another program.", "Set port to another one, or to 0 for any free one."
            ) from None
        if problem.errno == errno.EACCES:
            raise ResourceError(f"Port {port} may only be used by the system.", "Set port to 1024 or above.") from None
        raise
    return door
