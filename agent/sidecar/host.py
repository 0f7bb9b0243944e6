"""Runs one Jumpstarter driver, with all below it, for the agent that starts this program.

usage: python host.py DIRECTORY      (by the agent: its descriptors are the protocol; its sockets are in the directory)

0  commands, one JSON object a line; its end is the end of this program
3  events, one JSON object a line
4  never written; when the agent is gone, a guard kills the whole process group
1, 2  whatever drivers print

Commands, each answered by one event before the next is sent:
  {"do": "load", "entry": …, "uuid": …}  -> {"is": "loaded", "client": …, "version": …}
  {"do": "begin", "socket": …}           -> {"is": "begun", "report": base64 of a GetReportResponse}
  {"do": "end"}                          -> {"is": "ended"}
Any of them may be answered by {"is": "failed", "text": …}. {"is": "log", …} may come at any time.

Between begin and end the socket takes connections, each for one call at a time. Both sides send messages as gRPC puts
them on a stream: a byte, a length of four bytes, big endian, and so many bytes. What the byte means stands below.
"""

import asyncio
import base64
import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections import deque
from contextlib import AsyncExitStack, suppress
from uuid import UUID, uuid5

EVENTS = 3
LIFELINE = 4
LONGEST_TEXT = 64 * 1024
# Between the agent's end and ours: drivers may close what they have open.
GRACE_SECONDS = 2

MESSAGE = 0x00  # a message of the call, as the client sent it or will get it
UNARY = 0x10  # a DriverCallRequest; answered by one MESSAGE or by ENDED
STREAMING = 0x11  # a StreamingDriverCallRequest; answered by MESSAGEs, then ENDED
STREAM = 0x12  # JSON as of the metadata `request`; answered by METADATA or ENDED, then StreamRequests and StreamResponses
DONE = 0x13  # the client of a STREAM will send no more
METADATA = 0x20  # JSON
ENDED = 0x80  # nothing: all went well; else JSON: status, details

LONGEST_MESSAGE = 4 * 1024 * 1024
# What is read at once: little from who calls, much from who sends files.
LEAST_READ_BYTES = 16 * 1024
MOST_READ_BYTES = 256 * 1024
# What may wait for a driver that does not read.
UNREAD_BYTES = 1024 * 1024
LOOK_SECONDS = 0.5
# In a StreamRequest or a StreamResponse: what begins a payload, and what is said when there will be none any more.
PAYLOAD = b"\x0a"
GOAWAY = b"\x10\x07"
# A stream that was cut is not at its end: the call that reads it is cancelled, too, and must not take it for whole.
CUT_SECONDS = 1


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


class Aborted(BaseException):
    """A call ends with this status. No `except Exception` of a driver is meant for it."""

    def __init__(self, status, details):
        super().__init__(status, details)
        self.answer = {"status": status, "details": details}


class Context:
    """What drivers and sessions may ask of a servicer context."""

    async def abort(self, code, details="", trailing_metadata=()):
        raise Aborted(code.value[0], details)

    async def send_initial_metadata(self, metadata):
        pass

    def invocation_metadata(self):
        return ()

    def add_done_callback(self, callback):
        pass

    def cancelled(self):
        return False

    done = cancelled

    def peer(self):
        return "unix:"


def answer_of(error):
    """How gRPC ends a call that failed like this."""
    if isinstance(error, Aborted):
        return error.answer
    return {"status": 2, "details": f"Unexpected {type(error)}: {error}"}


class Connection(asyncio.BufferedProtocol):
    """One call after the other, until the agent hangs up; that cancels the one that runs."""

    def __init__(self, session, lent, connections):
        self._session = session
        self._lent = lent
        self._connections = connections
        self._buffer = memoryview(bytearray(LEAST_READ_BYTES))
        self._filled = 0
        self._payloads = deque()
        self._unread = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task = None

    # What the event loop tells

    def connection_made(self, transport):
        self._transport = transport
        transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self._connections.add(self)

    def connection_lost(self, _error):
        self._connections.discard(self)
        self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self):
        self._writable.clear()

    def resume_writing(self):
        self._writable.set()

    def get_buffer(self, _hint):
        return self._buffer[self._filled :]

    def buffer_updated(self, size):
        buffer, filled, at = self._buffer, self._filled + size, 0
        room = min(2 * filled, MOST_READ_BYTES) if filled == len(buffer) else 0
        while filled - at >= 5:
            length = int.from_bytes(buffer[at + 1 : at + 5], "big")
            if length > LONGEST_MESSAGE:
                details = f"SERVER: Received message larger than max ({length} vs. {LONGEST_MESSAGE})"
                self._end({"status": 8, "details": details})
                self.close()
                return
            end = at + 5 + length
            if end > filled:
                room = max(room, end - at)
                break
            self._take(buffer[at], buffer[at + 5 : end])
            at = end
        self._filled = filled - at
        if room > len(buffer):
            self._buffer = memoryview(bytearray(room))
        self._buffer[: self._filled] = buffer[at:filled]

    def close(self):
        self._transport.close()

    def _take(self, kind, message):
        if kind == MESSAGE:
            payload = payload_of(message)
            if payload == b"":
                return
            if payload is None:
                self._ended = True
            elif not self._ended:
                self._payloads.append(payload)
                self._unread += len(payload)
            if self._unread > UNREAD_BYTES and self._transport.is_reading():
                self._transport.pause_reading()
                self._look_for_end()
            self._arrived.set()
        elif kind == DONE:
            self._ended = True
            self._arrived.set()
        else:
            run = {UNARY: self._unary, STREAMING: self._streaming, STREAM: self._stream}[kind]
            self._task = asyncio.get_running_loop().create_task(self._run(run, bytes(message)))

    def _look_for_end(self):
        """Who does not read does not learn either that the agent has hung up."""
        if self._transport.is_reading() or self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), 0)
        if poll.poll(0):
            self._transport.abort()
        else:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_for_end)

    # What it tells

    def _send(self, kind, *parts):
        self._transport.write(b"".join((bytes((kind,)), sum(map(len, parts)).to_bytes(4, "big"), *parts)))

    def _end(self, answer=None):
        self._send(ENDED, b"" if answer is None else json.dumps(answer).encode())

    async def _run(self, run, message):
        try:
            await run(message)
        except asyncio.CancelledError:
            self.close()
        except BaseException as error:
            self._end(answer_of(error))

    # The three kinds of calls

    async def _unary(self, message):
        from jumpstarter_protocol import jumpstarter_pb2

        request = jumpstarter_pb2.DriverCallRequest.FromString(message)
        try:
            answer = await self._session.DriverCall(request, Context())
        finally:
            if self._lent:
                await self._forget_unused(request)
        self._send(MESSAGE, answer.SerializeToString())

    async def _streaming(self, message):
        from jumpstarter_protocol import jumpstarter_pb2

        request = jumpstarter_pb2.StreamingDriverCallRequest.FromString(message)
        async for item in self._session.StreamingDriverCall(request, Context()):
            self._send(MESSAGE, item.SerializeToString())
            if not self._writable.is_set():
                await self._writable.wait()
        self._end()

    async def _stream(self, message):
        from anyio import TypedAttributeLookupError
        from jumpstarter.common.streams import StreamRequestMetadata
        from jumpstarter.streams.metadata import MetadataStreamAttributes

        request = StreamRequestMetadata(request=message.decode()).request
        driver = self._session[request.uuid]
        async with driver.Stream(request, Context()) as stream:
            metadata = {}
            with suppress(TypedAttributeLookupError):
                metadata = stream.extra(MetadataStreamAttributes.metadata)
            lent = self._lend(request, driver, metadata)
            self._send(METADATA, json.dumps(metadata).encode())
            up = asyncio.ensure_future(self._copy_up(stream))
            down = asyncio.ensure_future(self._copy_down(stream))
            try:
                await asyncio.gather(up, down)
            except asyncio.CancelledError:
                if lent is not None:
                    await asyncio.sleep(CUT_SECONDS)
                raise
            finally:
                up.cancel()
                down.cancel()
                self._lent.pop(lent, None)
        self._end()

    async def _copy_up(self, stream):
        from anyio import BrokenResourceError, ClosedResourceError

        try:
            while (payload := await self._payload()) is not None:
                await stream.send(payload)
            with suppress(AttributeError, OSError):
                await stream.send_eof()
        except (BrokenResourceError, ClosedResourceError):
            # Whoever reads the other direction learns why; what comes is thrown away.
            while await self._payload() is not None:
                pass

    async def _copy_down(self, stream):
        from anyio import BrokenResourceError, ClosedResourceError, EndOfStream

        failed = None
        try:
            while True:
                payload = await stream.receive()
                if not payload:
                    continue
                self._send(MESSAGE, PAYLOAD, varint(len(payload)), payload)
                if not self._writable.is_set():
                    await self._writable.wait()
        except EndOfStream:
            pass
        except (BrokenResourceError, ClosedResourceError) as error:
            failed = Aborted(14, f"the device closed the stream: {error.__cause__ or error or type(error).__name__}")
        except Exception as error:
            failed = Aborted(10, f"{error}" or type(error).__name__)
        self._send(MESSAGE, GOAWAY)
        if failed is not None:
            raise failed

    async def _payload(self):
        """The next bytes of the client; None at their end."""
        while not self._payloads:
            if self._ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        payload = self._payloads.popleft()
        if self._unread > UNREAD_BYTES >= self._unread - len(payload):
            self._transport.resume_reading()
        self._unread -= len(payload)
        return payload

    def _lend(self, request, driver, metadata):
        if request.kind != "resource":
            return None
        handle = metadata["resource"]
        uuid = (json.loads(handle) if isinstance(handle, str) else handle)["uuid"]
        self._lent[uuid] = driver
        return uuid

    async def _forget_unused(self, request):
        """A handle is given to one call. If that did not open it, nobody will, and its client waits for the end."""
        for arg in request.args:
            uuid = arg.struct_value.fields["uuid"].string_value if arg.HasField("struct_value") else ""
            driver = self._lent.pop(uuid, None)
            if driver is not None and (unused := driver.resources.pop(UUID(uuid), None)) is not None:
                await unused.aclose()


def payload_of(message):
    """The bytes that a StreamRequest carries; None if it says that there will be no more."""
    if message[:1] == PAYLOAD:
        length, shift, at = 0, 0, 1
        while at < len(message) and shift < 35:
            length |= (message[at] & 0x7F) << shift
            shift += 7
            at += 1
            if message[at - 1] < 0x80:
                break
        # As good as all carry nothing else.
        if at + length == len(message):
            return bytes(message[at:])
    from jumpstarter_protocol import router_pb2

    frame = router_pb2.StreamRequest.FromString(bytes(message))
    if frame.frame_type == router_pb2.FRAME_TYPE_GOAWAY:
        return None
    return frame.payload if frame.frame_type == router_pb2.FRAME_TYPE_DATA else b""


def varint(number):
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


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
            handlers = list(logging.getLogger().handlers)
            session = stack.enter_context(Session(root_device=root))
            # The session keeps what is logged for clients of its own; it has none.
            logging.getLogger().handlers[:] = handlers
            # The agent says who may call when; the state itself keeps releases that look at it from complaining.
            if hasattr(session, "update_status"):
                from jumpstarter.common import ExporterStatus

                session.update_status(ExporterStatus.LEASE_READY)
            report = (await session.GetReport(Empty(), None)).SerializeToString()
            connections = set()
            lent = {}
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(lambda: Connection(session, lent, connections), command["socket"])
            stack.push_async_callback(hang_up, server, connections)
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


async def hang_up(server, connections):
    server.close()
    tasks = [connection._task for connection in connections if connection._task is not None]
    for connection in list(connections):
        connection.close()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)


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
    if type(error).__name__ == "MissingDriverError" and error.__cause__ is not None:
        return f"{text.rstrip('.')}: {error.__cause__}"
    return f"{type(error).__name__}: {text}" if isinstance(error, (KeyError, StopIteration)) else text


async def serve(commands, events):
    host = Host(events)
    log = logging.getLogger("jumpstarter_agent.host")
    todo = {"load": host.load, "begin": host.begin, "end": host.end}
    reader = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), commands)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            await todo[command["do"]](command)
        except Exception as error:
            log.debug("%s fails", command["do"], exc_info=error)
            events.tell("failed", text=explain(error))
    try:
        await asyncio.wait_for(host.end(), GRACE_SECONDS)
    except Exception as error:
        log.error("cannot be closed: %s", error)


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
        ["/bin/sh", "-c", f'read -r _; sleep {GRACE_SECONDS + 1}; rm -rf "$0"; kill -KILL 0', sys.argv[1]],
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
