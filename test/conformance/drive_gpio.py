"""Drives GPIO lines through the Python client. usage: drive_gpio.py     the exporter is found by JUMPSTARTER_HOST

Lines: out, in, power, pin. Switching `power` on makes `in` active a moment later, switching it off makes it change all the time.
"""

from jumpstarter.utils.env import env
from jumpstarter_driver_gpiod.client import DigitalInputClient, DigitalOutputClient, PinState
from jumpstarter_driver_power.client import PowerClient


def fails(text, function, *args):
    try:
        function(*args)
    except Exception as error:
        assert text in str(error), f"{text!r} expected in {error!s}"
        return
    raise AssertionError(f"no error; {text} expected")


with env() as client:
    assert type(client.out) is DigitalOutputClient, type(client.out)
    assert type(getattr(client, "in")) is DigitalInputClient
    assert type(client.power) is PowerClient
    assert type(client.pin) is DigitalOutputClient
    out, line, power = client.out, getattr(client, "in"), client.power

    out.on()
    assert out.read() is PinState.ACTIVE
    out.off()
    assert out.read() is PinState.INACTIVE
    out.cycle(0.05)
    assert out.read() is PinState.ACTIVE
    client.pin.on()
    assert client.pin.read() is PinState.ACTIVE

    assert line.read() is PinState.INACTIVE
    line.wait_for_inactive()
    fails("DEADLINE_EXCEEDED: Timed out waiting for line 1 edge event", line.wait_for_active, 0.05)
    fails("Invalid edge type: both", line.wait_for_edge, "both")
    power.on()
    line.wait_for_active(30)
    power.off()
    line.wait_for_edge("falling", 30)
    line.wait_for_edge("rising", 30)
    fails("a GPIO line has no meter", lambda: list(power.read()))
    print("passed gpio")
