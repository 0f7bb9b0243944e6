"""The client of jumpstarter-driver-opendal flashes and dumps through an SDWire."""

import os
import sys

from jumpstarter.utils.env import env

image, dumped = sys.argv[1:]
with env() as client:
    client.storage.flash(image)
    client.storage.dump(dumped)
    with open(image, "rb") as one, open(dumped, "rb") as other:
        expected = one.read()
        assert other.read(len(expected)) == expected, "the dump begins with the image"
    assert os.path.getsize(dumped) == 4 * 2**20, "the whole card is dumped"
    try:
        client.storage.flash(image, target="boot")
    except Exception as error:
        print("refused", type(error).__name__)
    print("flashed and dumped")
