// usage: node componentize.mjs FILE.js WIT-FOLDER WORLD OUT.wasm
import { writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [sourcePath, witPath, worldName, out] = process.argv.slice(2);
const { component } = await componentize({
  sourcePath,
  witPath,
  worldName,
  // The engine has no clock, random numbers or network of its own: a tool that needs none gets none.
  disableFeatures: ["http", "fetch-event"],
});
await writeFile(out, component);
