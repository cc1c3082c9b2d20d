// Pictures and texts of objects, fetched when they come into view.

import { address, ask } from "./api.js";
import { bytes, element } from "./dom.js";

const known = new Map(); // previews by object, of which there are as many as rows on a page
const MOST_KNOWN = 2000;
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    entry.target.dispatchEvent(new Event("seen"));
  }
}, { rootMargin: "200px" });

export function preview(row) {
  const name = `${row.key}\n${row.etag}`;
  if (!known.has(name)) {
    if (known.size >= MOST_KNOWN) known.delete(known.keys().next().value);
    known.set(name, ask("api/preview", { key: row.key, etag: row.etag ?? "" }).catch(() => ({ kind: "missing" })));
  }
  return known.get(name);
}

export const source = (row) => address("object", { key: row.key, etag: row.etag ?? "" });

const extension = (key) => (/\.([A-Za-z0-9]{1,5})$/.exec(key)?.[1] ?? "?").toUpperCase();

/** A small picture, the beginning of a text, or the ending of the name; null for a message or a record. */
export function thumbnail(row, inbox) {
  if (row.bucket !== inbox && extension(row.key) === "?") return null;
  const frame = element("span", { class: "thumbnail", "aria-hidden": "true" }, extension(row.key));
  if (row.bucket !== inbox) return frame;
  frame.addEventListener("seen", async () => {
    const found = await preview(row);
    if (found.kind === "picture") {
      frame.replaceChildren(element("img", { src: source(row), alt: "", decoding: "async", onerror: () => frame.replaceChildren(extension(row.key)) }));
    } else if (found.kind === "text" && found.text.trim()) {
      frame.classList.add("words");
      frame.replaceChildren(found.text.trim().slice(0, 60));
    } else if (found.kind === "missing") {
      frame.classList.add("missing");
      frame.title = "The object is not there any more, or was overwritten";
    }
  }, { once: true });
  watcher.observe(frame);
  return frame;
}

export const sized = (row) => (typeof row.size === "number" ? bytes(row.size) : "");
