const $ = (id) => document.getElementById(id);
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const say = (id, text, kind = "") => {
  $(id).textContent = text;
  $(id).dataset.kind = kind;
};

// Calls to the runner. A token is kept for as long as the tab is open.

class Refused extends Error {}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("weir-token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) $("access")?.removeAttribute("hidden");
  let text = await response.text();
  try {
    const { detail } = JSON.parse(text);
    text = detail?.msg ?? (typeof detail === "string" ? detail : text);
  } catch { /* It is a plain text. */ }
  throw new Refused(text || `The runner answered ${response.status}.`);
}

const servers = async () => (await call("webrtc/ice-servers")).json();

// Resolves when every address of ours is known, or after two seconds.
const gathered = (pc) => new Promise((done) => {
  if (pc.iceGatheringState === "complete") return done();
  pc.addEventListener("icegatheringstatechange", () => pc.iceGatheringState === "complete" && done());
  setTimeout(done, 2000);
});

// The picture alone, for OBS: /app?view=whep, or with &stream=NAME.

async function watch(stream, video, told) {
  const pc = new RTCPeerConnection(await servers());
  const over = new Promise((done) => pc.addEventListener("connectionstatechange", () => {
    if (["failed", "closed", "disconnected"].includes(pc.connectionState)) done();
  }));
  const tracks = new MediaStream();
  pc.addEventListener("track", ({ track, receiver }) => {
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    tracks.addTrack(track);
    video.srcObject = tracks;
  });
  pc.addTransceiver("video", { direction: "recvonly" });
  pc.addTransceiver("audio", { direction: "recvonly" });
  let resource = null;
  try {
    await pc.setLocalDescription();
    await gathered(pc);
    const response = await call(stream ? `whep/${encodeURIComponent(stream)}` : "whep", {
      method: "POST", headers: { "Content-Type": "application/sdp" }, body: pc.localDescription.sdp,
    });
    resource = response.headers.get("location");
    await pc.setRemoteDescription({ type: "answer", sdp: await response.text() });
    told("");
    const leave = () => resource && call(resource, { method: "DELETE", keepalive: true }).catch(() => {});
    addEventListener("pagehide", leave, { once: true });
    await over;
  } finally {
    pc.close();
  }
}

async function view(stream) {
  document.body.className = "view";
  const video = element("video", { autoplay: "", playsinline: "", "aria-label": "Result" });
  const note = element("p", { role: "status" });
  video.muted = true;
  const heading = element("h1", { class: "hidden" }, stream ? `Result of ${stream}` : "Result");
  document.body.replaceChildren(element("main", {}, heading, video, note));
  for (;;) {
    try {
      await watch(stream, video, (text) => { note.textContent = text; });
      note.textContent = "The stream ended; waiting for the next.";
    } catch (error) {
      note.textContent = error.message;
    }
    await new Promise((done) => setTimeout(done, 2000));
  }
}

// Controls, made from the schema of the pipeline's parameters.

const pipeline = { name: "", schema: {}, params: {}, nodes: null };
const readers = new Map();

function weighted(name, value, changed) {
  const rows = element("div", { class: "field" });
  const list = Array.isArray(value) ? value : [[value ?? "", 1]];
  const row = ([text, weight]) => {
    const words = element("input", { type: "text", "aria-label": `${name}, text` });
    const share = element("input", { type: "number", step: "0.05", "aria-label": `${name}, weight` });
    const drop = element("button", { type: "button", "aria-label": "Remove this prompt" }, "×");
    const line = element("div", { class: "weighted" }, words, share, drop);
    [words.value, share.value] = [text, weight];
    drop.addEventListener("click", () => { line.remove(); changed(); });
    return line;
  };
  const more = element("button", { type: "button" }, "Add a prompt");
  more.addEventListener("click", () => { more.before(row(["", 1])); more.previousSibling.firstChild.focus(); });
  rows.append(...list.map((each) => row(Array.isArray(each) ? each : [String(each), 1])), more);
  readers.set(name, () => {
    const all = [...rows.querySelectorAll(".weighted")];
    const pairs = all.map((line) => [line.children[0].value, line.children[1].valueAsNumber || 0]);
    return pairs.length === 1 && pairs[0][1] === 1 ? pairs[0][0] : pairs;
  });
  return rows;
}

function control(name, schema, value, changed) {
  const kinds = schema.anyOf ?? [schema];
  const fits = (type) => kinds.find((each) => [each.type].flat().includes(type));
  const title = schema.title ?? name;
  const id = `param-${name}`;
  const about = schema.description ? [element("small", { id: `${id}-about` }, schema.description)] : [];
  const common = { id, name, ...(about.length ? { "aria-describedby": `${id}-about` } : {}) };
  const heading = (...more) => element("span", {}, title, ...more);
  const choices = kinds.find((each) => Array.isArray(each.enum))?.enum;
  if (fits("boolean")) {
    const box = element("input", { type: "checkbox", ...common });
    box.checked = Boolean(value);
    readers.set(name, () => box.checked);
    return element("label", { class: "field check", for: id }, box, heading(), ...about);
  }
  if (choices) {
    const list = element("select", common, ...choices.map((each) => element("option", {}, String(each))));
    list.selectedIndex = Math.max(0, choices.indexOf(value));
    readers.set(name, () => choices[list.selectedIndex]);
    return element("label", { class: "field", for: id }, heading(), list, ...about);
  }
  const numeric = fits("number") ?? fits("integer");
  if (numeric && (typeof value === "number" || kinds.length === 1)) {
    const whole = numeric.type === "integer";
    const { minimum: low = schema.minimum, maximum: high = schema.maximum, multipleOf } = numeric;
    const short = Number.isFinite(low) && Number.isFinite(high) && (high - low) / (multipleOf ?? 1) <= 1000;
    const step = multipleOf ?? (whole ? 1 : short ? Number(((high - low) / 100).toPrecision(2)) : "any");
    const bounds = { ...(low === undefined ? {} : { min: low }), ...(high === undefined ? {} : { max: high }), step };
    const box = element("input", { type: short ? "range" : "number", ...bounds, ...common });
    box.value = value;
    readers.set(name, () => box.valueAsNumber);
    const shown = element("output", { for: id }, String(value));
    box.addEventListener("input", () => { shown.value = box.value; });
    return element("label", { class: "field", for: id }, heading(...(short ? [shown] : [])), box, ...about);
  }
  if (/prompt/.test(name) && fits("string") && fits("array")) {
    return element("div", { role: "group", "aria-label": title, class: "field" }, heading(), weighted(name, value, changed), ...about);
  }
  if (fits("string") && (typeof value === "string" || kinds.length === 1)) {
    const long = !(schema.maxLength <= 200);
    const box = element(long ? "textarea" : "input", { ...(long ? { rows: "3" } : { type: "text" }), ...common });
    box.value = value ?? "";
    readers.set(name, () => box.value);
    return element("label", { class: "field", for: id }, heading(), box, ...about);
  }
  const box = element("textarea", { rows: "2", spellcheck: "false", ...common });
  box.value = JSON.stringify(value ?? null);
  readers.set(name, () => JSON.parse(box.value));
  return element("label", { class: "field", for: id }, heading(), box, ...about);
}

// What the controls do not show is kept as it was. What a workflow's controls say stands beside it by node, where it is not
// what the workflow itself says.
function values() {
  const set = { ...pipeline.params };
  for (const [name, read] of readers) {
    const value = read();
    const widget = widgets.get(name);
    if (widget) {
      if (value !== widget.own) set[widget.node] = { ...set[widget.node], [widget.input]: value };
      continue;
    }
    if (value === null && !(name in pipeline.params)) continue;
    set[name] = value;
  }
  return set;
}

// The controls of a workflow: one for each widget that has an effect, named NODE.INPUT.

const widgets = new Map();

function widgetFields(nodes, params) {
  widgets.clear();
  const fields = [];
  for (const [node, { class_type, title, inputs }] of Object.entries(nodes ?? {})) {
    for (const [input, widget] of Object.entries(inputs ?? {})) {
      if (!widget.widget || widget.ignored || /^Load(Image|Audio)/.test(class_type)) continue;
      const name = `${node}.${input}`;
      const type = { INT: "integer", FLOAT: "number", BOOLEAN: "boolean" }[widget.type] ?? "string";
      const schema = {
        type, title: `${title || class_type} · ${input}`,
        description: widget.live ? "Takes effect on the next frame." : "Needs another graph, which is built beside the stream.",
      };
      const known = { min: "minimum", max: "maximum", step: "multipleOf", choices: "enum" };
      for (const [from, to] of Object.entries(known)) if (widget[from] !== undefined) schema[to] = widget[from];
      widgets.set(name, { node, input, own: widget.value });
      fields.push([name, schema, params[node]?.[input] ?? widget.value]);
    }
  }
  return fields;
}

// Looks at the workflow of `params` and shows its controls; without one there are those of the pipeline alone.
async function arrange(params) {
  pipeline.nodes = null;
  const workflow = params.prompt ?? params.prompts;
  if (/comfy/.test(pipeline.name) && workflow) {
    const response = await call("workflow/check", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(workflow),
    });
    const found = await response.json();
    if (!found.runs) throw new Refused(found.message || "This workflow does not run here.");
    // What runs, in the order in which it does.
    pipeline.nodes = Object.fromEntries(found.plan.nodes.map(({ id }) => [id, found.nodes[0][id]]));
  }
  build(params);
}

function build(params) {
  pipeline.params = { ...params };
  readers.clear();
  const properties = Object.entries(pipeline.schema.properties ?? {});
  const late = ["width", "height", "show_reloading_frame"];
  properties.sort(([a], [b]) => late.indexOf(a) - late.indexOf(b));
  const own = widgetFields(pipeline.nodes, params);
  // What stands under a node's id is shown by the node's controls.
  for (const { node } of widgets.values()) delete pipeline.params[node];
  // A workflow is shown by its controls, and as JSON below.
  const shown = properties.filter(([name]) => !(name === "prompt" && pipeline.nodes));
  const fields = [
    ...own.map(([name, schema, value]) => control(name, schema, value, send)),
    ...shown.map(([name, schema]) => control(name, schema, params[name] ?? schema.default ?? null, send)),
  ];
  $("params").replaceChildren(...(fields.length ? fields : ["This pipeline has none."]));
  $("json").value = JSON.stringify(values(), null, 2);
  lines();
}

// The JSON editor.

function lines(bad = 0) {
  const count = $("json").value.split("\n").length;
  $("gutter").replaceChildren(...Array.from({ length: count }, (_, at) =>
    at + 1 === bad ? element("b", {}, `▸${at + 1}\n`) : `${at + 1}\n`));
  $("gutter").scrollTop = $("json").scrollTop;
}

// Where JSON breaks off, whatever the browser's words for it are.
function place(text, error) {
  const line = /line (\d+)/.exec(error.message);
  if (line) return Number(line[1]);
  const at = /position (\d+)/.exec(error.message);
  return at ? text.slice(0, Number(at[1])).split("\n").length : text.split("\n").length;
}

function read() {
  const text = $("json").value;
  let line = 0;
  try {
    const set = JSON.parse(text);
    if (set === null || typeof set !== "object" || Array.isArray(set)) throw new SyntaxError("an object is expected, line 1");
    say("json-error", "");
    $("json").removeAttribute("aria-invalid");
    return set;
  } catch (error) {
    line = place(text, error);
    say("json-error", `Line ${line}: ${error.message}`, "bad");
    $("json").setAttribute("aria-invalid", "true");
    return null;
  } finally {
    lines(line);
  }
}

// The connection.

let live = null;
let requests = 0;

function send() {
  let set;
  try {
    set = values();
  } catch (error) {
    return say("answer", error.message, "bad");
  }
  if (document.activeElement !== $("json")) {
    $("json").value = JSON.stringify(set, null, 2);
    lines();
  }
  if (live?.control.readyState !== "open") return;
  const text = JSON.stringify(set);
  // A slider that is let go of says once more what it said last.
  if (text === told.text) return;
  requests += 1;
  live.control.send(JSON.stringify({ type: "update_params", params: partial(set), request_id: requests }));
}

// While the workflow stays what it is, what moved is sent by node, and the workflow is not.
let told = { text: "", workflow: null, moved: new Map() };

function partial(set) {
  const workflow = JSON.stringify(set.prompt ?? set.prompts ?? null);
  const now = new Map([...widgets].map(([name, { node, input }]) => [name, [node, input, readers.get(name)()]]));
  const same = pipeline.nodes && told.workflow === workflow;
  const before = told.moved;
  told = { text: JSON.stringify(set), workflow, moved: now };
  const moved = [...now].filter(([name, [, , value]]) => before.get(name)?.[2] !== value);
  // Without a node the workflow itself has to be named, or the default is meant.
  if (!same || !moved.length) return set;
  const few = { ...set };
  delete few.prompt;
  delete few.prompts;
  for (const { node } of widgets.values()) delete few[node];
  for (const [, [node, input, value]] of moved) few[node] = { ...few[node], [input]: value };
  return few;
}

function answered(message) {
  if (message.request_id !== requests) return;
  for (const each of document.querySelectorAll("#params [aria-invalid]")) each.removeAttribute("aria-invalid");
  if (message.success) return say("answer", "In force.", "good");
  // What is in force is not what was told: the next is sent whole.
  told = { text: "", workflow: null, moved: new Map() };
  say("answer", message.error, "bad");
  const field = $(`param-${message.error.split(":")[0]}`);
  field?.setAttribute("aria-invalid", "true");
}

// What went wrong with a camera or microphone, and what to do.
function explained(error) {
  const words = {
    NotAllowedError: "The browser may not use the camera. Allow it in the address bar, then start again.",
    NotFoundError: "There is no camera, or no microphone, of that kind. Plug one in or choose another source.",
    NotReadableError: "Another program has the camera. Close it, then start again.",
    OverconstrainedError: "The chosen device is not there any more. Choose another one.",
    SecurityError: "Browsers give cameras only to pages of this machine or over HTTPS.",
  };
  if (!navigator.mediaDevices) return words.SecurityError;
  return words[error.name] ?? error.message;
}

async function source() {
  const kind = new FormData($("go")).get("kind");
  const video = $("source");
  video.srcObject = null;
  video.removeAttribute("src");
  if (kind === "camera") {
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const set = values();
    const camera = $("camera").value, microphone = $("microphone").value;
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({
      video: { width: { ideal: set.width ?? 512 }, height: { ideal: set.height ?? 512 }, frameRate: { ideal: 30 },
        ...(camera ? { deviceId: { exact: camera } } : {}) },
      audio: microphone === "none" ? false : { ...plain, ...(microphone ? { deviceId: { exact: microphone } } : {}) },
    });
    video.srcObject = stream;
    devices();
    return stream;
  }
  if (kind === "file") {
    const [file] = $("file").files;
    if (!file) throw new Error("Choose a video file first.");
    video.src = URL.createObjectURL(file);
  } else {
    if (!$("url").value) throw new Error("Write the address of a video first.");
    video.crossOrigin = "anonymous";
    video.src = $("url").value;
  }
  video.loop = true;
  try {
    await video.play();
  } catch {
    throw new Error("This video cannot be played here: its address, its format or its site's rules (CORS) forbid it.");
  }
  if (!video.captureStream && !video.mozCaptureStream) throw new Error("This browser cannot send a video file; use a camera.");
  return video.captureStream ? video.captureStream() : video.mozCaptureStream();
}

async function devices() {
  if (!navigator.mediaDevices) return;
  const all = await navigator.mediaDevices.enumerateDevices();
  for (const [kind, id, fixed] of [["videoinput", "camera", 1], ["audioinput", "microphone", 2]]) {
    const list = $(id), chosen = list.value;
    [...list.options].slice(fixed).forEach((option) => option.remove());
    all.filter((each) => each.kind === kind && each.deviceId).forEach((each, at) =>
      list.append(element("option", { value: each.deviceId }, each.label || `${id} ${at + 1}`)));
    list.value = chosen;
    if (list.selectedIndex < 0) list.selectedIndex = 0;
  }
}

// What the stream says. The newest stay, long ones are cut, and they are written four times a second at most.

const SAID = 50, LETTERS = 2000;
let said = { waiting: [], timer: 0, count: 0 };

function hear({ data }) {
  let message;
  try {
    message = JSON.parse(data);
  } catch { return; }
  if (message?.type !== "text" || typeof message.data !== "string") return;
  const text = message.data;
  said.waiting.push(text.length > LETTERS ? `${text.slice(0, LETTERS)}… (${text.length} characters)` : text);
  if (said.waiting.length > SAID) said.waiting.shift();
  said.count += 1;
  // Shown before it is filled, so that a screen reader knows it by then.
  $("said").hidden = false;
  said.timer ||= setTimeout(write, 250);
}

function write() {
  said.timer = 0;
  const paused = $("hush").getAttribute("aria-pressed") === "true", log = $("texts");
  if (!paused) {
    const below = log.scrollHeight - log.scrollTop - log.clientHeight;
    log.append(...said.waiting.map((text) => element("p", {}, text)));
    said.waiting = [];
    while (log.childElementCount > SAID) log.firstElementChild.remove();
    // Who reads an older one stays there.
    if (below < 20) log.scrollTop = log.scrollHeight;
  }
  const waiting = said.waiting.length ? `, ${said.waiting.length} wait` : "";
  $("said-note").textContent = `${said.count} so far${waiting}; the newest ${SAID} are kept`;
}

function forget() {
  clearTimeout(said.timer);
  said = { waiting: [], timer: 0, count: said.count };
  $("texts").replaceChildren();
}

async function start() {
  stop();
  say("message", "Opening the source…");
  const stream = await source();
  const pc = new RTCPeerConnection(await servers());
  const control = pc.createDataChannel("control");
  forget();
  said.count = 0;
  $("said").hidden = true;
  pc.createDataChannel("data").addEventListener("message", (event) => live === mine && hear(event));
  live = { pc, control, stream, resource: null, name: "", last: null };
  const mine = live;
  const tracks = new MediaStream();
  pc.addEventListener("track", ({ track, receiver }) => {
    // What comes is shown as soon as it can be.
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    tracks.addTrack(track);
    $("result").srcObject = tracks;
  });
  pc.addEventListener("connectionstatechange", () => {
    if (live !== mine) return;
    const state = pc.connectionState;
    say("state", state, state === "connected" ? "good" : state === "failed" ? "bad" : "");
    if (state === "connected") say("message", "");
    if (state === "failed") {
      say("message", "No way to the runner was found. Behind a firewall it needs a TURN server (webrtc.turn).", "bad");
      stop();
    }
    if (state === "closed" || state === "disconnected") stop();
  });
  control.addEventListener("message", ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "params_updated") answered(message);
  });
  for (const track of stream.getTracks()) pc.addTrack(track, stream);
  await pc.setLocalDescription();
  await gathered(pc);
  say("message", "Asking the runner…");
  const first = values();
  told = { text: "", workflow: null, moved: new Map() };
  partial(first);
  const response = await call("offer", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ offer: pc.localDescription, params: first }),
  });
  if (live !== mine) return;
  mine.resource = response.headers.get("location");
  mine.name = response.headers.get("x-weir-stream") ?? "";
  await pc.setRemoteDescription(await response.json());
  const base = new URL("whep", document.baseURI);
  $("whep-link").value = `${base}/${mine.name}`;
  $("view-link").value = `${new URL("app", document.baseURI)}?view=whep&stream=${mine.name}`;
  $("links").hidden = $("figures").hidden = false;
  $("record").disabled = false;
  $("load").disabled = true;
  $("start").disabled = true;
  $("stop").disabled = false;
}

function stop() {
  if (!live) return;
  const { pc, stream, resource } = live;
  live = null;
  if (resource) call(resource, { method: "DELETE", keepalive: true }).catch(() => {});
  stream.getTracks().forEach((track) => track.stop());
  pc.close();
  $("links").hidden = true;
  $("record").disabled = true;
  $("load").disabled = false;
  if (recording) setTimeout(recordings, 500);
  recording = null;
  pressed();
  $("start").disabled = false;
  $("stop").disabled = true;
  say("state", "not connected");
}

// Figures, once a second.

async function figures() {
  if (!live) return;
  const { pc, name } = live;
  const now = { at: performance.now() };
  (await pc.getStats()).forEach((each) => {
    if (each.type === "outbound-rtp" && each.kind === "video") now.sent = each.framesPerSecond;
    if (each.type === "inbound-rtp" && each.kind === "video") Object.assign(now, { back: each.framesPerSecond, bytes: each.bytesReceived, lost: each.packetsLost });
    if (each.type === "candidate-pair" && each.nominated) now.trip = each.currentRoundTripTime * 1000;
  });
  const last = live?.last;
  const show = (id, value, digits = 0) => { $(id).value = Number.isFinite(value) ? value.toFixed(digits) : "–"; };
  show("sent", now.sent);
  show("back", now.back);
  show("trip", now.trip, 1);
  show("lost", now.lost);
  if (last) show("rate", ((now.bytes - last.bytes) * 8) / (now.at - last.at));
  if (live) live.last = now;
  try {
    const status = await (await call("api/status", { headers: { "X-Stream-Id": name } })).json();
    show("model", status.inference_status?.fps, 1);
  } catch { $("model").value = "–"; }
}

// Presets, kept in this browser by pipeline.

const shelf = () => `weir-presets:${pipeline.name}`;
const presets = () => JSON.parse(localStorage.getItem(shelf()) ?? "{}");

function listed(chosen = "") {
  const names = Object.keys(presets()).sort();
  $("preset").replaceChildren(element("option", { value: "" }, "–"), ...names.map((name) => element("option", {}, name)));
  $("preset").value = chosen;
}

// Another pipeline, and the runner's own workflows.

// The same parameters with another workflow.
async function use(workflow) {
  const { width, height, fallback } = values();
  const kept = Object.fromEntries(Object.entries({ width, height, fallback }).filter(([, value]) => value !== undefined));
  await arrange({ ...kept, prompt: workflow });
  send();
}

let shelved = "";

async function choices() {
  const all = await (await call("api/pipelines")).json();
  const offered = JSON.stringify([all.pipeline, all.pipelines, all.workflows]);
  $("switch").hidden = !all.switch;
  $("shelf-label").hidden = !all.workflows.length || !/comfy/.test(all.pipeline);
  $("choice").hidden = $("switch").hidden && $("shelf-label").hidden;
  $("progress").hidden = all.ready;
  const failed = all.failed ? `That could not be loaded: ${all.failed}` : "";
  if (!all.ready) say("loading", `Loading ${all.pipeline}: ${all.detail ?? "…"}`);
  else say("loading", failed, failed && "bad");
  if (offered !== shelved) {
    shelved = offered;
    $("pipeline").replaceChildren(...all.pipelines.map(({ name, about, missing }) => {
      const option = element("option", { value: name, title: missing ?? about }, missing ? `${name} (not here: ${missing})` : name);
      option.disabled = Boolean(missing) && name !== all.pipeline;
      return option;
    }));
    $("pipeline").value = all.pipeline;
    $("shelf").replaceChildren(element("option", { value: "" }, "–"), ...all.workflows.map(({ name, runs, message }) => {
      const option = element("option", { value: name, title: runs ? name : message }, runs ? name : `${name} (does not run here)`);
      option.disabled = !runs;
      return option;
    }));
  }
  return all;
}

async function change(event) {
  event.preventDefault();
  try {
    await call("api/pipeline", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ pipeline: $("pipeline").value }),
    });
    // The controls are those of the pipeline that runs in the end.
    for (;;) {
      const { ready } = await choices();
      if (ready) break;
      await new Promise((done) => setTimeout(done, 500));
    }
    await describe();
  } catch (error) {
    say("loading", error.message, "bad");
  }
}

// Recordings, which the runner writes beside the stream.

let recording = null;

function pressed() {
  $("record").setAttribute("aria-pressed", String(Boolean(recording)));
  $("record").textContent = recording ? "Stop recording" : "Record";
}

async function record() {
  const json = { method: "POST", headers: { "Content-Type": "application/json" } };
  $("record").disabled = true;
  try {
    if (recording) {
      await call(`recordings/${recording}/stop`, { ...json, body: "{}" });
      recording = null;
      say("record-note", "The recording is whole.", "good");
    } else {
      const response = await call("recordings", { ...json, body: JSON.stringify({ stream: live?.name, format: $("record-format").value }) });
      recording = (await response.json()).id;
      say("record-note", "Recording from the next key picture on.");
    }
  } catch (error) {
    say("record-note", error.message, "bad");
  }
  $("record").disabled = !live;
  pressed();
  await recordings();
}

async function download(id, format) {
  const link = element("a", { download: `weir-${id}.${format}` });
  link.href = URL.createObjectURL(await (await call(`recordings/${id}`)).blob());
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function recordings() {
  const { enabled, max_seconds, max_bytes, recordings: all } = await (await call("recordings")).json();
  $("recordings").hidden = !enabled;
  $("record-limits").textContent = `at most ${max_seconds} s and ${(max_bytes / 1e6).toFixed(0)} MB each`;
  if (recording && !all.some(({ id, state }) => id === recording && state === "recording")) {
    recording = null;
    say("record-note", "The recording came to its limit, or its stream ended.");
    pressed();
  }
  const words = { recording: "being written", whole: "", cut_off: "cut off" };
  $("record-list").replaceChildren(...all.map(({ id, format, began_ms, state, bytes }) => {
    const when = new Date(began_ms).toLocaleString();
    const button = (word, act) => {
      const made = element("button", { type: "button", "aria-label": `${word} the recording of ${when}` }, word);
      made.disabled = state === "recording";
      made.addEventListener("click", () => act().catch((error) => say("record-note", error.message, "bad")));
      return made;
    };
    const drop = async () => { await call(`recordings/${id}`, { method: "DELETE" }); await recordings(); };
    const text = [when, `${(bytes / 1e6).toFixed(1)} MB`, words[state]].filter(Boolean).join(", ");
    return element("li", { "data-id": id }, element("span", {}, text), button("Download", () => download(id, format)), button("Delete", drop));
  }));
}

async function main() {
  const query = new URLSearchParams(location.search);
  if (query.get("view")) return view(query.get("stream") ?? "");

  $("go").addEventListener("change", () => {
    const kind = new FormData($("go")).get("kind");
    for (const each of document.querySelectorAll("[data-kind]")) {
      if (each.closest("#go")) each.hidden = each.dataset.kind !== kind;
    }
  });
  $("go").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await start();
    } catch (error) {
      stop();
      say("message", error instanceof Refused ? error.message : explained(error), "bad");
    }
  });
  $("stop").addEventListener("click", stop);
  addEventListener("pagehide", stop);
  $("layout").addEventListener("change", () => {
    $("stage").className = $("layout").value;
    $("wipe-label").hidden = $("layout").value !== "wipe";
  });
  $("wipe").addEventListener("input", () => $("stage").style.setProperty("--wipe", `${$("wipe").value}%`));
  $("sound").addEventListener("click", () => {
    $("result").muted = !$("result").muted;
    $("sound").setAttribute("aria-pressed", String(!$("result").muted));
  });
  $("full").addEventListener("click", () => $("stage").requestFullscreen?.());
  $("hush").addEventListener("click", () => {
    const paused = $("hush").getAttribute("aria-pressed") !== "true";
    $("hush").setAttribute("aria-pressed", String(paused));
    $("hush").textContent = paused ? "Go on with texts" : "Pause texts";
    write();
  });
  $("forget").addEventListener("click", () => { forget(); write(); });

  let waiting = 0;
  $("params").addEventListener("submit", (event) => event.preventDefault());
  for (const kind of ["input", "change"]) {
    $("params").addEventListener(kind, ({ target }) => {
      clearTimeout(waiting);
      waiting = setTimeout(send, kind === "change" ? 0 : target.type === "range" ? 60 : 400);
    });
  }
  $("json").addEventListener("input", read);
  $("json").addEventListener("scroll", () => { $("gutter").scrollTop = $("json").scrollTop; });
  $("apply").addEventListener("click", () => {
    const set = read();
    if (!set) return $("json").focus();
    arrange(set).then(send, (error) => say("json-error", error.message, "bad"));
  });
  $("workflow").addEventListener("change", async () => {
    const [file] = $("workflow").files;
    if (!file) return;
    try {
      await use(JSON.parse(await file.text()));
      say("json-error", "");
    } catch (error) {
      say("json-error", `${file.name}: ${error.message}`, "bad");
    }
  });
  $("preset").addEventListener("change", () => {
    const set = presets()[$("preset").value];
    if (!set) return;
    arrange(set).then(send, (error) => say("answer", error.message, "bad"));
  });
  $("preset-save").addEventListener("click", () => {
    const name = prompt("Name of the preset", $("preset").value);
    if (!name) return;
    localStorage.setItem(shelf(), JSON.stringify({ ...presets(), [name]: values() }));
    listed(name);
  });
  $("preset-drop").addEventListener("click", () => {
    const all = presets();
    delete all[$("preset").value];
    localStorage.setItem(shelf(), JSON.stringify(all));
    listed();
  });
  $("access").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("weir-token", $("token").value);
    $("access").hidden = true;
    describe();
  });
  $("switch").addEventListener("submit", change);
  $("shelf").addEventListener("change", async () => {
    const name = $("shelf").value;
    if (!name) return;
    try {
      await use(await (await call(`api/workflows/${encodeURIComponent(name)}`)).json());
      say("loading", `${name} is chosen.`);
    } catch (error) {
      say("loading", error.message, "bad");
    }
  });
  $("record").addEventListener("click", record);
  setInterval(() => recording && recordings().catch(() => {}), 2000);
  navigator.mediaDevices?.addEventListener("devicechange", devices);
  devices().catch(() => {});
  setInterval(() => figures().catch(() => {}), 1000);
  await describe();
}

async function describe() {
  try {
    const about = await (await call("api/pipeline")).json();
    Object.assign(pipeline, { name: about.name, schema: about.schema });
    say("about", `${about.name}: ${about.about}`);
    document.title = `Weir: ${about.name}`;
    $("workflow-label").hidden = !/comfy/.test(about.name);
    // The defaults: parameters in force belong to someone else's stream.
    pipeline.nodes = null;
    build({});
    listed();
    await Promise.all([choices(), recordings()]);
  } catch (error) {
    say("message", `The pipeline is not known yet: ${error.message}`, "bad");
    setTimeout(describe, 3000);
  }
}

main();
