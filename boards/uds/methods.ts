import type { Call } from "../../agent/driver/driver.ts";
import { AgentError } from "../../agent/driver/errors.ts";
import { toHex } from "../../agent/driver/hex.ts";
import type { Implementation } from "../../agent/driver/interface.ts";
import type { Answer, Conversation } from "./conversation.ts";
import type { uds } from "./interface.ts";
import { negativeResponseName } from "./negative-responses.ts";
import * as protocol from "./protocol.ts";

const allGroups = 0xff_ffff;
const none = new Uint8Array();

/** Of a positive answer there is nothing to say. */
const positive = { success: true, nrc: null, nrc_name: null };
const negative = (code: number) => ({ success: false, nrc: code, nrc_name: negativeResponseName(code) });
const outcome = (answer: Answer) => (answer.positive ? positive : negative(answer.code));
/** Python's clients tell nothing and empty apart as little as this. */
const hexOrNull = (bytes: Uint8Array | undefined) => (bytes === undefined || bytes.length === 0 ? null : toHex(bytes));

/** The methods of every driver that speaks UDS, whatever carries it. */
export function udsMethods(conversation: Conversation): Implementation<typeof uds, Call> {
  const ask = async ({ signal }: Call, request: protocol.UdsRequest) => {
    const answer = await conversation.ask(request, signal);
    const { name } = request.service;
    return { service: name, data: hexOrNull(answer.positive ? answer.data : undefined), ...outcome(answer) };
  };
  const controlRoutine =
    (control: keyof typeof protocol.routineControls) =>
    async ({ signal }: Call, id: number, options?: Uint8Array | null) => {
      const request = protocol.controlRoutine(protocol.routineControls[control], id, options ?? none);
      const answer = await conversation.ask(request, signal);
      const status = answer.positive ? answer.data.subarray(3) : undefined;
      return { routine_id: id, control_type: control, status_record: hexOrNull(status), ...outcome(answer) };
    };

  return {
    change_session: (call, session) => ask(call, protocol.changeSession(protocol.sessions[session])),
    ecu_reset: (call, kind) => ask(call, protocol.resetEcu(protocol.resets[kind])),
    async tester_present({ signal }) {
      const answer = await conversation.ask(protocol.testerPresent(), signal);
      if (answer.positive) return;
      const code = `${negativeResponseName(answer.code)} (0x${answer.code.toString(16)})`;
      throw new AgentError("E_FAILED", `TesterPresent service execution returned a negative response ${code}`);
    },
    // One by one: an answer to several does not say where the data of one end.
    async read_data_by_identifier({ signal, log }, identifiers) {
      const values: { did: number; value: string }[] = [];
      for (const did of new Set(identifiers)) {
        const answer = await conversation.ask(protocol.readData(did), signal);
        if (answer.positive) values.push({ did, value: toHex(answer.data.subarray(2)) });
        else log.warn(`the ECU does not let ${hex4(did)} be read: ${negativeResponseName(answer.code)}`);
      }
      return values;
    },
    write_data_by_identifier: (call, did, value) => ask(call, protocol.writeData(did, value)),
    async request_seed({ signal }, level) {
      const answer = await conversation.ask(protocol.requestSeed(level), signal);
      return { seed: answer.positive ? toHex(answer.data.subarray(1)) : "", ...outcome(answer) };
    },
    send_key: (call, level, key) => ask(call, protocol.sendKey(level, key)),
    clear_dtc: (call, group = allGroups) => ask(call, protocol.clearDtc(group)),
    async read_dtc_by_status_mask({ signal, log }, mask = 0xff) {
      const answer = await conversation.ask(protocol.readDtcByStatus(mask), signal);
      if (answer.positive) return protocol.parseDtcs(answer.data).map((dtc) => ({ ...dtc, severity: 0 }));
      log.warn(`the ECU does not tell its trouble codes: ${negativeResponseName(answer.code)}`);
      return [];
    },
    start_routine: controlRoutine("startRoutine"),
    stop_routine: controlRoutine("stopRoutine"),
    get_routine_result: controlRoutine("requestRoutineResults"),
    async authentication({ signal }, task, communication, certificate, challenge, algorithm, proof) {
      const request = protocol.authenticate({
        task,
        communicationConfiguration: communication ?? undefined,
        certificate: certificate ?? none,
        challenge: challenge ?? none,
        algorithm: algorithm ?? none,
        proof: proof ?? none,
      });
      const answer = await conversation.ask(request, signal);
      const told = answer.positive ? protocol.parseAuthentication(answer.data) : undefined;
      return {
        authentication_task: task,
        return_value: told?.returnValue ?? 0,
        challenge_server: hexOrNull(told?.parts.challenge_server),
        certificate_server: hexOrNull(told?.parts.certificate_server),
        proof_of_ownership_server: hexOrNull(told?.parts.proof_of_ownership_server),
        session_key_info: hexOrNull(told?.parts.session_key_info),
        algorithm_indicator: hexOrNull(told?.algorithm),
        needed_additional_parameter: hexOrNull(told?.parts.needed_additional_parameter),
        ...outcome(answer),
      };
    },
    async request_file_transfer({ signal }, mode, path, size) {
      const answer = await conversation.ask(protocol.requestFileTransfer(mode, path, size ?? undefined), signal);
      const nothing = {
        max_length: null,
        filesize_uncompressed: null,
        filesize_compressed: null,
        dirinfo_length: null,
      };
      return {
        moop: mode,
        ...(answer.positive ? protocol.parseFileTransfer(answer.data) : nothing),
        ...outcome(answer),
      };
    },
  };
}

function hex4(did: number): string {
  return `0x${did.toString(16).padStart(4, "0")}`;
}
