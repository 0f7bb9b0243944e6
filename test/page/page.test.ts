/** The status page in Debian's Chromium, before a real agent with real exporters. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import axe from "axe-core";
import type { Page } from "playwright-core";
import { freePort, pssMiB, scratch, startAgent } from "../sim/agent.ts";
import { chromiumPath, startChromium } from "../sim/chromium.ts";
import { startRack } from "./rack.ts";

/** For the browser: ends when the console has stood still for ten frames. */
const stillLines = `(async () => {
  const lines = document.querySelector("#lines");
  for (let frames = 0, top; frames < 10; frames = lines.scrollTop === top ? frames + 1 : 0) {
    top = lines.scrollTop;
    await new Promise((seen) => requestAnimationFrame(seen));
  }
})()`;

/** For the browser: whether the console moves within a second. */
const linesMove = `new Promise((tell) => {
  document.querySelector("#lines").addEventListener("scroll", () => tell(true), { once: true });
  setTimeout(tell, 1000, false);
})`;

/** Pictures of the page, for people. CI keeps them. */
const pictures = "artefacts/page";
const skip = existsSync(chromiumPath) ? false : `there is no ${chromiumPath}: apt-get install chromium`;

async function picture(page: Page, name: string): Promise<void> {
  mkdirSync(pictures, { recursive: true });
  await page.screenshot({ path: join(pictures, `${name}.png`) });
}

/** All that the page complains about, or the browser on its behalf. */
function complaints(page: Page): string[] {
  const told: string[] = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) told.push(message.text());
  });
  page.on("pageerror", (error) => told.push(error.message));
  return told;
}

interface AxeResults {
  readonly violations: readonly {
    id: string;
    help: string;
    nodes: readonly { html: string; failureSummary: string }[];
  }[];
}

async function assertAccessible(page: Page, as: string): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate<AxeResults>("axe.run(document, { resultTypes: ['violations'] })");
  const told = violations.map(
    ({ id, help, nodes }) =>
      `${id}: ${help}\n${nodes.map((node) => `  ${node.html}\n    ${node.failureSummary}`).join("\n")}`,
  );
  assert.deepEqual(told, [], as);
}

/** What is asked of the element that has the focus. Questions to the page are text: its types are not ours. */
const focused = (property: string) => `document.activeElement?.${property} ?? ""`;

const text = (page: Page, selector: string) => page.locator(selector).innerText();

test("the page of a rack with 32 exporters", { skip, timeout: 180_000 }, async (t) => {
  const rack = await startRack(t, 32);
  const context = await startChromium(t);
  const page = context.pages()[0] ?? (await context.newPage());
  const told = complaints(page);

  await t.test("it is there within a second, with all exporters", async () => {
    const took: number[] = [];
    // The first page of a browser pays for the browser, and others use this machine, too.
    for (let turn = 0; turn < 4; turn += 1) {
      await page.goto(rack.url, { waitUntil: "commit" });
      await page.locator("#cards > li").nth(31).waitFor();
      took.push(await page.evaluate<number>("performance.getEntriesByName('shown')[0].startTime"));
    }
    t.diagnostic(`32 exporters after ${took.map(Math.round).join(", ")} ms`);
    assert.ok(Math.min(...took) <= 1_000, `it took ${took.join(", ")} ms`);
    assert.match(await text(page, "#tiles"), /Exporters\s+32/);
  });

  await t.test("a driver that is offline says why", async () => {
    const card = await page.locator("#cards > li", { hasText: "board-01" }).innerText();
    assert.match(card, /serial is offline: serial port \/dev\/serial\/by-id\/usb-FTDI/);
  });

  await t.test("a lease shows while one looks, and goes", async () => {
    const card = page.locator("#cards > li", { hasText: "board-07" });
    assert.match(await card.innerText(), /available/);
    const connection = await rack.bench.lease("board-07", "01975f2e-1c2d-7e3f");
    await card.getByText("leased").waitFor({ timeout: 10_000 });
    assert.match(await card.innerText(), /ann, since .*\n+01975f2e-1c2d-7e3f/);
    await picture(page, "light");
    await connection.endSession();
    rack.bench.lab.deleteLease("01975f2e-1c2d-7e3f");
    await card.getByText("available").waitFor({ timeout: 20_000 });
  });

  await t.test("the console keeps up with 3 Mbaud, and does not grow", async () => {
    const lines = page.locator("#lines .line");
    rack.console.print("U-Boot 2025.01 (Debian)");
    await lines.getByText("U-Boot 2025.01").waitFor({ timeout: 10_000 });
    const before = pssMiB(rack.bench.agent.pid);
    const stop = rack.console.flood(300_000);
    await sleep(3_000);
    rack.console.print("the needle in the haystack");
    await sleep(3_000);
    const texts = await lines.allTextContents();
    const shown = Math.max(...texts.map((line) => Number(/line (\d+)/.exec(line)?.[1] ?? 0)));
    const behind = rack.console.printed - shown;
    stop();
    const rows = await lines.count();
    const heap = await page.evaluate<number>("performance.memory.usedJSHeapSize");
    const grown = pssMiB(rack.bench.agent.pid) - before;
    t.diagnostic(
      `${rack.console.printed} lines, ${behind} behind, ${rows} in the document, heap ${(heap / 1e6).toFixed(0)} MB, agent +${grown.toFixed(1)} MiB`,
    );
    assert.ok(rack.console.printed > 15_000, `only ${rack.console.printed} lines were printed`);
    // A second of output: it is gathered for 100 ms on its way to the record, and again on its way here.
    assert.ok(behind < 4_000, `${behind} lines behind`);
    assert.ok(rows < 100, `${rows} rows`);
    assert.ok(grown < 40, `the agent has grown by ${grown} MiB`);
  });

  await t.test("a search finds a line of the past, by keyboard alone", async () => {
    await page.locator("#wanted").focus();
    await page.keyboard.type("NEEDLE");
    await page.keyboard.press("Enter");
    await page.getByText("1 line with “NEEDLE” in the whole record").waitFor({ timeout: 15_000 });
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    assert.match(await page.evaluate<string>(focused("textContent")), /the needle in the haystack/);
    await page.keyboard.press("Enter");
    const target = page.locator("#lines .target");
    await target.waitFor();
    assert.match(await target.innerText(), /the needle in the haystack/);
    await page.locator("#console").scrollIntoViewIfNeeded();
    await picture(page, "search");
    await page.locator("#live").focus();
    await page.keyboard.press("Enter");
    await target.waitFor({ state: "detached" });
    await page.locator("#found-close").focus();
    await page.keyboard.press("Enter");
  });

  await t.test("flashes have their pictures, and links that open", async () => {
    const flash = page.locator("#flash-list > li").first();
    await flash.locator("svg rect.verify").waitFor();
    assert.match(
      await flash.innerText(),
      /board-00\s+verified\s+os-image-8.2.raw.xz to \/dev\/mmcblk0, 2.0 GB in 1 min 14 s/,
    );
    await flash.scrollIntoViewIfNeeded();
    await picture(page, "flashes");
    const [opened] = await Promise.all([page.waitForNavigation(), flash.getByText("Report").click()]);
    assert.equal(opened?.status(), 200);
    assert.match(await page.title(), /Flash of board-00: verified/);
    // Its style is allowed by what it is, not because any would be.
    const fill = await page.evaluate("getComputedStyle(document.querySelector('rect.verify')).fill");
    assert.equal(fill, "rgb(23, 138, 82)");
    await page.goBack();
    await page.locator("#cards > li").first().waitFor();
  });

  await t.test("the audit log's end is there", async () => {
    await page.locator("#audit-details summary").click();
    await page.locator("#audit-rows tr").first().waitFor();
    assert.match(await text(page, "#audit-rows"), /lease-end\s+board-07\s+01975f2e-1c2d-7e3f\s+ann/);
    await picture(page, "audit");
  });

  await t.test("the keyboard alone reaches what there is to do", async () => {
    await page.reload();
    await page.locator("#cards > li").first().waitFor();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(focused("className")), "skip");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(focused("id")), "filter");
    await page.keyboard.type("board-00");
    await page.locator("#cards > li").nth(1).waitFor({ state: "detached" });
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(focused("ariaLabel")), "Console of board-00 serial");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(focused("id")), "lines");
    // It scrolls with its keys, and says how to come back.
    rack.console.print("the last line");
    await page.locator("#lines").getByText("the last line").waitFor();
    // A browser scrolls smoothly: of any way, up or down, this is a step in the middle.
    const step = async (pixels: number) => {
      await page.evaluate(`document.querySelector("#lines").scrollBy({ top: ${pixels}, behavior: "instant" })`);
      await page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))");
    };
    await step(-5);
    await page.locator("#live").waitFor();
    await step(-100);
    await step(85);
    await page.locator("#live").waitFor({ state: "hidden" });
    const below =
      "((view) => view.scrollHeight - view.clientHeight - view.scrollTop)(document.querySelector('#lines'))";
    assert.equal(await page.evaluate<number>(below), 20, "nobody has finished the way for it");
    // Chromium forgets a key that comes just as its last scroll ends: one that moves nothing within a second is pressed again.
    const press = async (key: string) => {
      for (let presses = 0; presses < 5; presses += 1) {
        await page.evaluate(stillLines);
        const moves = page.evaluate<boolean>(linesMove);
        await page.keyboard.press(key);
        if (await moves) return;
      }
    };
    await press("End");
    for (const key of ["ArrowUp", "PageUp", "Home"]) {
      await press(key);
      await page.locator("#live").waitFor();
      await press("End");
      await page.locator("#live").waitFor({ state: "hidden" });
    }
  });

  for (const scheme of ["light", "dark"] as const) {
    for (const [width, device] of [
      [1440, "desk"],
      [390, "phone"],
    ] as const) {
      await t.test(`nothing keeps anybody out: ${scheme}, ${device}`, async () => {
        await page.emulateMedia({ colorScheme: scheme, reducedMotion: "reduce" });
        await page.setViewportSize({ width, height: device === "phone" ? 844 : 900 });
        await page.reload();
        await page.locator("#flash-list svg").waitFor();
        await page.locator("#audit-details summary").click();
        await page.locator("#audit-rows tr").first().waitFor();
        await page.locator("#cards summary").first().click();
        await page.locator("#lines .line").first().waitFor();
        const overflow = await page.evaluate<number>("document.documentElement.scrollWidth - innerWidth");
        assert.ok(overflow <= 0, `wider than the screen by ${overflow} px`);
        await assertAccessible(page, `${scheme} ${device}`);
        await page.evaluate("scrollTo(0, 0)");
        await picture(page, `${scheme}-${device}`);
        if (device === "phone") {
          await page.locator("#console").scrollIntoViewIfNeeded();
          await picture(page, `${scheme}-${device}-console`);
        }
      });
    }
  }

  assert.deepEqual(told, []);
});

test(
  "a listener that others reach shows nothing before the token",
  { skip, timeout: 60_000 },
  async (t: TestContext) => {
    const token = "correct-horse-battery-staple";
    const file = join(scratch(t), "token");
    writeFileSync(file, `${token}\n`, { mode: 0o600 });
    const port = await freePort();
    await startAgent(
      t,
      { power: { type: "jumpstarter_driver_power.driver.MockPower" } },
      { args: ["--tls-grpc-insecure", "--operations", `0.0.0.0:${port}`, "--operations-token-file", file] },
    );
    const context = await startChromium(t);
    const page = context.pages()[0] ?? (await context.newPage());
    await page.goto(`http://127.0.0.1:${port}/`);
    const input = page.locator("#token");
    await input.waitFor();
    assert.equal(await page.evaluate(focused("id")), "token");
    assert.equal(await page.locator("#content").isVisible(), false);
    await assertAccessible(page, "login");
    await picture(page, "login");
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("That is not the token.").waitFor();
    await input.fill(token);
    await page.keyboard.press("Enter");
    await page.locator("#cards > li").waitFor();
    assert.match(await text(page, "#cards"), /test\s+serving/);
    // The cookie is enough from then on, and no script can read it.
    await page.reload();
    await page.locator("#cards > li").waitFor();
    assert.equal(await page.evaluate("document.cookie"), "");
  },
);
