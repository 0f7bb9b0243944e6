"""Drives a flasher of the exporter through its Python client.

usage: drive_flashers.py      the exporter is found by JUMPSTARTER_HOST; one JSON object per line on standard input:
  {"flasher": NAME, "variant": NAME | null}; one on standard output for each, with what the client sees
"""

import json
import sys

from driving import raises
from jumpstarter.client.core import DriverMethodNotImplemented
from jumpstarter.utils.env import env
from jumpstarter_driver_flashers.bundle import FlasherBundleManifestV1Alpha1

GETTERS = (
    "get_kernel_filename get_initram_filename get_dtb_filename get_kernel_address get_initram_address "
    "get_dtb_address get_bootcmd get_default_target get_cacert"
).split()


def see(flasher, wanted):
    flasher.call("setup_flasher_bundle", None)
    if wanted["variant"] is not None:
        flasher.call("use_dtb_variant", wanted["variant"])
    seen = {getter: flasher.call(getter) for getter in GETTERS}
    manifest = FlasherBundleManifestV1Alpha1.from_string(flasher.call("get_flasher_manifest_yaml"))
    spec = manifest.spec
    seen["name"] = manifest.metadata.name
    seen["targets"] = spec.targets
    seen["login"] = [spec.login.login_prompt, spec.login.username, spec.login.password, spec.login.prompt]
    # What the client loads over TFTP, by the names it asks for.
    seen["loads"] = [manifest.get_kernel_file(), manifest.get_initram_file(), manifest.get_dtb_file()]
    seen["staged"] = sorted(path.lstrip("/") for path in flasher.tftp.storage.list("/") if not path.endswith("/"))
    return seen


with env() as client:
    for line in sys.stdin:
        wanted = json.loads(line)
        flasher = getattr(client, wanted["flasher"])
        print(json.dumps(see(flasher, wanted)), flush=True)
        raises(DriverMethodNotImplemented, "device tree of the client's own", flasher.call, "set_dtb", None)
