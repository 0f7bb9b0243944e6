import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { FlashReceipt } from "../../../agent/driver/receipt.ts";
import { htmlReport, type ReportedFlash } from "../../../agent/ops/receipts/html-report.ts";

const sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/** A receipt in which everything that others may say is `said`. */
function flash(said: string, changed: Partial<FlashReceipt> = {}): ReportedFlash {
  const receipt: FlashReceipt = {
    format: "jumpstarter-agent/flash-receipt/v1",
    id: said,
    exporter: said,
    lease: said,
    configSha256: said,
    verdict: "failed",
    failure: { step: said, code: "E_FAILED", message: said },
    startedAt: "2026-03-01T12:00:00.000Z",
    durationMs: 40_000,
    driver: said,
    method: "netboot-shell",
    image: { name: said, bytes: 1_000, sha256: said, encoding: "xz", content: { bytes: 5_000_000, sha256 } },
    readBackSha256: said,
    target: { path: said, bytes: 16_000_000_000, model: said, serial: said, cid: said },
    bundle: {
      name: said,
      reference: said,
      digest: said,
      manifestSha256: said,
      files: [{ name: said, address: said, bytes: 1, sha256: said }],
    },
    ranges: { written: [{ start: 0, end: 5_000_000 }], unchanged: [] },
    steps: [
      { name: said, startMs: 0, durationMs: 10_000, verdict: "ok" },
      { name: "write", startMs: 10_000, durationMs: 20_000, verdict: "failed", bytes: 200_000_000 },
    ],
    versions: { uboot: said },
    ...changed,
  };
  return { receipt, consoleTail: `console:${said}` };
}

const tagsOf = (page: string) => [...page.matchAll(/<[^>]*>/g)].map(([tag]) => tag.replaceAll(/="[^"]*"/g, '=""'));

describe("page of receipts", () => {
  test("whatever boards and files say, no tag and no attribute is theirs", () => {
    const plain = tagsOf(htmlReport([flash("plain"), flash("plain")]));
    const hostile = [
      "<script>alert(1)</script>",
      `"' onload='x'`,
      "]]>",
      "--><!--",
      "</title></style>",
      "&lt;",
      "`${x}`",
    ];
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.constantFrom(...hostile), fc.string({ unit: "binary" }))), (parts) => {
        // Empty facts are left out, which is another page.
        const page = htmlReport([flash(`x${parts.join("")}`), flash("plain")]);
        assert.deepEqual(tagsOf(page), plain);
      }),
    );
  });

  test("nothing in it moves a cursor, turns the writing, or is fetched", () => {
    const page = htmlReport([flash("a\x1b[31mred\x1b[0m\u202egnp.exe\0 http://evil.example/x.png")]);
    // eslint-disable-next-line no-control-regex -- these are what must not be there
    assert.doesNotMatch(page, /[\0-\x08\x0b-\x1f\u202a-\u202e]/);
    assert.doesNotMatch(page, /\b(src|href)=|url\(/);
    assert.match(
      page,
      /<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/,
    );
    assert.match(page, /<pre>console:ared/, "colours of the console are left out");
  });

  test("what was read back is compared, not believed", () => {
    assert.match(htmlReport([flash("x", { readBackSha256: sha256 })]), new RegExp(`${sha256}</code> = content`));
    assert.match(htmlReport([flash("x", { readBackSha256: "f00" })]), /f00<\/code> ≠ content/);
  });

  test("steps stand where they were, on one axis for all boards", () => {
    const steps = (startMs: number) => [{ name: "write", startMs, durationMs: 10_000, verdict: "ok" as const }];
    const page = htmlReport([
      flash("one", { steps: steps(0), startedAt: "2026-03-01T12:00:00.000Z", durationMs: 40_000 }),
      flash("two", { steps: steps(0), startedAt: "2026-03-01T12:00:20.000Z", durationMs: 20_000 }),
    ]);
    // The axis has 40 s between x = 190 and x = 830.
    const bars = [...page.matchAll(/<rect class="write" x="([\d.]+)" y="\d+" width="([\d.]+)" height="16"/g)];
    const places = bars.map(([, x, width]) => [Number(x), Number(width)]);
    assert.deepEqual(places, [
      [190, 160],
      [510, 160],
      [190, 160],
      [510, 160],
    ]);
    assert.match(page, /<title>2 flashes: 0 verified<\/title>/);
  });

  test("times and sizes that make no sense make a page all the same", () => {
    const broken: Partial<FlashReceipt>[] = [
      { startedAt: "yesterday" },
      { durationMs: 0, steps: [] },
      { steps: [{ name: "write", startMs: 1e15, durationMs: 1e15, verdict: "ok", bytes: 1e300 }] },
      { target: { path: "/dev/sda", bytes: 0 }, ranges: { written: [{ start: 9, end: 1 }], unchanged: [] } },
      { verdict: "interrupted", durationMs: undefined, steps: [] },
    ];
    for (const changed of broken) {
      const page = htmlReport([flash("x"), flash("x", changed)]);
      assert.doesNotMatch(page, /NaN|Infinity|undefined|="-/, JSON.stringify(changed));
      assert.match(page, /<\/html>/);
    }
  });

  test("ten thousand ranges and a long console make a small page", () => {
    const written = Array.from({ length: 10_000 }, (_, index) => ({
      start: index * 8_192,
      end: index * 8_192 + 4_096,
    }));
    const { receipt } = flash("x", { ranges: { written, unchanged: [] } });
    const consoleTail = "line\n".repeat(100_000);
    assert.ok(htmlReport([{ receipt, consoleTail }]).length < 40_000);
  });
});
