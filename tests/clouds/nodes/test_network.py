"""A node's metadata service, its way to the cloud's API, and its way to other nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.clouds.nodes.host import Link
from tests.clouds.nodes.kit import Lab, links
from tests.clouds.nodes.metadata import Content, Request, Response

IMDS = "http://169.254.169.254"
TOKEN = f'T=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" {IMDS}/latest/api/token)'
STATUS = "curl -s -o /dev/null -w '%{http_code}\\n'"


class Echo(BaseHTTPRequestHandler):
    """Answers a POST with its body."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def echo_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_metadata_need_a_token(lab: Lab) -> None:
    printed = lab.run(
        f"{TOKEN}\n"
        f'curl -s -H "X-aws-ec2-metadata-token: $T" {IMDS}/latest/meta-data/instance-id; echo\n'
        f'{STATUS} -H "X-aws-ec2-metadata-token: $T" {IMDS}/latest/meta-data/nothing\n'
        f'{STATUS} -H "X-aws-ec2-metadata-token: made-up" {IMDS}/latest/meta-data/instance-id\n'
        f"{STATUS} {IMDS}/latest/meta-data/instance-id\n"
        f"{STATUS} -X PUT {IMDS}/latest/api/token\n"
        f'{STATUS} -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 99999" {IMDS}/latest/api/token\n'
        f'{STATUS} -X POST -H "X-aws-ec2-metadata-token: $T" {IMDS}/latest/meta-data/instance-id\n',
        metadata={"/latest/meta-data/instance-id": b"i-0123"}.get,
    )
    assert printed.split() == ["i-0123", "404", "401", "401", "400", "400", "405"]


def test_a_token_ends(lab: Lab) -> None:
    short = TOKEN.replace("60", "1")
    ask = f'{STATUS} -H "X-aws-ec2-metadata-token: $T" {IMDS}/x'
    assert lab.run(f"{short}; {ask}; sleep 1.1; {ask}", metadata=lambda _: b"x").split() == ["200", "401"]


def test_metadata_change_while_the_node_runs(lab: Lab) -> None:
    values: dict[str, bytes] = {}
    get = f'curl -sf -H "X-aws-ec2-metadata-token: $T" {IMDS}/latest/meta-data/tags/instance/go'
    lab.launch(f"{TOKEN}; {get} || echo not yet; until {get}; do sleep 0.02; done; poweroff", metadata=values.get)
    lab.until("not yet")
    values["/latest/meta-data/tags/instance/go"] = b"all of you\n"
    lab.wait()
    assert lab.printed() == "not yet\nall of you"


def test_another_metadata_protocol_can_take_its_place(lab: Lab) -> None:
    written: dict[str, bytes] = {}

    def service(content: Content) -> object:
        def answer(request: Request) -> Response:
            if request.headers.get("metadata-flavor") != "Google":
                return Response(403)
            if request.method == "PUT":
                written[request.path] = request.body
                return Response(200)
            return Response(200, content(request.path) or b"", {"Metadata-Flavor": "Google"})

        return answer

    url = f"{IMDS}/computeMetadata/v1/instance"
    printed = lab.run(
        f"{STATUS} {url}/id; G='Metadata-Flavor: Google'; curl -s -H \"$G\" '{url}/id?alt=text'; echo\n"
        f'curl -s -X PUT --data done -H "$G" {url}/guest-attributes/rankvol/state',
        metadata={"/computeMetadata/v1/instance/id": b"42"}.get,
        metadata_service=service,
    )
    assert printed.split() == ["403", "42"]
    assert written == {"/computeMetadata/v1/instance/guest-attributes/rankvol/state": b"done"}


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.170.1"])
def test_a_link_leads_to_a_port_of_this_machine(lab: Lab, echo_port: int, address: str) -> None:
    printed = lab.run(
        "head -c 5M /dev/urandom >/tmp/sent; curl -s --data-binary @/tmp/sent http://" + f"{address}:5000/ >/tmp/got\n"
        f"cmp /tmp/sent /tmp/got && echo same; {STATUS} -m 5 http://127.0.0.1:{echo_port}/ || echo $?",
        links=[Link(address, 5000, echo_port)],
    )
    assert printed.splitlines() == ["same", "000", "7"], "nothing but the link leads out"


def test_nodes_reach_each_other_by_their_addresses(lab: Lab) -> None:
    before = links()
    serve = "import socket; s=socket.create_server(('0.0.0.0', 7000)); print(s.accept()[1][0], flush=True)"
    call = "import socket; print(socket.create_connection(('10.0.0.11', 7000)).getpeername()[0])"
    lab.launch(f'python3 -uc "{serve}"; poweroff')
    lab.launch(f'until python3 -c "{call}" 2>/dev/null; do sleep 0.05; done; poweroff', "n2", "172.31.5.6")
    lab.wait("n1")
    lab.wait("n2")
    assert (lab.printed("n1"), lab.printed("n2")) == ("172.31.5.6", "10.0.0.11")
    assert links() == before


def test_nodes_of_two_hosts_do_not_meet(lab: Lab) -> None:
    other = Lab(lab.folder / "other")
    try:
        other.launch("sleep 60", address="10.0.0.12")
        connect = "timeout 1 bash -c 'exec 3<>/dev/tcp/10.0.0.12/22'; echo $?"
        assert lab.run(connect).splitlines()[-1] in {"1", "124"}
        assert "refused" not in lab.printed(), "somebody was there"
    finally:
        other.host.close()


def test_names_are_not_looked_for_outside(lab: Lab) -> None:
    assert "Could not resolve host" in lab.run("timeout 5 curl -sS http://example.com/")
