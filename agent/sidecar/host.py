"""Runs one Jumpstarter driver, with all below it, for the agent that starts this program.

usage: python host.py      (by the agent: its descriptors are the protocol)

0  commands, one JSON object a line; its end is the end of this program
3  events, one JSON object a line
4  never written; when the agent is gone, a guard kills the whole process group
1, 2  whatever drivers print

Commands, each answered by one event before the next is sent:
  {"do": "load", "entry": …, "uuid": …}  -> {"is": "loaded", "client": …, "version": …}
  {"do": "begin", "socket": …}           -> {"is": "begun", "report": base64 of a GetReportResponse}
  {"do": "end"}                          -> {"is": "ended"}
Any of them may be answered by {"is": "failed", "text": …}. {"is": "log", …} may come at any time.
"""

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from uuid import UUID, uuid5

EVENTS = 3
LIFELINE = 4
LONGEST_TEXT = 64 * 1024
# Between the agent's end and ours: drivers may close what they have open.
GRACE_SECONDS = 2


class Events:
    """Tells the agent; also from other threads, as drivers log there."""

    def __init__(self):
        self._lock = threading.Lock()

    def tell(self, kind, **fields):
        line = json.dumps({"is": kind, **fields}).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(EVENTS, line) :]
            except OSError:
                pass  # the agent is gone, and so are we soon


class Records(logging.Handler):
    """Hands the log records of everything in this process to the agent."""

    def __init__(self, events):
        super().__init__()
        self._events = events

    def emit(self, record):
        try:
            text = record.getMessage()
            if record.exc_info:
                text += "\n" + logging.Formatter().formatException(record.exc_info)
            self._events.tell("log", logger=record.name, level=record.levelname, text=text[:LONGEST_TEXT])
        except Exception:
            self.handleError(record)


class Host:
    """One configured driver: loaded once, built anew for each session, as the Python exporter does for each lease."""

    def __init__(self, events):
        self._events = events
        self._entry = None
        self._uuid = None
        self._session = AsyncExitStack()

    async def load(self, command):
        from jumpstarter.common.importlib import import_class
        from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

        self._uuid = UUID(command["uuid"])
        entry = command["entry"]
        client = import_class(entry["type"], [], True).client()
        self._entry = ExporterConfigV1Alpha1DriverInstance.model_validate(entry)
        self._kept = set(configured_uuids(entry))
        self._events.tell("loaded", client=client, version=version())

    async def begin(self, command):
        from google.protobuf.empty_pb2 import Empty
        from jumpstarter.exporter.session import Session

        root = self._entry.instantiate()
        self._name(root, self._uuid)
        async with AsyncExitStack() as stack:
            session = stack.enter_context(Session(root_device=root))
            # The agent says who may call when; the state itself keeps old releases from complaining.
            if hasattr(session, "update_status"):
                from jumpstarter.common import ExporterStatus

                session.update_status(ExporterStatus.LEASE_READY)
            report = (await session.GetReport(Empty(), None)).SerializeToString()
            await stack.enter_async_context(session.serve_port_async(f"unix://{command['socket']}"))
            self._session = stack.pop_all()
        self._events.tell("begun", report=base64.b64encode(report).decode())

    async def end(self, _command=None):
        session, self._session = self._session, AsyncExitStack()
        await session.aclose()
        self._events.tell("ended")

    def _name(self, driver, uuid):
        """A driver keeps its uuid from session to session: it is made of its place in the tree."""
        if str(driver.uuid) not in self._kept:
            driver.uuid = uuid
        for name, child in driver.children.items():
            self._name(child, uuid5(uuid, name))


def configured_uuids(entry):
    uuid = (entry.get("config") or {}).get("uuid")
    if uuid is not None:
        yield str(UUID(uuid))
    for child in (entry.get("children") or {}).values():
        yield from configured_uuids(child)


def version():
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("jumpstarter")
    except PackageNotFoundError:
        return "unknown"


def explain(error):
    """What went wrong, in one text: a driver that is not installed hides what its import missed."""
    text = str(error).split("\n\n")[0] or repr(error)
    cause = error.__cause__
    name = type(error).__name__
    if name == "MissingDriverError" and cause is not None:
        return f"{text.rstrip('.')}: {cause}"
    return text if isinstance(error, (ValueError, OSError, ImportError)) or name.endswith("Error") else f"{name}: {text}"


async def serve(commands, events):
    host = Host(events)
    todo = {"load": host.load, "begin": host.begin, "end": host.end}
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), commands)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            await todo[command["do"]](command)
        except Exception as error:
            logging.getLogger("jumpstarter_agent.host").debug("%s fails", command["do"], exc_info=error)
            events.tell("failed", text=explain(error))
    try:
        await asyncio.wait_for(host.end(), GRACE_SECONDS)
    except Exception as error:
        logging.getLogger("jumpstarter_agent.host").error("cannot be closed: %s", error)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]
    os.set_inheritable(EVENTS, False)
    # What drivers start must not read our commands.
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # It also works when this process hangs, and takes along what drivers have started.
    guard = subprocess.Popen(
        ["/bin/sh", "-c", f"read -r _; sleep {GRACE_SECONDS + 1}; kill -KILL 0"],
        stdin=LIFELINE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(LIFELINE)
    events = Events()
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.INFO, handlers=[Records(events)])
    try:
        asyncio.run(serve(commands, events))
    finally:
        sys.stdout.flush()
        guard.kill()
        # Threads of drivers do not keep us.
        os._exit(0)


if __name__ == "__main__":
    main()
