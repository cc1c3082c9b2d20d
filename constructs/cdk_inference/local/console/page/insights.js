// Metrics, models and costs.

import { address, ask } from "./api.js";
import { byId, dollars, element, plural, seconds, whole } from "./dom.js";
import { bars } from "./pictures.js";

export function showMetrics(section) {
  const minutes = (section.throughput.length * section.seconds) / 60;
  const recent = section.throughput.reduce((sum, count) => sum + count, 0);
  const most = Math.max(...section.throughput) / section.seconds;
  byId("metrics").replaceChildren(
    element(
      "div",
      { class: "grid" },
      card(
        "Throughput",
        element("p", { class: "big" }, plural(recent, "row"), element("small", {}, ` in ${minutes} minutes, at most ${most.toFixed(1)} a second`)),
        bars(section.throughput, `Rows written in each ${section.seconds} seconds of the last ${minutes} minutes`),
        element("p", { class: "axis", "aria-hidden": "true" }, element("span", {}, `${minutes} minutes ago`), element("span", {}, "now")),
      ),
      card("Latency", section.times.length ? latencies(section.times) : element("p", { class: "note" }, "Nothing has been measured yet.")),
      card("Models", shares(section.models, "model version")),
      card("Labels", shares(section.labels, "label")),
    ),
    element("p", { class: "note" }, "Measured from the rows, and from the histories of the executions. The embedded AWS keeps no CloudWatch metrics of them, and this machine is not AWS: there, a function has a CPU of its own."),
  );
}

function latencies(times) {
  const most = Math.max(...times.map((one) => one.p95), 1);
  return element(
    "table",
    { class: "latencies" },
    element("caption", { class: "hidden" }, "Latency by stage"),
    element("thead", {}, element("tr", {}, ["", "p50", "p95", ""].map((title, number) => (title ? element("th", { scope: "col" }, title) : element("td", { class: number ? "track-cell" : "" }))))),
    element("tbody", {}, times.map((one) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, one.name),
        element("td", {}, seconds(one.p50)),
        element("td", {}, seconds(one.p95)),
        element("td", { class: "track-cell", "aria-hidden": "true" }, element("span", { class: "track" }, element("span", { class: "filled light", style: { width: `${(one.p95 / most) * 100}%` } }), element("span", { class: "filled", style: { width: `${(one.p50 / most) * 100}%` } }))),
      ))),
  );
}

function shares(counts, what) {
  if (!counts.length) return element("p", { class: "note" }, `No row has a ${what}.`);
  const total = counts.reduce((sum, [, count]) => sum + count, 0), most = Math.max(...counts.map(([, count]) => count));
  return element("ul", { class: "shares" }, counts.map(([name, count]) =>
    element(
      "li",
      {},
      element("span", { class: "share-name", title: name }, name),
      element("span", { class: "track", "aria-hidden": "true" }, element("span", { class: "filled", style: { width: `${(count / most) * 100}%` } })),
      element("span", { class: "figure" }, `${whole(count)} (${Math.round((count / total) * 100)} %)`),
    )));
}

export async function showModels() {
  const { models } = await ask("api/models");
  byId("model").replaceChildren(
    models.length
      ? element("div", { class: "grid" }, models.map((model) =>
          card(
            model.name || model.version,
            element("p", { class: "note" }, "Version ", element("code", {}, model.version)),
            element("dl", { class: "facts" }, model.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
            model.card
              ? element("p", {}, element("a", { class: "button", href: address("card", { version: model.version }), target: "_blank", rel: "noopener" }, "Open the model card"))
              : element("p", { class: "note" }, "Its card is where the model was built, which is not this machine."),
          )))
      : element("p", { class: "none" }, "No function of this pipeline has a model."),
  );
}

export async function showCosts() {
  const form = new FormData(byId("traffic"));
  const place = byId("estimates");
  let found;
  try {
    found = await ask("api/costs", { items: String(form.get("items")), fill: String(form.get("fill")) });
  } catch (error) {
    place.replaceChildren(element("p", { class: "failed" }, error.message));
    return;
  }
  if (!found.ways.length) {
    place.replaceChildren(element("p", { class: "none" }, "The deployed template does not say what this pipeline costs: it is of another version, or has no measured model."));
    return;
  }
  place.replaceChildren(
    ...found.ways.map((way) =>
      element(
        "article",
        { class: "card" },
        found.ways.length > 1 ? element("h3", {}, way.name) : null,
        element(
          "dl",
          { class: "tiles" },
          tile("A month", dollars(way.usd_per_month), found.traffic),
          tile("A million objects", dollars(way.usd_per_million), "at this traffic"),
          tile("What has run here", dollars(way.usd_so_far), `${plural(found.rows, "row")}, at the price of a million`),
        ),
        element(
          "table",
          { class: "table lines" },
          element("caption", { class: "hidden" }, "Costs by service"),
          element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Service"), element("th", { scope: "col", class: "number" }, "USD a month"), element("th", { scope: "col" }, "How"))),
          element("tbody", {}, way.lines.map(([service, usd, how]) => element("tr", {}, element("td", {}, service), element("td", { class: "number", "data-title": "USD a month" }, dollars(usd)), element("td", { class: "note", "data-title": "How" }, how)))),
        ),
      )),
    element("p", { class: "note" }, `Prices of ${found.region}, ${found.as_of}. Uploads, storage, logs, traces, free tiers and taxes are not in it.`),
  );
}

function tile(name, value, note) {
  return element("div", {}, element("dt", {}, name), element("dd", { class: "big" }, value), element("dd", { class: "note" }, note));
}

function card(title, ...children) {
  return element("article", { class: "card" }, element("h3", {}, title), ...children);
}
