"""The TFTP server of the Python exporter, started as its driver does. usage: python-server.py ADDRESS PORT ROOT"""

import asyncio
import sys

from jumpstarter_driver_tftp.server import TftpServer
from opendal import AsyncOperator

address, port, root = sys.argv[1:]


async def serve():
    await TftpServer(host=address, port=int(port), operator=AsyncOperator("fs", root=root)).start()


asyncio.run(serve())
