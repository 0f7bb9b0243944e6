"""Drives flashers of microcontrollers and what goes with them through the Python clients of their drivers.

usage: drive_mcu.py FOLDER FASTBOOT      the exporter is found by JUMPSTARTER_HOST
FOLDER holds the firmware files; FASTBOOT is what fastboot calls the RideSX board. A failed assertion ends the program.
"""

import sys
from pathlib import Path

from driving import raises
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.utils.env import env


def stlink(client, folder):
    info = client.nucleo.info()
    assert info["Version"] == "0221" and info["mount_point"].endswith("/NOD_F411RE"), info
    client.nucleo.flash(str(folder / "app.bin"))
    client.nucleo.flash(str(folder / "app.hex"), target="app.hex")
    raises(DriverInvalidArgument, "Unsupported firmware format '.elf'", client.nucleo.flash, str(folder / "app.bin"), target="a.elf")
    raises(DriverInvalidArgument, "Invalid target", client.nucleo.flash, str(folder / "app.bin"), target="../a.bin")
    raises(DriverMethodNotImplemented, "Use probe-rs", client.nucleo.dump, str(folder / "out"))
    raises(DriverError, "ST-LINK volume 'NOD_OTHER' not found. Available: ", client.other.info)
    raises(DriverError, "did not program the target: The target", client.nucleo.flash, str(folder / "bad.bin"))


def pico(client, folder):
    client.pico.enter_bootloader()
    assert client.pico.bootloader_info()["Board-ID"] == "RPI-RP2"
    raises(DriverInvalidArgument, "is not UF2", client.pico.flash, str(folder / "app.bin"))
    client.pico.flash(str(folder / "app.uf2"), target="app")
    raises(DriverError, "No Pico BOOTSEL volume found. Hold BOOTSEL while plugging USB.", client.pico.bootloader_info)
    raises(DriverMethodNotImplemented, "requires either GPIO children", client.pico.enter_bootloader)


def esp32(client, folder):
    info = client.esp32.get_chip_info()
    assert info["chip"].startswith("ESP32-") and info["mac"] == "24:0a:33:44:55:66", info
    # A console in use is closed, not in the way.
    with client.console.pexpect():
        client.esp32.flash(str(folder / "app.bin"), target="0x10000")
    size = (folder / "app.bin").stat().st_size
    client.esp32.dump(str(folder / "esp32.out"), target=f"0x10000:{size}")
    assert (folder / "esp32.out").read_bytes() == (folder / "app.bin").read_bytes()
    client.esp32.erase()
    raises(DriverInvalidArgument, "invalid literal for int() with base 0: 'boot'", client.esp32.flash, str(folder / "app.bin"), target="boot")


def ridesx(client, folder, fastboot):
    client.ridesx_power.cycle(0)
    raises(DriverMethodNotImplemented, "Rescue mode not available for RideSX", client.ridesx_power.rescue)
    assert client.ridesx.call("detect_fastboot_device", 5, 2.0) == {"status": "device_found", "device_id": fastboot}
    client.ridesx.flash({"boot_a": str(folder / "app.bin"), "system_a": str(folder / "system.img.gz")})
    assert client.ridesx.erase_partition("userdata")["status"] == "success"
    raises(DriverError, "Image not found in storage: nothing", client.ridesx.call, "flash_with_fastboot", fastboot, {"a": "nothing"})
    raises(DriverInvalidArgument, "", client.ridesx.call, "flash_with_fastboot", fastboot, {"a": "../x"})
    raises(DriverInvalidArgument, "OCI URL must start with oci://", client.ridesx.call, "flash_oci_image", "x:1")


def renode(client, folder):
    assert (client.renode.platform, client.renode.uart, client.renode.machine_name) == (
        "platforms/x.repl",
        "sysbus.uart0",
        "machine-0",
    )
    raises(DriverError, "Renode is not running", client.renode.monitor_cmd, "version")
    client.renode.flasher.flash(str(folder / "app.elf"))
    client.renode.power.on()
    assert "double" in client.renode.monitor_cmd("version")
    with client.renode.console.pexpect() as console:
        console.send("hello")
        console.expect("hello", timeout=10)
    raises(DriverError, "Unknown command or device", client.renode.monitor_cmd, "nonsense")
    raises(DriverInvalidArgument, "must not contain newline", client.renode.monitor_cmd, "a\nb")
    raises(DriverInvalidArgument, "unsupported load_command 'x', allowed: ", client.renode.flasher.flash, str(folder / "app.elf"), target="x")
    raises(DriverMethodNotImplemented, "dump is not supported", client.renode.flasher.dump, str(folder / "out"))
    raises(DriverMethodNotImplemented, "", lambda: list(client.renode.power.read()))
    client.renode.power.off()
    raises(DriverError, "raw monitor access is disabled", client.closed.monitor_cmd, "version")


if __name__ == "__main__":
    files, board = Path(sys.argv[1]), sys.argv[2]
    with env() as exporter:
        stlink(exporter, files)
        pico(exporter, files)
        esp32(exporter, files)
        ridesx(exporter, files, board)
        renode(exporter, files)
    print("passed")
