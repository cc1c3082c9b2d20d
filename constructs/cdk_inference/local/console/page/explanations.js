// Why the model answered so: the grid over a picture, the words of a text, or the fields of a record.

import { element } from "./dom.js";
import { grid, heat } from "./pictures.js";

const FACTS = [["method", "Method"], ["label", "Of"], ["score", "Score"], ["base", "Without all of it"], ["others", "Other fields"], ["baseline", "Hidden by"], ["runs", "Runs of the model"]];

/** An explanation as people read it; null if there is none. A grid that is drawn over the picture is not drawn again. */
export function explained(found, { drawn }) {
  if (!found || typeof found !== "object") return null;
  const facts = FACTS.filter(([name]) => found[name] !== undefined && found[name] !== null);
  const values = grid(found);
  return element(
    "section",
    { class: "explanation" },
    element("h3", {}, "Why"),
    found.reason ? element("p", { class: "note" }, `There is no explanation: ${found.reason}`) : null,
    values && !drawn ? element("div", { class: "grid-view" }, heat(values)) : null,
    values && drawn ? element("p", { class: "note" }, "What is warm on the picture mattered most.") : null,
    Array.isArray(found.tokens) ? tokens(found.tokens) : null,
    found.values && typeof found.values === "object" ? weights(Object.entries(found.values)) : null,
    element("dl", { class: "facts" }, facts.flatMap(([name, title]) => [element("dt", {}, title), element("dd", {}, String(found[name]))])),
  );
}

/** The words in the text's order, as strongly coloured as they matter. */
function tokens(found) {
  const valid = found.filter((one) => Number.isFinite(one?.weight));
  const most = Math.max(...valid.map((one) => Math.abs(one.weight)), Number.MIN_VALUE);
  return element("p", { class: "tokens" }, valid.map((one) => {
    const share = Math.abs(one.weight) / most;
    return element(
      "span",
      { class: one.weight < 0 ? "against" : "for", style: { "--share": `${Math.round(share * 55)}%` }, title: signed(one.weight) },
      String(one.token),
      element("span", { class: "hidden" }, ` (${signed(one.weight)}) `),
    );
  }));
}

function weights(found) {
  const valid = found.filter(([, weight]) => Number.isFinite(weight)).sort(([, one], [, other]) => Math.abs(other) - Math.abs(one));
  const most = Math.max(...valid.map(([, weight]) => Math.abs(weight)), Number.MIN_VALUE);
  return element(
    "table",
    { class: "weights" },
    element("caption", { class: "hidden" }, "What each field adds to the score"),
    element("tbody", {}, valid.map(([name, weight]) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        element("td", { class: "track-cell", "aria-hidden": "true" }, element("span", { class: "track" }, element("span", { class: `filled${weight < 0 ? " against" : ""}`, style: { width: `${((Math.abs(weight) / most) * 100).toFixed(1)}%` } }))),
        element("td", { class: "figure" }, signed(weight)),
      ))),
  );
}

const signed = (weight) => `${weight < 0 ? "−" : "+"}${Math.abs(weight).toPrecision(3)}`;
