"""Drives Python drivers through the side-car, with their own clients.

usage: drive_sidecar.py SECTION[,ARGUMENT ...] ...      the exporter is found by JUMPSTARTER_HOST
"""

import hashlib
import json
import tempfile
from pathlib import Path

from driving import drive


def outcome(function, *args):
    """What a call came to, as clients see it."""
    try:
        result = function(*args)
        return list(result) if hasattr(result, "__next__") else result
    except BaseException as error:
        return [type(error).__name__, str(error)]


def answers(client):
    """Prints what the lab answers; the same calls go to the Python exporter."""
    lab = client.lab
    nested = {"a": [1, None, True, "ü", {"b": 2.5}], "nan": float("nan")}
    said = [
        outcome(lab.call, "echo", 1, "two", None, nested),
        outcome(lab.call, "echo"),
        outcome(lab.call, "echo_in_thread", 1),
        outcome(lab.call, "call_child", "inner"),
        outcome(lab.children["inner"].call, "whoami"),
        outcome(lab.children["power"].call, "on"),
        outcome(lambda: [reading.voltage for reading in lab.children["same"].read()]),
        outcome(lab.streamingcall, "count", 5),
        outcome(lab.streamingcall, "count_in_thread", 3),
        outcome(lab.streamingcall, "count", 0),
        outcome(lab.call, "count", 5),
        outcome(lab.streamingcall, "echo", 5),
        outcome(lab.call, "connect"),
        *(outcome(lab.call, method) for method in ["nothing", "not_exported", "__init__", "pid.x", "unserializable"]),
        outcome(lab.call, "not_text"),
        outcome(lab.call, "echo_in_thread", "x" * (5 * 1024 * 1024))[1][:60],
        outcome(lab.call, "large", 5 * 1024 * 1024)[1][:60],
        outcome(lab.call, "digest", {"kind": "client_stream", "uuid": "00000000-0000-4000-8000-000000000000"}),
        outcome(lab.call, "digest", "no handle"),
        outcome(lab.call, "fail"),
    ]
    for kind in [
        *["ValueError", "NotImplementedError", "TimeoutError", "ConnectionRefusedError", "FileNotFoundError"],
        *["RuntimeError", "KeyError", "LabError", "UnicodeError"],
    ]:
        for text in ["because of\n100 % ünicode", ""]:
            said.append([kind, outcome(lab.call, "fail", kind, text)])
        said.append([kind, outcome(lab.streamingcall, "count_and_fail", 2, kind)])
    labels = dict(lab.labels)
    labels.pop("jumpstarter.dev/name", None)
    said.append([labels, sorted(lab.children), lab.description, lab.methods_description])
    print(json.dumps(said))


def streams(client, tcp_port):
    with client.echo.stream() as stream:
        for size in [1, 1000, 65536, 300_000]:
            stream.send(b"x" * size)
            got = b""
            while len(got) < size:
                got += stream.receive()
            assert got == b"x" * size
    with client.lab.stream("connect") as stream:
        # Messages stay what they are.
        for word in [b"one", b"two", b"three"]:
            stream.send(word)
        assert [stream.receive() for _ in range(3)] == [b"ONE", b"TWO", b"THREE"]
    refused = outcome(lambda: client.lab.stream("refuse").__enter__().receive())
    assert refused[0] != "b", refused
    with client.tcp.stream() as stream:
        stream.send(b"GET / HTTP/1.0\r\n\r\n")
        assert stream.receive().startswith(b"HTTP/1."), "no answer"
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter
    from urllib.request import urlopen

    with TcpPortforwardAdapter(client=client.tcp) as (host, port):
        assert urlopen(f"http://{host}:{port}/").status == 200
    with client.serial.pexpect() as console:
        console.send("around\n")
        console.expect("around", timeout=10)


def resources(client):
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image"
        data = bytes(range(256)) * 4096 * 4
        image.write_bytes(data)
        back = Path(directory) / "back"
        client.flasher.flash(image)
        client.flasher.dump(back)
        assert back.read_bytes() == data
        packed = Path(directory) / "image.xz"
        import lzma

        packed.write_bytes(lzma.compress(data))
        from jumpstarter.streams.encoding import Compression

        client.flasher.flash(packed, compression=Compression.XZ)
        client.flasher.dump(back)
        assert back.read_bytes() == data
        store = client.storage
        store.write_from_path("file", image)
        assert store.hash("file", "sha256") == hashlib.sha256(data).hexdigest()
        store.read_into_path("file", back)
        assert back.read_bytes() == data
        assert [entry for entry in store.list("/")] == ["/", "file"] or "file" in list(store.list("/"))
        store.delete("file")
        missing = outcome(store.read_bytes, "file")
        assert missing[0] != "bytes", missing


def shell(client):
    # Its client prints what comes.
    assert client.shell.say("word") == 0
    said = list(client.shell.streamingcall("call_method", "say", {}, "word"))
    assert "".join(out for out, _err, _code in said if out) == "said word\n", said


def contained(client):
    """Crashes of one driver are its own."""
    lab = client.lab
    before = lab.call("pid")
    died = outcome(lab.call, "exit", 3)
    assert died[0] == "DriverError" and "UNAVAILABLE" in died[1], died
    assert "exit code 3" in died[1] and "last words of the lab" in died[1], died
    client.other.on()
    after = lab.call("pid")
    assert after != before
    assert lab.children["inner"].call("whoami") == "inner"
    broken = outcome(client.broken.call, "echo")
    assert "UNAVAILABLE" in broken[1] and "the hardware of Broken is missing" in broken[1], broken
    absent = outcome(client.absent.call, "echo")
    assert "not installed" in absent[1] and "no_such_module" in absent[1], absent
    lab.call("speak")


if __name__ == "__main__":
    drive(globals())
