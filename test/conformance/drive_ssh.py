"""Drives SSH, D-Bus, VNC and tmt drivers of the exporter through their Python clients.

usage: drive_ssh.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

import contextlib
import io
import os
import socket
import subprocess
import threading
import time
from urllib.parse import parse_qs, urlparse

from driving import drive, raises
from jumpstarter.client.core import DriverError
from jumpstarter_driver_network.adapters import FabricAdapter, TcpPortforwardAdapter
from jumpstarter_driver_ssh.client import SSHCommandRunOptions

TRUSTING = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
NO_KEYS = {"password": "anything", "look_for_keys": False, "allow_agent": False}


def attribute(client, name):
    """Properties as functions."""
    return lambda: getattr(client, name)


def wrapper(client, key_file):
    with open(key_file) as file:
        key = file.read()
    # A key that the client gets, from a file below the exporter's home, and from the configuration.
    assert client.ssh.identity == key
    assert client.inline.identity == key
    assert client.ssh.command.startswith("ssh -o StrictHostKeyChecking=no"), client.ssh.command
    result = client.ssh.run(SSHCommandRunOptions(), ["echo out; echo err >&2; exit 5"])
    assert (result.return_code, result.stdout, result.stderr) == (5, "out\n", "err\n"), result
    # Directly, and where the address is not told by the forwarded port.
    assert client.ssh.run(SSHCommandRunOptions(direct=True), ["echo direct"]).stdout == "direct\n"
    assert client.hidden.run(SSHCommandRunOptions(direct=True), ["echo round"]).stdout == "round\n"
    # The board's host key, pinned by the exporter: the client has no file for it.
    assert client.pinned.run(SSHCommandRunOptions(), ["echo right"]).stdout == "right\n"
    wrong = client.wrong.run(SSHCommandRunOptions(), ["echo wrong"])
    assert wrong.return_code == 255 and wrong.stdout == "", wrong
    assert "Host key verification failed" in wrong.stderr, wrong
    assert client.keyless.identity is None
    assert client.keyless.username == ""
    raises(DriverError, "Failed to read ssh_identity_file '~/nowhere'", attribute(client.missing, "identity"))


def mitm(client, folder):
    assert "PRIVATE" not in str(client.guarded.identity)
    result = client.guarded.run(SSHCommandRunOptions(), ["echo out; echo err >&2; exit 5"])
    assert (result.return_code, result.stdout, result.stderr) == (5, "out\n", "err\n"), result
    # It has no address: the client forwards.
    assert client.guarded.run(SSHCommandRunOptions(direct=True), ["echo round"]).stdout == "round\n"
    fabric(client, folder)
    sessions(client)
    speed(client, folder)


def fabric(client, folder):
    with FabricAdapter(client=client.guarded, user=client.guarded.username, connect_kwargs=NO_KEYS) as connection:
        result = connection.run("echo out; echo err >&2; exit 3", hide=True, warn=True)
        assert (result.exited, result.stdout, result.stderr) == (3, "out\n", "err\n"), result
        path = os.path.join(folder, "fabric")
        with open(path, "wb") as file:
            file.write(os.urandom(300_000))
        connection.put(path, f"{path}.up")
        connection.get(f"{path}.up", f"{path}.down")
        with open(path, "rb") as one, open(f"{path}.down", "rb") as two:
            assert one.read() == two.read()


def sessions(client):
    """Many of them in one connection; terminals that change; each end for itself."""
    with FabricAdapter(client=client.mitm, user="root" if os.getuid() == 0 else os.getlogin(), connect_kwargs=NO_KEYS) as it:
        it.open()
        transport = it.client.get_transport()
        channels = [transport.open_session() for _ in range(15)]
        for number, channel in enumerate(channels):
            channel.exec_command(f"cat; exit {number}")
        for number, channel in reversed(list(enumerate(channels))):
            channel.sendall(f"number {number}".encode())
            channel.shutdown_write()
            assert read(channel) == f"number {number}"
            assert channel.recv_exit_status() == number
        terminal = transport.open_session()
        terminal.get_pty("xterm", 111, 33)
        terminal.exec_command("trap 'stty size; exit 6' WINCH; stty size; while :; do sleep 0.05; done")
        assert terminal.recv(100).split() == [b"33", b"111"]
        terminal.resize_pty(122, 44)
        assert read(terminal).split() == ["44", "122"]
        assert terminal.recv_exit_status() == 6
        shell = transport.open_session()
        shell.get_pty()
        shell.invoke_shell()
        shell.sendall(b"exit 4\n")
        read(shell)
        assert shell.recv_exit_status() == 4


def read(channel):
    text = b""
    while chunk := channel.recv(65536):
        text += chunk
    return text.decode()


def speed(client, folder, mebibytes=32):
    """A large file both ways, through Python's port forward: it comes back as it was."""
    path = os.path.join(folder, "large")
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1024 * 1024))
    with TcpPortforwardAdapter(client=client.mitm) as (host, port):
        scp = ["scp", *TRUSTING, "-P", str(port)]
        for source, target in ((path, f"{host}:{path}.up"), (f"{host}:{path}.up", f"{path}.down")):
            started = time.monotonic()
            subprocess.run([*scp, source, target], check=True)
            print(f"{mebibytes / (time.monotonic() - started):.0f} MiB/s")
    assert subprocess.run(["cmp", path, f"{path}.down"], check=False).returncode == 0


def mount(client, folder):
    """The board's files, mounted through the server that keeps the key."""
    assert client.mount.ssh.tcp.uuid == client.mitm.uuid
    place = os.path.join(folder, "mounted")
    thread = threading.Thread(target=client.mount.mount, args=(place,), kwargs={"remote_path": folder, "foreground": True})
    with contextlib.redirect_stdout(io.StringIO()) as told:
        thread.start()
        while "Press Ctrl+C" not in told.getvalue():
            assert thread.is_alive()
            time.sleep(0.02)
        with open(os.path.join(place, "written"), "w") as file:
            file.write("by the client")
        with open(os.path.join(folder, "written")) as file:
            assert file.read() == "by the client"
        subprocess.run(["fusermount3", "-u", place], check=True)
        thread.join()


def sftp(client, folder):
    """In place of a mount, where there is no FUSE: what sshfs would speak."""
    assert client.mount.ssh.tcp.uuid == client.mitm.uuid
    with TcpPortforwardAdapter(client=client.mount.ssh.tcp) as (host, port):
        words = ["sftp", *TRUSTING, "-P", str(port), "-b", "-", host]
        result = subprocess.run(words, input=f"ls {folder}\n", capture_output=True, text=True, check=True)
        assert folder in result.stdout, result


def dbus(client):
    for bus, option in ((client.session_bus, "--session"), (client.system_bus, "--system")):
        assert bus.kind == option[2:]
        with bus:
            words = {
                "busctl": ["busctl", option.replace("session", "user"), "list"],
                "dbus-send": ["dbus-send", option, "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus",
                              "org.freedesktop.DBus.GetId"],
            }
            for name, command in words.items():
                # As another user than the exporter's, where we may be one: the exporter says who it is.
                other = ["setpriv", "--reuid=65534", "--clear-groups"] if os.getuid() == 0 else []
                result = subprocess.run([*other, *command], capture_output=True, text=True, timeout=20, check=False)
                assert result.returncode == 0, (name, result)
                if name == "busctl":
                    assert "org.freedesktop.DBus" in result.stdout, result
                else:
                    assert os.environ[f"JMP_TEST_{bus.kind.upper()}_BUS"] in result.stdout, result


def vnc(client):
    assert client.screen.get_default_encrypt() is True
    with client.screen.session(encrypt=False) as url:
        where = parse_qs(urlparse(url).query)
        assert where["encrypt"] == ["0"], url
        with socket.create_connection((where["host"][0], int(where["port"][0])), timeout=10) as browser:
            browser.sendall(
                b"GET / HTTP/1.1\r\nHost: screen\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
                b"Sec-WebSocket-Protocol: binary\r\n\r\n"
            )
            text = b""
            while b"RFB 003." not in text:
                chunk = browser.recv(4096)
                assert chunk, text
                text += chunk
            assert text.startswith(b"HTTP/1.1 101"), text
    # The rest of the greeting (RFC 6143, 7.1 and 7.3), up to the name of the screen.
    with TcpPortforwardAdapter(client=client.screen.tcp) as (host, port):
        with socket.create_connection((host, port), timeout=10) as viewer:
            stream = viewer.makefile("rwb", buffering=0)
            version = stream.read(12)
            stream.write(version)
            count = stream.read(1)[0]
            assert 1 in stream.read(count)
            stream.write(b"\x01")
            assert stream.read(4) == bytes(4)
            stream.write(b"\x01")
            header = stream.read(24)
            width, height = int.from_bytes(header[:2]), int.from_bytes(header[2:4])
            assert width >= 64 and height >= 64, header
            assert b"QEMU" in stream.read(int.from_bytes(header[20:24]))


def tmt(client, program):
    """The client's own words for tmt, as a program sees them that stands in for it."""
    assert client.tmt.call("get_reboot_cmd") == "reboot -f"
    assert client.tmt.call("get_default_user_pass") == ["tester", "word"]
    assert client.tmt.run_tmt_local(False, program, None, None, ["run", "provision", "-h", "virtual", "report"]) == 9
    assert client.tmt.run_tmt_local(True, program, "other", None, ["run"]) == 9


if __name__ == "__main__":
    drive(globals())
