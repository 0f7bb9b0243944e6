"""Drives virtual machines of the exporter through the Python client of QEMU.

usage: drive_qemu.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

import gzip
import hashlib
import socket
import tempfile
import urllib.request
from pathlib import Path

from anyio import BrokenResourceError
from driving import drive, raises
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented


def class_of(client):
    return f"{type(client).__module__}.{type(client).__name__}"


def greeting(vnc):
    """What the screen says first; noVNC is a bridge to the same stream."""
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

    with TcpPortforwardAdapter(client=vnc) as address:
        with socket.create_connection(address, timeout=10) as connection:
            return connection.recv(12)


def firmware(client, uboot):
    """A machine that starts from the firmware alone, which is flashed packed."""
    qemu = client.qemu
    assert class_of(qemu) == "jumpstarter_driver_qemu.client.QemuClient"
    assert class_of(qemu.flasher) == "jumpstarter_driver_qemu.client.QemuFlasherClient"
    assert class_of(qemu.power) == "jumpstarter_driver_power.client.PowerClient"
    assert class_of(qemu.console) == "jumpstarter_driver_pyserial.client.PySerialClient"
    assert class_of(qemu.vnc) == "jumpstarter_driver_network.client.NetworkClient"
    assert list(qemu.children) == ["power", "flasher", "console", "vnc", "web"], list(qemu.children)
    assert (qemu.hostname, qemu.username, qemu.password) == ("demo", "jumpstarter", "s3cret word")

    try:
        with qemu.vnc.stream() as stream:
            stream.receive()
        raise AssertionError("a screen of a machine that is off")
    except BrokenResourceError as error:
        assert "the virtual machine is off" in str(error.__cause__), error.__cause__
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "u-boot.bin.gz"
        packed.write_bytes(gzip.compress(Path(uboot).read_bytes()))
        qemu.flasher.flash(packed, target="bios")
        dumped = Path(folder) / "dumped"
        qemu.flasher.dump(dumped, target="bios")
        assert dumped.read_bytes() == Path(uboot).read_bytes()
        raises(DriverInvalidArgument, "invalid partition name: boot", qemu.flasher.flash, packed, target="boot")
        raises(DriverError, "No such file or directory", qemu.flasher.dump, dumped)

    for _ in range(2):
        qemu.power.on()
        with qemu.console.pexpect() as console:
            console.expect("U-Boot 20", timeout=30)
            console.expect("Hit any key", timeout=30)
            console.send("\r")
            console.expect("=>", timeout=10)
            console.send("version\r")
            console.expect("qemu-arm|aarch64", timeout=10)
        assert greeting(qemu.vnc) == b"RFB 003.008\n"
        qemu.power.on()  # a warning, no more
        qemu.power.off()
    qemu.power.off()
    raises(DriverMethodNotImplemented, "no meter", lambda: list(qemu.power.read()))
    raises(DriverError, "no modem lines", qemu.console.call, "set_dtr", True)

    for wrong in ["invalid", "", "G", "-1G"]:
        raises(DriverInvalidArgument, f"Invalid size: '{wrong}'. Use e.g. '20G', '512M', '2T'", qemu.set_disk_size, wrong)
        raises(DriverInvalidArgument, "Invalid size", qemu.set_memory_size, wrong)


def system(client, image):
    """A machine that boots Linux from its disk and serves a page."""
    qemu = client.qemu
    qemu.set_memory_size("384M")
    qemu.flasher.flash(Path(image), target="root")
    qemu.set_disk_size("1M")
    raises(DriverError, "Shrinking disk is not supported: current 64.0MiB, requested 1.0MiB", qemu.power.on)
    qemu.set_disk_size("900T")
    raises(DriverError, "Not enough disk space: need 900.0TiB, only ", qemu.power.on)
    qemu.set_disk_size("96M")
    qemu.power.on()
    with qemu.console.pexpect() as console:
        console.expect("login:", timeout=120)
        console.sendline("root")
        console.expect("# ", timeout=10)

        def says(command, answer):
            console.sendline(command)
            console.expect(answer, timeout=20)
            console.expect("# ", timeout=20)

        says("cat /sys/block/vda/size", f"{96 * 2048}\r")
        says("grep MemTotal /proc/meminfo", r"MemTotal: +3\d{5} kB")
        says("echo names-$(head -c 2000000 /dev/vdb | grep -a -c local-hostname:.demo)", "names-1\r")
        says("ip link set eth0 up && udhcpc -q -n -i eth0 && echo got-$((40+2))", "got-42\r")
        says("mkdir /w && echo served > /w/page && httpd -p 80 -h /w && echo up-$((40+2))", "up-42\r")
    address = qemu.web.address()
    assert address.startswith("tcp://127.0.0.1:"), address
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

    with TcpPortforwardAdapter(client=qemu.web) as (host, port):
        with urllib.request.urlopen(f"http://{host}:{port}/page", timeout=20) as page:
            assert page.read() == b"served\n"
    qemu.power.off()
    with tempfile.TemporaryDirectory() as folder:
        dumped = Path(folder) / "dumped"
        qemu.flasher.dump(dumped)
        assert dumped.stat().st_size == 96 * 2**20
        start = hashlib.sha256(dumped.read_bytes()[: 2**20]).hexdigest()
        assert start == hashlib.sha256(Path(image).read_bytes()[: 2**20]).hexdigest()


def old(client, image):
    """A client from before 0.9 knows the flasher by another class."""
    # Its class of the machine itself is not installed with these clients.
    flasher = client.children["qemu"].children["flasher"]
    assert class_of(flasher) == "jumpstarter_driver_opendal.client.FlasherClient", class_of(flasher)
    with tempfile.TemporaryDirectory() as folder:
        flasher.flash(image)
        dumped = Path(folder) / "dumped"
        flasher.dump(str(dumped))
        assert dumped.read_bytes() == Path(image).read_bytes()


def oci(client, log):
    """The double of fls notes its words and its login, prints, and writes what it was asked for."""
    qemu = client.qemu
    assert qemu.flash_oci("oci://registry.test/image:1", partition="bios") == 0
    items = list(qemu.flasher.streamingcall("flash_oci", "oci://registry.test/image:1", "bios", "ann", "s3cret"))
    assert items[-1] == ["", "", 0], items
    assert "".join(item[0] for item in items) == "fetching\n", items
    assert "".join(item[1] for item in items) == "half way\n", items
    # A login of the exporter's environment goes to its own registry alone.
    assert qemu.flash_oci("oci://elsewhere.test/image:1", partition="bios") == 0
    notes = [line.split("|") for line in Path(log).read_text().splitlines()]
    assert [note[0].split("/")[2] for note in notes] == ["registry.test", "registry.test", "elsewhere.test"], notes
    assert [note[2] for note in notes] == ["envuser:envpass", "ann:s3cret", ":"], notes

    def flash(*arguments):
        return list(qemu.flasher.streamingcall("flash_oci", *arguments))

    raises(DriverInvalidArgument, "OCI URL must start with oci://", flash, "docker://x/y", "bios")
    raises(DriverInvalidArgument, "requires both username and password", flash, "oci://x/y", "bios", "ann")
    raises(DriverInvalidArgument, "invalid partition name: nowhere", flash, "oci://x/y", "nowhere")
    raises(DriverError, "fls flash failed (return code 3)", flash, "oci://registry.test/fails", "bios")
    raises(DriverError, "fls flash timed out after 2s", flash, "oci://registry.test/hangs", "bios")
    qemu.flasher.call("flash", "oci://registry.test/image:1", "bios")
    assert len(Path(log).read_text().splitlines()) == 6
    with tempfile.TemporaryDirectory() as folder:
        dumped = Path(folder) / "dumped"
        qemu.flasher.dump(dumped, target="bios")
        assert dumped.read_bytes() == b"from oci://registry.test/image:1\n"


if __name__ == "__main__":
    drive(globals())
