// Uploads by drag and drop, and by the file chooser: a few at a time, each with what became of it.

import { act } from "./api.js";
import { byId, bytes, plural, say } from "./dom.js";

const AT_ONCE = 3;
const MOST = 100 * 2 ** 20;

/** Accept files for the inbox; those of a pipeline without one go to `send`. */
export function acceptUploads(inbox, send) {
  const files = byId("files"), drop = byId("drop");
  for (const id of ["choose", "choose-first"]) byId(id).addEventListener("click", () => files.click());
  files.addEventListener("change", () => {
    upload([...files.files]);
    files.value = "";
  });
  let depth = 0; // dragging enters and leaves each element on its way
  const has = (event) => event.dataTransfer?.types.includes("Files");
  const show = (by) => {
    depth = Math.max(0, depth + by);
    drop.hidden = depth === 0;
    drop.firstElementChild.textContent = inbox() ? `Drop to upload to ${inbox()}` : "Drop to send";
  };
  addEventListener("dragenter", (event) => has(event) && (event.preventDefault(), show(1)));
  addEventListener("dragover", (event) => has(event) && event.preventDefault());
  addEventListener("dragleave", (event) => has(event) && show(-1));
  addEventListener("drop", (event) => {
    if (!has(event)) return;
    event.preventDefault();
    show(-depth);
    (inbox() ? upload : send)([...event.dataTransfer.files]);
  });
}

async function upload(files) {
  const waiting = [...files], failed = [];
  let done = 0;
  const button = byId("choose");
  const tell = () => {
    button.textContent = done < files.length ? `Uploading ${done} of ${files.length}` : "Upload files";
  };
  tell();
  const worker = async () => {
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      try {
        if (file.size > MOST) throw new Error(`it has ${bytes(file.size)}, at most ${bytes(MOST)} can be uploaded here`);
        await act("api/upload", file, { name: file.name });
      } catch (error) {
        failed.push(`${file.name}: ${error.message}`);
      }
      done += 1;
      tell();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  say(failed.length ? `Not uploaded: ${failed.join("; ")}` : `${plural(files.length, "file")} uploaded`);
  dispatchEvent(new CustomEvent("uploads", { detail: { failed } }));
}
