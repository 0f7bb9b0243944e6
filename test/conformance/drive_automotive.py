"""Drives diagnostics, SOME/IP and XCP through the Python clients, and prints what every call gave, as JSON.

usage: drive_automotive.py ours|theirs             the exporter is found by JUMPSTARTER_HOST, pyxcp's slave by PYXCP_CONFIG
Run against two exporters, it tells whether they are the same.
"""

import json
import sys

from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.utils.env import env

results = {}


def note(name, function, *args, **kwargs):
    """Keeps what a call gave; of an error, the kind that a script can catch and the status."""
    try:
        value = function(*args, **kwargs)
    except DriverMethodNotImplemented:
        value = "raises DriverMethodNotImplemented"
    except DriverInvalidArgument:
        value = "raises DriverInvalidArgument"
    except DriverError as error:
        status = str(error).split("gRPC ")[1].split(":")[0] if "gRPC " in str(error) else str(error)
        value = f"raises DriverError {status}"
    except Exception as error:  # what the client itself makes of an answer
        value = f"raises {type(error).__name__}"
    if isinstance(value, list):
        value = [item.model_dump() if hasattr(item, "model_dump") else item for item in value]
    elif hasattr(value, "model_dump"):
        value = value.model_dump()
    elif isinstance(value, bytes):
        value = value.hex()
    results[name] = value


def uds(prefix, client):
    def call(name, function, *args):
        note(f"{prefix} {name}", function, *args)

    call("programming, refused", client.change_session, "programming")
    call("unknown session", client.change_session, "deep")
    call("write, wrong session", client.write_data_by_identifier, 0xF18C, b"\x01")
    call("extended", client.change_session, "extended")
    call("tester present", client.tester_present)
    call("read VIN", client.read_data_by_identifier, [0xF190])
    call("read unknown", client.read_data_by_identifier, [0x1234])
    call("read too large", client.read_data_by_identifier, [0x12345])
    call("write", client.write_data_by_identifier, 0xF18C, b"\x01\x02")
    call("read back", client.read_data_by_identifier, [0xF18C])
    call("write long", client.write_data_by_identifier, 0x0100, bytes(range(200)))
    call("read long", client.read_data_by_identifier, [0x0100])
    call("write, locked", client.write_data_by_identifier, 0xF190, b"x")
    call("write, fails", client.write_data_by_identifier, 0x0BAD, b"x")
    call("key before seed", client.send_key, 2, b"\x00")
    call("seed", client.request_seed, 1)
    call("wrong key", client.send_key, 2, b"\x00\x00\x00\x00")
    call("seed by the other number", client.request_seed, 2)
    call("key", client.send_key, 1, b"\xee\xdd\xcc\xbb")
    call("seed, unlocked", client.request_seed, 1)
    call("level 0", client.request_seed, 0)
    call("DTCs", client.read_dtc_by_status_mask)
    call("some DTCs", client.read_dtc_by_status_mask, 1)
    call("clear unknown group", client.clear_dtc, 5)
    call("clear group out of range", client.clear_dtc, 0x1000000)
    call("clear", client.clear_dtc)
    call("no DTCs", client.read_dtc_by_status_mask)
    call("result before start", client.get_routine_result, 0xFF00)
    call("start", client.start_routine, 0xFF00, b"\x01\x02")
    call("stop", client.stop_routine, 0xFF00)
    call("result", client.get_routine_result, 0xFF00)
    call("unknown routine", client.start_routine, 0x0001)
    call("deauthenticate", client.authentication, 0)
    call("certificate", client.authentication, 1, 0, b"\xaa", b"\xbb")
    call("both certificates", client.authentication, 2, 0, b"\xaa", b"\xbb")
    call("ownership", client.authentication, 3, None, None, None, None, b"\x01")
    call("transmit", client.authentication, 4)
    call("challenge", client.authentication, 5, 1, None, None, b"\x11" * 16)
    call("challenge, short algorithm", client.authentication, 5, 1, None, None, b"\x11")
    call("proof", client.authentication, 6, None, None, b"\x01", b"\x22" * 16, b"\x02")
    call("both proofs", client.authentication, 7, None, None, b"\x01", b"\x22" * 16, b"\x02")
    call("task 9", client.authentication, 9)
    call("add file", client.request_file_transfer, 1, "/a/b", 70000)
    call("add file, no size", client.request_file_transfer, 1, "/a/b")
    call("delete file", client.request_file_transfer, 2, "/a/b")
    call("replace file", client.request_file_transfer, 3, "/a/b", 1)
    call("read file", client.request_file_transfer, 4, "/a/b")
    call("read file with size", client.request_file_transfer, 4, "/a/b", 3)
    call("read directory", client.request_file_transfer, 5, "/a")
    call("resume file", client.request_file_transfer, 6, "/a/b", 7)
    call("mode 7", client.request_file_transfer, 7, "/a/b")
    call("empty path", client.request_file_transfer, 4, "")
    call("path of other letters", client.request_file_transfer, 4, "/ä")
    call("reset", client.ecu_reset, "soft")
    call("unknown reset", client.ecu_reset, "gentle")


def doip(client):
    note("doip status", client.entity_status)
    note("doip alive", client.alive_check)
    note("doip power", client.diagnostic_power_mode)
    note("doip identify", client.request_vehicle_identification)
    note("doip identify by VIN", client.request_vehicle_identification, vin="WVWZZZ1JZXW000001")
    note("doip activate", client.routing_activation)
    note("doip activate, refused", client.routing_activation, 0xE5)
    note("doip send", client.send_diagnostic, b"\x22\xf1\x90")
    note("doip receive", client.receive_diagnostic)
    note("doip receive nothing", client.receive_diagnostic, timeout=0.2)
    note("doip odd digits", lambda: client.call("send_diagnostic", {"data": "abc"}))
    note("doip no digits", lambda: client.call("send_diagnostic", {"data": "xy"}))
    note("doip reconnect", client.reconnect, close_delay=0.1)
    note("doip after it", client.send_diagnostic, b"\x3e\x00")
    note("doip its answer", client.receive_diagnostic)


def someip(client):
    note("someip start", client.start)
    note("someip send", client.send_message, 0x1234, 1, b"\xca\xfe")
    note("someip receive", client.receive_message, 5)
    note("someip nothing", client.receive_message, 0.1)
    note("someip no event", client.receive_event, 0.1)
    note("someip find unknown", client.find_service, 0x4321, timeout=0.2)
    note("someip odd digits", lambda: client.call("send_message", 1, 1, {"data": "abc"}))
    note("someip reconnect", client.reconnect)
    note("someip close", client.close_connection)


def someip_discovery(client):
    """What the Python exporter cannot do: a service that is found ends its process."""
    client.reconnect()
    found = client.find_service(0x1234, timeout=5)
    assert [(each.instance_id, each.major_version, each.minor_version) for each in found] == [(1, 2, 7)], found
    answer = client.rpc_call(0x1234, 1, b"\x01\xff")
    assert (answer.payload, answer.message_type, answer.return_code) == ("01ff", 0x80, 0), answer
    failure = client.rpc_call(0x1234, 2, b"")
    assert (failure.message_type, failure.return_code) == (0x81, 5), failure
    client.subscribe_eventgroup(0x10)
    client.unsubscribe_eventgroup(0x10)
    try:
        client.subscribe_eventgroup(0x99)
    except DriverError as error:
        assert "refuses the subscription of eventgroup 0x0099" in str(error), error
    else:
        raise AssertionError("the subscription of an unknown eventgroup was accepted")


def xcp(client):
    note("xcp connect", client.connect)
    note("xcp id", client.get_id)
    note("xcp short id", client.get_id, 0)
    note("xcp status", client.get_status)
    note("xcp unlock", client.unlock)
    note("xcp upload", client.upload, 9, 0x1000)
    note("xcp download", client.download, 0x100, b"Hello")
    note("xcp upload it", client.upload, 5, 0x100)
    note("xcp set MTA", client.set_mta, 0x1000)
    note("xcp checksum", client.build_checksum, 9)
    note("xcp DAQ", client.get_daq_info)
    note("xcp free", client.free_daq)
    note("xcp alloc", client.alloc_daq, 2)
    note("xcp alloc ODT", client.alloc_odt, 0, 1)
    note("xcp alloc entry", client.alloc_odt_entry, 0, 0, 2)
    note("xcp pointer", client.set_daq_ptr, 0, 0, 0)
    note("xcp write", client.write_daq, 0xFF, 4, 0, 0x1000)
    note("xcp mode", client.set_daq_list_mode, 0x10, 0, 1, 1, 0)
    note("xcp select", client.start_stop_daq_list, 2, 0)
    note("xcp synch", client.start_stop_synch, 1)
    note("xcp program start", client.program_start)
    note("xcp clear", client.program_clear, 256)
    note("xcp disconnect", client.disconnect)


def pyxcp():
    """What pyxcp itself says of such a slave: the Python XCP driver cannot drive it, as it never connects its transport."""
    from pyxcp.cmdline import ArgumentParser

    with ArgumentParser(description="peer").run() as master:
        master.connect()
        slave = master.slaveProperties
        results["xcp connect"] = {
            "max_cto": slave["maxCto"],
            "max_dto": slave["maxDto"],
            "byte_order": str(slave["byteOrder"]),
            "supports_pgm": slave["supportsPgm"],
            "supports_stim": slave["supportsStim"],
            "supports_daq": slave["supportsDaq"],
            "supports_calpag": slave["supportsCalpag"],
            "protocol_layer_version": slave["protocolLayerVersion"],
            "transport_layer_version": slave["transportLayerVersion"],
            "address_granularity": str(slave["addressGranularity"]),
            "slave_block_mode": slave["slaveBlockMode"],
        }
        results["xcp id"] = {"id_type": 1, "identifier": master.identifier(1)}
        results["xcp short id"] = {"id_type": 0, "identifier": master.identifier(0)}
        status = master.getStatus()
        plain = {key: value for key, value in status.items() if isinstance(value, int)}
        flags = {key: value for key, value in status.sessionStatus.items() if isinstance(value, bool)}
        protection = master.getCurrentProtectionStatus()
        results["xcp status"] = {"session_status": {**flags, **plain}, "resource_protection": protection}
        master.getStatus()
        results["xcp unlock"] = protection
        results["xcp upload"] = bytes(master.shortUpload(9, 0x1000)).decode()
        master.setMta(0x100)
        master.download(b"Hello")
        results["xcp upload it"] = bytes(master.shortUpload(5, 0x100)).decode()
        master.setMta(0x1000)
        checksum = master.buildChecksum(9)
        results["xcp checksum"] = {"checksum_type": int(checksum.checksumType), "checksum_value": checksum.checksum}
        info = master.getDaqInfo()
        results["xcp DAQ"] = {key: info[key] for key in ("processor", "resolution", "channels")}
        master.freeDaq()
        master.allocDaq(2)
        master.allocOdt(0, 1)
        master.allocOdtEntry(0, 0, 2)
        master.setDaqPtr(0, 0, 0)
        master.writeDaq(0xFF, 4, 0, 0x1000)
        master.setDaqListMode(0x10, 0, 1, 1, 0)
        master.startStopDaqList(2, 0)
        master.startStopSynch(1)
        started = master.programStart()
        modes = {"slaveBlockMode": 0x40, "interleavedMode": 0x02, "masterBlockMode": 0x01}
        results["xcp program start"] = {
            "comm_mode_pgm": sum(bit for name, bit in modes.items() if started.commModePgm[name]),
            "max_cto_pgm": started.maxCtoPgm,
            "max_bs_pgm": started.maxBsPgm,
            "min_st_pgm": started.minStPgm,
            "queue_size_pgm": started.queueSizePgm,
        }
        master.programClear(0, 256)
        master.disconnect()


if __name__ == "__main__":
    with env() as client:
        uds("uds-can", client.uds_can)
        uds("uds-doip", client.uds_doip)
        doip(client.doip)
        someip(client.someip)
        if "ours" in sys.argv:
            xcp(client.xcp)
            someip_discovery(client.someip)
    if "theirs" in sys.argv:
        pyxcp()
    print(json.dumps(results))
