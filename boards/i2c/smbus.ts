import { longestBlockBytes, type I2cFunction, type I2cMessage, type SmbusCall } from "../../agent/sys/i2c.ts";

interface Way {
  readonly call: SmbusCall;
  readonly needs: I2cFunction;
}

const none = new Uint8Array();

/**
 * The SMBus transactions that put the same bytes on the bus as these messages, best first; adapters that know no plain I2C may know one
 * of them. Empty if there are none.
 */
export function smbusWays(messages: readonly I2cMessage[]): Way[] {
  const [first, second, ...more] = messages;
  if (first === undefined || more.length > 0) return [];
  if ("read" in first) {
    if (second !== undefined || first.read !== 1) return [];
    return [{ call: { read: true, command: 0, size: "BYTE", data: none }, needs: "SMBUS_READ_BYTE" }];
  }
  const [command, ...rest] = first.write;
  if (second === undefined) return writeWays(command, Uint8Array.from(rest));
  if ("write" in second || command === undefined || rest.length > 0) return [];
  return readWays(command, second.read);
}

function writeWays(command: number | undefined, data: Uint8Array): Way[] {
  const way = (size: SmbusCall["size"], needs: I2cFunction): Way => ({
    call: { read: false, command: command ?? 0, size, data },
    needs,
  });
  if (command === undefined) return [way("QUICK", "SMBUS_QUICK")];
  if (data.length === 0) return [way("BYTE", "SMBUS_WRITE_BYTE")];
  const ways: Way[] = [];
  if (data.length === 1) ways.push(way("BYTE_DATA", "SMBUS_WRITE_BYTE_DATA"));
  if (data.length === 2) ways.push(way("WORD_DATA", "SMBUS_WRITE_WORD_DATA"));
  if (data.length <= longestBlockBytes) ways.push(way("I2C_BLOCK_DATA", "SMBUS_WRITE_I2C_BLOCK"));
  return ways;
}

function readWays(command: number, length: number): Way[] {
  const way = (size: SmbusCall["size"], needs: I2cFunction, data = none): Way => ({
    call: { read: true, command, size, data },
    needs,
  });
  const ways: Way[] = [];
  if (length === 1) ways.push(way("BYTE_DATA", "SMBUS_READ_BYTE_DATA"));
  if (length === 2) ways.push(way("WORD_DATA", "SMBUS_READ_WORD_DATA"));
  if (length <= longestBlockBytes) ways.push(way("I2C_BLOCK_DATA", "SMBUS_READ_I2C_BLOCK", new Uint8Array(length)));
  return ways;
}
