// Calls to the server of the page, for the pipeline that is shown.

let shown = null;

export function choose(pipeline) {
  shown = pipeline;
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) query.append(name, each);
  }
  if (shown !== null) query.set("pipeline", shown);
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export async function ask(path, parameters) {
  return answer(await fetch(address(path, parameters)));
}

export async function act(path, body, parameters, headers = {}) {
  const data = body instanceof Blob ? body : JSON.stringify(body);
  return answer(await fetch(address(path, parameters), { method: "POST", body: data, headers }));
}

async function answer(response) {
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    const found = await response.json();
    if (response.ok) return found;
    throw new Error(found.error ?? response.statusText);
  }
  throw new Error((await response.text()).trim() || response.statusText);
}
