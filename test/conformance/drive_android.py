"""Drives an ADB server, an Android emulator and an iSCSI target of the exporter through the Python clients of their drivers.

usage: drive_android.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

import gzip
import os
import subprocess
import tempfile
import time

from driving import drive, raises
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented


def adb(client, port, device, silent, nobody):
    driver = client.adb
    assert driver.list_devices() == "List of devices attached\n\n"
    assert driver.start_server() == int(port)
    assert driver.kill_server() == int(port)

    # The real adb, through the tunnel, also starts the server again.
    with driver.forward_adb() as (host, local):
        variables = os.environ | {"ANDROID_ADB_SERVER_ADDRESS": host, "ANDROID_ADB_SERVER_PORT": str(local)}

        def run(*words):
            return subprocess.run(["adb", *words], env=variables, capture_output=True, text=True, timeout=30).stdout

        assert run("connect", device) == f"connected to {device}\n"
        assert f"{device}" in run("devices", "-l")
        assert run("-s", device, "shell", "getprop sys.boot_completed") == "1\n"
        assert "model:Double" in driver.list_devices()
        assert run("disconnect", device) == f"disconnected {device}\n"

    # Methods that came after 0.9.0.
    assert driver.call("connect_device", device) == f"connected to {device}\n"
    assert driver.call("disconnect_device", device) == f"disconnected {device}\n"
    raises(DriverError, "failed to connect", driver.call, "connect_device", nobody)
    raises(DriverError, f"adb connect {silent} timed out after 0.5s", driver.call, "connect_device", silent)
    raises(DriverInvalidArgument, "HOST", driver.call, "connect_device", "x; reboot")
    assert driver.call("address") == f"tcp://127.0.0.1:{port}"
    raises(DriverError, "ADB executable not found", client.missing.list_devices)


def emulator(client, console):
    phone = client.phone
    phone.set_headless(False)
    phone.power.on()
    give_up = time.monotonic() + 10
    # The emulator tells the ADB server of itself after it has opened its console.
    while f"emulator-{console}" not in phone.adb.list_devices():
        assert time.monotonic() < give_up, phone.adb.list_devices()
        time.sleep(0.05)
    readings = list(phone.power.read())
    assert [(reading.voltage, reading.current) for reading in readings] == [(0, 0)]
    phone.power.cycle(wait=0)
    phone.power.off()
    phone.power.off()
    raises(DriverInvalidArgument, "boolean", phone.set_headless, "yes")
    raises(DriverError, "PANIC: Unknown AVD name", client.stranger.power.on)


def iscsi(client, root):
    disks = client.disks
    assert disks.get_host() == "127.0.0.1"
    assert disks.get_port() == 3260
    assert disks.get_target_iqn() == "iqn.2024-06.dev.jumpstarter:lab"
    assert disks.list_luns() == []
    disks.stop()

    for path in ("../x.img", "/etc/passwd"):
        raises(DriverError, f"Invalid file path: {path}", disks.add_lun, "x", path, 1)
    os.symlink("/etc", f"{root}/out")
    raises(DriverError, "Path traversal attempt detected: out/passwd", disks.add_lun, "x", "out/passwd", 1)
    raises(DriverError, "must be an absolute path", disks.add_lun, "x", "dev/sda", 0, True)
    raises(DriverError, "is not in the configured allowlist", disks.add_lun, "x", "/dev/zero", 0, True)
    raises(DriverError, "block_device_allowlist is empty", client.strict.add_lun, "x", "/dev/null", 0, True)
    raises(DriverError, "call start() first", disks.remove_lun, "x")
    raises(DriverInvalidArgument, "argument 3", disks.add_lun, "x", "x.img", 1.5)

    # As `upload_image` does it, up to what needs the kernel's target.
    with tempfile.TemporaryDirectory() as folder:
        image = os.urandom(100_000)
        with open(f"{folder}/disk.img", "wb") as file:
            file.write(image)
        disks.storage.write_from_path("disk.img", f"{folder}/disk.img")
        assert disks._files_are_identical(f"{folder}/disk.img", "disk.img")
        with gzip.open(f"{folder}/disk.img.gz", "wb") as file:
            file.write(image)
        disks.storage.write_from_path("packed.img.gz", f"{folder}/disk.img.gz")
    disks.call("decompress", "packed.img.gz", "packed.img", "gz")
    assert disks.storage.hash("packed.img") == disks.storage.hash("disk.img")
    raises(DriverError, "Unsupported compression algo: zip", disks.call, "decompress", "packed.img.gz", "y", "zip")
    raises(DriverError, "Decompression failed", disks.call, "decompress", "disk.img", "y", "xz")
    raises(DriverError, "Destination path contains symlink", disks.call, "decompress", "packed.img.gz", "out/y", "gz")
    raises(DriverMethodNotImplemented, "", disks.call, "no_such_method")

    try:
        disks.start()
    except DriverError as error:
        assert "Failed to start iSCSI target server: " in str(error), error
        print("this kernel has no iSCSI target")
    else:
        disks.stop()


if __name__ == "__main__":
    drive(globals())
