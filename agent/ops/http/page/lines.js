/** Lines in a window: there may be many of them, but only those that are seen are in the document. */

const rowHeight = 20;
/** Of lines that are seen so many more are made on both sides. */
const margin = 10;
/** A board at 3 Mbaud prints some 4000 lines a second. */
const mostLines = 50_000;
const mostBytes = 16 * 1024 * 1024;
/** Longer ones are cut, as nobody reads them and a browser is slow with them. */
const longestLine = 2_000;

/** Makes lines of entries of a record. */
export class LineMaker {
  #begun;

  /** @returns lines that are whole; the one that has only begun is `begun` */
  push({ seq, time, text, note }) {
    if (note) return [...this.flush(), { seq, time, text: note, isNote: true }];
    const parts = (text ?? "").split("\n");
    const rest = parts.pop();
    const lines = [];
    for (const part of parts) {
      this.#add(seq, time, part);
      lines.push(...this.flush());
    }
    if (rest !== "") this.#add(seq, time, rest);
    return lines;
  }

  flush() {
    const line = this.begun;
    this.#begun = undefined;
    return line === undefined ? [] : [line];
  }

  get begun() {
    return this.#begun && { ...this.#begun, text: readable(this.#begun.text) };
  }

  #add(seq, time, text) {
    if (this.#begun === undefined) this.#begun = { seq, time, text };
    else if (this.#begun.text.length < longestLine) this.#begun.text += text;
  }
}

/** What a terminal would show at last, without what would colour it or move its cursor. */
function readable(text) {
  const plain = text
    // eslint-disable-next-line no-control-regex -- these are control sequences
    .replace(/\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])/g, "")
    .replace(/\r+$/, "");
  const last = plain.slice(plain.lastIndexOf("\r") + 1).slice(0, longestLine);
  // What is left of control characters is shown by their pictures.
  return last.replace(/\p{Cc}/gu, (char) =>
    char < " " && char !== "\t" ? String.fromCharCode(0x2400 + char.charCodeAt(0)) : char,
  );
}

export class LineWindow {
  #view;
  #space = document.createElement("div");
  #rows = document.createElement("div");
  #lines = [];
  #begun;
  #bytes = 0;
  #follows = true;
  /** Where it was, and the furthest that it could be. */
  #top = 0;
  #reach = 0;
  #drawing = false;
  #wanted = "";
  #target;
  #onFollow;

  /** @param onFollow told when the reader leaves the end, or comes back to it */
  constructor(view, onFollow) {
    this.#view = view;
    this.#onFollow = onFollow;
    this.#space.className = "space";
    this.#rows.className = "rows";
    view.append(this.#space, this.#rows);
    view.addEventListener("scroll", () => this.#scrolled());
    new ResizeObserver(() => this.draw()).observe(view);
  }

  get count() {
    return this.#lines.length;
  }

  get follows() {
    return this.#follows;
  }

  clear() {
    this.#lines = [];
    this.#begun = undefined;
    this.#bytes = 0;
    this.#target = undefined;
    this.followEnd();
  }

  /** @param begun a line that is not whole yet */
  add(lines, begun) {
    for (const line of lines) {
      this.#lines.push(line);
      this.#bytes += line.text.length;
    }
    this.#begun = begun;
    if (this.#lines.length > mostLines * 1.1 || this.#bytes > mostBytes) this.#forget();
    this.draw();
  }

  /** Marks a text wherever it is seen. */
  mark(text) {
    this.#wanted = text.toLowerCase();
    this.draw();
  }

  /** Shows the line that ends in an entry, and holds a text. */
  showEntry(seq, text) {
    const wanted = text.toLowerCase();
    let index = this.#lines.findIndex((line) => line.seq === seq && line.text.toLowerCase().includes(wanted));
    if (index === -1) index = this.#lines.findIndex((line) => line.seq >= seq);
    this.#target = this.#lines[index];
    this.#follows = false;
    this.#onFollow(false);
    this.#size();
    this.#view.scrollTop = Math.max(0, index * rowHeight - this.#view.clientHeight / 3);
    this.draw();
  }

  followEnd() {
    this.#follows = true;
    this.#onFollow(true);
    this.#view.scrollTop = this.#view.scrollHeight;
    this.draw();
  }

  draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      this.#draw();
    });
  }

  #draw() {
    const view = this.#view;
    const total = this.#size();
    // Only when the end has moved: whoever scrolls there smoothly gets there without help.
    const reach = view.scrollHeight - view.clientHeight;
    if (this.#follows && reach !== this.#reach) {
      view.scrollTop = view.scrollHeight;
      this.#top = view.scrollTop;
    }
    this.#reach = reach;
    // It may have become shorter than the place that was scrolled to.
    const first = Math.min(total, Math.max(0, Math.floor(view.scrollTop / rowHeight) - margin));
    const last = Math.min(total, first + Math.ceil(view.clientHeight / rowHeight) + 2 * margin);
    while (this.#rows.childElementCount < last - first) this.#rows.append(document.createElement("div"));
    while (this.#rows.childElementCount > last - first) this.#rows.lastElementChild.remove();
    this.#rows.style.transform = `translateY(${first * rowHeight}px)`;
    for (let index = first; index < last; index += 1) {
      this.#fill(this.#rows.children[index - first], this.#lines[index] ?? this.#begun);
    }
  }

  #fill(row, line) {
    const state = `${line === this.#target ? "target" : ""} ${this.#wanted}`;
    if (row.line === line && row.state === state) return;
    row.line = line;
    row.state = state;
    row.className = `line${line.isNote ? " event" : ""}${line === this.#target ? " target" : ""}`;
    row.dataset.time = line.clock ??= clockText(line.time);
    const text = line.isNote ? `── ${line.text} ──` : line.text;
    const at = this.#wanted === "" ? -1 : text.toLowerCase().indexOf(this.#wanted);
    if (at === -1) {
      row.textContent = text;
      return;
    }
    const marked = document.createElement("mark");
    marked.textContent = text.slice(at, at + this.#wanted.length);
    row.replaceChildren(text.slice(0, at), marked, text.slice(at + this.#wanted.length));
  }

  /** @returns how many lines there are */
  #size() {
    const total = this.#lines.length + (this.#begun === undefined ? 0 : 1);
    this.#space.style.height = `${total * rowHeight}px`;
    return total;
  }

  /** The oldest go; who reads stays at the line that he reads. */
  #forget() {
    let gone = Math.max(0, this.#lines.length - mostLines);
    let bytes = this.#bytes;
    for (let index = 0; index < this.#lines.length && (index < gone || bytes > mostBytes * 0.9); index += 1) {
      bytes -= this.#lines[index].text.length;
      gone = Math.max(gone, index + 1);
    }
    this.#lines.splice(0, gone);
    this.#bytes = bytes;
    if (!this.#follows) this.#view.scrollTop = Math.max(0, this.#view.scrollTop - gone * rowHeight);
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#view;
    const reach = scrollHeight - clientHeight;
    const moved = scrollTop - this.#top;
    this.#top = scrollTop;
    if (moved === 0) return;
    // The first pixel upwards is from somebody who wants to read: a browser scrolls smoothly, and would be pulled back to the end after it.
    // A text that has become shorter is moved by nobody.
    const isLeaving = moved < 0 && reach >= this.#reach;
    const follows = !isLeaving && reach - scrollTop < 2 * rowHeight;
    if (follows !== this.#follows) {
      this.#follows = follows;
      this.#onFollow(follows);
    }
    this.draw();
  }
}

function clockText(iso) {
  const time = new Date(iso);
  const two = (count, length = 2) => String(count).padStart(length, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${two(time.getMilliseconds(), 3)}`;
}
