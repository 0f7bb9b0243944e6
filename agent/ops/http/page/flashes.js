/** The last flashes with their pictures, and the audit log's end. */
import { ask, byId, durationText, make, showList, sizeText, timeText } from "./elements.js";

const kinds = { verified: "good", written: "busy", running: "busy", failed: "bad", interrupted: "bad" };
const shownAtOnce = 20;

export function showFlashes({ flashes }) {
  const list = byId("flash-list");
  showList(
    list,
    flashes.slice(0, shownAtOnce),
    ({ id }) => id,
    (flash, former) => {
      if (former?.shown === flash.verdict) return former;
      const item = flashItem(flash);
      item.shown = flash.verdict;
      return item;
    },
  );
  if (flashes.length === 0)
    list.replaceChildren(make("li", { class: "soft" }, "Nothing was flashed on this host yet."));
  // The last one is what most come for.
  const first = list.querySelector("details");
  if (first !== null && !list.opened) {
    list.opened = true;
    first.open = true;
  }
}

function flashItem(flash) {
  const { id, exporter, verdict, image, target, startedAt, durationMs, bytes, failure, signed, method } = flash;
  const took = durationMs === null ? "" : ` in ${durationText(durationMs / 1000)}`;
  const much = bytes === null ? "" : `, ${sizeText(bytes)}`;
  const item = make(
    "li",
    { class: "flash" },
    make(
      "div",
      { class: "flash-top" },
      make("h3", {}, exporter),
      make("span", { class: `pill ${kinds[verdict]}` }, verdict),
    ),
    make("p", {}, `${image ?? "A stream"}${target === null ? "" : ` to ${target}`}${much}${took}`),
    make("p", { class: "soft small" }, `${timeText(startedAt)}, ${method}${signed ? ", signed" : ""}`),
    failure === null ? null : make("p", { class: "problem" }, failure),
  );
  if (verdict === "running") return item;
  const details = make("details", {}, make("summary", {}, "Steps"));
  details.addEventListener("toggle", () => {
    if (details.open && details.picture === undefined) details.picture = showPicture(details, id);
  });
  item.append(
    details,
    make(
      "p",
      { class: "links small" },
      make("a", { href: `receipts/${id}.html`, "aria-label": `Report of the flash of ${exporter}` }, "Report"),
      make("a", { href: `receipts/${id}.json`, "aria-label": `Receipt of the flash of ${exporter}` }, "Receipt"),
    ),
  );
  return item;
}

/** The agent draws the picture, and has escaped all that is text in it. */
async function showPicture(details, id) {
  try {
    const text = await (await ask(`receipts/${id}.timeline`)).text();
    const picture = new DOMParser().parseFromString(text, "text/html").querySelector(".picture");
    if (picture === null) details.append(make("p", { class: "soft" }, "No step was recorded."));
    else {
      // It scrolls on a phone, and so must be reachable by keyboard.
      picture.tabIndex = 0;
      picture.setAttribute("role", "region");
      picture.setAttribute("aria-label", "Steps as a picture");
      details.append(document.importNode(picture, true));
    }
  } catch (error) {
    details.append(make("p", { class: "bad" }, error.message));
  }
}

/** Loads the audit log's end each time it is opened. */
export function followAudit() {
  const details = byId("audit-details");
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    const state = byId("audit-state");
    try {
      const lines = (await (await ask("audit")).text()).split("\n").filter(Boolean);
      const records = lines.map((line) => JSON.parse(line)).reverse();
      byId("audit-rows").replaceChildren(...records.map(auditRow));
      state.textContent =
        records.length === 0 ? "No lease has been recorded yet." : `The last ${records.length} records.`;
    } catch (error) {
      byId("audit-rows").replaceChildren();
      state.textContent = error.message;
    }
  });
}

function auditRow({ time, event, exporter = "", lease = "", client = "", ...rest }) {
  const cells = [timeText(time), event, exporter, lease, client, describe(rest)];
  return make("tr", {}, ...cells.map((text) => make("td", {}, text)));
}

function describe({ outcome, reason, ms, calls, streams, resources, fields, context }) {
  const parts = [];
  if (outcome !== undefined) parts.push(outcome);
  if (reason !== undefined) parts.push(reason);
  if (Array.isArray(calls)) {
    parts.push(...calls.map(({ driver, method, count }) => `${driver}.${method}${count > 1 ? ` ×${count}` : ""}`));
  } else if (calls?.count > 0) parts.push(`${calls.count} calls`);
  if (Array.isArray(streams)) parts.push(...streams.map(({ driver, method }) => `stream ${driver}.${method}`));
  else if (streams?.count > 0) parts.push(`${streams.count} streams`);
  if (resources?.count > 0) parts.push(`${resources.count} files, ${sizeText(resources.bytesIn + resources.bytesOut)}`);
  for (const [name, value] of Object.entries(fields ?? context ?? {})) parts.push(`${name} ${value}`);
  if (ms !== undefined) parts.push(durationText(ms / 1000));
  return parts.join(", ");
}
