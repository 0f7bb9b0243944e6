"""Drives SNMP outlets, Tasmota plugs, HTTP relays and shell scripts of the exporter through the Python clients of their drivers.

usage: drive_outlets.py SECTION ...      the exporter is found by JUMPSTARTER_HOST
Section `x` uses the drivers below `x`.
"""

import contextlib
import io
import os
import time

from click.testing import CliRunner
from driving import drive, raises
from jumpstarter_driver_power.client import PowerClient
from jumpstarter_driver_shell.client import ShellClient
from jumpstarter_driver_snmp.client import SNMPServerClient
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented


def within(seconds, function, *args):
    began = time.monotonic()
    function(*args)
    took = time.monotonic() - began
    assert took < seconds, f"{took} s"


def snmp(client):
    for name in ["noauth", "auth", "priv", "sha2", "v1", "v2c"]:
        outlet = client.children[name]
        assert isinstance(outlet, SNMPServerClient)
        assert outlet.call("on") == "Power ON command sent successfully"
        assert outlet.call("off") == "Power OFF command sent successfully"
        outlet.on()
        outlet.cycle(wait=0)
        outlet.off()
    raises(DriverError, "SNMP set failed: SNMP error: unknown user name", client.stranger.on)
    raises(DriverError, "SNMP set failed: SNMP error: wrong authentication key", client.forger.on)
    raises(DriverError, "SNMP set failed: plug 2 is still off", client.stuck.on)
    raises(DriverError, "gRPC DEADLINE_EXCEEDED: SNMP set failed: SNMP operation timed out", client.silent.off)
    raises(DriverError, "gRPC UNAVAILABLE: SNMP set failed: ", client.closed.on)
    [reading] = client.measured.read()
    assert reading.voltage == 230.5 and reading.current == 0.25, reading
    raises(DriverMethodNotImplemented, "neither voltage_oid nor current_oid", lambda: list(client.noauth.read()))
    runner = CliRunner()
    assert runner.invoke(client.noauth.cli(), ["on"]).exit_code == 0
    assert runner.invoke(client.noauth.cli(), ["off"]).exit_code == 0


def tasmota(client):
    for name in ["plain", "tls", "websockets", "unix"]:
        plug = client.children[name]
        assert isinstance(plug, PowerClient)
        plug.on()
        plug.off()
    client.plain.cycle(wait=0)
    client.meter.on()
    [reading] = client.meter.read()
    assert reading.voltage == 231 and reading.current == 0.52, reading
    raises(DriverMethodNotImplemented, "not configured as a meter", lambda: list(client.plain.read()))
    within(5, raises, DriverError, "gRPC UNAVAILABLE: Tasmota plug gone is offline", client.gone.on)
    raises(DriverError, "gRPC DEADLINE_EXCEEDED: Tasmota plug mute did not say ON", client.mute.on)
    raises(DriverError, "gRPC UNAVAILABLE: MQTT broker at ", client.away.on)
    raises(DriverError, "refuses us", client.guest.on)


def http(client):
    client.relay.on()
    client.relay.off()
    [reading] = client.relay.read()
    assert reading.voltage == 230.5 and reading.current == 0.5, reading
    client.relay.cycle(wait=0)
    [reading] = client.keyless.read()
    assert reading.voltage == 5 and reading.current == 0, reading
    raises(DriverInvalidArgument, "power_read endpoint is not configured", lambda: list(client.broken.read()))
    raises(DriverInvalidArgument, "configured path 'a.b' not found in read response", lambda: list(client.lost.read()))
    raises(DriverInvalidArgument, "value at 'StatusSNS' is not numeric (got ", lambda: list(client.odd.read()))
    raises(DriverInvalidArgument, "read endpoint did not return JSON: ", lambda: list(client.page.read()))
    raises(DriverError, "gRPC INTERNAL: 404 Client Error", client.broken.on)
    raises(DriverError, "gRPC DEADLINE_EXCEEDED: ", client.broken.off)


def shell(client):
    scripts = client.scripts
    assert isinstance(scripts, ShellClient)

    def run(name, *args, **environment):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = getattr(scripts, name)(*args, **environment)
        return out.getvalue(), err.getvalue(), code

    assert run("echo", "hello", "w o") == ("hello w o\n", "", 0)
    assert run("variable", ENV1="some value") == ("some value\n", "", 0)
    assert run("lines", "a", "b") == ("lines\na\nb\n", "", 0)
    assert run("mixed") == ("out\n", "err\n", 42)
    assert run("fail") == ("", "", 1)
    assert run("killed") == ("", "", -9)
    assert run("default") == ("Hello\n", "", 0)
    assert run("unicode") == ("aüß€😀z\n", "", 0)
    out, err, code = run("stuck")
    assert (out, code) == ("begun\n", 199) and "\nTimeout expired while running stuck: " in err, (out, err, code)
    assert "timed out after 0.5 seconds" in err, err
    raises(AttributeError, "method nothing not found in ['echo', ", lambda: scripts.nothing)
    raises(DriverInvalidArgument, "Method 'nothing' not found in available methods: ['echo',", call, scripts, "nothing", {})

    blocked = "LD_PRELOAD LD_LIBRARY_PATH PATH PYTHONPATH BASH_ENV KUBECONFIG HOME LD_AUDIT BASH_FUNC_x"
    for name in blocked.split():
        text = f"Environment variable '{name}' is blocked for security reasons"
        raises(DriverInvalidArgument, text, call, scripts, "echo", {name: "x"})
    for name in ["1X", "A-B", "A B", ""]:
        raises(DriverInvalidArgument, f"Invalid environment variable name: {name}", call, scripts, "echo", {name: "x"})
    raises(DriverInvalidArgument, "All arguments must be strings, got", call, scripts, "echo", {}, 5)
    raises(DriverInvalidArgument, "Shell script must be a non-empty string", call, scripts, "empty", {})
    raises(DriverInvalidArgument, "Working directory does not exist: /no/such", call, client.elsewhere, "echo", {})

    # The kind of call that clients made before September 2025.
    assert scripts.call("call_method", "mixed", {}) == ["out\n", "err\n", 42]
    # Pieces come while the script runs, and the code with the last one.
    pieces = scripts.streamingcall("call_method", "dialogue", {})
    first = next(pieces)
    assert first == ["ready\n", "", None], first
    open(os.environ["GO"], "w").close()
    rest = list(pieces)
    assert "".join(piece[0] for piece in rest) == "done\n" and rest[-1][2] == 0, rest
    # Python's driver hands on about 8 kB/s of it.
    within(10, lambda: check_length(run("much"), 4_000_000))

    assert scripts.methods_description == {"echo": "Says it again", "stuck": "Never ends"}, scripts.methods_description
    runner = CliRunner()
    commands = scripts.cli().commands
    assert list(commands) == scripts.call("get_methods")
    assert commands["echo"].help == "Says it again"
    assert commands["fail"].help == "Execute the fail shell method"
    assert "Says it again" in runner.invoke(scripts.cli(), ["--help"]).output
    assert runner.invoke(scripts.cli(), ["echo", "-x", "--y"]).output == "-x --y\n"
    assert runner.invoke(scripts.cli(), ["variable", "-e", "ENV1=v=w"]).output == "v=w\n"

    # Left running when this program ends: its caller looks whether it ends as well.
    left = scripts.streamingcall("call_method", "forever", {})
    print("left", *next(left)[0].split())
    return left


def call(driver, *args):
    return list(driver.streamingcall("call_method", *args))


def check_length(result, length):
    assert len(result[0]) == length and result[2] == 0, (len(result[0]), result[1:])


if __name__ == "__main__":
    drive(globals(), lambda client, section: [client.children[section]])
