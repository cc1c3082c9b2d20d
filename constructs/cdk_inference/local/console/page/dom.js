// Elements and figures. Whatever comes from outside becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes, listeners (`onclick`), `class`, `style` as an object, and children (texts or nodes). */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [property, text] of Object.entries(value)) made.style.setProperty(property, text);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Bring the children of a parent into the order of some items. What is unchanged stays, with its focus and picture. */
export function keyed(parent, items, id, make) {
  const before = new Map([...parent.children].map((child) => [child.dataset.id, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = id(item), mark = JSON.stringify(item);
    let child = before.get(name);
    before.delete(name);
    if (child?.dataset.mark !== mark) {
      const made = make(item, child);
      made.dataset.id = name;
      made.dataset.mark = mark;
      if (child) {
        const focused = child.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
        if (child === place) place = made;
        child.replaceWith(made);
        if (focused) made.querySelector(`[data-focus="${focused}"]`)?.focus();
      }
      child = made;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const left of before.values()) left.remove();
}

export function seconds(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "";
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;
  const minutes = Math.floor(milliseconds / 60_000);
  return `${minutes} min ${Math.round((milliseconds % 60_000) / 1000)} s`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(count < 1e4 ? 1 : 0)} kB`;
  return `${(count / 1e6).toFixed(count < 1e8 ? 1 : 0)} MB`;
}

export const whole = (count) => Number(count).toLocaleString("en");

export function dollars(value) {
  if (value === null || value === undefined) return "unknown";
  const digits = value >= 0.01 || value === 0 ? 2 : Math.min(9, 1 - Math.floor(Math.log10(value)));
  return `$${value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })}`;
}

export function moment(milliseconds) {
  const date = new Date(milliseconds), today = new Date().toDateString() === date.toDateString();
  const text = today
    ? date.toLocaleTimeString("en-GB")
    : date.toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
  return element("time", { datetime: date.toISOString(), title: date.toString() }, text);
}

export function plural(count, one, many = `${one}s`) {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

/** Tell a screen reader: by a new element, since the same text again would be no change. */
export function say(text) {
  byId("said").replaceChildren(element("span", {}, text));
}
