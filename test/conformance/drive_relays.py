"""Drives relays and power strips of the exporter through the Python clients of their drivers.

usage: drive_relays.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

from driving import drive, raises
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented


def energenie(client):
    client.outlet.on()
    client.outlet.cycle(wait=0)
    client.outlet.off()
    raises(DriverMethodNotImplemented, "no meter", lambda: list(client.outlet.read()))
    raises(DriverError, "refuses the login", client.stranger.on)


def noyito(client):
    assert client.both.status() == "off"
    client.one.on()
    assert client.one.status() == "on"
    assert client.two.status() == "off"
    assert client.both.status() == "partial"
    client.both.on()
    assert client.both.status() == "on"
    client.both.cycle(wait=0)
    client.two.off()
    raises(DriverMethodNotImplemented, "no meter", lambda: list(client.one.read()))
    raises(DriverError, "NOYITO relay at", client.missing.status)


def usb(client):
    """DUTLink, YKUSH and NOYITO HID boards: for the virtual machine."""
    client.board.power.on()
    reading = next(client.board.power.read())
    assert reading.voltage == 5.1 and reading.current == 0.5, reading
    client.board.power.rescue()
    client.board.power.off()
    client.board.storage.host()
    client.board.storage.dut()
    with client.board.console.pexpect() as console:
        console.send("\x02" * 5)
        console.send("about\r\n")
        console.expect("Jumpstarter test-harness", timeout=60)
    client.hub.off()
    client.hub.on()
    client.relay.on()
    assert client.relay.status() == "on"
    client.relay.off()
    assert client.relay.status() == "off"


if __name__ == "__main__":
    drive(globals())
