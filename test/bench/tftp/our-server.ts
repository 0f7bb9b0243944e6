// Our TFTP server alone, in a process of its own. usage: our-server.ts ADDRESS ROOT [--plain]
import { LogBus } from "../../../agent/driver/log.ts";
import { TftpServer } from "../../../net/tftp/server.ts";
import { TransferSockets } from "../../../net/tftp/socket.ts";
import { tftpPort } from "../../sim/tftp-peers.ts";

const [address = "", root = "", ...switches] = process.argv.slice(2);
const log = new LogBus().logger({ source: "driver", logger: "tftp" });
const limits = { windowSize: 64, transfers: 1024, transfersPerPeer: 1024 };
const view = { name: "bench", roots: [root], boards: [], log, limits };
const sockets = new TransferSockets({ onlyDgram: switches.includes("--plain") });
await new TftpServer(tftpPort, sockets).serve(view, [address]);
