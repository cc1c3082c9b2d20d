// What is drawn: state machines, boxes and heat maps over pictures, and charts.

import { drawn, element } from "./dom.js";

const BOXES = 100;

/** A state machine, as the server laid it out. */
export function machine(drawing, name) {
  const boxes = drawing.boxes.map((box) =>
    drawn(
      "g",
      { class: `state ${box.status || "never"}` },
      drawn("title", {}, `${box.name} (${box.subtitle})${box.status ? `: ${box.status}` : ""}`),
      drawn("rect", { class: "body", x: box.x, y: box.y, width: box.width, height: box.height, rx: 8 }),
      drawn("rect", { class: "stripe", x: box.x, y: box.y + 9, width: 4, height: box.height - 18, rx: 2 }),
      drawn("text", { class: "title", x: box.x + 14, y: box.y + 20 }, box.title),
      drawn("text", { x: box.x + 14, y: box.y + 36 }, box.status ? `${box.subtitle} · ${box.status}` : box.subtitle),
    ));
  const arrows = drawing.arrows.map((arrow) =>
    drawn("g", { class: `arrow${arrow.dashed ? " dashed" : ""}` }, drawn("path", { d: arrow.path }), drawn("polygon", { points: arrow.head })));
  return drawn(
    "svg",
    { viewBox: `0 0 ${drawing.width} ${drawing.height}`, width: drawing.width, height: drawing.height, style: { "min-width": `${drawing.width * 0.72}px` }, role: "img", "aria-label": name },
    arrows,
    boxes,
  );
}

/** The valid boxes of a prediction: `detections: [{label, score, box: [x0, y0, x1, y1]}]` in pixels of the original. */
export function detections(prediction) {
  const found = Array.isArray(prediction?.detections) ? prediction.detections : [];
  return found
    .filter((one) => Array.isArray(one?.box) && one.box.length === 4 && one.box.every((value) => Number.isFinite(value)))
    .slice(0, BOXES);
}

/** The grid of an explanation: a list of rows of numbers in [0, 1], or something that has one; null if there is none. */
export function grid(explanation) {
  const candidates = [explanation, explanation?.grid, ...Object.values(explanation ?? {})];
  const isGrid = (value) =>
    Array.isArray(value) && value.length > 0 && value.every((row) => Array.isArray(row) && row.length === value[0].length && row.length > 0 && row.every((each) => Number.isFinite(each)));
  return candidates.find(isGrid) ?? null;
}

/** Boxes over a picture of this size, named and coloured by their labels. */
export function boxes(found, width, height) {
  const unit = Math.max(width, height) / 100;
  const labels = [...new Set(found.map((one) => String(one.label)))];
  return drawn(
    "svg",
    { class: "over boxes", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": found.map((one) => `${one.label} ${score(one)}`).join(", ") },
    found.map((one) => {
      const [x0, y0, x1, y1] = one.box;
      const kind = `kind-${labels.indexOf(String(one.label)) % 6}`;
      const text = `${one.label} ${score(one)}`;
      const top = y0 > unit * 4 ? y0 - unit * 3.6 : y0;
      return drawn(
        "g",
        { class: `detection ${kind}` },
        drawn("rect", { class: "frame", x: Math.min(x0, x1), y: Math.min(y0, y1), width: Math.abs(x1 - x0), height: Math.abs(y1 - y0), "stroke-width": unit * 0.5 }),
        drawn("rect", { class: "flag", x: x0, y: top, width: text.length * unit * 1.55 + unit, height: unit * 3.6 }),
        drawn("text", { x: x0 + unit * 0.5, y: top + unit * 2.6, "font-size": unit * 2.6 }, text),
      );
    }),
  );
}

const score = (one) => (Number.isFinite(one.score) ? Number(one.score).toFixed(2) : "");

/** A heat map, stretched over whatever is below it. */
export function heat(values) {
  const canvas = element("canvas", { class: "over heat", role: "img", "aria-label": "Heat map of the explanation: what is warm mattered most" });
  canvas.width = values[0].length;
  canvas.height = values.length;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  values.flat().forEach((value, number) => {
    const share = Math.min(1, Math.max(0, value));
    image.data.set([255, Math.round(220 - 190 * share), Math.round(60 - 40 * share), Math.round(215 * share)], number * 4);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Bars over time, the newest on the right. */
export function bars(values, name) {
  const width = 640, height = 120, most = Math.max(1, ...values), step = width / values.length;
  return drawn(
    "svg",
    { class: "bars", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": name },
    drawn("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }),
    values.map((value, number) => {
      const high = (value / most) * (height - 6);
      return drawn("rect", { x: number * step + 1, y: height - high, width: Math.max(1, step - 2), height: high, rx: 2 });
    }),
  );
}
