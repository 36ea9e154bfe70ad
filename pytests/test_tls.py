"""TLS: contract, section 9. Certificates are made here with the openssl program."""

import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import warnings
from pathlib import Path

import pytest
from conftest import BINARY, PATIENCE

HELLO = """
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        request = data['request']
        return [request.scheme, request.secure, request.url.scheme]
"""
BIG_BYTES = 20 << 20
BIG = f"""
class Big(BasePlugin):
    async def request_handler(self, **data):
        return b'x' * {BIG_BYTES}
"""
KINDS = {
    "pkcs8": ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "pkcs1": ["openssl", "genrsa", "-traditional", "2048"],
    "sec1": ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"],
}


def make_pair(folder, name, kind="sec1"):
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    key.write_bytes(subprocess.run(KINDS[kind], check=True, capture_output=True).stdout)
    request = ["openssl", "req", "-x509", "-new", "-key", key, "-subj", f"/CN={name}", "-out", certificate]
    subprocess.run([*request, "-days", "5", "-addext", "subjectAltName=IP:127.0.0.1"], check=True)
    return key, certificate


def ini_for(key, certificate):
    return f"[SSL]\nenabled=true\nkeyfile={key}\ncertfile={certificate}\n"


def resident_bytes(server):
    with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def connect(server, certificate, **settings):
    context = ssl.create_default_context(cafile=certificate)
    for name, value in settings.items():
        setattr(context, name, value)
    return http.client.HTTPSConnection("127.0.0.1", server.port, timeout=PATIENCE, context=context)


def ask(connection):
    connection.request("GET", "/hello")
    reply = connection.getresponse()
    return reply.status, reply.read()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key(start, tmp_path, kind):
    key, certificate = make_pair(tmp_path, "server", kind)
    begin = {"pkcs8": "BEGIN PRIVATE KEY", "pkcs1": "BEGIN RSA PRIVATE KEY", "sec1": "BEGIN EC PRIVATE KEY"}[kind]
    assert begin in key.read_text()
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate))
    assert "serves https://" in server.log
    assert ask(connect(server, certificate)) == (200, b'["https",true,"https"]')
    with pytest.raises(ssl.SSLError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ask(connect(server, certificate, maximum_version=ssl.TLSVersion.TLSv1_1))


def test_http_2_is_agreed_on_by_alpn(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate))
    for offered, agreed in [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)]:
        context = ssl.create_default_context(cafile=certificate)
        if offered:
            context.set_alpn_protocols(offered)
        with (
            socket.create_connection(("127.0.0.1", server.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.selected_alpn_protocol() == agreed


def test_files_that_cannot_work_stop_the_start(tmp_path):
    key, certificate = make_pair(tmp_path, "one")
    other, _ = make_pair(tmp_path, "two")
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:x", "-out", locked], check=True)
    (tmp_path / "nonsense").write_text("nonsense")
    (tmp_path / "plugins").mkdir()
    cases = [
        (ini_for(other, certificate), 1, "is not the key of the certificate"),
        (ini_for(tmp_path / "none", certificate), 1, "keyfile"),
        (ini_for(key, tmp_path / "none"), 1, "certfile"),
        (ini_for(key, tmp_path / "nonsense"), 1, "holds no PEM certificate"),
        (ini_for(tmp_path / "nonsense", certificate), 1, "holds no PEM private key"),
        (ini_for(locked, certificate), 1, "is encrypted"),
        (f"[SSL]\nenabled=true\nkeyfile={key}\n", 2, "[SSL] certfile: is missing"),
    ]
    for ini, status, message in cases:
        (tmp_path / "pserve.ini").write_text(f"[network]\nport=0\n[paths]\nplugins=plugins\n{ini}")
        ended = subprocess.run([BINARY], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (status, 1), ended.stderr
        assert message in ended.stderr


def test_renewed_files_are_taken_up_and_connections_stay(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate))
    kept = connect(server, certificate)
    assert ask(kept)[0] == 200
    old = ssl.get_server_certificate(("127.0.0.1", server.port))
    make_pair(tmp_path, "server", "pkcs8")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("every plugin is reloaded")
    while ssl.get_server_certificate(("127.0.0.1", server.port)) == old:
        pass
    assert ask(kept)[0] == 200
    assert ask(connect(server, certificate))[0] == 200
    key.write_text("broken")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("the old workers go on: .SSL. keyfile")
    assert ask(connect(server, certificate))[0] == 200


def test_a_worker_that_starts_later_has_the_certificate_of_its_set(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate))
    # A renewal that is half done.
    key.write_text("broken")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    [worker] = children.read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    server.wait_for_log(r"worker 1 \(PID \d+\) serves")
    assert ask(connect(server, certificate))[0] == 200


def test_clients_that_do_not_speak_tls(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate) + "[limits]\nhandshake_timeout=0.3")
    # One that says nothing holds nobody up, and is let go.
    silent = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    assert ask(connect(server, certificate))[0] == 200
    assert silent.recv(1) == b""
    reply = server.get("/hello")
    assert reply.status == 400 and "https://" in reply.json()["error"]
    # One that sends much gets to see the answer, too.
    reply = server.post("/hello", b"x" * (4 << 20), "text/plain")
    assert reply.status == 400 and "https://" in reply.json()["error"]
    for garbage in (
        b"\x16" + bytes(range(256)),
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x16\x03\x01\x00\x00",
        b"\x16",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(garbage)
            # An alert, or nothing; the end in any case.
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
    assert ask(connect(server, certificate))[0] == 200


def test_slow_clients_over_tls_hold_nobody_up(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    limits = "[limits]\nhandshake_timeout=60\nfirst_byte_timeout=60\nconnections=400\n"
    server = start({"hello.py": HELLO + BIG}, ini=ini_for(key, certificate) + limits)
    assert ask(connect(server, certificate))[0] == 200
    before = resident_bytes(server)
    # Half a handshake, and answers that nobody reads: they are not copied for each.
    halves = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(200)]
    for half in halves:
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
    readers = [connect(server, certificate) for _ in range(5)]
    for reader in readers:
        reader.request("GET", "/big")
        assert reader.getresponse().status == 200
    assert ask(connect(server, certificate))[0] == 200
    assert resident_bytes(server) - before < 5 * 2.5 * BIG_BYTES
    for open_one in [*halves, *readers]:
        open_one.close()


def test_a_request_head_over_tls_that_does_not_end_is_a_408(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate) + "[limits]\nheader_timeout=0.2")
    context = ssl.create_default_context(cafile=certificate)
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as slow:
        slow.sendall(b"GET /hel")
        reply = b""
        while piece := slow.recv(4096):
            reply += piece
    assert reply.startswith(b"HTTP/1.1 408 ") and b"connection: close" in reply and b'{"error":' in reply


AUTHORITY = """
[ca]
default_ca=own
[own]
database={folder}/index.txt
new_certs_dir={folder}
serial={folder}/serial
default_md=sha256
policy=any
[any]
commonName=supplied
"""


def test_an_expired_certificate_is_told(start, tmp_path):
    key, certificate = make_pair(tmp_path, "server")
    (tmp_path / "ca.cnf").write_text(AUTHORITY.format(folder=tmp_path))
    (tmp_path / "index.txt").write_text("")
    (tmp_path / "serial").write_text("01")
    request = tmp_path / "request.pem"
    subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=server", "-out", request], check=True)
    sign = ["openssl", "ca", "-batch", "-selfsign", "-notext", "-config", tmp_path / "ca.cnf", "-keyfile", key]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    subprocess.run([*sign, *dates, "-in", request, "-out", certificate], check=True, capture_output=True)
    server = start({"hello.py": HELLO}, ini=ini_for(key, certificate))
    assert "has expired on Jan  2 00:00:00 2020" in server.log
