// Requests to the server: JSON, and streams of server-sent events.
let key = "";  // the API key, if the server asks for one

class ServerError extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

async function request(path, body, signal) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new ServerError(found.error?.message || `The server answered with status ${answer.status}.`, answer.status);
}

const getJson = async (path) => (await request(path)).json();

// Yield the parsed events of a stream until [DONE]; an error event or a stream that breaks off raises.
async function* events(path, body, signal) {
  const answer = await request(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServerError("The answer broke off.", 0);
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const text = line.slice(6).trim();
      if (text === "[DONE]") return;
      const event = JSON.parse(text);
      if (event.error) throw new ServerError(event.error.message, 0);
      yield event;
    }
  }
}
