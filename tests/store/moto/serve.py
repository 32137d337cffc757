"""moto's S3 server, run by moto's own Python. It looks whether a key is there and writes it in two steps, so that of
two creates at once both may succeed; a real storage's create is one step. So puts wait for each other here.

    python serve.py PORT
"""

import sys
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

served = DomainDispatcherApplication(create_backend_app)
puts = Lock()


def one_put_at_once(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["REQUEST_METHOD"] != "PUT":
        return served(environ, start_response)
    with puts:
        return served(environ, start_response)


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), one_put_at_once, threaded=True)
