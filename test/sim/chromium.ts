import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { chromium, type BrowserContext } from "playwright-core";

export const chromiumPath = "/usr/bin/chromium";

/** Debian's Chromium without a screen, in a profile of its own that goes with the test. It asks nobody but the pages it is sent to. */
export async function startChromium(t: Pick<TestContext, "after">): Promise<BrowserContext> {
  const profile = mkdtempSync(join(tmpdir(), "jmp-agent-chromium-"));
  const quiet = ["background-networking", "component-update", "sync", "gpu", "quic"].map((what) => `--disable-${what}`);
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: chromiumPath,
    headless: true,
    args: ["--no-sandbox", "--no-first-run", "--enable-precise-memory-info", ...quiet],
    viewport: { width: 1440, height: 900 },
  });
  t.after(async () => {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  });
  return context;
}
