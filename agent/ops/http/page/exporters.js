/** Tiles, exporters, and what goes on. */
import { byId, durationText, make, showList, sizeText, timeText } from "./elements.js";

/** How a state looks, and is called. */
const states = {
  starting: ["warn", "starting"],
  available: ["good", "available"],
  serving: ["good", "serving"],
  beginning: ["busy", "lease begins"],
  beforeLease: ["busy", "beforeLease hook"],
  ready: ["busy", "leased"],
  afterLease: ["busy", "afterLease hook"],
  settling: ["busy", "lease ends"],
  releasing: ["busy", "lease ends"],
  over: ["busy", "lease is over"],
  cleaning: ["busy", "cleaning"],
  stopping: ["warn", "stopping"],
  stopped: ["bad", "stopped"],
};

function look(exporter) {
  const [kind, word] = states[exporter.state] ?? ["", exporter.state];
  if (!exporter.online && exporter.state !== "starting") return ["bad", exporter.lease === null ? "offline" : word];
  return [kind, word];
}

export function showTiles({ exporters, transfers, flashes }) {
  const offline = exporters.reduce((sum, exporter) => sum + exporter.offline.length, 0);
  const away = exporters.filter(({ online }) => !online).length;
  const running = transfers.length + exporters.reduce((sum, exporter) => sum + exporter.transfers.length, 0);
  const flashing = flashes.filter(({ verdict }) => verdict === "running").length;
  const tiles = [
    ["Exporters", exporters.length, false],
    ["Leased", exporters.filter(({ lease }) => lease !== null).length, false],
    ["No controller", away, away > 0],
    ["Drivers offline", offline, offline > 0],
    [flashing > 0 ? "Flashing now" : "Transfers", flashing > 0 ? flashing : running, false],
  ];
  byId("tiles").replaceChildren(
    ...tiles.map(([name, value, alarm]) =>
      make("div", { class: alarm ? "alarm" : "" }, make("dt", {}, name), make("dd", {}, String(value))),
    ),
  );
}

/** @param openConsole called with the exporter and the driver whose console is wanted */
export function showExporters({ exporters }, filter, openConsole) {
  const wanted = filter.trim().toLowerCase();
  const matching = exporters.filter((exporter) => wanted === "" || wordsOf(exporter).includes(wanted));
  showList(
    byId("cards"),
    matching,
    ({ exporter }) => exporter,
    (exporter, former) => {
      const text = JSON.stringify(exporter);
      if (former?.shown === text) return former;
      const card = former ?? make("li");
      card.shown = text;
      fill(card, exporter, openConsole);
      return card;
    },
  );
  byId("no-match").hidden = matching.length > 0 || exporters.length === 0;
}

function wordsOf({ exporter, client, lease, state, drivers }) {
  const words = [exporter, client, lease, state, ...drivers.flatMap(({ driver, type }) => [driver, type])];
  return words.join(" ").toLowerCase();
}

function fill(card, exporter, openConsole) {
  const [kind, word] = look(exporter);
  card.className = `card ${exporter.offline.length > 0 || kind === "bad" ? "bad-edge" : kind}`;
  const heading = make(
    "div",
    { class: "top" },
    make("h3", {}, exporter.exporter),
    make("span", { class: `pill ${kind}` }, word),
  );
  const lines = [];
  if (exporter.lease !== null) {
    const since = exporter.leaseSince === null ? "" : `, since ${timeText(exporter.leaseSince)}`;
    lines.push(make("p", {}, make("strong", {}, exporter.client || "a client"), since));
    lines.push(make("p", { class: "soft" }, exporter.lease));
  }
  if (!exporter.online && exporter.state !== "starting") {
    const why = exporter.registered ? "The controller does not answer." : "Not registered with its controller.";
    lines.push(make("p", { class: "problem" }, why));
  }
  for (const { driver, reason } of exporter.offline) {
    lines.push(make("p", { class: "problem" }, make("strong", {}, driver || "all"), ` is offline: ${reason}`));
  }
  // What a reader has opened stays as it is, and keeps the focus where it was.
  let details = card.querySelector("details");
  if (details === null) {
    details = make("details", {}, make("summary"), make("ul", { class: "drivers" }));
    card.append(details);
  }
  const { drivers } = exporter;
  details.querySelector("summary").textContent = `${drivers.length} ${drivers.length === 1 ? "driver" : "drivers"}`;
  showList(
    details.querySelector("ul"),
    drivers,
    ({ driver }) => driver,
    (driver, former) => {
      const kind = `${driver.type} ${driver.offline} ${driver.console !== null}`;
      if (former?.shown === kind) return former;
      const item = driverItem(exporter.exporter, driver, openConsole);
      item.shown = kind;
      return item;
    },
  );
  for (const old of [...card.children]) if (old !== details) old.remove();
  details.before(heading, ...lines);
}

function driverItem(exporter, { driver, type, offline, console }, openConsole) {
  const button = make("button", { type: "button", "aria-label": `Console of ${exporter} ${driver}` }, "Console");
  button.addEventListener("click", () => openConsole(exporter, driver));
  const short = type.split(".").at(-1);
  return make(
    "li",
    {},
    make(
      "div",
      { class: "driver" },
      make("span", {}, driver, " ", make("span", { class: "type", title: type }, short)),
      console === null ? null : button,
    ),
    offline === null ? null : make("span", { class: "problem" }, offline),
  );
}

/** What goes on now: media that are written, and files on their way. */
export function showRunning({ exporters, transfers }) {
  const all = [
    ...exporters.flatMap(({ exporter, flashing }) => flashing.map((flash) => flashRow(exporter, flash))),
    ...transfers.map((transfer) => transferRow("", transfer)),
    ...exporters.flatMap(({ exporter, transfers: own }) => own.map((transfer) => transferRow(exporter, transfer))),
  ];
  byId("running").hidden = all.length === 0;
  showList(byId("running-list"), all, ({ key }) => key, runningItem);
}

function transferRow(exporter, { protocol, peer, name, direction, sizeBytes, movedBytes, seconds }) {
  const way = direction === "to-board" ? "to" : "from";
  const rate = seconds > 0 ? `, ${sizeText(movedBytes / seconds)}/s` : "";
  return {
    key: `${protocol} ${peer} ${name}`,
    name,
    about: `${protocol.toUpperCase()} ${way} ${peer}${exporter && `, ${exporter}`}`,
    label: `${name} ${way} ${peer}`,
    ...{ movedBytes, sizeBytes },
    end: `${rate}, ${durationText(seconds)}`,
  };
}

function flashRow(exporter, { driver, image, target, step, movedBytes, sizeBytes, remainingSeconds }) {
  const name = image ?? "A stream";
  const where = target === null ? "" : ` to ${target}`;
  return {
    key: `flash ${exporter} ${driver}`,
    name: `${name}${where}`,
    about: `${exporter}: ${driver}, ${step}`,
    label: `${exporter}: ${step} of ${name}`,
    ...{ movedBytes, sizeBytes },
    end: remainingSeconds === null ? "" : `, ${durationText(remainingSeconds)} left`,
  };
}

function runningItem({ name, about, label, movedBytes, sizeBytes, end }, former) {
  const item = former ?? make("li", { class: "running" }, make("div"), make("progress"), make("div"));
  const [what, bar, much] = item.children;
  what.className = "what";
  what.replaceChildren(make("strong", {}, name), make("div", { class: "soft small" }, about));
  bar.setAttribute("aria-label", label);
  if (sizeBytes === null) bar.removeAttribute("value");
  else {
    bar.max = Math.max(1, sizeBytes);
    bar.value = movedBytes;
  }
  much.className = "much small";
  const of = sizeBytes === null ? "" : ` of ${sizeText(sizeBytes)}`;
  much.textContent = `${sizeText(movedBytes)}${of}${end}`;
  return item;
}
