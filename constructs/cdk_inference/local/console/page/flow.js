// Where objects are now: places in the order of their way, and objects that move from one to the next.

import { byId, element, seconds, whole } from "./dom.js";

const CHIPS = 4; // keys that are shown at a place
const ENDS = ["results", "rejected", "dead"];
const still = matchMedia("(prefers-reduced-motion: reduce)");

export function showFlow(places, open) {
  const list = byId("flow");
  const before = new Map([...list.querySelectorAll(".chip")].map((chip) => [chip.dataset.key, chip.getBoundingClientRect()]));
  const way = places.filter((place) => !ENDS.includes(place.kind));
  const ends = places.filter((place) => ENDS.includes(place.kind));
  const end = element("li", { class: "ends" }, element("ul", {}, ends.map((place) => ending(place, open))));
  const focused = document.activeElement?.closest("#flow") ? document.activeElement.dataset.focus : undefined;
  let stage = 0;
  list.replaceChildren(...way.map((place) => placed(place, place.kind === "stage" ? ++stage : place.kind === "queue" ? 0 : null)), end);
  if (focused) list.querySelector(`[data-focus="${focused}"]`)?.focus();
  if (still.matches) return;
  for (const chip of list.querySelectorAll(".chip")) {
    const from = before.get(chip.dataset.key), to = chip.getBoundingClientRect();
    if (from && (from.x !== to.x || from.y !== to.y)) {
      chip.animate(
        [{ transform: `translate(${from.x - to.x}px, ${from.y - to.y}px)` }, { transform: "none" }],
        { duration: 380, easing: "cubic-bezier(.2, .8, .2, 1)" },
      );
    } else if (!from) {
      chip.animate([{ opacity: 0, transform: "scale(.85)" }, { opacity: 1, transform: "none" }], { duration: 200 });
    }
  }
}

function placed(place, part) {
  const busy = place.count > 0 && place.kind !== "inbox";
  const chips = place.keys.slice(0, CHIPS).map((key) => element("li", { class: "chip", "data-key": key, title: key }, key || "no object"));
  const more = Math.max(0, place.keys.length ? place.count - chips.length : 0);
  return element(
    "li",
    { class: `place ${place.kind}${busy ? " busy" : ""}` },
    element("span", { class: "title" }, part === null ? null : element("span", { class: `swatch part-${part}` }), place.title),
    element("span", { class: "count" }, `${whole(place.count)}${place.more ? "+" : ""}`),
    element("span", { class: "note" }, busy || place.typical === null ? place.note : `usually ${seconds(place.typical)}`),
    element("ul", { class: "chips", "aria-label": `Objects in ${place.title}` }, chips, more ? element("li", { class: "more" }, `and ${whole(more)} more`) : null),
  );
}

function ending(place, open) {
  return element(
    "li",
    { class: `end ${place.kind}${place.count ? " some" : ""}` },
    element(
      "button",
      { type: "button", "data-focus": place.kind, title: place.note, onclick: () => open(place.kind) },
      element("span", { class: "title" }, place.title),
      element("span", { class: "count" }, whole(place.count)),
    ),
  );
}
