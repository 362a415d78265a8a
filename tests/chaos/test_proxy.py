import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy

PATIENCE_S = 10


@pytest.fixture
def echo() -> Iterator[int]:
    """Port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(client: socket.socket) -> None:
            with client:
                try:
                    while data := client.recv(1 << 16):
                        client.sendall(data)
                except ConnectionError:
                    return

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:  # shut down
                    return
                threading.Thread(target=answer, args=[client], daemon=True).start()

        serving = threading.Thread(target=serve)
        serving.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), PATIENCE_S)


def say(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(1 << 16)


def is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        say(client, b"anybody?")
    except TimeoutError:
        return True
    return False


def test_what_is_sent_comes_back_whole_and_in_order(proxy):
    sent = bytes(range(256)) * 4096
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=[sent]).start()
        got = b""
        while len(got) < len(sent):
            got += client.recv(1 << 16)
    assert got == sent


def test_the_end_of_one_side_reaches_the_other(proxy):
    with connect(proxy) as client:
        say(client, b"hello")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""


def test_a_target_that_is_gone_ends_the_connection(echo):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with Proxy(port) as proxy, connect(proxy) as client:
        assert client.recv(1) == b""


def test_cut_resets_what_is_connected_and_refuses_the_rest_until_healed(proxy):
    port = proxy.port
    with connect(proxy) as client:
        assert say(client, b"hello") == b"hello"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert proxy.connections == 0

    proxy.heal()

    assert proxy.port == port
    with connect(proxy) as client:
        assert say(client, b"again") == b"again"


def test_stall_hangs_old_and_new_connections_and_heal_lets_through_new_ones_alone(proxy):
    with connect(proxy) as old:
        assert say(old, b"hello") == b"hello"
        proxy.stall()
        with connect(proxy) as new:
            assert is_silent(old)
            assert is_silent(new)

            proxy.heal()

            assert is_silent(old)
            assert is_silent(new)
            with connect(proxy) as later:
                assert say(later, b"hello") == b"hello"


def test_the_target_does_not_hear_of_the_end_of_a_stalled_client(proxy):
    with connect(proxy) as client:
        assert say(client, b"hello") == b"hello"
        proxy.stall()
    time.sleep(0.1)
    assert proxy.connections == 1


def test_delay_holds_back_both_ways(proxy):
    with connect(proxy) as client:
        proxy.delay(0.2)
        begun = time.monotonic()
        assert say(client, b"hello") == b"hello"
        assert time.monotonic() - begun >= 0.4

        proxy.heal()
        assert say(client, b"again") == b"again"
