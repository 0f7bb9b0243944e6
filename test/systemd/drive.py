"""Drives the board of the hardware unit with the unmodified Python client, in a lease: `jmp shell … -- python drive.py`."""

from jumpstarter.utils.env import env

with env() as client:
    client.power.on()
    readings = [reading.voltage for reading in client.power.read()]
    assert readings, "no readings"
    with client.serial.pexpect() as console:
        console.sendline("hello board")
        console.expect("hello board", timeout=10)
    client.shell.facts()  # prints what it says
    client.power.off()
