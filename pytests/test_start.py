"""What a start leaves for later, and that it comes when a plugin wants it."""

import socket
import ssl
import subprocess
import sys
import threading

import pytest
from test_tls import make_pair

MODULES = """
import sys
AT_LOAD = sorted(sys.modules)
from plugincore.baseplugin import BasePlugin

class Modules(BasePlugin):
    async def request_handler(self, **data):
        return AT_LOAD
"""

CLIENT = """
import asyncio
from plugincore.baseplugin import BasePlugin

class Client(BasePlugin):
    async def request_handler(self, port, **data):
        # ssl=True without any import of ssl: the certificate is not trusted, and the error says so.
        try:
            await asyncio.open_connection("localhost", int(port), ssl=True)
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
        import ssl
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("localhost", int(port), ssl=context)
        writer.write(b"hello\\n")
        answer = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return {"kinds": kinds, "answer": answer.decode()}

class Threads(BasePlugin):
    def request_handler(self, **data):
        from concurrent.futures import ThreadPoolExecutor
        def look():
            import ssl, asyncio.sslproto, asyncio.base_events
            # Only 3.11 and newer keep classes of `ssl` under names of their own.
            kept = getattr(asyncio.sslproto, "SSLAgainErrors", (ssl.SSLWantReadError,))
            return asyncio.base_events.ssl is ssl and asyncio.sslproto.ssl is ssl and kept[0] is ssl.SSLWantReadError
        with ThreadPoolExecutor(8) as pool:
            return [future.result() for future in [pool.submit(look) for _ in range(8)]]
"""

ARGUMENTS = """
import sys
from plugincore.baseplugin import BasePlugin

class Arguments(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.args = kwargs["prog_args"]
        self.early = ("argparse" in sys.modules, type(self.args).__module__, self.args.level, sorted(vars(self.args)))

    def request_handler(self, **data):
        shown = repr(self.args)
        import argparse
        alike = argparse.Namespace(**vars(self.args))
        is_one = isinstance(self.args, argparse.Namespace)
        return {"early": self.early, "shown": shown == repr(alike), "is_one": is_one, "alike": self.args == alike}
"""


@pytest.fixture
def echo(tmp_path):
    """The port of a TLS server that sends every line back."""
    key, certificate = make_pair(tmp_path, "echo")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.sendall(connection.recv(100))
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def environment(tmp_path):
    """An empty virtual environment: packages of the machine's Python may import what they like at each start."""
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return {"VIRTUAL_ENV": str(folder)}


def test_a_start_leaves_what_few_plugins_use_for_later(start, environment):
    loaded = start({"modules.py": MODULES}, env=environment).get("/modules").json()
    assert {"asyncio.sslproto", "pserve_runtime.runtime"} <= set(loaded)
    late = {"ssl", "argparse", "datetime", "urllib.parse", "http.cookies", "dataclasses", "zipfile"}
    # The `importlib.util` of 3.9 needs it itself.
    if sys.version_info >= (3, 10):
        late.add("importlib.abc")
    assert late.isdisjoint(loaded), late.intersection(loaded)


def test_tls_works_in_asyncio_without_any_import_of_ssl(start, environment, echo):
    answer = start({"client.py": CLIENT}, env=environment).get("/client", port=echo).json()
    assert "SSLError" in answer["kinds"], answer
    assert answer["answer"] == "hello\n"


def test_threads_that_import_ssl_at_once_find_asyncio_ready(start, environment):
    assert start({"client.py": CLIENT}, env=environment).get("/threads").json() == [True] * 8


def test_arguments_are_a_namespace_as_soon_as_somebody_looks(start, environment):
    answer = start({"arguments.py": ARGUMENTS}, env=environment).get("/arguments").json()
    assert answer["early"] == [False, "pserve_runtime.patches", "DEBUG", ["ini_file", "level", "log"]]
    assert answer["shown"] and answer["is_one"] and answer["alike"]
