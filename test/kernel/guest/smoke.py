"""The Python client calls a driver of the exporter at JUMPSTARTER_HOST."""

from jumpstarter.utils.env import env

with env() as client:
    client.power.off()
