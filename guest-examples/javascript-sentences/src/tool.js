// What makes it a flowcell tool: `describe` and `invoke` of the contract.
import { log } from "flowcell:tool/host@0.1.0";
import { sentences } from "./sentences.js";

const LIMIT = 2;

export const tool = {
  describe() {
    return [
      {
        name: "sentences",
        description: "Splits a text into sentences.",
        inputs: [
          { name: "text", types: ["string"], default: undefined, required: true, init: false },
          { name: "limit", types: ["int"], default: String(LIMIT), required: false, init: false },
        ],
        openInputs: false,
      },
    ];
  },

  invoke(name, inputs) {
    if (name !== "sentences") {
      throw refusal("LookupError", `this component has no tool "${name}", only "sentences"`);
    }
    const { text, limit = LIMIT, ...others } = JSON.parse(inputs);
    if (typeof text !== "string") {
      throw refusal("TypeError", "sentences needs an input 'text' that is a text");
    }
    if (Object.keys(others).length > 0) {
      throw refusal("TypeError", `sentences has no input '${Object.keys(others)[0]}'`);
    }
    const answer = sentences(text, limit);
    log("info", `${answer.count} sentences`);
    return JSON.stringify(answer);
  },
};

function refusal(typeName, message) {
  return { kind: "user", typeName, message, traceback: "", own: false };
}
