import assert from "node:assert/strict";
import test from "node:test";
import { sentences } from "../src/sentences.js";

test("splits at the ends of sentences", () => {
  assert.deepEqual(sentences("One two. Three! Four five six?  Seven", 2), {
    count: 4,
    average: 1.8,
    first: ["One two.", "Three!"],
  });
});

test("an empty text has no sentences", () => {
  assert.deepEqual(sentences(" \n", 2), { count: 0, average: 0, first: [] });
});
