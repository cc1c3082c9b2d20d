// Inputs that are not objects: what the user sends, and what came of each. Only this page knows them.

import { act, ask } from "./api.js";
import { predictionOf, showPicture } from "./details.js";
import { byId, bytes, element, keyed, moment, say, seconds } from "./dom.js";
import { explained } from "./explanations.js";

const KEPT = 20; // requests on the page
const MOST_SHOWN = 600; // characters of a text
const TEXT = "text/plain", JSON_TYPE = "application/json";

export class Requests {
  /** Told how to show the pipeline's models. */
  constructor(showModel) {
    this.showModel = showModel;
    this.inputs = [];
    this.sent = [];
    this.number = 0;
    byId("send").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("text").value;
      if (text) this.send(new Blob([text]), { text });
    });
    byId("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("send").requestSubmit();
    });
    byId("choose-input").addEventListener("click", () => byId("input-files").click());
    byId("input-files").addEventListener("change", (event) => {
      this.sendFiles([...event.currentTarget.files]);
      event.currentTarget.value = "";
    });
    byId("inputs").addEventListener("change", () => this.describe());
  }

  /** Show the ways to send something to a pipeline; another pipeline has other requests. */
  update(facts) {
    const mark = JSON.stringify([facts.name, facts.inputs]);
    if (mark === this.mark) return;
    this.mark = mark;
    if (facts.name !== this.pipeline) {
      this.sent = [];
      byId("text").value = "";
    }
    this.pipeline = facts.name;
    this.source = facts.source;
    this.inputs = facts.inputs;
    byId("inputs").replaceChildren(...this.inputs.map(({ name }) => element("option", { value: name }, name)));
    byId("input-choice").hidden = this.inputs.length < 2;
    byId("send").hidden = this.inputs.length === 0;
    byId("no-inputs").hidden = this.inputs.length > 0;
    byId("no-inputs").textContent = `Items of this pipeline come from ${this.source || "another stack"}, where the console cannot put any. Put them there; their rows appear under Results.`;
    this.describe();
    this.show();
  }

  input() {
    return this.inputs.find(({ name }) => name === byId("inputs").value) ?? this.inputs[0];
  }

  describe() {
    const input = this.input();
    if (!input) return;
    byId("input-note").textContent = `${input.name}: ${input.note}`;
    byId("token").closest("label").hidden = !input.wants_token;
    byId("input-files").accept = input.content_types.join(",");
    const texts = input.content_types.filter(isText), takesText = texts.length > 0 || !input.content_types.length;
    byId("text").hidden = byId("send-text").hidden = !takesText;
    byId("text").placeholder = texts.length ? `A text, as ${texts.join(" or ")}` : "A text, or JSON";
    byId("choose-input").className = takesText ? "plain" : "primary";
  }

  sendFiles(files) {
    for (const file of files) this.send(file, { name: file.name });
  }

  async send(data, { text = null, name = null }) {
    const input = this.input();
    const one = { id: ++this.number, input: input.name, name, size: data.size, at: Date.now(), state: "running", keys: [], answer: null, milliseconds: null, status: null, row: null };
    one.type = typeOf(data, text, input.content_types);
    one.text = text ?? (isText(one.type) ? await data.slice(0, 4 * MOST_SHOWN).text() : null);
    one.picture = one.type.startsWith("image/") ? URL.createObjectURL(data) : null;
    const pipeline = this.pipeline;
    this.sent.unshift(one);
    for (const old of this.sent.splice(KEPT)) if (old.picture) URL.revokeObjectURL(old.picture);
    this.show();
    try {
      const authorization = input.wants_token ? byId("token").value.trim() : "";
      const found = await act("api/send", data, { input: input.name, type: one.type }, authorization ? { "x-authorization": authorization } : {});
      if (found.keys) Object.assign(one, { state: "sent", keys: found.keys, waiting: found.keys.length > 0 });
      else Object.assign(one, found, { state: found.status === 200 ? "answered" : "refused" });
    } catch (error) {
      Object.assign(one, { state: "refused", answer: { message: error.message } });
    }
    if (pipeline !== this.pipeline) return;
    say(one.state === "refused" ? `Not taken: ${one.answer.message}` : one.state === "sent" ? "Sent" : "Answered");
    this.show();
  }

  /** Give the rows that came meanwhile to what was sent. */
  async rows(rows) {
    for (const one of this.sent.filter((each) => each.waiting)) {
      const row = rows.find((each) => one.keys.includes(each.key));
      if (!row) continue;
      one.waiting = false;
      try {
        const found = await ask("api/details", { bucket: row.bucket, key: row.key });
        Object.assign(one, { state: "answered", row: found.rows[0] ?? null, milliseconds: row.milliseconds });
      } catch {
        one.waiting = true; // at the next look
        continue;
      }
      this.show();
    }
  }

  /** Tell which of the messages ended as dead letters: these have their bodies, but other ids. */
  dead(letters) {
    for (const one of this.sent.filter((each) => each.waiting && each.text)) {
      const letter = letters.find((each) => each.text && one.text.startsWith(each.text) && each.sent >= one.at);
      if (letter) Object.assign(one, { state: "dead", waiting: false, answer: { message: letter.reason } });
    }
    this.show();
  }

  show() {
    keyed(byId("answers"), this.sent, (one) => String(one.id), (one) => this.card(one));
    byId("no-answers").hidden = this.sent.length > 0 || this.inputs.length === 0;
  }

  card(one) {
    const found = one.row ?? one.answer ?? {};
    const rejected = one.row !== null && one.row.status !== "SUCCEEDED";
    const [kind, word] = {
      running: ["running", "waiting for the answer"],
      sent: ["running", one.waiting ? "sent, its row will come" : "sent; its row appears under Results"],
      dead: ["dead_letter", "dead letter"],
      refused: ["failed", one.status === null ? "not taken" : `status ${one.status}`],
      answered: rejected ? ["rejected", one.row.status.toLowerCase()] : ["succeeded", one.status === null ? "row" : "answered"],
    }[one.state];
    const media = element("div", { class: "media" });
    if (one.picture) showPicture(media, one.picture, one.name ?? "the input", found);
    else if (one.text !== null) media.append(element("pre", { class: "text", tabindex: "0", "aria-label": "What was sent" }, one.text.slice(0, MOST_SHOWN)));
    else media.append(element("p", { class: "note" }, `${bytes(one.size)} of ${one.type || "an unknown type"}`));
    const rest = Object.entries(found).filter(([name]) => !["prediction", "explanation", "model_version", "message", "hint"].includes(name));
    return element(
      "li",
      { class: "card answer", "data-state": one.state },
      element("header", {}, element("span", { class: `pill ${kind}` }, word), element("strong", { class: "name" }, one.name ?? one.input),
        element("span", { class: "note" }, one.milliseconds === null ? "" : `${seconds(one.milliseconds)} · `, moment(one.at))),
      element(
        "div",
        { class: "object-view" },
        media,
        element(
          "div",
          { class: "about" },
          found.message || found.reason ? element("p", { class: "reason" }, String(found.message ?? found.reason)) : null,
          found.hint ? element("p", { class: "note" }, found.hint) : null,
          found.prediction ? predictionOf(found) : null,
          explained(found.explanation, { drawn: one.picture !== null }),
          found.model_version ? element("p", { class: "note" }, "Model ", element("code", {}, found.model_version), " ", element("button", { type: "button", class: "plain small", "data-focus": "model", onclick: this.showModel }, "Model and card")) : null,
          found.prediction || rest.length ? element("details", {}, element("summary", {}, one.row ? "Everything that is recorded" : "The whole answer"), element("pre", { class: "traceback", tabindex: "0" }, JSON.stringify(found, null, 2))) : null,
        ),
      ),
    );
  }
}

/** The media type to send something with: its own, or the one that the input takes and that fits. */
function typeOf(data, text, taken) {
  const own = data.type || (text === null ? "" : isJson(text) ? JSON_TYPE : TEXT);
  if (!taken.length || taken.includes(own)) return own;
  return (text !== null && taken.find(isText)) || taken[0];
}

const isText = (type) => type.startsWith("text/") || /[/+](json|xml)$/.test(type);

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
