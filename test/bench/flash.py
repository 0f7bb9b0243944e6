"""usage: flash.py DIRECTORY flash|dump raw|gzip|zstd MEBIBYTES     prints the seconds that the transfer took"""

import os
import sys
import time
from pathlib import Path

from jumpstarter.streams.encoding import Compression
from jumpstarter.utils.env import env

directory, what, encoding, mebibytes = sys.argv[1:]
with env() as client:
    image = Path(directory) / "image"
    if not image.exists():
        with open(image, "wb") as file:
            for index in range(int(mebibytes)):
                file.write(os.urandom(1 << 20) if index % 4 == 0 else bytes(1 << 20))
    packed = image
    if encoding != "raw":
        packed = Path(directory) / f"image.{encoding}"
        program = {"gzip": "gzip -1", "zstd": "zstd -q -1"}[encoding]
        if not packed.exists():
            assert os.system(f"{program} -c '{image}' > '{packed}'") == 0
    compression = None if encoding == "raw" else Compression(encoding)
    began = time.monotonic()
    if what == "flash":
        client.flasher.flash(packed, compression=compression)
    else:
        client.flasher.dump(Path(directory) / "back", compression=compression)
    print("seconds", time.monotonic() - began)
