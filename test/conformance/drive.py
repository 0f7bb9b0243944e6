"""Drives every driver of the exporter through the Python client API of whatever release runs this file.

usage: drive.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

import bz2
import gzip
import hashlib
import logging
import lzma
import os
import socket
import tempfile
import time
import urllib.request
from pathlib import Path

import anyio
from driving import drive, raises

MIB = 1 << 20


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def image(directory, mebibytes):
    """One part noise, seven parts zeros: compressible, but not to nothing."""
    path = Path(directory) / f"image-{mebibytes}.raw"
    with open(path, "wb") as file:
        for index in range(mebibytes):
            file.write(os.urandom(MIB) if index % 8 == 0 else bytes(MIB))
    return path


def power(client):
    client.power.on()
    client.power.off()
    client.power.cycle(0)
    readings = list(client.power.read())
    assert [(r.voltage, r.current) for r in readings] == [(0.0, 0.0), (5.0, 2.0)], readings
    client.board.inner.power.on()  # nested composites
    client.alias.on()  # a ref to a leaf
    client.board_alias.inner.power.off()  # a ref to a subtree
    list(client.syncpower.read())


def echo(client, mebibytes="64"):
    """Both directions at once; the bytes that come back are the bytes sent."""
    total = int(mebibytes) * MIB
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def run():
        async with client.echo.stream_async("connect") as stream:

            async def write():
                left = total
                while left > 0:
                    chunk = os.urandom(min(65536, left))
                    sent.update(chunk)
                    await stream.send(chunk)
                    left -= len(chunk)

            async with anyio.create_task_group() as group:
                group.start_soon(write)
                count = 0
                while count < total:
                    chunk = await stream.receive()
                    received.update(chunk)
                    count += len(chunk)
                assert count == total

    client.portal.call(run)
    assert sent.hexdigest() == received.hexdigest()


def network(client, tcp_port, udp_port, unix_path, ws_url):
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter, UnixPortforwardAdapter

    with TcpPortforwardAdapter(client=client.tcp) as (host, port, *_):
        with socket.create_connection((host, port)) as connection:
            connection.sendall(b"over tcp")
            connection.shutdown(socket.SHUT_WR)  # the peer answers after it has seen our end
            assert connection.makefile("rb").read() == b"over tcp"
    with UnixPortforwardAdapter(client=client.unix) as path:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"over unix")
            connection.shutdown(socket.SHUT_WR)
            assert connection.makefile("rb").read() == b"over unix"
    with client.udp.stream() as stream:
        for size in (1, 700, 9000):
            stream.send(b"u" * size)
            assert stream.receive() == b"u" * size  # one frame, one datagram
    with client.websocket.stream() as stream:
        stream.send(b"a message")
        assert stream.receive() == b"a message"
    assert client.tcp.address() == f"tcp://127.0.0.1:{tcp_port}"
    assert client.udp.address() == f"udp://127.0.0.1:{udp_port}"
    assert client.websocket.address() == ws_url
    raises("ValueError", "enable_address mode is not true", client.secret.address)
    raises("DriverError", "method address not found on driver", client.unix.address)


def many_streams(client):
    """500 streams one after the other in one process; the exporter counts that none stays open."""
    for index in range(500):
        with client.tcp.stream() as stream:
            stream.send(b"%d" % index)
            assert stream.receive() == b"%d" % index


def serial(client):
    with client.serial.pexpect() as console:
        console.sendline("hello over the loop")
        console.expect("hello over the loop", timeout=10)
    with client.slow.stream() as stream:  # cps: each byte comes back as its own frame
        stream.send(b"slow")
        assert [stream.receive() for _ in range(4)] == [b"s", b"l", b"o", b"w"]


def pty(client, marker):
    """A real terminal device: the test holds the other end and answers each line."""
    with client.tty.pexpect() as first, client.tty.pexpect() as second:
        first.sendline(marker)
        first.expect(f"got {marker}", timeout=10)
        second.expect(f"got {marker}", timeout=10)  # every reader sees everything


def storage(client):
    store = client.storage
    data = os.urandom(3 * MIB + 17)
    store.write_bytes("dir/a.bin", data)
    assert store.read_bytes("dir/a.bin") == data
    assert store.hash("dir/a.bin", "sha256") == hashlib.sha256(data).hexdigest()
    assert store.hash("dir/a.bin", "md5") == hashlib.md5(data).hexdigest()
    assert sorted(store.list("/")) == ["/", "dir/"]
    assert sorted(store.scan("/")) == ["/", "dir/", "dir/a.bin"]
    stat = store.stat("dir/a.bin")
    assert stat.content_length == len(data) and stat.mode.is_file() and not stat.mode.is_dir()
    assert store.stat("dir/").mode.is_dir()
    assert store.exists("dir/a.bin") and not store.exists("nothing")
    store.copy("dir/a.bin", "dir/b.bin")
    store.rename("dir/b.bin", "c.bin")
    assert store.read_bytes("c.bin") == data and not store.exists("dir/b.bin")
    file = store.open("c.bin", "rb")
    assert file.readable() and file.seekable() and not file.writable() and not file.closed
    assert file.seek(-3, os.SEEK_END) == len(data) - 3 and file.tell() == len(data) - 3
    assert file.read_bytes() == data[-3:]
    file.close()
    assert file.closed
    store.create_dir("made/")
    assert set(store.get_created_resources()) >= {"dir/a.bin", "c.bin", "made"}
    capability = store.capability()
    assert capability.read and capability.write and not capability.presign
    store.delete("c.bin")
    store.remove_all("dir/")
    store.remove_all("made/")
    assert sorted(store.list("/")) == ["/"]
    raises("DriverError", "", store.stat, "nothing")
    raises("DriverError", "", store.read_bytes, "../escape")
    raises("DriverError", "", store.write_bytes, "../escape", b"x")
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        source.write_bytes(data)
        store.write_from_path("up", source)
        store.read_into_path("up", Path(directory) / "back")
        assert (Path(directory) / "back").read_bytes() == data


def flash(client, mebibytes="256"):
    """Raw and in each encoding; what comes back by dump is what was flashed."""
    from jumpstarter.streams.encoding import Compression

    compress = {
        "gzip": lambda data: gzip.compress(data, 1),
        "xz": lambda data: lzma.compress(data, preset=0),
        "bz2": lambda data: bz2.compress(data, 1),
    }
    with tempfile.TemporaryDirectory() as directory:
        path = image(directory, int(mebibytes))
        digest = sha256(path)
        client.flasher.flash(path)
        back = Path(directory) / "back"
        client.flasher.dump(back)
        assert sha256(back) == digest, "raw"
        raw = path.read_bytes()
        encodings = [each.value for each in Compression]
        assert encodings in (["gzip", "xz", "bz2", "zstd"], ["gzip", "xz", "bz2"]), encodings  # 0.7 knows no zstd
        for name in encodings:
            packed = Path(directory) / f"image.{name}"
            if name == "zstd":
                if os.system(f"zstd -q -1 '{path}' -o '{packed}'") != 0:
                    raise AssertionError("the zstd program is needed")
            else:
                packed.write_bytes(compress[name](raw))
            target = f"as-{name}"
            client.flasher.flash(packed, target=target, compression=Compression(name))
            client.flasher.dump(back, target=target)
            assert sha256(back) == digest, name
            packed.unlink()
        back_packed = Path(directory) / "back.gz"
        client.flasher.dump(back_packed, compression=Compression.GZIP)
        digest_of_packed = hashlib.sha256()
        with gzip.open(back_packed) as file:
            while chunk := file.read(MIB):
                digest_of_packed.update(chunk)
        assert digest_of_packed.hexdigest() == digest, "gzip dump"


def flash_url(client, url, digest):
    """The exporter fetches an http(s) image by itself, redirects and percent-encoding included."""
    client.flasher.flash(url, target="url")
    with tempfile.TemporaryDirectory() as directory:
        client.flasher.dump(Path(directory) / "back", target="url")
        assert sha256(Path(directory) / "back") == digest


def mux(client):
    with tempfile.TemporaryDirectory() as directory:
        path = image(directory, 10)
        back = Path(directory) / "back"
        client.mux.host()
        client.mux.write_local_file(str(path))
        client.mux.read_local_file(str(back))
        assert sha256(back) == sha256(path)
        client.mux.dut()
        client.mux.off()
        client.muxflasher.flash(path)
        client.muxflasher.dump(back)
        assert sha256(back) == sha256(path)


def shell(client):
    assert client.shell.ok() == 0
    assert client.shell.fail() == 42
    items = list(client.shell.streamingcall("call_method", "both", {"WHO": "you"}, "one", "two"))
    assert "".join(item[0] for item in items) == "out you one two\n"
    assert "".join(item[1] for item in items) == "err\n"
    assert items[-1][2] == 0
    raises("DriverError", "not found in available methods", list, client.shell.streamingcall("call_method", "no", {}))
    raises("DriverError", "blocked for security", list, client.shell.streamingcall("call_method", "ok", {"PATH": "/"}))
    assert [item[2] for item in client.shell.streamingcall("call_method", "hangs", {})][-1] == 199


def boot(client):
    """The boot servers: started, filled, read from, stopped."""
    data = os.urandom(100_000)
    client.http.start()
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "file").write_bytes(data)
        url = client.http.put_file("sub/file", Path(directory) / "file")
    assert url == client.http.get_url() + "/sub/file"
    assert urllib.request.urlopen(url).read() == data
    request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
    answer = urllib.request.urlopen(request)
    assert answer.status == 206 and answer.read() == data[:1]
    client.http.stop()
    client.http.stop()
    client.tftp.start()
    client.tftp.start()
    client.tftp.storage.write_bytes("sub/kernel", data)
    assert tftp_read(client.tftp.get_host(), int(client.tftp.get_port()), "sub/kernel") == data
    client.tftp.stop()
    assert client.uboot.prompt == client.uboot.prompt  # get_prompt answers


def tftp_read(host, port, name):
    """RFC 1350, nothing more: the plainest client there is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.sendto(b"\0\1" + name.encode() + b"\0octet\0", (host, port))
        data = b""
        while True:
            packet, peer = sock.recvfrom(65535)
            assert packet[:2] == b"\0\3", packet
            data += packet[4:]
            sock.sendto(b"\0\4" + packet[2:4], peer)
            if len(packet) < 516:
                return data


def dut_network(client, board_mac):
    """A DUT network whose board has been given 192.168.100.100; its interface is busy while this runs."""
    dut = client.network
    status = dut.status()
    assert status["interface_status"] == {"name": "dut0", "exists": True, "addresses": ["192.168.100.1/24"]}, status
    assert (status["interface"], status["upstream"], status["nat_mode"]) == ("dut0", "up0", "1to1"), status
    assert (status["subnet"], status["dhcp_enabled"]) == ("192.168.100.0/24", True), status
    assert dut.get_dut_ip(board_mac.upper()) == "192.168.100.100"
    assert dut.get_dut_ip("02:00:00:00:00:77") is None
    lease, kept = sorted(dut.get_leases(), key=lambda lease: -lease["expiry"])
    assert (lease["mac"], lease["ip"]) == (board_mac, "192.168.100.100") and lease["expiry"] > time.time(), lease
    assert kept == {"mac": "02:00:00:00:00:05", "ip": "192.168.100.5", "hostname": "kept", "expiry": 0}, kept
    assert dut.ntp_status() == {"enabled": True, "running": True}

    assert dut.get_nat_rules().count("dnat to") == 2
    dut.add_address("192.168.100.6", public_ip="10.66.0.6")
    assert dut.get_nat_rules().count("dnat to") == 4
    assert dut.get_nat_rules().count("snat to") == 2
    dut.add_address("192.168.100.7", "02:00:00:00:00:07", hostname="seven")
    assert dut.get_dut_ip("02:00:00:00:00:07") == "192.168.100.7"
    dut.remove_address("192.168.100.6")
    dut.remove_address("192.168.100.7")
    assert dut.get_nat_rules().count("dnat to") == 2

    assert dut.get_dns_entries() == [{"hostname": "server.lab", "ip": "10.1.2.3"}]
    dut.add_dns_entry("other.lab", "10.9.9.9")
    dut.remove_dns_entry("server.lab")
    assert dut.get_dns_entries() == [{"hostname": "other.lab", "ip": "10.9.9.9"}]

    raises("ValueError", "Invalid hostname: 'a b'", dut.add_dns_entry, "a b", "10.1.1.1")
    raises("ValueError", "Invalid MAC address: 'x'", dut.add_address, "192.168.100.9", "x")
    raises("ValueError", "is not within subnet", dut.add_address, "10.0.0.9")
    raises("ValueError", "Cannot resolve hostname", dut.add_address, "192.168.100.9", None, "", "no-such.invalid")
    raises("ValueError", "option -z is not allowed", list, dut.tcpdump(["-n", "-zsh", "-w/tmp/x"]))

    lines = list(dut.tcpdump(["-n", "-c", "2", "icmp"]))
    assert any(line.startswith("listening on dut0") for line in lines), lines
    assert sum("ICMP echo" in line for line in lines) == 2, lines
    for line in dut.tcpdump(["-n", "icmp"]):  # left in the middle
        if "ICMP echo" in line:
            break


def logs(client):
    """A driver's log line reaches the client."""
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logging.getLogger().addHandler(Keep())
    logging.getLogger().setLevel(logging.INFO)
    client.logger.addHandler(Keep())
    client.logger.setLevel(logging.INFO)
    with client.log_stream():
        client.power.on()
        deadline = time.monotonic() + 10
        while not any("power on" in line for line in lines):
            assert time.monotonic() < deadline, lines
            time.sleep(0.05)


def errors(client):
    method = "DriverError"
    raises(method, "method no_such not found on driver", client.power.call, "no_such")
    raises(method, "method __proto__ not found on driver", client.power.call, "__proto__")
    raises(method, "method constructor not found on driver", client.power.call, "constructor")
    raises(method, "method read missing marker marker_drivercall", client.power.call, "read")
    raises(method, "method on missing marker marker_streamingdrivercall", list, client.power.streamingcall("on"))
    raises("DriverError", "", client.power.call, "on", "one too many")
    raises("ValueError", "", client.storage.call, "open", "x", "no-such-mode")
    raises("DriverError", "", client.storage.call, "file_close", "00000000-0000-4000-8000-000000000000")
    raises("DriverError", "larger than max", client.storage.call, "exists", "x" * (5 * MIB))
    raises("DriverError", "No such file", client.flasher.call, "dump", presigned("PUT"), "never-flashed")
    client.power.on()  # and none of it did any harm


def presigned(method):
    return {"kind": "presigned_request", "headers": {}, "url": "http://127.0.0.1:9/none", "method": method}


def cancel(client, marker):
    """Leaving a streaming call early ends the process it started."""

    async def run():
        with anyio.move_on_after(1.0):
            async for _ in client.shell.streamingcall_async("call_method", "lasting", {"MARKER": marker}):
                pass

    client.portal.call(run)
    deadline = time.monotonic() + 10
    while Path(marker).exists():
        assert time.monotonic() < deadline, "the process is still there"
        time.sleep(0.05)


def stall(client, ready):
    """Uploads and never ends; the test kills this process in the middle."""

    async def run():
        async with client.flasher.resource_async(Endless(ready)) as handle:
            await client.flasher.call_async("flash", handle, "stalled")

    client.portal.call(run)


class Endless(anyio.abc.ObjectStream):
    def __init__(self, ready):
        self.ready, self.count = ready, 0

    async def receive(self):
        self.count += 1
        if self.count == 100:
            Path(self.ready).touch()
        if self.count > 100:
            await anyio.sleep(0.05)
        return bytes(65536)

    async def send(self, item):
        pass

    async def send_eof(self):
        pass

    async def aclose(self):
        pass


if __name__ == "__main__":
    drive(globals())
