import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { clientProgram } from "./python-client.ts";

/** Comes with the Python driver for these chips. */
const ofClient = join(dirname(clientProgram("0.9.0", "python")), "esptool");

/** The real esptool: that of the Python clients, or one of the host. */
export const esptool = existsSync(ofClient) ? ofClient : "esptool";

/** For `skip`: why there is none, or false. */
export const noEsptool = spawnSync(esptool, ["version"]).error === undefined ? false : "esptool is not installed";
