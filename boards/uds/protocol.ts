import { AgentError } from "../../agent/driver/errors.ts";

/** Requests and responses of UDS, ISO 14229-1:2020; all numbers big-endian. */

export interface Service {
  readonly id: number;
  /** As udsoncan calls it. */
  readonly name: string;
}

const service = (id: number, name: string): Service => ({ id, name });

export const services = {
  sessionControl: service(0x10, "DiagnosticSessionControl"),
  ecuReset: service(0x11, "ECUReset"),
  clearDtc: service(0x14, "ClearDiagnosticInformation"),
  readDtc: service(0x19, "ReadDTCInformation"),
  readData: service(0x22, "ReadDataByIdentifier"),
  securityAccess: service(0x27, "SecurityAccess"),
  authentication: service(0x29, "Authentication"),
  writeData: service(0x2e, "WriteDataByIdentifier"),
  routineControl: service(0x31, "RoutineControl"),
  fileTransfer: service(0x38, "RequestFileTransfer"),
  testerPresent: service(0x3e, "TesterPresent"),
} as const;

export const sessions = { default: 1, programming: 2, extended: 3, safety: 4 } as const;
export const resets = { hard: 1, key_off_on: 2, soft: 3 } as const;
export const routineControls = { startRoutine: 1, stopRoutine: 2, requestRoutineResults: 3 } as const;

export interface UdsRequest {
  readonly service: Service;
  /** What follows the service id. */
  readonly body: Uint8Array;
  /** What a positive response repeats of it, right after its own id. */
  readonly echo: Uint8Array;
}

/** @param echoed how many bytes of the body a positive response repeats */
function request(of: Service, echoed: number, ...parts: (readonly number[] | Uint8Array)[]): UdsRequest {
  const body = Uint8Array.from(parts.flatMap((part) => [...part]));
  return { service: of, body, echo: body.subarray(0, echoed) };
}

const u16 = (value: number): number[] => [value >> 8, value & 0xff];
const u24 = (value: number): number[] => [value >> 16, ...u16(value & 0xffff)];
/** Two bytes of length before the bytes. */
const counted = (bytes: Uint8Array): number[] => [...u16(bytes.length), ...bytes];

export const changeSession = (session: number) => request(services.sessionControl, 1, [session]);
export const resetEcu = (kind: number) => request(services.ecuReset, 1, [kind]);
export const testerPresent = () => request(services.testerPresent, 1, [0]);
export const readData = (did: number) => request(services.readData, 2, u16(did));
export const writeData = (did: number, value: Uint8Array) => request(services.writeData, 2, u16(did), value);
/** Seeds have odd levels, their keys the even one above: either names the pair. */
export const requestSeed = (level: number) =>
  request(services.securityAccess, 1, [level % 2 === 1 ? level : level - 1]);
export const sendKey = (level: number, key: Uint8Array) =>
  request(services.securityAccess, 1, [level % 2 === 0 ? level : level + 1], key);
export const clearDtc = (group: number) => request(services.clearDtc, 0, u24(group));
/** reportDTCByStatusMask */
export const readDtcByStatus = (mask: number) => request(services.readDtc, 1, [2, mask]);
export const controlRoutine = (control: number, id: number, data: Uint8Array) =>
  request(services.routineControl, 3, [control], u16(id), data);

export function encodeRequest({ service: { id }, body }: UdsRequest): Uint8Array {
  return Uint8Array.of(id, ...body);
}

export type UdsResponse =
  | { readonly kind: "positive"; readonly data: Uint8Array }
  | { readonly kind: "negative"; readonly code: number }
  /** The server is at it. */
  | { readonly kind: "pending" }
  /** It answers something else. */
  | { readonly kind: "stranger" };

const negativeResponse = 0x7f;
const responsePending = 0x78;

export function parseResponse({ service: { id }, echo }: UdsRequest, message: Uint8Array): UdsResponse {
  const [first, second, code] = message;
  if (first === negativeResponse && second === id && code !== undefined) {
    return code === responsePending ? { kind: "pending" } : { kind: "negative", code };
  }
  const data = message.subarray(1);
  if (first !== id + 0x40 || !echo.every((byte, index) => data[index] === byte)) return { kind: "stranger" };
  return { kind: "positive", data };
}

/** P2* of the session in ms, if the server tells it: session, P2 in ms, P2* in 10 ms. */
export function extendedTimeoutMs(data: Uint8Array): number | undefined {
  return data.length < 5 ? undefined : viewOf(data).getUint16(3) * 10;
}

export interface Dtc {
  readonly dtc_id: number;
  readonly status: number;
}

/** Of `reportDTCByStatusMask`: sub-function, availability mask, then four bytes for each DTC. */
export function parseDtcs(data: Uint8Array): Dtc[] {
  if (data.length < 2) throw malformed(services.readDtc, data);
  const dtcs: Dtc[] = [];
  for (let start = 2; start < data.length; start += 4) {
    const record = data.subarray(start, start + 4);
    // Frames are filled up with zeros; there is no DTC of this number.
    if (record.every((byte) => byte === 0)) continue;
    const [high = 0, middle = 0, low = 0, status] = record;
    if (status === undefined) throw malformed(services.readDtc, data);
    dtcs.push({ dtc_id: (high << 16) | (middle << 8) | low, status });
  }
  return dtcs;
}

export interface AuthenticationRequest {
  readonly task: number;
  readonly communicationConfiguration: number | undefined;
  readonly certificate: Uint8Array;
  readonly challenge: Uint8Array;
  readonly algorithm: Uint8Array;
  readonly proof: Uint8Array;
}

const algorithmBytes = 16;
const none = new Uint8Array();

/** Tasks of the service Authentication (0x29), table 74 on. @throws AgentError E_INVALID for what a task lacks */
export function authenticate(of: AuthenticationRequest): UdsRequest {
  const { task, communicationConfiguration: communication, certificate, challenge, algorithm, proof } = of;
  const build = (...parts: (readonly number[] | Uint8Array)[]) => request(services.authentication, 1, [task], ...parts);
  const demandCommunication = (): number[] => {
    if (communication !== undefined) return [communication];
    throw new AgentError("E_INVALID", "Communication Configuration must be an integer between 0x0 and 0xFF");
  };
  const demandAlgorithm = (): Uint8Array => {
    if (algorithm.length === algorithmBytes) return algorithm;
    throw new AgentError("E_INVALID", `the algorithm indicator must have ${algorithmBytes} bytes`);
  };
  switch (task) {
    case 0: // deAuthenticate
    case 8: // authenticationConfiguration
      return build();
    case 1: // verifyCertificateUnidirectional
    case 2: // verifyCertificateBidirectional
      return build(demandCommunication(), counted(certificate), counted(challenge));
    case 3: // proofOfOwnership; without an ephemeral public key
      return build(counted(proof), counted(none));
    case 5: // requestChallengeForAuthentication
      return build(demandCommunication(), demandAlgorithm());
    case 6: // verifyProofOfOwnershipUnidirectional
    case 7: // verifyProofOfOwnershipBidirectional; without an additional parameter
      return build(demandAlgorithm(), counted(proof), counted(challenge), counted(none));
    default: // transmitCertificate needs what clients cannot give
      throw new AgentError("E_INVALID", `authentication task ${task} is not supported`);
  }
}

type AuthenticationPart =
  | "challenge_server"
  | "certificate_server"
  | "proof_of_ownership_server"
  | "session_key_info"
  | "needed_additional_parameter";

/** What follows the return value of each task; undefined: an ephemeral public key, which clients are not told. */
const authenticationAnswers = new Map<number, readonly (AuthenticationPart | undefined)[]>([
  [1, ["challenge_server", undefined]],
  [2, ["challenge_server", "certificate_server", "proof_of_ownership_server", undefined]],
  [3, ["session_key_info"]],
  [5, ["challenge_server", "needed_additional_parameter"]],
  [6, ["session_key_info"]],
  [7, ["proof_of_ownership_server", "session_key_info"]],
]);
const tasksWithAlgorithm = new Set([5, 6, 7]);

export interface AuthenticationAnswer {
  readonly returnValue: number;
  readonly algorithm: Uint8Array | undefined;
  readonly parts: Partial<Record<AuthenticationPart, Uint8Array>>;
}

export function parseAuthentication(data: Uint8Array): AuthenticationAnswer {
  const [task = 0, returnValue] = data;
  if (returnValue === undefined) throw malformed(services.authentication, data);
  let offset = 2;
  const take = (bytes: number): Uint8Array => {
    const taken = data.subarray(offset, (offset += bytes));
    if (taken.length < bytes) throw malformed(services.authentication, data);
    return taken;
  };
  const algorithm = tasksWithAlgorithm.has(task) ? take(algorithmBytes) : undefined;
  const parts: Partial<Record<AuthenticationPart, Uint8Array>> = {};
  for (const part of authenticationAnswers.get(task) ?? []) {
    const content = take(viewOf(take(2)).getUint16(0));
    if (part !== undefined) parts[part] = content;
  }
  if (offset < data.length) throw malformed(services.authentication, data);
  return { returnValue, algorithm, parts };
}

/** Modes of operation of RequestFileTransfer (0x38), table 476. */
const [addFile, deleteFile, replaceFile, readFile, readDir, resumeFile] = [1, 2, 3, 4, 5, 6] as const;
const modesThatWrite = new Set<number>([addFile, replaceFile, resumeFile]);

/** @throws AgentError E_INVALID for a size that the mode lacks, or has no use for */
export function requestFileTransfer(mode: number, path: string, size: number | undefined): UdsRequest {
  const name = Uint8Array.from(path, (char) => char.charCodeAt(0));
  const writes = modesThatWrite.has(mode);
  if (writes && size === undefined) {
    throw new AgentError("E_INVALID", "A filesize must be given for this mode of operation");
  }
  if (!writes && size !== undefined) {
    throw new AgentError("E_INVALID", `Filesize is not needed with ModeOfOperation=${mode}`);
  }
  // Neither compressed nor encrypted.
  const format = mode === deleteFile || mode === readDir ? [] : [0];
  return request(services.fileTransfer, 1, [mode], counted(name), format, size === undefined ? [] : sizes(size));
}

/** How many bytes a size takes, then the size of the file as it is, and compressed. */
function sizes(size: number): number[] {
  const digits = size.toString(16);
  const even = digits.padStart(digits.length + (digits.length % 2), "0");
  const bytes = Array.from({ length: even.length / 2 }, (_, at) => parseInt(even.slice(at * 2, at * 2 + 2), 16));
  return [bytes.length, ...bytes, ...bytes];
}

export interface FileTransferAnswer {
  readonly max_length: number | null;
  readonly filesize_uncompressed: number | null;
  readonly filesize_compressed: number | null;
  readonly dirinfo_length: number | null;
}

export function parseFileTransfer(data: Uint8Array): FileTransferAnswer {
  const [mode] = data;
  let offset = 1;
  const number = (bytes: number): number => {
    const taken = data.subarray(offset, (offset += bytes));
    if (bytes === 0 || bytes > 8 || taken.length < bytes) throw malformed(services.fileTransfer, data);
    return taken.reduce((value, byte) => value * 256 + byte, 0);
  };
  const answer = { max_length: null, filesize_uncompressed: null, filesize_compressed: null, dirinfo_length: null };
  if (mode === deleteFile) return answer;
  const maxLength = number(number(1));
  number(1); // the data format, which is the one that was asked for
  if (mode === readDir) return { ...answer, max_length: maxLength, dirinfo_length: number(number(2)) };
  if (mode !== readFile) return { ...answer, max_length: maxLength };
  const width = number(2);
  const uncompressed = number(width);
  return {
    ...answer,
    max_length: maxLength,
    filesize_uncompressed: uncompressed,
    filesize_compressed: number(width),
  };
}

export function malformed({ name }: Service, data: Uint8Array): AgentError {
  return new AgentError("E_FAILED", `the ECU's response to ${name} is malformed (${data.length} bytes)`);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
