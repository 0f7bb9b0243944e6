#!/usr/bin/env node
import { leanStart } from "./lean-start.ts";

leanStart();
// Loaded only now, so that the code of everything else is compiled under the flags above.
const { main } = await import("./main.ts");
process.exitCode = await main(process.argv.slice(2));
