// What the tool does, without anything of WebAssembly.

/** Splits a text into sentences, and says how many words each has on average (rounded to one decimal). */
export function sentences(text, limit) {
  const all = text
    .split(/(?<=[.!?…])\s+/u)
    .map((sentence) => sentence.trim())
    .filter((sentence) => sentence !== "");
  const words = all.reduce((sum, sentence) => sum + sentence.split(/\s+/u).length, 0);
  return {
    count: all.length,
    average: all.length === 0 ? 0 : Math.round((10 * words) / all.length) / 10,
    first: all.slice(0, limit),
  };
}
