// Our HTTP server alone, in a process of its own. usage: our-server.ts ADDRESS PORT ROOT
import { LogBus } from "../../../agent/driver/log.ts";
import { HttpServer } from "../../../net/http/server.ts";

const [address = "", port = "", root = ""] = process.argv.slice(2);
const log = new LogBus().logger({ source: "driver", logger: "http" });
const limits = { connectionsPerPeer: 64 };
await new HttpServer(Number(port)).serve({ name: "bench", roots: [root], boards: [], log, limits }, [address]);
