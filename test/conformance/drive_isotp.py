"""Drives ISO-TP through the Python client, and can-isotp (the stack of the Python exporter) against the agent's own.

usage: drive_isotp.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

from os import urandom

import can
import isotp
from driving import drive, raises
from isotp import Address, AddressingMode, AsymmetricAddress


def turned(address):
    """The same connection, seen by the other node."""
    return Address(
        addressing_mode=address._addressing_mode,
        txid=address._rxid,
        rxid=address._txid,
        target_address=address._source_address,
        source_address=address._target_address,
        address_extension=address._address_extension,
    )


MODES = [
    Address(AddressingMode.Normal_11bits, txid=0x7E0, rxid=0x7E8),
    Address(AddressingMode.Normal_29bits, txid=0x18DAF1, rxid=0x18DAF2),
    Address(AddressingMode.NormalFixed_29bits, target_address=0x33, source_address=0xF1),
    Address(AddressingMode.Extended_11bits, txid=0x600, rxid=0x6F1, target_address=0x12, source_address=0xF1),
    Address(AddressingMode.Extended_29bits, txid=0x60000, rxid=0x6F100, target_address=0x12, source_address=0xF1),
    Address(AddressingMode.Mixed_11bits, txid=0x701, rxid=0x702, address_extension=0x99),
    Address(AddressingMode.Mixed_29bits, target_address=0x33, source_address=0xF1, address_extension=0x99),
]


def clients(client, addresses_of=None):
    """As upstream's own test does it: two clients of IsoTpPython, with the addresses of the configuration or others."""
    addresses = {
        "configured": (None, None),
        "symmetric": (Address(rxid=3, txid=4), Address(rxid=4, txid=3)),
        "asymmetric": (
            AsymmetricAddress(
                tx_addr=Address(rxid=5, txid=6, tx_only=True), rx_addr=Address(rxid=7, txid=8, rx_only=True)
            ),
            AsymmetricAddress(
                tx_addr=Address(rxid=8, txid=7, tx_only=True), rx_addr=Address(rxid=6, txid=5, rx_only=True)
            ),
        ),
    }
    for one, other in [(client.a, client.b), (client.blocking_a, client.blocking_b)]:
        for ours, theirs in addresses.values():
            if ours is not None:
                one.set_address(ours)
                other.set_address(theirs)
            one.start()
            other.start()
            raises("DriverError", "already started", one.start)
            assert one.available() is False
            assert one.transmitting() is False
            assert one.recv() is None
            assert one.recv(block=True, timeout=0.05) is None
            message = urandom(2048)
            one.send(message, send_timeout=10)
            assert other.recv(block=True, timeout=10) == message
            other.send(b"\x3e")
            assert one.recv(block=True, timeout=10) == b"\x3e"
            one.stop_sending()
            one.stop_receiving()
            one.stop()
            one.stop()
            other.stop()


def errors(client):
    a = client.blocking_a
    a.start()
    raises("DriverInvalidArgument", "Cannot use a partially defined address",
           a.set_address, Address(txid=1, tx_only=True))  # fmt: skip
    raises("DriverInvalidArgument", "Cannot send multi packet frame with Functional", a.send, bytes(63), 1)
    raises("DriverError", "no flow control within 300 ms", a.send, bytes(100))
    raises("DriverError", "Failed to send IsoTP frame in time", a.send, bytes(100), send_timeout=0.05)
    assert a.transmitting() is False
    a.send(b"")
    a.stop()


def stack(client):
    """can-isotp on a CanClient speaks with the agent's state machine, both ways, in all addressing modes."""
    functional = isotp.TargetAddressType.Functional.value
    with client.can as bus:
        notifier = can.Notifier(bus, [])
        for theirs, length in [(client.short, 8), (client.long, 64)]:
            for number, mode in enumerate(MODES):
                theirs.set_address(turned(mode))
                theirs.start()
                params = {"tx_data_length": length, "max_frame_size": 5000, "blocksize": number, "blocking_send": True}
                if number % 2 == 1:
                    params["tx_padding"] = 0x55
                ours = isotp.NotifierBasedCanStack(bus, notifier, address=mode, params=params)
                ours.start()
                # All borders for one mode, the rest of the modes by a few: each frame is a call.
                sizes = [1, 6, 7, 8, 62, 63, 300, 4095, 4096] if number == 0 else [1, 5, 6, 7, 61, 62, 100]
                for size in sizes:
                    message = urandom(size)
                    ours.send(message, send_timeout=30)
                    received = theirs.recv(block=True, timeout=30)
                    assert received == message, (mode, size, received)
                    theirs.send(message, send_timeout=30)
                    received = ours.recv(block=True, timeout=30)
                    assert received == message, (mode, size, received)
                ours.send(b"\x3e\x80", functional)
                assert theirs.recv(block=True, timeout=10) == b"\x3e\x80"
                theirs.send(b"\x3e\x81", functional)
                assert ours.recv(block=True, timeout=10) == b"\x3e\x81"
                ours.stop()
                theirs.stop()
        notifier.stop()


def kernel(client):
    """The kernel's ISO-TP, as upstream's own test uses it."""
    one, other = client.a, client.b
    raises("DriverInvalidArgument", "socket not started", one.send, b"1")
    raises("DriverInvalidArgument", "socket not started", one.stop)
    one.start()
    other.start()
    raises("DriverInvalidArgument", "socket already started", one.start)
    raises("NotImplementedError", "", one.available)
    assert one.recv() is None
    assert one.recv(block=True, timeout=0.05) is None
    message = urandom(2048)
    one.send(message, send_timeout=10)
    assert other.recv(block=True, timeout=10) == message
    one.stop()
    other.stop()


if __name__ == "__main__":
    drive(globals())
