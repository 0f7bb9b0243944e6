/** The console: live, or a piece of the past that a search has found. */
import { ask, byId, make, sizeText, timeText } from "./elements.js";
import { LineMaker, LineWindow } from "./lines.js";

/** Entries before a line that was found. */
const before = 200;

export class Console {
  #choice = byId("which");
  #window;
  #source;
  #maker = new LineMaker();
  #shown = "";
  #isLive = true;
  #status;

  constructor() {
    this.#window = new LineWindow(byId("lines"), (follows) => (byId("live").hidden = follows && this.#isLive));
    this.#choice.addEventListener("change", () => this.#open());
    byId("live").addEventListener("click", () => {
      if (this.#isLive) this.#window.followEnd();
      else this.#open();
      byId("lines").focus();
    });
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#search(byId("wanted").value);
    });
    byId("wanted").addEventListener("input", () => this.#window.mark(byId("wanted").value));
    byId("found-close").addEventListener("click", () => {
      byId("found").hidden = true;
      byId("wanted").focus();
    });
  }

  /** Offers the consoles that there are now. */
  offer({ exporters }) {
    const consoles = exporters.flatMap(({ exporter, drivers }) =>
      drivers.flatMap(({ driver, console }) => (console === null ? [] : [{ exporter, driver, console }])),
    );
    const keys = consoles.map(({ exporter, driver }) => JSON.stringify([exporter, driver]));
    if (keys.join() !== this.#shown) {
      this.#shown = keys.join();
      const chosen = this.#choice.value;
      this.#choice.replaceChildren(
        ...consoles.map(({ exporter, driver }, index) =>
          make("option", { value: keys[index] }, `${exporter}: ${driver}`),
        ),
      );
      if (keys.includes(chosen)) this.#choice.value = chosen;
      // One that records has something to show.
      else
        this.#choice.value =
          keys[
            Math.max(
              0,
              consoles.findIndex(({ console }) => console.recorded),
            )
          ] ?? "";
      if (this.#choice.value !== chosen) this.#open();
    }
    this.#status = new Map(keys.map((key, index) => [key, consoles[index].console]));
    this.#tell();
  }

  choose(exporter, driver) {
    const wanted = JSON.stringify([exporter, driver]);
    if (this.#choice.value !== wanted || !this.#isLive) {
      this.#choice.value = wanted;
      this.#open();
    }
    byId("console").scrollIntoView();
    byId("lines").focus({ preventScroll: true });
  }

  #query(more = {}) {
    const [exporter, driver] = JSON.parse(this.#choice.value);
    return new URLSearchParams({ exporter, driver, ...more }).toString();
  }

  #open() {
    this.#source?.close();
    this.#source = undefined;
    this.#isLive = true;
    this.#maker = new LineMaker();
    this.#window.clear();
    byId("found").hidden = true;
    this.#tell();
    if (this.#choice.value === "") return;
    const source = new EventSource(`console?${this.#query({ lines: 500 })}`);
    this.#source = source;
    source.addEventListener("open", () => {
      // After a lost connection the last lines come again.
      this.#maker = new LineMaker();
      this.#window.clear();
    });
    source.addEventListener("entries", ({ data }) => this.#take(JSON.parse(data)));
  }

  #take(entries) {
    const lines = [];
    for (const entry of entries) {
      lines.push(...this.#maker.push(entry));
    }
    this.#window.add(lines, this.#maker.begun);
  }

  #tell() {
    const status = this.#choice.value === "" ? undefined : this.#status?.get(this.#choice.value);
    byId("console-state").textContent =
      status === undefined
        ? "No serial console is open."
        : status.recorded
          ? `${status.state}: ${sizeText(status.receivedBytes)} in ${status.lines} lines since the agent started.`
          : `Nothing to show: ${status.state}.`;
  }

  async #search(text) {
    if (text === "" || this.#choice.value === "") return;
    const count = byId("found-count");
    byId("found").hidden = false;
    byId("found-list").replaceChildren();
    count.textContent = "Searching…";
    try {
      const { matches, more } = await (await ask(`console/search?${this.#query({ text })}`)).json();
      const some = matches.length === 1 ? "1 line" : `${matches.length} lines`;
      count.textContent = `${more ? "The last " : ""}${some} with “${text}” in the whole record`;
      byId("found-list").append(
        ...matches.map((match) => {
          const button = make("button", { type: "button" }, `${timeText(match.time)}  ${match.text.trim()}`);
          button.addEventListener("click", () => void this.#show(match, text));
          return make("li", {}, button);
        }),
      );
    } catch (error) {
      count.textContent = error.message;
    }
  }

  /** Leaves the live console for the lines around one that was found. */
  async #show({ seq }, text) {
    this.#source?.close();
    this.#source = undefined;
    try {
      const entries = await (await ask(`console/read?${this.#query({ from: Math.max(0, seq - before) })}`)).json();
      this.#isLive = false;
      this.#maker = new LineMaker();
      this.#window.clear();
      const lines = entries.flatMap((entry) => this.#maker.push(entry));
      this.#window.add([...lines, ...this.#maker.flush()], undefined);
      this.#window.mark(text);
      this.#window.showEntry(seq, text);
      byId("live").hidden = false;
      byId("console-state").textContent =
        `The past, around ${entries.length === 0 ? "nothing" : timeText(entries[0].time)}.`;
    } catch (error) {
      byId("found-count").textContent = error.message;
    }
  }
}
