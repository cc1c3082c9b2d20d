// The dialog with all that is known of an object, or of an execution.

import { ask } from "./api.js";
import { byId, element, moment, plural, seconds } from "./dom.js";
import { explained } from "./explanations.js";
import { preview, source } from "./objects.js";
import { boxes, detections, grid, heat, machine } from "./pictures.js";
import { bar, pill, redrive, scoreAgain } from "./tables.js";

const FACTS = [["model_version", "Model"], ["route", "Route"], ["variant", "Variant"], ["inference", "Ran on"], ["event_time", "Event"], ["recorded_at", "Recorded"], ["version", "Version"], ["etag", "ETag"]];
const MOST_MEMBERS = 12, MOST_VALUE = 1000;
const REPEATABLE = ["REJECTED", "FAILED"];

export async function openObject(row, inbox) {
  const body = opened(row.key);
  let found;
  try {
    found = await ask("api/details", { bucket: row.bucket, key: row.key });
  } catch (error) {
    body.replaceChildren(element("p", { class: "failed" }, error.message));
    return;
  }
  const newest = found.rows[0] ?? null;
  const media = element("div", { class: "media" });
  body.replaceChildren(
    element("div", { class: "object-view" }, media, element("div", { class: "about" }, about(found, newest, inbox))),
    ...[failures(found), executions(found), history(found), logs(found), whole(newest ?? found.dead[0]?.event)].filter(Boolean),
  );
  if (row.bucket === inbox) showMedia(media, { key: row.key, etag: newest?.etag ?? row.etag }, newest);
  else media.remove();
}

export async function openExecution(arn) {
  const body = opened(arn.split(":").at(-1));
  try {
    body.replaceChildren(drawnExecution(await ask("api/execution", { arn }), true));
  } catch (error) {
    body.replaceChildren(element("p", { class: "failed" }, error.message));
  }
}

function opened(title) {
  const dialog = byId("dialog");
  const body = element("div", { class: "dialog-body" }, element("p", { class: "note" }, "Reading …"));
  dialog.replaceChildren(
    element(
      "header",
      {},
      element("h2", { id: "dialog-title" }, title),
      element("button", { type: "button", class: "plain close", onclick: () => dialog.close() }, "Close"),
    ),
    body,
  );
  if (!dialog.open) dialog.showModal();
  return body;
}

function about(found, row, inbox) {
  if (row === null) {
    return found.dead.length
      ? [element("p", {}, element("span", { class: "pill dead_letter" }, "dead letter"))]
      : [element("p", {}, "There is no row of this object.")];
  }
  const parts = [element("p", {}, pill(row.status))];
  if (row.reason) parts.push(element("p", { class: "reason" }, row.reason));
  parts.push(...[predictionOf(row), explained(row.explanation, { drawn: row.bucket === inbox })].filter(Boolean));
  if (REPEATABLE.includes(row.status) && row.bucket === inbox) parts.push(element("p", {}, scoreAgain(row)));
  const facts = FACTS.filter(([name]) => row[name]);
  parts.push(element("dl", { class: "facts" }, facts.flatMap(([name, title]) => [element("dt", {}, title), element("dd", {}, String(row[name]))])));
  return parts;
}

/** The labels of a prediction with their scores, or its members; null if there is none. */
export function predictionOf(row) {
  const found = row.prediction;
  if (!found || typeof found !== "object") return null;
  const answers = (Array.isArray(found.top) ? found.top : []).filter((one) => typeof one?.label === "string" && Number.isFinite(one.score));
  const boxed = detections(found);
  const list = answers.length ? answers : boxed;
  if (!list.length && typeof found.label === "string") list.push({ label: found.label, score: found.score ?? row.confidence });
  if (!list.length) return members(found);
  return element(
    "table",
    { class: "answers" },
    element("caption", { class: "hidden" }, "Prediction"),
    element("tbody", {}, list.slice(0, 12).map((one) =>
      element("tr", {}, element("th", { scope: "row" }, String(one.label)), element("td", {}, Number.isFinite(one.score) ? bar(Number(one.score)) : "")))),
  );
}

/** What a prediction without labels says, such as a text or numbers. */
function members(found) {
  const shown = Object.entries(found).slice(0, MOST_MEMBERS);
  return element("dl", { class: "facts" }, shown.flatMap(([name, value]) => [
    element("dt", {}, name),
    element("dd", { class: "value" }, (typeof value === "string" ? value : JSON.stringify(value)).slice(0, MOST_VALUE)),
  ]));
}

async function showMedia(media, object, row) {
  const found = await preview(object);
  if (found.kind === "text") {
    media.append(element("pre", { class: "text", tabindex: "0" }, found.text));
  } else if (found.kind === "picture") {
    await showPicture(media, source(object), `The object ${object.key}`, row);
  } else if (found.kind === "missing") {
    media.append(element("p", { class: "note" }, "The object is not there any more, or was overwritten since."));
  } else {
    media.append(element("p", { class: "note" }, "This object is neither a picture that browsers show nor a text."));
  }
  if (found.kind !== "missing") media.append(element("p", { class: "note" }, element("a", { href: source(object), target: "_blank", rel: "noopener" }, "Open the object")));
}

/** A picture with what a row or an answer says of its places. */
export async function showPicture(media, address, name, row) {
  const frame = element("div", { class: "frame" });
  const picture = element("img", { src: address, alt: name });
  frame.append(picture);
  media.append(frame);
  await picture.decode().catch(() => null);
  const found = detections(row?.prediction), values = grid(row?.explanation);
  const switches = [];
  if (found.length && picture.naturalWidth) switches.push([plural(found.length, "box", "boxes"), boxes(found, picture.naturalWidth, picture.naturalHeight)]);
  if (values) switches.push(["Heat map", heat(values)]);
  for (const [, over] of switches) frame.append(over);
  if (switches.length) media.append(element("div", { class: "switches" }, switches.map(([name, over]) => toggle(name, over))));
}

function toggle(name, over) {
  return element("label", {}, element("input", { type: "checkbox", checked: true, onchange: (event) => (over.style.display = event.currentTarget.checked ? "" : "none") }), ` ${name}`);
}

function failures(found) {
  if (!found.dead.length) return null;
  return section("Dead letters", found.dead.map((letter) =>
    element("div", { class: "letter" }, element("p", { class: "reason" }, letter.reason), element("p", { class: "note" }, "Given up at ", moment(letter.sent)), redrive({ ...letter, key: found.key }))));
}

function executions(found) {
  if (!found.executions.length) return null;
  const [last, ...before] = found.executions;
  return section(
    found.executions.length > 1 ? `Last execution of ${found.executions.length}` : "Execution",
    drawnExecution(last, false),
    before.map((one) => element("details", {}, element("summary", {}, `Began at ${new Date(one.started).toLocaleTimeString("en-GB")}, ${one.status.toLowerCase()}`), drawnExecution(one, false))),
  );
}

function drawnExecution(one, whole) {
  const narrow = matchMedia("(max-width: 760px)").matches;
  const parts = [
    element("p", { class: "byline" }, pill(one.status), ` ${plural(one.objects.length, "object")}, began at `, moment(one.started), one.stopped === null ? "" : `, took ${seconds(one.stopped - one.started)}`),
  ];
  if (one.error) parts.push(element("pre", { class: "traceback", tabindex: "0" }, one.error));
  for (const drawing of one.drawings) {
    const fitting = narrow || drawing.wide.width > 1300 ? drawing.narrow : drawing.wide;
    parts.push(element("figure", {}, element("figcaption", {}, drawing.title), element("div", { class: "picture", tabindex: "0", role: "region", "aria-label": drawing.title }, machine(fitting, drawing.description))));
  }
  parts.push(element("ul", { class: "legend" }, ["done", "running", "caught", "failed", "never"].map((name) => element("li", { class: name }, { done: "done", running: "running", caught: "had an error that was caught", failed: "failed", never: "not visited" }[name]))));
  parts.push(spans(one));
  if (whole) parts.push(element("details", {}, element("summary", {}, plural(one.objects.length, "object")), element("ul", { class: "keys" }, one.objects.map((key) => element("li", {}, key)))));
  return element("div", { class: "execution" }, parts);
}

function spans(one) {
  const tasks = one.spans.filter((span) => span.kind === "Task" || span.error);
  if (!tasks.length) return element("p", { class: "note" }, "No task has begun.");
  return element(
    "table",
    { class: "table spans" },
    element("caption", { class: "hidden" }, "Tasks of this execution"),
    element("thead", {}, element("tr", {}, ["Task", "Began after", "Took", "Tries", "Error"].map((title) => element("th", { scope: "col" }, title)))),
    element("tbody", {}, tasks.map((span) =>
      element(
        "tr",
        {},
        element("td", {}, span.state),
        element("td", { "data-title": "Began after" }, seconds(span.entered - one.started)),
        element("td", { "data-title": "Took" }, span.left === null ? "goes on" : seconds(span.left - span.entered)),
        element("td", { "data-title": "Tries" }, String(span.attempts || "")),
        element("td", { class: "reason", "data-title": "Error" }, span.error ?? ""),
      ))),
  );
}

function history(found) {
  if (found.rows.length < 2) return null;
  return section(
    "History",
    element(
      "table",
      { class: "table" },
      element("caption", { class: "hidden" }, "Rows of this object"),
      element("thead", {}, element("tr", {}, ["Recorded", "Status", "Prediction, or reason", "Model", "Version"].map((title) => element("th", { scope: "col" }, title)))),
      element("tbody", {}, found.rows.map((row) =>
        element(
          "tr",
          {},
          element("td", {}, moment(Date.parse(row.recorded_at))),
          element("td", { "data-title": "Status" }, pill(row.status)),
          element("td", { "data-title": "Prediction" }, row.reason ?? row.prediction?.label ?? JSON.stringify(row.prediction ?? null).slice(0, 200)),
          element("td", { "data-title": "Model" }, element("code", {}, row.model_version ?? "")),
          element("td", { "data-title": "Version" }, element("code", {}, row.version)),
        ))),
    ),
  );
}

function logs(found) {
  if (!found.logs.length) return section("Logs", element("p", { class: "note" }, "Nothing was logged of this object: functions log only what goes wrong."));
  return section("Logs", element("ol", { class: "logs" }, found.logs.map((line) =>
    element(
      "li",
      { class: line.level.toLowerCase() },
      element("p", { class: "note" }, moment(line.at), ` ${line.function} ${line.level}`),
      element("p", { class: "line" }, line.message),
      line.traceback ? element("pre", { class: "traceback", tabindex: "0", "aria-label": "Traceback" }, line.traceback) : null,
    ))));
}

function whole(row) {
  if (!row) return null;
  return element("details", { class: "whole" }, element("summary", {}, "Everything that is recorded"), element("pre", { tabindex: "0" }, JSON.stringify(row, null, 2)));
}

function section(title, ...children) {
  return element("section", { class: "part" }, element("h3", {}, title), ...children);
}
