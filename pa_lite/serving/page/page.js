// The page: state, sliders, conversation. One function draws each part; nothing is sent anywhere but to this server.
const $ = (id) => document.getElementById(id);
const LETTERS = ["A", "B", "C"];
const NUMBERS = ["temperature", "max_tokens", "top_p", "top_k", "min_p", "seed"];
const STORE = "pa-lite";

let state = null;        // what the server says of its model
let shown = null;        // what the page shows besides: a study, examples, words for commands
let study = null;        // the curves, if there is a study
let yOf = null;
let lams = [0.6];        // one for each column
let active = 0;          // the column that was moved last
let turns = [];          // {mode, question, answers: [{lam, text, reasoning, given, fault, note, busy, ...}]}
let stopping = null;     // stops the running answers

const two = (lam) => lam.toFixed(2);
const short = (lam) => String(Number(lam.toFixed(2)));
const say = (text) => { $("status").textContent = text; };

// --- the dial ---

function drawSliders() {
  const ends = node("div", undefined, "ends");
  ends.setAttribute("aria-hidden", "true");
  ends.append(node("span", "0 · base model"), node("span", "instruct model · 1"));
  const line = node("div", undefined, "slider");
  line.append(ends);
  $("sliders").replaceChildren(line, ...lams.map((lam, column) => {
    const row = node("div", undefined, `slider col-${column}`);
    const label = node("label", lams.length > 1 ? `${LETTERS[column]} lam ` : "lam ");
    const value = node("output", two(lam));
    const range = node("input");
    Object.assign(range, { type: "range", min: 0, max: 1, step: 0.01, value: lam, id: `lam-${column}` });
    label.htmlFor = range.id;
    range.setAttribute("aria-valuetext", sentence(lam));
    range.addEventListener("input", () => setLam(column, Number(range.value)));
    label.append(value);
    row.append(label, range);
    return row;
  }));
}

function setLam(column, lam) {
  lams[column] = lam;
  active = column;
  const range = $(`lam-${column}`);
  range.value = lam;
  range.setAttribute("aria-valuetext", sentence(lam));
  document.querySelector(`.slider.col-${column} output`).textContent = two(lam);
  drawDial();
  keep();
}

function sentence(lam) {
  if (!study) return lam === 0 ? "the base model" : lam === 1 ? "the instruct model" : `between base and instruct`;
  const parts = study.curves.map((curve) => {
    const [value, low, high] = [curve.values, curve.low, curve.high].map((each) => valueAt(study, each, lam));
    return `${curve.name} ${percent(value)} (${percent(low).replace(" %", "")} to ${percent(high)})`;
  });
  const between = study.lams.includes(Number(lam.toFixed(2))) ? "" : ", between measured lams";
  return parts.join(", ") + between;
}

function drawDial() {
  if (study) drawCursors($("chart"), study, yOf, lams);
  $("words").replaceChildren(...lams.flatMap((lam, column) => {
    const line = node("span", undefined, `col-${column}`);
    line.append("At ", node("b", short(lam)), `: ${sentence(lam)}. `);
    return [line, ...(column + 1 < lams.length ? [node("br")] : [])];
  }));
  const lam = short(lams[active]);
  $("command").textContent = `pa-lite merge ${shown.pair_words} --lam ${lam} -o ${state.name}-${lam}.gguf`;
}

function drawMarks() {
  const marks = study ? study.marks : [];
  const all = [{ lam: 0, label: "base" }, ...marks, { lam: 1, label: "instruct" }].sort((a, b) => a.lam - b.lam);
  $("marks").replaceChildren(...all.map((mark) => {
    const button = node("button", `${short(mark.lam)} · ${mark.label}`, "small");
    button.type = "button";
    button.addEventListener("click", () => setLam(active, mark.lam));
    return button;
  }));
}

function setColumns(n) {
  const chosen = lams[active], between = chosen > 0 && chosen < 1;
  const spread = { 1: [chosen], 2: [between && lams.length === 3 ? chosen : 0, 1], 3: [0, between ? chosen : state.lam, 1] }[n];
  lams = lams.length === n ? lams : spread;
  active = n === 3 ? 1 : 0;
  document.querySelector(`input[name=columns][value="${n}"]`).checked = true;
  drawSliders();
  drawDial();
}

// --- the conversation ---

const mode = () => document.querySelector("input[name=mode]:checked").value;

function history(upTo, column) {
  const messages = [];
  const system = $("system").value.trim();
  if (system) messages.push({ role: "system", content: system });
  for (const turn of turns.slice(0, upTo)) {
    if (turn.mode !== "chat") continue;
    const answer = turn.answers[column] ?? turn.answers[0];
    if (!answer || answer.fault || !answer.text) continue;
    messages.push({ role: "user", content: turn.question }, { role: "assistant", content: answer.text });
  }
  return [...messages, { role: "user", content: turns[upTo].question }];
}

function sampling() {
  const out = {};
  for (const name of NUMBERS) if ($(name).value !== "" && $(name).validity.valid) out[name] = Number($(name).value);
  return out;
}

async function answer(index, column, signal) {
  const turn = turns[index];
  const mine = turn.answers[column];
  const began = performance.now();
  const isHere = !state.is_pair || state.lams.includes(mine.lam);
  const waiting = isHere ? "waiting for the model" : `moving a model to lam ${short(mine.lam)}`;
  const clock = setInterval(() => {
    if (mine.first !== undefined) return;
    mine.note = `${waiting} … ${((performance.now() - began) / 1000).toFixed(1)} s`;
    drawAnswer(index, column);
  }, 100);
  const model = state.is_pair ? `${state.name}@${short(mine.lam)}` : state.name;
  const body = turn.mode === "chat"
    ? { model, messages: history(index, column), ...sampling() }
    : { model, prompt: turn.question, stop: ["\n"], ...sampling() };
  try {
    for await (const event of events(turn.mode === "chat" ? "v1/chat/completions" : "v1/completions", body, signal)) {
      const choice = event.choices[0];
      if (!choice) continue;
      const delta = choice.delta ?? { content: choice.text };
      if (mine.first === undefined && (delta.content || delta.reasoning_content)) mine.first = performance.now() - began;
      mine.text += delta.content ?? "";
      mine.reasoning += delta.reasoning_content ?? "";
      if (choice.finish_reason === "length") mine.cut = true;
      drawAnswer(index, column);
    }
  } catch (error) {
    if (signal.aborted) mine.stopped = true;
    else {
      mine.fault = error instanceof ServerError ? error.message : "The server does not answer.";
      if (error.status === 401) askForKey();
      else if (!(error instanceof ServerError) || !error.status) lost();
    }
  } finally {
    clearInterval(clock);
    mine.busy = false;
    const moved = isHere || mine.first === undefined ? "" : `, first word after ${(mine.first / 1000).toFixed(1)} s (a model moved)`;
    mine.note = `${((performance.now() - began) / 1000).toFixed(1)} s${moved}`;
    drawAnswer(index, column);
  }
}

async function run(index) {
  if (stopping) return;
  const turn = turns[index];
  const asked = state.is_pair ? lams : [null];
  turn.answers = asked.map((lam) => ({ lam: lam === null ? null : Number(two(lam)), text: "", reasoning: "", busy: true, note: "" }));
  stopping = new AbortController();
  setBusy(true);
  draw();
  $("turns").lastElementChild?.scrollIntoView({ block: "end" });
  await Promise.all(turn.answers.map((_, column) => answer(index, column, stopping.signal)));
  stopping = null;
  setBusy(false);
  const words = turn.answers.map((each) => (state.is_pair ? `lam ${short(each.lam)}: ` : "") + (each.fault ?? each.text));
  say(words.join(". "));
  keep();
  refresh();
}

function setBusy(busy) {
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  document.body.classList.toggle("busy", busy);
}

function send(text) {
  if (!text.trim() || stopping) return;
  turns.push({ mode: mode(), question: text, answers: [] });
  $("question").value = "";
  fit();
  run(turns.length - 1);
}

function button(text, label, act) {
  const made = node("button", text, "quiet");
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", () => act(made));
  return made;
}

async function copy(text, from) {
  const before = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Select and copy by hand";
  }
  say(from.textContent);
  setTimeout(() => { from.textContent = before; }, 1500);
}

function fillAnswer(card, turn, index, column) {
  const mine = turn.answers[column];
  const letter = turn.answers.length > 1 ? `${LETTERS[column]} · ` : "";
  const title = node("h2", mine.lam === null ? state.name : `${letter}lam ${two(mine.lam)}`);
  if (!mine.busy) title.append(node("small", mine.note));
  const body = node("div", undefined, "body");
  if (turn.mode === "text") {
    body.classList.add("plain");
    body.append(node("span", "… ", "given"), mine.text);
  } else if ($("markdown").checked) body.append(markdown(mine.text));
  else {
    body.classList.add("plain");
    body.append(mine.text);
  }
  card.replaceChildren(title);
  if (mine.reasoning) {
    const details = node("details");
    details.append(node("summary", "Reasoning"), node("pre", mine.reasoning));
    details.open = mine.busy && !mine.text;
    card.append(details);
  }
  card.append(body);
  if (mine.busy && mine.first === undefined) card.append(node("p", mine.note || "waiting for the model", "wait"));
  if (mine.fault) card.append(node("p", mine.fault, "fault"));
  else if (mine.stopped) card.append(node("p", "Stopped.", "wait"));
  else if (mine.cut && turn.mode === "chat") card.append(node("p", "Cut at the longest answer (see Settings).", "given"));
  else if (!mine.busy && !mine.text.trim()) card.append(node("p", "No text: the model ended at once.", "given"));
  if (mine.busy) return;
  const row = node("div", undefined, "row");
  const where = mine.lam === null ? "" : ` at lam ${short(mine.lam)}`;
  row.append(button("Copy", `Copy the answer${where}`, (from) => copy(mine.text, from)));
  if (index === turns.length - 1 && column === turn.answers.length - 1) {
    row.append(button("Retry", "Ask again with the present lams", () => run(index)));
  }
  card.append(row);
}

function drawAnswer(index, column) {
  const card = document.querySelector(`[data-turn="${index}"][data-column="${column}"]`);
  const isAtEnd = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
  if (card) fillAnswer(card, turns[index], index, column);
  if (isAtEnd) window.scrollTo(0, document.body.scrollHeight);
}

function draw() {
  $("welcome").hidden = turns.length > 0;
  $("turns").replaceChildren(...turns.map((turn, index) => {
    const article = node("article", undefined, "turn");
    article.setAttribute("aria-label", `Question ${index + 1}`);
    const asked = node("div", undefined, `ask ${turn.mode}`);
    const row = node("div", undefined, "row");
    row.append(
      button("Edit", "Edit this question and ask again from here", () => edit(index)),
      button("Copy", "Copy the question", (from) => copy(turn.question, from)),
    );
    asked.append(node("div", turn.question), row);
    const answers = node("div", undefined, `answers n${turn.answers.length}`);
    turn.answers.forEach((_, column) => {
      const card = node("section", undefined, `answer col-${column}`);
      Object.assign(card.dataset, { turn: index, column });
      fillAnswer(card, turn, index, column);
      answers.append(card);
    });
    article.append(asked, answers);
    return article;
  }));
}

function edit(index) {
  stopping?.abort();
  const { question, mode: how } = turns[index];
  turns = turns.slice(0, index);
  document.querySelector(`input[name=mode][value=${how}]`).checked = true;
  showMode();
  $("question").value = question;
  fit();
  draw();
  keep();
  $("question").focus();
}

// --- the server may be gone ---

async function lost() {
  if (!$("banner").hidden) return;
  $("banner").textContent = "The server does not answer. Start it again; this page reconnects by itself.";
  $("banner").hidden = false;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1500));
    try {
      await getJson("health");
      break;
    } catch (error) {
      if (error instanceof ServerError) break;
    }
  }
  $("banner").hidden = true;
  say("The server answers again.");
  await refresh();
}

async function refresh() {
  try {
    state = await getJson("pa-lite/state");
  } catch (error) {
    if (error.status === 401) askForKey();
    else lost();
  }
}

function askForKey() {
  if (!$("locked").open) $("locked").showModal();
}

// --- settings, storage, start ---

function fit() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function showMode() {
  const isChat = mode() === "chat";
  $("question").placeholder = isChat ? "Ask something" : "Examples, then the start of a line to complete (Ctrl+Enter sends)";
  $("question").setAttribute("spellcheck", isChat ? "true" : "false");
}

function keep() {
  try {
    if (!$("keep").checked) return localStorage.removeItem(STORE);
    const settings = Object.fromEntries([...NUMBERS, "system"].map((name) => [name, $(name).value]));
    const held = turns.map(({ mode: how, question, answers }) => ({
      mode: how, question, answers: answers.filter((each) => !each.busy),
    }));
    return localStorage.setItem(STORE, JSON.stringify({ name: state.name, lams, settings, turns: held }));
  } catch {
    return say("This browser does not let the page keep anything.");
  }
}

function restore() {
  let held = null;
  try {
    held = JSON.parse(localStorage.getItem(STORE));
  } catch { /* nothing that can be read */ }
  if (!held) return;
  $("keep").checked = true;
  for (const [name, value] of Object.entries(held.settings ?? {})) if ($(name)) $(name).value = value;
  if (held.name !== state.name) return;
  if (state.is_pair && Array.isArray(held.lams) && held.lams.length <= 3) {
    const kept = held.lams.map(Number).filter((lam) => lam >= 0 && lam <= 1);
    if (kept.length) lams = kept;
    setColumns(lams.length);
  }
  turns = (held.turns ?? []).filter((turn) => typeof turn.question === "string" && Array.isArray(turn.answers));
}

function welcome() {
  $("name").textContent = state.name;
  document.title = `${state.name} · pa-lite`;
  $("about").textContent = state.is_pair
    ? "Between a base model (lam 0) and its instruct model (lam 1). Move the slider, ask, compare."
    : "A model of a fixed lam.";
  $("hint").textContent = state.is_pair
    ? "The instruct model (lam 1) follows instructions, the base model (lam 0) hardly does. Learning from examples in the text is often " +
      `best in between. ${shown.note}Try it:`
    : "Ask something, or let the model continue a text.";
  $("examples").replaceChildren(...shown.examples.map((example) => {
    const item = node("li");
    const made = node("button", example.title);
    made.type = "button";
    made.append(node("small", example.text.split("\n").slice(-2).join(" ⏎ ")));
    made.addEventListener("click", () => {
      if (stopping) return;
      document.querySelector(`input[name=mode][value=${example.mode}]`).checked = true;
      showMode();
      if (state.is_pair && lams.length === 1) setColumns(3);
      send(example.text);
    });
    item.append(made);
    return item;
  }));
}

async function start() {
  await refresh();
  if (!state) return;
  shown = await getJson("pa-lite/page");
  for (const id of ["dial", "sliders", "columns"]) $(id).hidden = !state.is_pair;
  if (!state.has_template) say("The model has no chat template: questions become 'Instruction: ... Response:'.");
  if (state.is_pair) {
    lams = [state.lam];
    study = shown.study;
    if (study) {
      yOf = drawChart($("chart"), study);
      $("legend").replaceChildren(...study.curves.map((curve, k) => node("span", `${curve.name}, with its 95 % interval`, `key-${k}`)));
      $("study").hidden = false;
    }
    drawMarks();
    setColumns(1);
  }
  restore();
  welcome();
  draw();
  $("question").focus();
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); send($("question").value); });
$("question").addEventListener("input", fit);
$("question").addEventListener("keydown", (event) => {
  const sends = mode() === "chat" ? !event.shiftKey : event.ctrlKey || event.metaKey;
  if (event.key !== "Enter" || event.isComposing || !sends) return;
  event.preventDefault();
  send($("question").value);
});
$("stop").addEventListener("click", () => stopping?.abort());
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && stopping) stopping.abort(); });
document.querySelectorAll("input[name=columns]").forEach((each) => each.addEventListener("change", () => { setColumns(Number(each.value)); keep(); }));
document.querySelectorAll("input[name=mode]").forEach((each) => each.addEventListener("change", showMode));
$("copy-command").addEventListener("click", (event) => copy($("command").textContent, event.target));
$("clear").addEventListener("click", () => { stopping?.abort(); turns = []; draw(); keep(); say("The conversation is empty."); $("question").focus(); });
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("keep").addEventListener("change", keep);
$("settings").addEventListener("close", () => { draw(); keep(); });
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  $("locked").close();
  if (state) refresh(); else start();
});
start();
