"""Serves disk.img of a folder over iSCSI: as the command `serve` does, compressed, and as a second LUN.

usage: iscsi.py FOLDER
"""

import gzip
import sys

from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.utils.env import env

folder = sys.argv[1]
image = f"{folder}/disk.img"
with open(image, "rb") as source, gzip.open(f"{folder}/packed.img.gz", "wb", compresslevel=1) as packed:
    packed.write(source.read())

with env() as client:
    disks = client.disks
    serve = lambda *words: CliRunner().invoke(disks.cli(), ["serve", *words], catch_exceptions=False)
    for file in (image, f"{folder}/packed.img.gz"):
        served = serve(file)
        assert served.exit_code == 0, served.output
        print(served.output)
    # The image that was served before is still there, and identical.
    assert disks.upload_image("again", image) == disks.get_target_iqn()
    assert [lun["name"] for lun in disks.list_luns()] == ["packed", "again"]
    try:
        disks.add_lun("x", "/etc/passwd")
        raise AssertionError("a path outside was taken")
    except DriverError as error:
        assert "Invalid file path: /etc/passwd" in str(error), error
