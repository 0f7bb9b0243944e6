/** One element of a document. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
  /** Of its own, without that of its children. */
  readonly text: string;
}

interface OpenElement extends XmlElement {
  readonly attributes: Map<string, string>;
  readonly children: XmlElement[];
  text: string;
}

const token =
  /<!--[^]*?-->|<\?[^]*?\?>|<\/(?<end>[\w.:-]+)\s*>|<(?<start>[\w.:-]+)(?<attributes>(?:\s+[\w.:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(?<empty>\/?)>|(?<text>[^<]+)/y;
const attribute = /([\w.:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g;
const entities: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** Deeper than the documents that are read here ever are. */
const maxDepth = 16;

/**
 * Reads the XML that data files are made of: elements, attributes, text, comments. There are no document types, no CDATA and no entities but
 * the five that XML has, so that nothing can be included or grow.
 * @throws SyntaxError with the line
 */
export function parseXml(text: string): XmlElement {
  const root: OpenElement = { name: "", attributes: new Map(), children: [], text: "" };
  const open: OpenElement[] = [root];
  let at = text.startsWith("\uFEFF") ? 1 : 0;
  const wrong = (what: string): never => {
    throw new SyntaxError(`line ${text.slice(0, at).split("\n").length}: ${what}`);
  };
  const plain = (escaped: string): string =>
    escaped.replace(
      /&([^;&\s]{0,10});?/g,
      (_, name: string) => entities[name] ?? wrong(`there is no entity &${name};`),
    );
  while (at < text.length) {
    token.lastIndex = at;
    const found = token.exec(text) ?? wrong("this is not XML");
    const { start, end, attributes = "", empty, text: words } = found.groups ?? {};
    const parent = open.at(-1) ?? root;
    if (start !== undefined) {
      const element: OpenElement = { name: start, attributes: new Map(), children: [], text: "" };
      for (const [, name = "", double, single] of attributes.matchAll(attribute)) {
        if (element.attributes.has(name)) wrong(`<${start}> has ${name} twice`);
        element.attributes.set(name, plain(double ?? single ?? ""));
      }
      if (parent === root && root.children.length > 0) wrong(`<${start}> follows the end`);
      parent.children.push(element);
      if (empty === "") open.push(element);
      if (open.length > maxDepth) wrong("elements are nested too deeply");
    } else if (end !== undefined) {
      if (parent === root || parent.name !== end) wrong(`</${end}> ends nothing`);
      open.pop();
    } else if (words !== undefined) {
      if (parent === root && words.trim() !== "") wrong("there is text around the element");
      parent.text += plain(words);
    }
    at += found[0].length;
  }
  const [element] = root.children;
  if (open.length > 1) wrong(`<${open.at(-1)?.name}> does not end`);
  return element ?? wrong("there is no element");
}
