/** The status page: follows what the agent tells, and shows it. */
import { Console } from "./console.js";
import { ask, byId, durationText } from "./elements.js";
import { showExporters, showTiles, showRunning } from "./exporters.js";
import { followAudit, showFlashes } from "./flashes.js";

/** A lost connection is tried again after this. */
const retryMs = 2_000;

let overview = { agent: undefined, exporters: [], transfers: [], flashes: [] };
let serialConsole;

function show() {
  serialConsole ??= new Console();
  tellAgent();
  showTiles(overview);
  showExporters(overview, byId("filter").value, (exporter, driver) => serialConsole.choose(exporter, driver));
  showRunning(overview);
  serialConsole.offer(overview);
  showFlashes(overview);
}

function take(change) {
  if (change.exporters !== undefined || change.gone !== undefined) {
    const known = new Map(overview.exporters.map((exporter) => [exporter.exporter, exporter]));
    for (const exporter of change.exporters ?? []) known.set(exporter.exporter, exporter);
    for (const name of change.gone ?? []) known.delete(name);
    overview.exporters = [...known.values()];
  }
  if (change.transfers !== undefined) overview.transfers = change.transfers;
  if (change.flashes !== undefined) overview.flashes = change.flashes;
  show();
}

function tellLink(kind, text) {
  const link = byId("link");
  link.className = `link ${kind}`;
  if (link.textContent !== text) link.textContent = text;
}

function tellAgent() {
  const { agent } = overview;
  if (agent === undefined) return;
  byId("host").textContent = agent.host;
  document.title = `${agent.host} – Jumpstarter agent`;
  const up = durationText((Date.now() - Date.parse(agent.startedAt)) / 1000);
  byId("version").textContent = `Jumpstarter agent ${agent.version}, up ${up}`;
}

function follow() {
  const source = new EventSource("events");
  source.addEventListener("overview", ({ data }) => {
    overview = JSON.parse(data);
    byId("login").hidden = true;
    byId("content").hidden = false;
    document.body.classList.remove("locked");
    tellLink("on", "live");
    show();
    performance.mark("shown");
  });
  source.addEventListener("change", ({ data }) => take(JSON.parse(data)));
  source.addEventListener("error", async () => {
    source.close();
    // An EventSource does not tell why it failed.
    const why = await ask("status", { method: "HEAD" }).then(
      () => undefined,
      (error) => error,
    );
    if (why?.status === 401) return logIn();
    tellLink("off", "the agent does not answer");
    setTimeout(follow, retryMs);
  });
}

function logIn() {
  tellLink("", "");
  byId("content").hidden = true;
  document.body.classList.add("locked");
  byId("login").hidden = false;
  byId("token").focus();
}

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("session", { headers: { Authorization: `Bearer ${byId("token").value}` } });
    byId("token").value = "";
    byId("refused").textContent = "";
    follow();
  } catch (error) {
    byId("refused").textContent = error.status === 401 ? "That is not the token." : error.message;
  }
});
byId("filter").addEventListener("input", show);
followAudit();
setInterval(tellAgent, 10_000);
follow();
