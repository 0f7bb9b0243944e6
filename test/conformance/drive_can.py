"""Drives CAN drivers of the exporter with python-can, as the tests of jumpstarter-driver-can do.

usage: drive_can.py SECTION ...      the exporter is found by JUMPSTARTER_HOST
Section `x` uses the drivers `x_1` and `x_2`, which are on one bus of their own.
"""

import time
from itertools import islice
from random import randbytes
from threading import Semaphore

import can
import isotp
from driving import drive, raises
from jumpstarter_driver_can.common import IsoTpParams


def send_recv(one, two):
    with one, two:
        one.send(can.Message(data=b"hello"))
        message = two.recv()
        assert message.data == b"hello" and message.is_rx and abs(message.timestamp - time.time()) < 60
        two.send(can.Message(arbitration_id=0x7FF, is_extended_id=False, is_remote_frame=True, dlc=5))
        message = one.recv(5)
        assert message.is_remote_frame and not message.is_extended_id and message.dlc == 5
        one.send(can.Message(arbitration_id=0x1FFFFFFF, data=bytes(64), is_fd=True, bitrate_switch=True))
        message = two.recv(5)
        assert message.arbitration_id == 0x1FFFFFFF and message.is_fd and message.bitrate_switch
        assert message.data == bytes(64) and message.dlc == 64
        assert two.recv(0.05) is None
        raises(NotImplementedError, "", one.flush_tx_buffer)


def properties(one, two):
    with can.Bus(channel="properties", interface="virtual") as bus, one:
        assert one.channel_info == bus.channel_info, one.channel_info
        assert one.state == bus.state == can.BusState.ACTIVE
        assert one.protocol == bus.protocol == can.CanProtocol.CAN_20
        raises(NotImplementedError, "", setattr, one, "state", can.BusState.PASSIVE)


def iterator(one, two):
    with one, two:
        for data in (b"a", b"b", b"c"):
            one.send(can.Message(data=data))
        assert [message.data for message in islice(two, 3)] == [b"a", b"b", b"c"]


def filters(one, two):
    with one, two:
        two.set_filters([{"can_id": 0x1, "can_mask": 0x1, "extended": True}])
        for index, data in enumerate((b"a", b"b", b"c")):
            one.send(can.Message(arbitration_id=index, data=data))
        assert two.recv().data == b"b"
        assert two.recv(0.1) is None


def notifier(one, two):
    with one, two:
        arrived, wrong = Semaphore(0), []

        def listener(message):
            if message.data != b"hello":
                wrong.append(message)
            arrived.release()

        listening = can.Notifier(two, [listener])
        one.send(can.Message(data=b"hello"))
        assert arrived.acquire(timeout=20) and wrong == []
        listening.stop()


def redirect(one, two):
    with (
        one,
        two,
        can.Bus("redirect_inner", interface="virtual") as inner,
        can.Bus("redirect_inner", interface="virtual") as end,
    ):
        listening = can.Notifier(two, [can.RedirectReader(inner)])
        one.send(can.Message(data=b"hello"))
        assert end.recv(20).data == b"hello"
        listening.stop()


def periodic_local(one, two):
    with one, two:

        def modify(message):
            message.arbitration_id = 1

        messages = [can.Message(data=b"a"), can.Message(data=b"b")]
        one.send_periodic(msgs=messages, period=0.1, duration=1, store_task=True, modifier_callback=modify)
        received = [(message.arbitration_id, message.data) for message in islice(two, 4)]
        assert received == [(1, b"a"), (1, b"b"), (1, b"a"), (1, b"b")], received


def periodic_remote(one, two):
    with one, two:
        messages = [can.Message(data=b"a"), can.Message(data=b"b")]
        task = one.send_periodic(msgs=messages, period=0.1, duration=1, autostart=False, store_task=True)
        assert two.recv(0.3) is None
        task.start()
        received = [(message.arbitration_id, message.data) for message in islice(two, 4)]
        assert received == [(0, b"a"), (0, b"b"), (0, b"a"), (0, b"b")], received
        task.stop()
        while two.recv(0.3) is not None:
            pass
        # Left running, so that the end of the `with` block stops it.
        one.send_periodic(msgs=can.Message(data=b"c"), period=0.05)
        assert [message.data for message in islice(two, 3)] == [b"c"] * 3


def shutdown(one, two):
    with one:
        pass
    try:
        one.send(can.Message(data=b"late"))
    except Exception as error:
        assert "closed bus" in str(error), error
        return
    raise AssertionError("the bus is still open")


def layers(one, two):
    with one, two:
        for tx_data_length in (8, 64):
            for blocking_send in (False, True):
                listening = [can.Notifier(one, []), can.Notifier(two, [])]
                params = IsoTpParams(
                    max_frame_size=2048, tx_data_length=tx_data_length, blocking_send=blocking_send
                ).model_dump()
                ends = [
                    isotp.NotifierBasedCanStack(bus, reader, address=isotp.Address(rxid=rx, txid=tx), params=params)
                    for bus, reader, rx, tx in ((one, listening[0], 1, 2), (two, listening[1], 2, 1))
                ]
                for end in ends:
                    end.start()
                message = randbytes(2048)
                ends[0].send(message, send_timeout=30)
                assert ends[1].recv(block=True, timeout=30) == message
                for end in ends:
                    end.stop()
                for reader in listening:
                    reader.stop()


def socketcan(one, two):
    """On a real interface: filters in the kernel, FD, periodic frames."""
    with one, two:
        assert one.channel_info == "socketcan channel 'vcan0'", one.channel_info
        assert one.state == can.BusState.ACTIVE
        assert one.protocol == can.CanProtocol.CAN_FD
        raises(NotImplementedError, "", one.flush_tx_buffer)
        raises(NotImplementedError, "", setattr, one, "state", can.BusState.PASSIVE)
        one.send(can.Message(arbitration_id=5, data=bytes(range(64)), is_fd=True, bitrate_switch=True))
        message = two.recv(20)
        assert message.is_fd and message.bitrate_switch and message.data == bytes(range(64))
        assert message.channel == "vcan0" and abs(message.timestamp - time.time()) < 60
        two.set_filters([{"can_id": 0x1, "can_mask": 0x1, "extended": True}])
        assert two._recv_internal(0) == (None, True)
        for index, data in enumerate((b"a", b"b", b"c")):
            one.send(can.Message(arbitration_id=index, data=data))
        assert two.recv(20).data == b"b"
        assert two.recv(0.1) is None
        two.set_filters(None)
        arrived = Semaphore(0)
        listening = can.Notifier(two, [lambda message: arrived.release()])
        task = one.send_periodic(msgs=[can.Message(data=b"p")], period=0.05, store_task=True)
        for _ in range(4):
            assert arrived.acquire(timeout=20)
        task.stop()
        listening.stop()


if __name__ == "__main__":
    drive(globals(), lambda client, section: [client.children[f"{section}_{end}"] for end in (1, 2)])
