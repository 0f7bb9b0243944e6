// Loaded before tests in CI: properties draw the same cases every time there, so that a change is judged by what it
// changes. Everywhere else each run draws new ones; what they find becomes an example in the test.
import fc from "fast-check";

fc.configureGlobal({ seed: 20_261_121 });
