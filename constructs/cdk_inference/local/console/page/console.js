// The page: what the server sends goes to the parts of the page that show it.

import { address, choose } from "./api.js";
import { byId, element, say } from "./dom.js";
import { openExecution, openObject } from "./details.js";
import { showFlow } from "./flow.js";
import { showCosts, showMetrics, showModels } from "./insights.js";
import { Notices } from "./notices.js";
import { Requests } from "./requests.js";
import { everything, Results, showDead, showExecutions } from "./tables.js";
import { acceptUploads } from "./uploads.js";

const TABS = ["ask", "results", "rejected", "dead", "executions", "metrics", "model", "costs"];
const LAZY = { model: showModels, costs: showCosts };

let inbox = "";
let shown = ""; // the pipeline
let entered = ""; // the pipeline whose first tab was chosen
let stream = null;
const troubles = new Map(); // what needs the reader, by where it comes from
const open = (row) => openObject(row, inbox);
const results = new Results(open);
const requests = new Requests(() => select("model", true));
const news = new Notices(({ pipeline, bucket, key }) => {
  if (pipeline !== shown) show(pipeline);
  openObject({ bucket, key, etag: "" }, bucket);
});

const sections = {
  pipelines: (section) => {
    const { names } = section;
    shown = section.shown;
    byId("choice").hidden = names.length < 2;
    byId("name").hidden = names.length >= 2;
    byId("name").textContent = shown;
    byId("pipelines").replaceChildren(...names.map((name) => element("option", { value: name, selected: name === shown }, name)));
    document.title = `${shown} · cdk-inference console`;
  },
  pipeline: (facts) => {
    inbox = results.inbox = facts.inbox;
    requests.update(facts);
    const stored = facts.table !== "";
    byId("tab-ask").hidden = Boolean(inbox) && facts.inputs.length === 0;
    byId("tab-executions").hidden = !facts.has_machines;
    for (const name of ["results", "rejected", "dead", "metrics", "costs"]) byId(`tab-${name}`).hidden = !stored;
    byId("choose").hidden = byId("empty-inbox").hidden = !inbox;
    byId("empty-source").hidden = Boolean(inbox);
    byId("empty-source").querySelector("code").textContent = facts.source || facts.name;
    byId("score-all").hidden = byId("again-note").hidden = !inbox;
    byId("redrive-all").hidden = byId("redrive-note").hidden = !facts.queue;
    document.body.classList.toggle("without-queue", !facts.queue);
    if (facts.name !== entered) {
      entered = facts.name;
      if (!location.hash.slice(1) || byId(`tab-${current()}`).hidden) select(inbox ? "results" : "ask");
    }
  },
  flow: ({ places }) => showFlow(places, (kind) => select(kind, true)),
  rows: (section) => {
    results.update(section);
    requests.rows(section.rows);
  },
  dead: (section) => {
    showDead(section, inbox, open);
    requests.dead(section.letters);
  },
  executions: (section) => showExecutions(section, openExecution),
  metrics: showMetrics,
  notices: ({ notices }) => news.update(notices),
  trouble: ({ message }) => trouble("server", message),
};

function listen() {
  stream?.close();
  stream = new EventSource(address("events"));
  for (const [name, update] of Object.entries(sections)) {
    stream.addEventListener(name, (event) => update(JSON.parse(event.data)));
  }
  stream.addEventListener("open", () => live("live"));
  stream.addEventListener("error", () => {
    if (stream.readyState !== EventSource.CLOSED) {
      live("reconnecting");
      return;
    }
    live("ended");
    trouble("stream", "This console has ended. Run its command again, and open the address that it prints.");
  });
}

function live(state) {
  byId("live").textContent = state;
  byId("live").className = `live ${state}`;
}

/** Show what needs the reader at the top of the page; an empty text takes it away. */
function trouble(from, text) {
  if (text) troubles.set(from, text);
  else troubles.delete(from);
  const strip = byId("strip");
  strip.replaceChildren(...[...troubles.values()].map((each) => element("p", {}, each)));
  strip.hidden = troubles.size === 0;
  if (text) say(text);
}

const current = () => TABS.find((name) => !byId(name).hidden) ?? "results";

function select(name, focus = false) {
  for (const each of TABS) {
    const tab = byId(`tab-${each}`), chosen = each === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(each).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  LAZY[name]?.();
  history.replaceState(null, "", `#${name}`);
}

function tabs() {
  for (const name of TABS) byId(`tab-${name}`).addEventListener("click", () => select(name));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const shown = TABS.filter((name) => !byId(`tab-${name}`).hidden);
    const at = shown.findIndex((name) => byId(`tab-${name}`).getAttribute("aria-selected") === "true");
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    select(shown[(next + shown.length) % shown.length], true);
  });
  const wanted = location.hash.slice(1);
  if (TABS.includes(wanted)) select(wanted);
}

function theme() {
  const button = byId("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const show = () => (button.textContent = isDark() ? "Light" : "Dark");
  const kept = localStorage.getItem("theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    localStorage.setItem("theme", chosen);
    show();
  });
  dark.addEventListener("change", show);
  show();
}

/** Show another pipeline. */
function show(pipeline) {
  shown = pipeline;
  choose(pipeline);
  results.seen = null;
  results.skip = 0;
  byId("search").value = "";
  listen();
  LAZY[current()]?.();
}

byId("pipelines").addEventListener("change", (event) => show(event.currentTarget.value));
byId("traffic").addEventListener("input", showCosts);
byId("traffic").addEventListener("submit", (event) => event.preventDefault());
byId("dialog").addEventListener("click", (event) => event.target === byId("dialog") && byId("dialog").close()); // on what is behind it
addEventListener("uploads", (event) => trouble("uploads", event.detail.failed.length ? `Not uploaded: ${event.detail.failed.join("; ")}` : ""));

byId("try-first").addEventListener("click", () => select("ask", true));
acceptUploads(() => inbox, (files) => {
  select("ask");
  requests.sendFiles(files);
});
everything();
tabs();
theme();
listen();
