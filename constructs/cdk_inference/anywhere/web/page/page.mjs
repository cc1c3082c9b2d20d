// The page: takes one input, and shows the outputs for it.

import { openModel } from "./model.mjs";

const MOST_SHOWN = 20;

const at = (id) => document.getElementById(id);
const say = (text) => {
  at("status").textContent = text;
};

/** Return the names and values to show of an output for one item, the largest first if classes have labels. */
function rows(name, { data }, labels) {
  const values = Array.from(data, Number);
  if (labels === null) {
    return values.slice(0, MOST_SHOWN).map((value, index) => [values.length > 1 ? `${name}[${index}]` : name, value]);
  }
  return values
    .map((value, index) => [labels[index], value])
    .sort(([, one], [, other]) => other - one)
    .slice(0, MOST_SHOWN);
}

function show(entries) {
  at("result").tBodies[0].replaceChildren(
    ...entries.map((entry) => {
      const row = document.createElement("tr");
      for (const text of entry) {
        row.insertCell().textContent = typeof text === "number" ? text.toPrecision(6) : text;
      }
      return row;
    }),
  );
  at("result").hidden = false;
}

/** Return the inputs that a text says: a batch of one item. A model of one input takes it without its name. */
function read(text, specs) {
  const value = JSON.parse(text);
  const named = specs.length === 1 && (Array.isArray(value) || typeof value !== "object") ? { [specs[0].name]: value } : value;
  return Object.fromEntries(Object.entries(named).map(([name, item]) => [name, [item]]));
}

async function start() {
  const model = await openModel();
  const { name, version, inputs, labels } = model.description;
  document.title = name;
  at("name").textContent = `${name}, version ${version}`;
  at("expected").textContent = inputs.map((spec) => `${spec.name}, ${spec.dtype} [${spec.shape.slice(1).join(", ")}]`).join("; ");
  at("file").addEventListener("change", async (event) => {
    at("input").value = await event.target.files[0].text();
  });
  at("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    at("result").hidden = true;
    try {
      const began = performance.now();
      const outputs = await model.run(read(at("input").value, inputs));
      show(Object.entries(outputs).flatMap(([output, found]) => rows(output, found, labels)));
      say(`The model took ${(performance.now() - began).toFixed(1)} ms.`);
    } catch (error) {
      say(`The model cannot run on this: ${error.message}`);
    }
  });
  at("run").disabled = false;
  say("The model is ready.");
}

start().catch((error) => say(`The model cannot be opened: ${error.message}`));
