"""Drives cameras, a debug probe and a device of Corellium's cloud through the Python clients of their drivers.

usage: drive_cameras.py LEFT.jpg BOTTOM.jpg FIRMWARE      the exporter is found by JUMPSTARTER_HOST
A failed assertion ends the program with its traceback.
"""

import os
import sys

from driving import raises
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.utils.env import env
from jumpstarter_driver_ustreamer.client import UStreamerClient
from jumpstarter_imagehash import ImageHash


def ustreamer(client, left, bottom):
    state = client.left.state()
    assert state.ok and state.result.source.online, state
    assert state.result.source.resolution.width == 48 and state.result.source.captured_fps == 30, state
    assert client.left.snapshot().size == (48, 32)
    hashed = ImageHash(client.left)
    hashed.assert_snapshot(left)
    assert hashed.hash_snapshot() != ImageHash(client.bottom).hash_snapshot()
    raises(AssertionError, "", ImageHash(client.bottom).assert_snapshot, left)
    ImageHash(client.bottom).assert_snapshot(bottom)
    with client.left.stream(method="connect") as stream:
        stream.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stream.receive().startswith(b"HTTP/1.1 200 OK\r\n")

    # The real program, without a camera: it would hand out a picture that says so.
    state = client.dark.state()
    assert state.ok and not state.result.source.online, state
    raises(DriverError, "UNAVAILABLE: the camera has no signal", client.dark.snapshot)


def http_video(client, left):
    """Its client class came after 0.9.0: pictures are taken with ustreamer's, the tunnel is spoken as the contract has it."""
    camera = client.http
    remote = UStreamerClient(
        uuid=camera.uuid, labels=camera.labels, stub=camera.stub, portal=camera.portal, stack=camera.stack
    )
    ImageHash(remote).assert_snapshot(left)
    assert remote.call("state") == {"online": True, "width": 48, "height": 32, "fps": None}
    path = remote.call("stream_path")
    with DriverClient.stream(remote, method="connect") as stream:
        stream.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = stream.receive()
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
        assert b"multipart/x-mixed-replace" in head, head


def probe_rs(client, firmware):
    info = client.probe.info()
    assert "Target:" in info and "Flash size:" in info, info
    assert client.probe.reset() == "ok\n"
    assert client.probe.erase() == "ok\n"
    assert client.probe.download_file(firmware) == "ok\n"
    assert client.probe.read(32, 0xF000, 4) == [0xDEADBEEF, 0xDEADBEF0, 0xDEADBEF1, 0xDEADBEF2]
    assert client.broken.info() == ""
    assert client.broken.reset() == ""
    raises(DriverError, "Connecting to the chip was unsuccessful", client.broken.read, 8, 0, 1)
    assert client.real.reset() == ""
    assert client.real.download_file(firmware) == ""


def corellium(client):
    power, serial = client.device.power, client.device.serial
    raises(ValueError, "Instance does not exist", power.off)
    power.on()
    with serial.pexpect() as console:
        console.expect("login: ", timeout=10)
        console.send("root")
        console.expect("root", timeout=10)
    assert serial.call("address").startswith("wss://")
    raises(DriverMethodNotImplemented, "no meter", lambda: list(power.read()))
    power.cycle(wait=0)
    power.off(destroy=True)
    raises(ValueError, "Instance does not exist or is powered off", serial.call, "address")


if __name__ == "__main__":
    left, bottom, firmware = sys.argv[1:]
    # Pictures that are not as expected are saved where the program runs.
    os.chdir(os.path.dirname(left))
    with env() as client:
        ustreamer(client, left, bottom)
        http_video(client, left)
        probe_rs(client, firmware)
        corellium(client)
    print("passed")
