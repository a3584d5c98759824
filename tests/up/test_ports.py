from __future__ import annotations

import dataclasses
import socket

import pytest

from penstock.config.types import HostPort
from penstock.errors import ConfigError
from penstock.up.options import Ports
from penstock.up.ports import check_free, choose_free


def test_chosen_ports_are_all_different_and_free() -> None:
    ports = choose_free()
    numbers = [address.port for address in dataclasses.astuple(ports) if isinstance(address, HostPort)] or [
        getattr(ports, field.name).port for field in dataclasses.fields(ports)
    ]
    assert len(set(numbers)) == len(dataclasses.fields(Ports)) == 8
    assert max(numbers) < 32_768  # not one the system gives to the next connection that goes out
    check_free(ports)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Ports)])
def test_a_busy_port_is_named_with_what_it_is_for(field: str) -> None:
    ports = choose_free()
    address = getattr(ports, field)
    with (
        socket.create_server((address.host, address.port)),
        pytest.raises(ConfigError, match=f"port {address.port} for ") as caught,
    ):
        check_free(ports)
    assert caught.value.hint
    check_free(ports)


def test_an_address_that_is_not_this_machines_is_told_from_a_busy_one() -> None:
    ports = dataclasses.replace(choose_free(), proxy=HostPort("192.0.2.1", 9))
    with pytest.raises(ConfigError, match="port 9 for the proxy cannot be had"):
        check_free(ports)


def test_connections_of_the_last_run_do_not_keep_a_port_busy() -> None:
    ports = choose_free()
    address = (ports.proxy.host, ports.proxy.port)
    with socket.create_server(address) as listener, socket.create_connection(address):
        accepted, _ = listener.accept()
        accepted.close()  # the side that closes first lingers in TIME_WAIT
    check_free(ports)
