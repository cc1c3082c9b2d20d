// The tables: rows, rejected objects, dead letters and executions.

import { act, ask } from "./api.js";
import { byId, element, keyed, moment, plural, say, seconds, whole } from "./dom.js";
import { sized, thumbnail } from "./objects.js";

const REJECTED = ["REJECTED", "FAILED"];
const PAGE = 200;
const WORDS = { SUCCEEDED: "succeeded", REJECTED: "rejected", FAILED: "failed", RUNNING: "running", TIMED_OUT: "timed out", ABORTED: "aborted" };

export const pill = (status) => element("span", { class: `pill ${status.toLowerCase()}` }, WORDS[status] ?? status);

const idOf = (row) => `${row.object}\n${row.version}`;

/** The rows of the page that is open, live as long as it is the first and nobody searches. */
export class Results {
  constructor(open) {
    this.open = open;
    this.skip = 0;
    this.live = null;
    this.inbox = "";
    this.seen = null;
    this.asked = 0;
    byId("search").addEventListener("input", () => {
      this.skip = 0;
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.show(), 150);
    });
    byId("older").addEventListener("click", () => this.turn(PAGE));
    byId("newer").addEventListener("click", () => this.turn(-PAGE));
  }

  turn(by) {
    this.skip = Math.max(0, this.skip + by);
    this.show();
  }

  update(section) {
    this.live = section;
    this.announce(section.rows);
    this.show();
    const rejected = REJECTED.reduce((sum, status) => sum + (section.counts[status] ?? 0), 0);
    badge("tab-results", section.total);
    badge("tab-rejected", rejected);
    this.showRejected(rejected, section.rows.filter((row) => REJECTED.includes(row.status)));
  }

  async show() {
    const search = byId("search").value.trim();
    const number = ++this.asked;
    let page = this.live;
    if (search || this.skip) page = await ask("api/rows", { search, skip: this.skip });
    if (number !== this.asked || page === null) return; // a later question is under way
    byId("empty").hidden = this.live.total > 0;
    byId("results-tools").hidden = this.live.total === 0;
    byId("rows").hidden = page.rows.length === 0;
    const first = page.skipped + 1, last = page.skipped + page.rows.length;
    byId("shown").textContent = page.rows.length
      ? search
        ? `${whole(first)} to ${whole(last)} of what matches`
        : this.live.total <= PAGE ? plural(this.live.total, "row") : `${whole(first)} to ${whole(last)} of ${whole(this.live.total)} rows`
      : `Nothing matches “${search}”`;
    byId("older").hidden = byId("newer").hidden = !page.more && !page.skipped;
    byId("older").disabled = !page.more;
    byId("newer").disabled = !page.skipped;
    keyed(byId("rows").tBodies[0], page.rows, idOf, (row, before) => this.row(row, before));
  }

  row(row, before) {
    const [prediction, bar] = predicted(row);
    const made = element(
      "tr",
      { class: this.fresh?.has(idOf(row)) ? "fresh" : "", onclick: (event) => event.target.closest("button, a") || this.open(row) },
      element("td", { class: "object" }, element("div", { class: "held" }, before?.querySelector(".thumbnail") ?? thumbnail(row, this.inbox), named(row, this.open))),
      element("td", { class: "prediction", "data-title": "Prediction" }, prediction),
      element("td", { class: "confidence", "data-title": "Confidence" }, bar),
      element("td", { class: "times", "data-title": "Time by stage" }, stages(row)),
      element("td", { class: "model", "data-title": "Model" }, element("code", {}, row.model ?? ""), row.route ? element("span", { class: "note" }, row.route) : null),
      element("td", { class: "when", "data-title": "Recorded" }, moment(row.recorded_at)),
    );
    return made;
  }

  announce(rows) {
    const before = this.seen;
    this.seen = new Map(rows.map((row) => [idOf(row), row.recorded_at]));
    const fresh = before === null ? [] : rows.filter((row) => before.get(idOf(row)) !== row.recorded_at);
    this.fresh = new Set(fresh.map(idOf));
    if (fresh.length > 3) say(`${plural(fresh.length, "new row")}`);
    else if (fresh.length) say(fresh.map((row) => `${row.key}: ${row.label ?? row.reason ?? row.summary}`).join(". "));
  }

  async showRejected(total, newest) {
    const rows = total > newest.length ? (await ask("api/rows", { status: REJECTED })).rows : newest;
    fill("rejected", rows, idOf, (row) =>
      element(
        "tr",
        { onclick: (event) => event.target.closest("button, a") || this.open(row) },
        element("td", { class: "object" }, element("div", { class: "held" }, thumbnail(row, this.inbox), named(row, this.open))),
        element("td", { "data-title": "Status" }, pill(row.status)),
        element("td", { class: "reason", "data-title": "Reason" }, row.reason ?? ""),
        element("td", { class: "when", "data-title": "Recorded" }, moment(row.recorded_at)),
        element("td", { class: "act" }, row.bucket === this.inbox ? scoreAgain(row) : null),
      ));
    byId("score-all").disabled = rows.length === 0;
  }
}

export function scoreAgain(row) {
  return element("button", { type: "button", class: "plain", "data-focus": "again", onclick: (event) => once(event.currentTarget, async () => {
    const { sent } = await act("api/score-again", { rows: [[row.object, row.version]] });
    say(`${row.key} is scored again`);
    return sent ? "Sent" : "Already replaced";
  }) }, "Score again");
}

export function redrive(letter) {
  return element("button", { type: "button", class: "plain", "data-focus": "redrive", onclick: (event) => once(event.currentTarget, async () => {
    const { sent } = await act("api/redrive", { ids: [letter.id] });
    say(`${letter.key} is back in the queue`);
    return sent ? "Sent" : "Already gone";
  }) }, "Redrive");
}

export function everything() {
  byId("redrive-all").addEventListener("click", (event) => once(event.currentTarget, async () => {
    const { sent } = await act("api/redrive", { all: true });
    say(`${plural(sent, "dead letter")} sent back to the queue`);
  }));
  byId("score-all").addEventListener("click", (event) => once(event.currentTarget, async () => {
    const { sent } = await act("api/score-again", { all: true });
    say(`${plural(sent, "object")} sent to be scored again`);
  }));
}

export function showDead(section, inbox, open) {
  badge("tab-dead", section.total);
  byId("tab-dead").classList.toggle("bad", section.total > 0);
  byId("redrive-all").disabled = section.total === 0;
  fill("dead", section.letters, (letter) => letter.id, (letter) => {
    const row = { key: letter.key, bucket: inbox, etag: "" };
    const known = letter.key !== "";
    return element(
      "tr",
      { onclick: (event) => known && !event.target.closest("button, a") && open(row) },
      element("td", { class: "object" }, element("div", { class: "held" }, known ? thumbnail(row, inbox) : null, known ? named(row, open) : element("code", { class: "line" }, letter.text || "an empty message"))),
      element("td", { class: "reason", "data-title": "Reason" }, letter.reason),
      element("td", { class: "when", "data-title": "Sent" }, moment(letter.sent)),
      element("td", { class: "act" }, redrive(letter)),
    );
  });
}

export function showExecutions(section, open) {
  fill("executions", section.executions, (one) => one.arn, (one) =>
    element(
      "tr",
      { onclick: (event) => event.target.closest("button, a") || open(one.arn) },
      element("td", { class: "object" }, element("button", { type: "button", class: "link", "data-focus": "open", onclick: () => open(one.arn) }, one.arn.split(":").at(-1))),
      element("td", { "data-title": "Status" }, pill(one.status)),
      element("td", { "data-title": "Objects" }, one.keys.join(", "), one.objects > one.keys.length ? ` and ${whole(one.objects - one.keys.length)} more` : ""),
      element("td", { class: "when", "data-title": "Duration" }, one.stopped === null ? "" : seconds(one.stopped - one.started)),
      element("td", { class: "when", "data-title": "Started" }, moment(one.started)),
    ));
}

/** Do something once, with the button disabled for as long. */
async function once(button, action) {
  button.disabled = true;
  try {
    const said = await action();
    if (said) button.textContent = said;
    else button.disabled = false;
  } catch (error) {
    button.disabled = false;
    say(error.message);
    button.title = error.message;
    button.classList.add("failed");
  }
}

function fill(panel, items, id, make) {
  const table = byId(panel).querySelector("table");
  keyed(table.tBodies[0], items, id, make);
  table.hidden = items.length === 0;
  byId(panel).querySelector(".none").hidden = items.length > 0;
}

function badge(tab, count) {
  byId(tab).querySelector(".badge").textContent = count ? whole(count) : "";
}

function named(row, open) {
  return element(
    "span",
    { class: "named" },
    element("button", { type: "button", class: "link", "data-focus": "open", onclick: () => open(row) }, row.key),
    element("span", { class: "note" }, sized(row)),
  );
}

function predicted(row) {
  if (row.status !== "SUCCEEDED") return [[pill(row.status), element("span", { class: "reason" }, row.reason ?? "")], null];
  const label = row.label ?? row.summary;
  return [element("span", { class: row.label === null ? "summary" : "label" }, label), row.confidence === null ? null : bar(row.confidence)];
}

/** A share in [0, 1] as a bar; other scores are only a number. */
export function bar(score) {
  const text = score.toFixed(Math.abs(score) < 10 ? 2 : 1);
  if (score < 0 || score > 1) return element("span", { class: "score" }, text);
  return element(
    "span",
    { class: `score${score < 0.5 ? " low" : ""}` },
    element("span", { class: "track", "aria-hidden": "true" }, element("span", { class: "filled", style: { width: `${(score * 100).toFixed(1)}%` } })),
    element("span", { class: "figure" }, text),
  );
}

function stages(row) {
  if (row.milliseconds === null) return null;
  const total = Math.max(row.milliseconds, 1);
  const known = row.stages.reduce((sum, [, length]) => sum + length, 0);
  const parts = known && known <= total ? [["Waiting", total - known], ...row.stages] : row.stages;
  const words = parts.map(([name, length]) => `${name} ${seconds(length)}`).join(", ");
  return element(
    "span",
    { class: "stages", title: words },
    element("span", { class: "track", "aria-hidden": "true" }, parts.map(([, length], number) =>
      element("span", { class: `part part-${known && known <= total ? number : number + 1}`, style: { width: `${((length / total) * 100).toFixed(2)}%` } }))),
    element("span", { class: "figure" }, seconds(row.milliseconds), element("span", { class: "hidden" }, words ? `: ${words}` : "")),
  );
}
