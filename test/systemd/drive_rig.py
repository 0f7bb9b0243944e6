"""Drives what only drop-ins make possible, with the unmodified Python client: `jmp shell … -- python drive_rig.py`."""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from jumpstarter.utils.env import env

with env() as client:
    status = client.network.status()
    assert status["interface_status"]["addresses"] == ["192.168.100.1/24"], status
    assert "masquerade" in client.network.get_nat_rules()
    assert "1" == Path("/proc/sys/net/ipv4/conf/boards0/forwarding").read_text().strip()
    client.tftp.start()
    client.tftp.storage.write_bytes("staged", b"for the board")
    with TemporaryDirectory() as folder:
        for name, content in {"staged": b"for the board", "kernel": b"a kernel\n"}.items():
            copy = Path(folder, name)
            subprocess.run(["tftp", "-m", "binary", "127.0.0.1", "-c", "get", name, str(copy)], check=True)
            assert copy.read_bytes() == content, name
    client.tftp.stop()
    client.shell.facts()  # prints what it says
