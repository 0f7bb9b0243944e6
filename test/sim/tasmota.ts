import { EventEmitter, once } from "node:events";
import type { TestContext } from "node:test";
import { connect } from "mqtt";
import type { Mosquitto } from "./mosquitto.ts";

/** A plug with Tasmota firmware, as its documentation ("MQTT", "Commands") describes it. */
export interface TasmotaPlug {
  readonly config: { readonly cmnd_topic: string; readonly stat_topic: string };
  on: boolean;
  /** Every command so far: `POWER ON`. */
  readonly commands: string[];
  /** How it behaves: `mute` does nothing and says nothing, `stuck` answers with what it was. */
  mood: "well" | "mute" | "stuck";
  /** Says what it is, unasked. Resolves when the broker has it. */
  tell(): Promise<void>;
  /** Out of its socket: its last will comes true. */
  unplug(): Promise<void>;
  plug(): Promise<void>;
}

export async function startTasmota(
  t: Pick<TestContext, "after">,
  { port, username, password }: Mosquitto,
  {
    name = "tasmota_6990F2",
    retains = true,
    voltage = 231,
  }: { name?: string; retains?: boolean; voltage?: number } = {},
): Promise<TasmotaPlug> {
  const will = { topic: `tele/${name}/LWT`, payload: Buffer.from("Offline"), retain: true, qos: 1 as const };
  const client = connect({
    ...{ host: "127.0.0.1", port, protocol: "mqtt", username, password, clientId: name, will },
    reconnectPeriod: 50,
    manualConnect: true,
  });
  /** Listening, and known to be there. */
  const ready = new EventEmitter();
  const word = () => (plug.on ? "ON" : "OFF");
  const say = (topic: string, payload: string, retain = false) =>
    client.publishAsync(`stat/${name}/${topic}`, payload, { retain, qos: 1 });
  const plug: TasmotaPlug = {
    config: { cmnd_topic: `cmnd/${name}/POWER`, stat_topic: `stat/${name}/POWER` },
    on: false,
    commands: [],
    mood: "well",
    async tell() {
      await Promise.all([say("RESULT", JSON.stringify({ POWER: word() })), say("POWER", word(), retains)]);
    },
    async unplug() {
      const closed = new Promise<void>((resolve) => client.once("close", resolve));
      client.options.reconnectPeriod = 0;
      client.stream.destroy();
      await closed;
    },
    async plug() {
      client.options.reconnectPeriod = 50;
      const back = once(ready, "ready");
      client.reconnect();
      await back;
    },
  };
  client.on("error", () => {});
  client.on("connect", () => {
    client.subscribe(`cmnd/${name}/#`, { qos: 1 }, (error) => {
      if (error !== null) return;
      client.publish(will.topic, "Online", { retain: true, qos: 1 }, () => ready.emit("ready"));
    });
  });
  client.on("message", (topic, payload) => {
    const command = topic.slice(topic.lastIndexOf("/") + 1);
    plug.commands.push(`${command} ${payload.toString()}`);
    if (plug.mood === "mute") return;
    if (command.startsWith("POWER")) {
      if (plug.mood === "well") plug.on = payload.toString() === "ON";
      void plug.tell().catch(() => {});
    }
    const energy = { Time: "2026-11-30T12:00:00", ENERGY: { Voltage: voltage, Current: plug.on ? 0.52 : 0 } };
    if (command === "STATUS") void say("STATUS8", JSON.stringify({ StatusSNS: energy })).catch(() => {});
  });
  t.after(() => client.endAsync(true));
  const there = once(ready, "ready");
  client.connect();
  await there;
  return plug;
}
