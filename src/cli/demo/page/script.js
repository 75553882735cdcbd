"use strict";

const $ = (id) => document.getElementById(id);
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "–");

// The set of parameters that the controls show, and how to read each control.
const readers = new Map();
let sending = 0;
// The last update that was sent and not yet answered by the runner: events before it, and its time.
let waiting = null;

// The part of a schema that describes the kind of value that is there: one of several, without "or nothing".
function plain(schema, value) {
  const kind = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  const fits = (type) => type === kind || (type === "integer" && kind === "number");
  const some = (schema.anyOf || []).find((each) => fits(each.type));
  const type = Array.isArray(schema.type) ? (schema.type.length === 1 ? schema.type[0] : "any") : schema.type;
  return { ...schema, type, ...some };
}

// Where a control stands: words, then numbers, lists and switches, then what has to be written as JSON.
function rank(schema) {
  if (Array.isArray(schema.enum)) return 2;
  const at = ["string", "number", "enum", "boolean"].indexOf(schema.type === "integer" ? "number" : schema.type);
  return at < 0 ? 4 : at;
}

function control(name, schema, value, fixed) {
  const id = `param-${name}`;
  const title = schema.title || name;
  const about = schema.description ? [element("small", { id: `${id}-about` }, schema.description)] : [];
  const described = about.length ? { "aria-describedby": `${id}-about` } : {};
  const common = { id, name, ...described, ...(fixed ? { disabled: "" } : {}) };
  const heading = (...more) => element("span", {}, title, ...more);

  if (schema.type === "boolean") {
    const box = element("input", { type: "checkbox", ...common });
    box.checked = Boolean(value);
    readers.set(name, () => box.checked);
    return element("label", { class: "field check", for: id }, box, heading(), ...about);
  }
  if (Array.isArray(schema.enum)) {
    const list = element("select", common, ...schema.enum.map((each) => element("option", { value: each }, String(each))));
    list.value = value;
    readers.set(name, () => schema.enum[list.selectedIndex]);
    return element("label", { class: "field", for: id }, heading(), list, ...about);
  }
  if (schema.type === "number" || schema.type === "integer") {
    const whole = schema.type === "integer";
    const [low, high] = [schema.minimum, schema.maximum];
    const bounded = Number.isFinite(low) && Number.isFinite(high) && high > low;
    const short = bounded && (high - low) / (schema.multipleOf || 1) <= 1000;
    const step = schema.multipleOf || (whole ? 1 : short ? Number(((high - low) / 100).toPrecision(2)) : "any");
    const range = short && !fixed;
    const bounds = { ...(low === undefined ? {} : { min: low }), ...(high === undefined ? {} : { max: high }), step };
    const box = element("input", { type: range ? "range" : "number", ...bounds, ...common });
    box.value = value;
    readers.set(name, () => box.valueAsNumber);
    if (!range) return element("label", { class: fixed ? "field fixed" : "field", for: id }, heading(), box, ...about);
    const shown = element("output", { for: id }, String(value));
    box.addEventListener("input", () => { shown.value = box.value; });
    return element("label", { class: "field", for: id }, heading(shown), box, ...about);
  }
  if (schema.type === "string") {
    const long = !(schema.maxLength <= 200);
    const box = element(long ? "textarea" : "input", { ...(long ? { rows: "3" } : { type: "text" }), ...common });
    box.value = value ?? "";
    readers.set(name, () => box.value);
    return element("label", { class: "field", for: id }, heading(), box, ...about);
  }
  const text = JSON.stringify(value ?? null);
  const rows = String(Math.min(8, 1 + Math.floor(text.length / 40)));
  const box = element("textarea", { spellcheck: "false", class: "json", rows, ...common });
  box.value = text;
  readers.set(name, () => JSON.parse(box.value));
  return element("label", { class: "field", for: id }, heading(), box, ...about);
}

function answer(text, kind = "") {
  $("answer").textContent = text;
  $("answer").dataset.kind = kind;
}

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

async function send() {
  const mine = ++sending;
  const set = {};
  for (const [name, read] of readers) {
    try {
      set[name] = read();
    } catch (error) {
      return answer(`${name}: ${error.message}`, "bad");
    }
  }
  try {
    const taken = await post("params", set);
    if (mine !== sending) return;
    waiting = taken;
    answer("Sent.");
  } catch (error) {
    answer(error.message, "bad");
  }
}

async function build() {
  const info = await (await fetch("pipeline")).json();
  $("about").textContent = `${info.name}: ${info.about}`;
  document.title = `Weir: ${info.name}`;
  document.documentElement.style.setProperty("--shape", `${info.width} / ${info.height}`);
  const form = $("params");
  // What is the pipeline's own comes first, what a running stream keeps comes last.
  const fixed = (name) => info.fixed.includes(name);
  const fields = Object.entries(info.schema.properties || {}).map(([name, schema]) => {
    const value = info.params[name] ?? schema.default ?? null;
    const known = plain(schema, value);
    const at = fixed(name) ? 20 + info.fixed.indexOf(name) : name === "prompt" ? -1 : name === "show_reloading_frame" ? 10 : rank(known);
    return { name, schema: known, value, at };
  });
  fields.sort((a, b) => a.at - b.at);
  form.replaceChildren(...fields.map(({ name, schema, value }) => control(name, schema, value, fixed(name))));
  if (!fields.length) form.append("This pipeline has none.");
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  form.addEventListener("change", send);
  let last = 0;
  form.addEventListener("input", (event) => {
    // Dragging a slider is followed ten times a second; text is sent when it is left.
    if (event.target.type !== "range" || performance.now() - last < 100) return;
    last = performance.now();
    send();
  });
}

const seen = { event: 0 };

function tell(event) {
  const time = element("time", {}, new Date(event.time_ms).toLocaleTimeString([], { hour12: false }));
  const line = element("li", {}, time, element("span", { "data-kind": event.kind }, event.text));
  const list = $("events");
  list.prepend(line);
  while (list.children.length > 60) list.lastChild.remove();
  if (event.kind === "error" && waiting && event.number > waiting.after) {
    waiting = null;
    answer(event.text, "bad");
  }
}

function spark(points) {
  const top = Math.max(20, ...points) * 1.15;
  $("spark-max").textContent = top.toFixed(0);
  if (points.length < 2) return;
  const wide = 240, tall = 48, most = 240;
  const at = (value, index) =>
    `${(wide - (points.length - 1 - index) * (wide / (most - 1))).toFixed(1)},${(tall - (value / top) * tall).toFixed(1)}`;
  const line = "M" + points.map(at).join("L");
  const start = (wide - (points.length - 1) * (wide / (most - 1))).toFixed(1);
  $("spark").querySelector(".line").setAttribute("d", line);
  $("spark").querySelector(".area").setAttribute("d", `${line}L${wide},${tall}L${start},${tall}Z`);
}

const stages = ["decode", "queue", "model", "encode", "publish"];

// One bar a frame, its stages on top of each other; a mark over the whole height for what was dropped.
function strip(frames) {
  const canvas = $("strip");
  const [wide, tall] = [canvas.clientWidth, canvas.clientHeight];
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(tall * scale)) {
    [canvas.width, canvas.height] = [Math.round(wide * scale), Math.round(tall * scale)];
  }
  const paper = canvas.getContext("2d");
  paper.setTransform(scale, 0, 0, scale, 0, 0);
  paper.clearRect(0, 0, wide, tall);
  const step = 4;
  const shown = frames.slice(-Math.floor(wide / step));
  const times = shown.filter((frame) => frame.stages_us).map((frame) => frame.stages_us.reduce((sum, us) => sum + us, 0));
  // One late frame must not flatten all others.
  const sorted = [...times].sort((a, b) => a - b);
  const top = 1.15 * Math.max(2000, sorted[Math.floor(sorted.length * 0.98)] || 0);
  $("strip-max").value = (top / 1000).toFixed(top < 20_000 ? 1 : 0);
  // The legend's own colours, as the browser resolved them for light or dark.
  const keys = [...document.querySelectorAll(".strip .key")];
  const colours = Object.fromEntries(keys.map((key) => [key.dataset.stage, getComputedStyle(key, "::before").backgroundColor]));
  shown.forEach((frame, index) => {
    const x = wide - (shown.length - index) * step;
    if (!frame.stages_us) {
      paper.fillStyle = colours.dropped;
      paper.fillRect(x, 0, step - 1, tall);
      return;
    }
    // What is no answer of the model is paler.
    paper.globalAlpha = frame.picture === "processed" || frame.picture === "similar" ? 1 : 0.45;
    let y = tall;
    frame.stages_us.forEach((us, at) => {
      const height = Math.min(y, (us / top) * tall);
      paper.fillStyle = colours[stages[at]];
      paper.fillRect(x, y - height, step - 1, height);
      y -= height;
    });
    paper.globalAlpha = 1;
  });
}

function show(now) {
  $("state").textContent = now.state.toLowerCase().replace("_", " ");
  $("state").dataset.state = now.state;
  $("fps-in").value = number(now.fps_in, 1);
  $("fps-out").value = number(now.fps_out, 1);
  $("p50").value = number(now.p50, 0);
  $("p95").value = number(now.p95, 0);
  $("restarts").value = now.restarts;
  // What a new engine reads again was published by the old one: it is not lost.
  const places = Object.entries(now.dropped).filter(([place]) => place !== "resume");
  $("dropped").value = places.reduce((sum, [, count]) => sum + count, 0);
  $("dropped-where").textContent =
    places.length ? places.map(([place, count]) => `${place.replace("_", " ")} ${count}`).join(", ") : "frames";
  $("input-note").textContent = now.input;
  $("output-note").textContent = now.output;
  $("kill").disabled = !now.engine;
  spark(now.latency);
  strip(now.frames);
  for (const event of now.events) {
    seen.event = Math.max(seen.event, event.number);
    tell(event);
  }
  if (waiting && now.params_ms >= waiting.time_ms) {
    waiting = null;
    answer("In force.", "good");
  }
}

async function look() {
  try {
    const response = await fetch(`state?after=${seen.event}`);
    show(await response.json());
  } catch {
    $("state").textContent = "the demo has ended";
    $("state").dataset.state = "gone";
  }
  setTimeout(look, 500);
}

$("kill").addEventListener("click", async () => {
  try {
    await post("kill", {});
  } catch (error) {
    answer(error.message, "bad");
  }
});

build().catch((error) => answer(`The parameters could not be read: ${error.message}`, "bad"));
look();
