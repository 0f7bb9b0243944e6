import * as z from "zod";
import * as lax from "../../agent/driver/lax.ts";

export const requestTimeout = () =>
  lax
    .number()
    .pipe(z.number().positive().max(86_400))
    .prefault(5)
    .describe('seconds that the ECU may take for its response, or to say "response pending"');
