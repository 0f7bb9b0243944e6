const light = `
  --ink: #1d2430; --soft: #5b6675; --paper: #fff; --line: #dfe3e8; --code: #f4f6f8;
  --step: #7d92b5; --wait: #c3cbd8; --write: #2563c9; --verify: #178a52; --failed: #c8322b;`;

const dark = `
  --ink: #e4e8ee; --soft: #9aa5b4; --paper: #14181f; --line: #2c333d; --code: #1d232c;
  --step: #6f86ad; --wait: #465060; --write: #5b94f5; --verify: #3dbb7d; --failed: #f0645c;`;

/** Of the page of receipts: light or dark as the reader has it, light on paper. */
export const style = `
:root { color-scheme: light dark; ${light} }
@media (prefers-color-scheme: dark) { :root { ${dark} } }
@media print {
  :root { color-scheme: light; ${light} }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
  svg, tr, .failure { break-inside: avoid }
}
body {
  max-width: 68rem; margin: 0 auto; padding: 2rem 1.5rem;
  font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper)
}
h1 { font-size: 1.5rem; margin: 0 0 1rem }
h2 { font-size: 1.2rem; margin: 2rem 0 .25rem }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
p { margin: .25rem 0 1rem; overflow-wrap: anywhere }
footer { margin-top: 2.5rem }
.small, footer { color: var(--soft); font-size: .85rem }
.verdict { font-size: .8rem; padding: .15rem .6rem; border-radius: 1rem; vertical-align: 2px; color: #fff }
.verdict.verified { background: #178a52 }
.verdict.written { background: #2563c9 }
.verdict.failed, .verdict.interrupted { background: #c8322b }
.failure { border-left: 4px solid var(--failed); background: var(--code); padding: .6rem 1rem; overflow-wrap: anywhere }
.picture { overflow-x: auto }
svg { display: block; width: 100%; min-width: 40rem }
svg.strip { height: 18px; min-width: 0 }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink) }
svg .note, svg .tick { fill: var(--soft) }
.name { text-anchor: end }
.tick { text-anchor: middle }
.grid { stroke: var(--line) }
.gap { fill: var(--line) }
.step { fill: var(--step) }
.wait { fill: var(--wait) }
.write { fill: var(--write) }
.verify { fill: var(--verify) }
rect.failed { fill: var(--failed) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; margin: 1.5rem 0 0; font-size: .9rem }
dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere }
code, pre { font: .85rem ui-monospace, monospace }
pre { background: var(--code); padding: 1rem; white-space: pre-wrap; overflow-wrap: anywhere }
table { border-collapse: collapse; font-size: .9rem }
td, th { padding: .2rem 1.5rem .2rem 0; text-align: left; white-space: nowrap }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr } dd { margin-bottom: .4rem } }
`;
