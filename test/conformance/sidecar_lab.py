"""Drivers that a lab has made for itself: the agent knows nothing of them. The tests put them on PYTHONPATH."""

import hashlib
import logging
import os
import subprocess
import sys
import time
from asyncio import sleep
from contextlib import asynccontextmanager

from anyio import create_memory_object_stream
from anyio.streams.stapled import StapledObjectStream
from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.driver import Driver, export, exportstream
from pydantic.dataclasses import dataclass

# What has happened to drivers in this process, in order.
lives = []


class GenericClient:
    @classmethod
    def client(cls):
        return "jumpstarter.client.DriverClient"


@dataclass(kw_only=True)
class Inner(GenericClient, Driver):
    """A child that its parent makes by itself."""

    @export
    async def whoami(self):
        return "inner"


@dataclass(kw_only=True)
class Lab(GenericClient, Driver):
    greeting: str = "hello"

    def __post_init__(self):
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        self.children["inner"] = Inner()
        lives.append("built")

    def reset(self):
        lives.append("reset")
        super().reset()

    def close(self):
        lives.append("closed")
        super().close()

    def extra_labels(self):
        return {"lab.example/shelf": "3"}

    @export
    async def life(self):
        return lives

    @export
    async def pid(self):
        return os.getpid()

    @export
    async def echo(self, *args):
        return list(args)

    @export
    def echo_in_thread(self, *args):
        return [self.greeting, *args]

    @export
    async def call_child(self, name):
        return await self.children[name].whoami()

    def not_exported(self):
        return None

    @export
    async def fail(self, kind, text):
        raise errors[kind](text)

    @export
    async def unserializable(self):
        return lambda: None

    @export
    async def not_text(self):
        return b"\xff"

    @export
    async def large(self, size):
        return "x" * int(size)

    @export
    async def count(self, to):
        for number in range(int(to)):
            yield number

    @export
    def count_in_thread(self, to):
        for number in range(int(to)):
            yield {"number": number}

    @export
    async def count_slowly(self):
        for number in range(600):
            yield number
            await sleep(0.1)

    @export
    async def count_and_fail(self, to, kind):
        for number in range(int(to)):
            yield number
        raise errors[kind]("counted")

    @export
    async def digest(self, handle):
        digest = hashlib.sha256()
        async with self.resource(handle) as source:
            async for chunk in source:
                digest.update(chunk)
        return digest.hexdigest()

    @export
    async def unused(self, handle):
        return None

    @export
    async def exit(self, code):
        print("last words of the lab", file=sys.stderr, flush=True)
        os._exit(int(code))

    @export
    async def nap(self, seconds):
        lives.append("naps")
        try:
            await sleep(seconds)
        except BaseException as error:
            lives.append(type(error).__name__)
            raise

    @export
    async def hang(self):
        time.sleep(600)

    @export
    async def start_process(self):
        return subprocess.Popen(["sleep", "600"]).pid

    @export
    async def garbage(self):
        os.write(3, b"\x00\xffthis is no event\n")

    @export
    async def speak(self):
        self.logger.info("the lab speaks")
        logging.getLogger("elsewhere").warning("not a driver speaks")
        print("the lab prints", flush=True)

    @exportstream
    @asynccontextmanager
    async def connect(self):
        """Answers each message by itself in capitals, and the end by its end."""
        sender, receiver = create_memory_object_stream[bytes](8)

        class Loud(StapledObjectStream):
            async def send(self, item):
                await super().send(item.upper())

        async with Loud(sender, receiver) as stream:
            yield stream

    @exportstream
    @asynccontextmanager
    async def stuck(self):
        """Takes what is sent, and never comes back from it."""
        sender, receiver = create_memory_object_stream[bytes](0)
        lives.append("stuck")
        try:
            async with StapledObjectStream(sender, receiver.clone()):
                yield StapledObjectStream(sender, create_memory_object_stream[bytes](0)[1])
        finally:
            lives.append("free")

    @exportstream
    @asynccontextmanager
    async def refuse(self):
        raise ValueError("no stream today")
        yield


@dataclass(kw_only=True)
class Slow(GenericClient, Driver):
    seconds: float = 600

    def __post_init__(self):
        super().__post_init__()
        time.sleep(self.seconds)


@dataclass(kw_only=True)
class Broken(GenericClient, Driver):
    def __post_init__(self):
        super().__post_init__()
        raise RuntimeError("the hardware of Broken is missing")


class LabError(JumpstarterException):
    pass


errors = {
    error.__name__: error
    for error in [
        ValueError,
        NotImplementedError,
        TimeoutError,
        ConnectionRefusedError,
        FileNotFoundError,
        RuntimeError,
        KeyError,
        LabError,
        UnicodeError,
    ]
}
