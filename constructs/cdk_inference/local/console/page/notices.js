// News at the top of the page: errors of user code until they are dismissed, and the last thing that happened to an edit.

import { byId, element, keyed, moment, plural, say } from "./dom.js";

const BAD = ["failure", "failed"];
const FEW = 3; // errors that are shown at first

export class Notices {
  /** Told how to open the object that a notice is about. */
  constructor(open) {
    this.open = open;
    this.known = [];
    this.dismissed = new Set();
    this.all = false;
    this.heard = ""; // the notice that was told last, and how often it has come
    byId("more-notices").addEventListener("click", () => {
      this.all = !this.all;
      this.show();
    });
    byId("dismiss-notices").addEventListener("click", () => {
      this.dismiss(this.errors());
      byId("main").focus();
    });
  }

  update(notices) {
    this.known = notices;
    this.show();
    const newest = notices[0];
    if (!newest) return;
    const name = `${newest.id} ${newest.times}`;
    if (name !== this.heard && !this.dismissed.has(newest.id)) say(newest.title);
    this.heard = name;
  }

  left() {
    return this.known.filter((each) => !this.dismissed.has(each.id));
  }

  errors() {
    return this.left().filter((each) => BAD.includes(each.kind));
  }

  show() {
    const errors = this.errors(), news = this.left().find((each) => !BAD.includes(each.kind));
    this.all &&= errors.length > FEW;
    const shown = [...(this.all ? errors : errors.slice(0, FEW)), ...(news ? [news] : [])];
    keyed(byId("notices"), shown, (each) => String(each.id), (each) => this.notice(each));
    const more = byId("more-notices");
    byId("all-notices").hidden = errors.length <= FEW;
    more.textContent = this.all ? "Show fewer" : `Show ${plural(errors.length - FEW, "more error")}`;
    more.setAttribute("aria-expanded", String(this.all));
  }

  /** Put notices away. Those that were behind them come up. */
  dismiss(notices) {
    for (const each of notices) this.dismissed.add(each.id);
    this.show();
  }

  notice(each) {
    const dismiss = (event) => {
      const next = event.currentTarget.closest("article").nextElementSibling?.dataset.id;
      this.dismiss([each]);
      (byId("notices").querySelector(`[data-id="${next}"] [data-focus=dismiss]`) ?? byId("main")).focus();
    };
    return element(
      "article",
      { class: `notice ${BAD.includes(each.kind) ? "bad" : each.kind}` },
      element("p", { class: "title" }, each.title, " ", moment(each.at)),
      each.text ? element("details", {}, element("summary", {}, each.kind === "failure" ? "Traceback" : "Why"), element("pre", { class: "traceback", tabindex: "0" }, each.text)) : null,
      element("span", { class: "acts" },
        each.about ? element("button", { type: "button", class: "plain", "data-focus": "open", onclick: () => this.open(each.about) }, "Show the object") : null,
        element("button", { type: "button", class: "plain", "data-focus": "dismiss", onclick: dismiss }, "Dismiss")),
    );
  }
}
