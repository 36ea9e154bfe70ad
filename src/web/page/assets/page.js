// The live page: reads `/-/events` and shows it. No framework, nothing from elsewhere, and no text is ever taken for HTML.

const KEY_NAME = "pserve-key";
const WINDOW_SECONDS = 120;
const PERCENTILE_SECONDS = 10;
// A worker sends something every second; after this long without a word the connection counts as dead.
const PATIENCE_SECONDS = 8;
const MOST_REQUESTS = 100;
const MOST_LINES = 300;
const LONGEST_ANSWER = 1 << 20;
// The answer's text is shown up to here: more would make the page slow.
const LONGEST_SHOWN = 200_000;
// So much of what is no text is shown byte by byte.
const MOST_DUMPED = 256;
// How often an answer that goes on and on is shown anew.
const SHOW_SECONDS = 0.5;
const STILL_COMING = "still coming";
const LONGEST_MESSAGE = 400;
const WITHOUT_BODY = ["GET", "HEAD"];
const BASE = new URL("..", location.href);

const state = {
  hello: null,
  files: null,
  pulses: [],
  requests: [],
  log: [],
  /** The request whose log lines alone are shown. */
  logOf: null,
  isPaused: false,
};

const get = (id) => document.getElementById(id);

// ---- Small things -------------------------------------------------------------------------------------------------

/** An element with its properties and children; strings become text. */
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function makeSvg(name, properties = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) element.setAttribute(key, value);
  return element;
}

/** Sets a text only when it is another one: what does not change is neither drawn nor read out again. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function say(text) {
  const place = get("message");
  clearTimeout(say.timer);
  place.textContent = text;
  say.timer = setTimeout(() => (place.textContent = ""), 9000);
}

const stemOf = (path) => path.split("/").pop().replace(/\.py$/, "");
const fileName = (path) => path.split("/").pop();
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

function number(value) {
  if (value >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (value >= 100 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(1).replace(/\.0$/, "");
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const millis = seconds * 1000;
  if (millis < 1) return "< 1 ms";
  if (millis < 1000) return `${millis < 10 ? millis.toFixed(1) : Math.round(millis)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}

/** Two times, with their unit once where it is the same. */
function durations(one, other) {
  const [first, second] = [duration(one), duration(other)];
  const unit = / \w+$/.exec(second)?.[0];
  return first.endsWith(unit) && !first.startsWith("<") ? `${first.slice(0, -unit.length)} / ${second}` : `${first} / ${second}`;
}

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  if (bytes < 1e9) return `${(bytes / 1e6).toFixed(1)} MB`;
  return `${(bytes / 1e9).toFixed(2)} GB`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dateAndClock = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const timeOf = (unix) => clock.format(new Date(unix * 1000));

// ---- The key, and requests to the server --------------------------------------------------------------------------

const key = {
  get: () => sessionStorage.getItem(KEY_NAME),
  set: (value) => sessionStorage.setItem(KEY_NAME, value),
  forget: () => sessionStorage.removeItem(KEY_NAME),
};

/** Header fields that carry a key, for which a browser can send any text but line breaks. */
function keyFields(value) {
  return value ? { Authorization: `Bearer ${value}` } : {};
}

/** A request of the page's own, always with the key in a header and never in the address. */
function ask(path, options = {}) {
  const headers = { ...keyFields(key.get()), ...options.headers };
  return fetch(new URL(path, BASE), { cache: "no-store", credentials: "same-origin", ...options, headers });
}

/** Sends one of the control requests, and tells what became of it. */
async function control(button, path, done) {
  button.disabled = true;
  const began = performance.now();
  try {
    const response = await ask(path, { method: "POST" });
    const body = await response.json().catch(() => ({}));
    const took = duration((performance.now() - began) / 1000);
    if (response.ok) say(`${done(body)} (${took})`);
    else say(`That failed: ${shortened(problemOf(body, response))}`);
  } catch {
    say("The server did not answer. The connection was lost.");
  } finally {
    button.disabled = false;
    // It lost the focus while it could not have it.
    if (document.activeElement === document.body) button.focus({ preventScroll: true });
  }
}

function problemOf(body, response) {
  // An error has a type, too: that of RFC 9457.
  if (body.error) return body.error;
  if (body.type) return `${body.type}: ${body.message}${body.line ? `, line ${body.line}` : ""}`;
  return body.detail ?? `status ${response.status}`;
}

/** The numbers of workers by process, those of before included. */
const workerNames = new Map();

// ---- The stream of events -----------------------------------------------------------------------------------------

let reconnectSeconds = 0.5;

function showLink(kind, text) {
  const place = get("link");
  place.className = `link ${kind}`;
  setText(place, text);
}

/** Reads the events until the connection ends; the answer says whether to try again. */
async function listen() {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), PATIENCE_SECONDS * 1000);
  try {
    const response = await ask("-/events", { headers: { Accept: "text/event-stream" }, signal: stop.signal });
    if (response.status === 403) return await refused(response);
    if (!response.ok) throw new Error(`status ${response.status}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return true;
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), PATIENCE_SECONDS * 1000);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      if (events.some((event) => event.startsWith("event: pulse"))) {
        reconnectSeconds = 0.5;
        showLink("live", "Live");
      }
      events.forEach(take);
      if (events.length && !state.isPaused) schedule();
    }
  } catch {
    return true;
  } finally {
    clearTimeout(timer);
  }
}

function take(text) {
  const match = /^event: (\w+)\ndata: (.*)$/.exec(text);
  if (!match) return;
  const data = JSON.parse(match[2]);
  if (match[1] === "hello") begin(data);
  else if (match[1] === "plugins") state.files = data;
  else if (match[1] === "pulse") addPulse(data);
  else if (match[1] === "requests") state.requests = latest(state.requests, data.requests, MOST_REQUESTS);
  else if (match[1] === "log") state.log = latest(state.log, data.lines, MOST_LINES);
}

const nameOf = (event) => [event.time, event.id ?? event.message].join(" ");

/** What is known with what is new to it. After a break everything comes again, but for what workers had that have gone. */
function latest(known, more, most) {
  const names = new Set(known.map(nameOf));
  const fresh = more.filter((event) => !names.has(nameOf(event)));
  return [...known, ...fresh].sort((one, other) => one.time - other.time).slice(-most);
}

function begin(hello) {
  state.hello = hello;
  closeDoor();
}

function addPulse(pulse) {
  if (pulse.time <= (state.pulses.at(-1)?.time ?? 0)) {
    // After a break, perhaps from another worker, the pulses of before come again; else the clock was set back.
    if (pulse.time <= state.hello.time) return;
    state.pulses = [];
  }
  // What is zero is not sent.
  for (const [id, counts] of Object.entries(pulse.plugins)) pulse.plugins[id] = { ...NOTHING, ...counts };
  state.pulses.push(pulse);
  for (const worker of pulse.workers) workerNames.set(worker.pid, String(worker.number));
  const oldest = pulse.time - WINDOW_SECONDS - PERCENTILE_SECONDS - 5;
  while (state.pulses[0].time < oldest) state.pulses.shift();
}

async function refused(response) {
  const body = await response.json().catch(() => ({}));
  if (body.error && body.error !== "unauthorized" && body.detail !== "unauthorized") {
    showLink("lost", "Refused");
    openDoor(`The server refuses: ${body.error}.`, false);
    return false;
  }
  showLink("lost", "Needs the key");
  openDoor(key.get() ? "That is not the key." : "", true);
  key.forget();
  return false;
}

let isConnecting = false;

async function stayConnected() {
  if (isConnecting) return;
  isConnecting = true;
  while (await listen()) {
    showLink("lost", "Connecting again");
    await new Promise((done) => setTimeout(done, reconnectSeconds * 1000));
    reconnectSeconds = Math.min(reconnectSeconds * 2, 5);
  }
  isConnecting = false;
}

function openDoor(problem, takesKey) {
  get("board").hidden = true;
  get("contents").hidden = true;
  get("forget").hidden = true;
  get("door").hidden = false;
  setText(get("door-error"), problem);
  get("door-key").value = "";
  for (const part of get("door").querySelectorAll("h2, label, .line, p:not(#door-error)")) part.hidden = !takesKey;
  if (takesKey) get("door-key").focus();
}

function closeDoor() {
  const cameThrough = !get("door").hidden;
  get("door").hidden = true;
  get("board").hidden = false;
  get("contents").hidden = false;
  get("forget").hidden = !state.hello.has_key;
  if (cameThrough) get("main").focus();
}

// ---- Numbers from pulses ------------------------------------------------------------------------------------------

const NOTHING = { answers: 0, errors: 0, raised: 0, timeouts: 0, disconnects: 0, waiting: 0, running: 0, buckets: [] };

/** What one plugin, or all of them together (`null`), had counted at a pulse. */
function countsAt(pulse, id) {
  if (id !== null) return pulse.plugins[id] ?? NOTHING;
  pulse.all ??= Object.values(pulse.plugins).reduce(
    (sum, one) => {
      for (const name of ["answers", "errors", "raised", "timeouts", "disconnects", "waiting", "running"]) sum[name] += one[name];
      one.buckets.forEach((count, at) => (sum.buckets[at] = (sum.buckets[at] ?? 0) + count));
      return sum;
    },
    { ...NOTHING, buckets: [] },
  );
  return pulse.all;
}

/** How much a counter grew in the second before a pulse. A counter that went down began anew. */
function rate(id, name, at) {
  const [before, pulse] = [state.pulses[at - 1], state.pulses[at]];
  if (!before) return null;
  const seconds = pulse.time - before.time;
  const grown = countsAt(pulse, id)[name] - countsAt(before, id)[name];
  return seconds > 4 ? null : Math.max(grown, 0) / Math.max(seconds, 0.2);
}

const rates = (id, name) => state.pulses.map((pulse, at) => ({ time: pulse.time, value: rate(id, name, at) })).slice(1);

const levels = (id, name) => state.pulses.map((pulse) => ({ time: pulse.time, value: countsAt(pulse, id)[name] }));

/** The time that so large a part of the calls of the last seconds stayed under, read off the buckets. */
function percentile(id, part, at) {
  const now = state.pulses[at];
  let first = at;
  while (first > 0 && now.time - state.pulses[first].time < PERCENTILE_SECONDS) first -= 1;
  const after = countsAt(now, id).buckets;
  const before = countsAt(state.pulses[first], id).buckets;
  const grown = after.map((count, bucket) => Math.max(count - (before[bucket] ?? 0), 0));
  const all = grown.at(-1) ?? 0;
  if (all === 0) return null;
  const bounds = state.hello.bounds_seconds;
  const bucket = grown.findIndex((count) => count >= part * all);
  // Beyond the last bound nothing is known but that.
  if (bucket >= bounds.length) return bounds.at(-1);
  const low = bucket === 0 ? 0 : bounds[bucket - 1];
  const under = bucket === 0 ? 0 : grown[bucket - 1];
  return low + ((bounds[bucket] - low) * (part * all - under)) / Math.max(grown[bucket] - under, 1);
}

const percentiles = (id, part) =>
  state.pulses.map((pulse, at) => ({ time: pulse.time, value: percentile(id, part, at) }));

// ---- Plots --------------------------------------------------------------------------------------------------------

/** The least round number that is not below a value, for the top of an axis. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999_999);
  return step * power;
}

/** Path data of a line through points, broken where one is missing. */
function trace(points, x, y) {
  let path = "";
  let isDown = false;
  points.forEach((point, at) => {
    if (point.value === null) {
      isDown = false;
      return;
    }
    const isAlone = !isDown && (points[at + 1]?.value ?? null) === null;
    path += `${isDown ? "L" : "M"}${x(point.time).toFixed(1)} ${y(point.value).toFixed(1)}`;
    // A line of no length shows as a dot.
    if (isAlone) path += "h.1";
    isDown = true;
  });
  return path;
}

function areaUnder(points, x, y) {
  const known = points.filter((point) => point.value !== null);
  if (known.length < 2) return "";
  return `M${x(known[0].time).toFixed(1)} ${y(0)}${trace(known, x, y).replace(/^M/, "L")}L${x(known.at(-1).time).toFixed(1)} ${y(0)}Z`;
}

const inWindow = (points, now) => points.filter((point) => point.time >= now - WINDOW_SECONDS);

/** A plot with axes. `series` are `{name, mark, points()}`, `format` writes values, `least` is the least top of its axis. */
class Plot {
  constructor(title, series, format, least) {
    Object.assign(this, { title, series, format, least });
    this.values = series.map(() => make("b"));
    const legend = series.map((one, at) =>
      make("span", {}, make("i", { class: one.mark, "aria-hidden": "true" }), one.name, this.values[at]),
    );
    this.svg = makeSvg("svg", { role: "img" });
    this.grid = makeSvg("path", { class: "grid" });
    this.texts = [0, 1, 2, 3, 4, 5].map((at) => makeSvg("text", { "text-anchor": at < 3 ? "end" : at < 4 ? "start" : at < 5 ? "middle" : "end" }));
    this.fill = makeSvg("path", { class: `fill ${series[0].mark}` });
    this.curves = series.map((one) => makeSvg("path", { class: `curve ${one.mark}` }));
    this.svg.append(this.grid, this.fill, ...this.curves, ...this.texts);
    this.figure = make(
      "figure",
      { class: "plot" },
      make("figcaption", {}, make("span", { class: "title" }, title), make("span", { class: "legend" }, ...legend)),
      this.svg,
    );
  }

  draw() {
    const width = this.svg.clientWidth;
    if (width === 0 || state.pulses.length === 0) return;
    const height = 118;
    const [left, right, top, bottom] = [54, 2, 6, 20];
    const now = state.pulses.at(-1).time;
    const all = this.series.map((one) => inWindow(one.points(), now));
    const highest = Math.max(0, ...all.flat().map((point) => point.value ?? 0));
    const most = Math.max(roundUp(Math.max(highest, 1e-9)), this.least);
    const x = (time) => left + ((time - now + WINDOW_SECONDS) / WINDOW_SECONDS) * (width - left - right);
    const y = (value) => top + (1 - value / most) * (height - top - bottom);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.grid.setAttribute("d", [0, most / 2, most].map((value) => `M${left} ${Math.round(y(value)) + 0.5}H${width - right}`).join(""));
    [most, most / 2, 0].forEach((value, at) => this.write(at, left - 8, y(value) + 4, value === 0 ? "0" : this.format(value)));
    this.write(3, left, height - 4, "2 min ago");
    this.write(4, x(now - WINDOW_SECONDS / 2), height - 4, width > 300 ? "1 min" : "");
    this.write(5, width - right, height - 4, "now");
    this.fill.setAttribute("d", areaUnder(all[0], x, y));
    this.curves.forEach((curve, at) => curve.setAttribute("d", trace(all[at], x, y)));
    const last = all.map((points) => points.at(-1)?.value ?? null);
    last.forEach((value, at) => setText(this.values[at], value === null ? "–" : this.format(value)));
    const told = this.series.map((one, at) => `${one.name} ${last[at] === null ? "unknown" : this.format(last[at])}`);
    this.svg.setAttribute("aria-label", `${this.title}: ${told.join(", ")}; highest of the last two minutes ${this.format(highest)}`);
  }

  write(at, x, y, text) {
    this.texts[at].setAttribute("x", x);
    this.texts[at].setAttribute("y", y);
    setText(this.texts[at], text);
  }
}

/** The four plots of one plugin, or of all. */
function plotsOf(id) {
  return [
    new Plot("Requests per second", [{ name: "now", mark: "s1", points: () => rates(id, "answers") }], number, 4),
    new Plot(
      "Latency",
      [
        { name: "p50", mark: "s1", points: () => percentiles(id, 0.5) },
        { name: "p95", mark: "s2", points: () => percentiles(id, 0.95) },
        { name: "p99", mark: "s3", points: () => percentiles(id, 0.99) },
      ],
      (value) => (value < 0.001 && value > 0 ? "< 1 ms" : duration(value)),
      0.004,
    ),
    new Plot(
      "Errors per second",
      [
        { name: "5xx", mark: "sb", points: () => rates(id, "errors") },
        { name: "timeouts", mark: "s2", points: () => rates(id, "timeouts") },
      ],
      number,
      1,
    ),
    new Plot(
      "Calls under way",
      [
        { name: "running", mark: "s1", points: () => levels(id, "running") },
        { name: "waiting", mark: "s2", points: () => levels(id, "waiting") },
      ],
      number,
      4,
    ),
  ];
}

/** A line without axes, beside the number that it is the history of. */
class Spark {
  constructor(mark) {
    this.svg = makeSvg("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.fill = makeSvg("path", { class: `fill ${mark}` });
    this.curve = makeSvg("path", { class: `curve ${mark}` });
    this.svg.append(this.fill, this.curve);
    this.box = make("span", { class: "spark" }, this.svg);
  }

  draw(points, least) {
    const now = state.pulses.at(-1).time;
    const shown = inWindow(points, now);
    const most = Math.max(least, ...shown.map((point) => point.value ?? 0));
    const x = (time) => 100 + ((time - now) / WINDOW_SECONDS) * 100;
    const y = (value) => 24 - (value / most) * 22;
    this.fill.setAttribute("d", areaUnder(shown, x, y));
    this.curve.setAttribute("d", trace(shown, x, y));
  }
}

// ---- Overview -----------------------------------------------------------------------------------------------------

const overview = plotsOf(null);
get("plots").append(...overview.map((plot) => plot.figure));
const factValues = {};

function showFacts() {
  const pulse = state.pulses.at(-1);
  const facts = {
    "Up for": age(pulse.time - pulse.started),
    Plugins: String(state.files?.loaded_plugins.length ?? 0),
    Workers: String(pulse.workers.filter((worker) => worker.state === "serving").length),
    "Calls answered": number(countsAt(pulse, null).answers),
    Memory: size(pulse.workers.reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0)),
  };
  for (const [name, value] of Object.entries(facts)) {
    if (!factValues[name]) {
      factValues[name] = make("dd");
      get("facts").append(make("div", {}, make("dt", {}, name), factValues[name]));
    }
    setText(factValues[name], value);
  }
}

// ---- Plugins ------------------------------------------------------------------------------------------------------

/** Rows by plugin name. They stay while the plugin does, so that the focus stays in them. */
const rows = new Map();
let shownFiles = null;

const routeOf = (id) => id.split("/").map(encodeURIComponent).join("/");

class PluginRow {
  constructor(id) {
    this.id = id;
    this.rate = new Spark("s1");
    this.latency = new Spark("s2");
    this.errors = new Spark("sb");
    this.values = { rate: make("span", { class: "value" }), latency: make("span", { class: "value" }), errors: make("span", { class: "value" }), calls: make("span", { class: "value" }) };
    this.badge = make("span", { class: "badge bad", hidden: true }, "its file is broken");
    this.file = make("p");
    this.more = make("div", { class: "plugin-more", id: `more-${id}`, hidden: true });
    this.toggle = make("button", { type: "button", "aria-expanded": "false", "aria-controls": `more-${id}`, "aria-label": `Details of ${id}`, onclick: () => this.open() }, "Details");
    const gauge = (name, kind, ...parts) => make("dl", { class: `gauge ${kind}` }, make("dt", {}, name), make("dd", {}, ...parts));
    this.item = make(
      "li",
      { class: "plugin" },
      make(
        "div",
        { class: "plugin-row" },
        make("div", { class: "plugin-name" }, make("h3", {}, `/${id}`, this.badge), this.file),
        gauge("Requests / s", "wide", this.values.rate, this.rate.box),
        gauge("Latency p50 / p95", "wide", this.values.latency, this.latency.box),
        gauge("Errors so far", "wide", this.values.errors, this.errors.box),
        gauge("Running / waiting", "", this.values.calls),
        make(
          "div",
          { class: "plugin-buttons" },
          make("button", { type: "button", class: "quiet", "aria-label": `Try ${id}`, onclick: () => tryPlugin(id) }, "Try"),
          make("button", { type: "button", class: "quiet", "aria-label": `Reload ${id}`, onclick: (event) => reload(event.currentTarget, id) }, "Reload"),
          make("button", { type: "button", class: "quiet", "aria-label": `Unload ${id}`, onclick: (event) => unload(event.currentTarget, id) }, "Unload"),
          this.toggle,
        ),
      ),
      this.more,
    );
  }

  /** What the list of files says of it. */
  describe(plugin, file) {
    this.plugin = plugin;
    this.path = file.file;
    this.badge.hidden = !file.error;
    const doc = firstLine(plugin.description);
    setText(this.file, doc ? `${doc} · ${fileName(file.file)}` : fileName(file.file));
    this.file.title = file.file;
    if (!this.more.hidden) this.fillMore();
  }

  open() {
    this.more.hidden = !this.more.hidden;
    this.toggle.setAttribute("aria-expanded", String(!this.more.hidden));
    setText(this.toggle, this.more.hidden ? "Details" : "Less");
    if (this.more.hidden) {
      this.more.replaceChildren();
      this.plots = null;
      return;
    }
    this.plots = plotsOf(this.id);
    this.fillMore();
    this.drawLines();
  }

  fillMore() {
    const { plugin } = this;
    const counted = countsAt(state.pulses.at(-1), this.id);
    const facts = {
      File: this.path,
      Handler: plugin.async ? "async, on the event loop" : "plain, on a thread",
      Methods: plugin.methods.join(", "),
      Key: KEY_WORDS[plugin.key] ?? "none",
      Loaded: counted.last_load ? dateAndClock.format(new Date(counted.last_load * 1000)) : "unknown",
    };
    const fields = plugin.parameters;
    const words = [
      plugin.description ? make("p", { class: "doc" }, plugin.description) : make("p", { class: "hint" }, "Its class has no docstring."),
      fields.length ? make("div", {}, make("h4", {}, "Parameters"), parametersOf(fields)) : null,
    ];
    const pairs = Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
    this.more.replaceChildren(
      make("div", { class: "plugin-about" }, make("div", { class: "plugin-words" }, ...words.filter(Boolean)), make("dl", { class: "more-facts" }, ...pairs)),
      make("div", { class: "plots" }, ...this.plots.map((plot) => plot.figure)),
    );
  }

  draw() {
    const last = state.pulses.length - 1;
    const counts = countsAt(state.pulses[last], this.id);
    setText(this.values.rate, number(rate(this.id, "answers", last) ?? 0));
    const half = percentile(this.id, 0.5, last);
    setText(this.values.latency, half === null ? "–" : durations(half, percentile(this.id, 0.95, last)));
    setText(this.values.errors, number(counts.errors));
    this.values.errors.className = counts.errors > 0 ? "value bad" : "value";
    setText(this.values.calls, `${number(counts.running)} / ${number(counts.waiting)}`);
    if (this.isOnScreen) this.drawLines();
  }

  /** Of hundreds of plugins few are on the screen, and lines are what takes time. */
  drawLines() {
    this.rate.draw(rates(this.id, "answers"), 1);
    this.latency.draw(percentiles(this.id, 0.95), 0.002);
    this.errors.draw(rates(this.id, "errors"), 1);
    this.plots?.forEach((plot) => plot.draw());
  }
}

const comesIntoSight = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const row = [...rows.values()].find((one) => one.item === target);
      if (!row) continue;
      row.isOnScreen = isIntersecting;
      if (isIntersecting && !state.isPaused) row.drawLines();
    }
  },
  { rootMargin: "200px" },
);

const KEY_WORDS = {
  none: "none",
  global: "the server’s",
  own: "its own",
  custom: "its own check decides",
  never: "nobody may call it",
};

/** A message that would fill the screen, up to where it still helps; the traceback has all of it. */
const shortened = (text) => (text.length > LONGEST_MESSAGE ? `${text.slice(0, LONGEST_MESSAGE)} …` : text);
const firstLine = (text) => (text ?? "").trim().split("\n")[0];

/** What a field may be, in words. */
function typeOf({ schema }) {
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(", ");
  return [schema.type ?? (schema.anyOf ?? []).map((one) => one.type)].flat().filter((one) => one && one !== "null").join(" or ");
}

function parametersOf(fields) {
  return make(
    "dl",
    { class: "parameters" },
    ...fields.map((field) => {
      const preset = field.schema.default === undefined ? "" : `${JSON.stringify(field.schema.default)} if left out`;
      const facts = [typeOf(field), field.required ? "needed" : "", preset, field.in === "either" ? "" : `in the ${field.in}`];
      return make(
        "div",
        {},
        make("dt", {}, make("code", {}, field.name), " ", make("span", { class: "hint" }, facts.filter(Boolean).join(", "))),
        make("dd", {}, field.description),
      );
    }),
  );
}

const reload = (button, id) => control(button, `reload/${encodeURIComponent(id)}`, () => `/${id} is reloaded`);
const unload = (button, id) => control(button, `unload/${encodeURIComponent(id)}`, () => `/${id} is unloaded`);
const load = (button, stem) =>
  control(button, `load/${encodeURIComponent(stem)}`, (body) =>
    body.plugins?.length ? `${stem}.py serves ${body.plugins.map((id) => `/${id}`).join(", ")}` : `${stem}.py is loaded and serves nothing`,
  );

get("reload-all").addEventListener("click", (event) =>
  control(event.currentTarget, "reload/all", (body) => {
    const failed = Object.keys(body.failed ?? {});
    return failed.length ? `Reloaded, except for ${failed.map((stem) => `${stem}.py`).join(", ")}` : "Every plugin is reloaded";
  }),
);

/** Draws the list of plugins anew, when the files have changed. */
function showFiles() {
  if (shownFiles === state.files || !state.files) return;
  shownFiles = state.files;
  const list = get("plugin-list");
  const here = new Set();
  for (const file of state.files.files) {
    for (const plugin of file.plugins) {
      here.add(plugin.name);
      if (!rows.has(plugin.name)) {
        rows.set(plugin.name, new PluginRow(plugin.name));
        comesIntoSight.observe(rows.get(plugin.name).item);
      }
      rows.get(plugin.name).describe(plugin, file);
    }
  }
  for (const [id, row] of rows) {
    if (!here.has(id)) {
      comesIntoSight.unobserve(row.item);
      row.item.remove();
      rows.delete(id);
    }
  }
  [...here].sort().forEach((id, at) => {
    const item = rows.get(id).item;
    if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
  });
  const broken = state.files.files.filter((file) => file.error);
  get("troubles").replaceChildren(...broken.map(trouble), ...reloadTrouble());
  const idle = state.files.not_loaded ?? [];
  get("idle").hidden = idle.length === 0;
  get("idle-list").replaceChildren(
    ...idle.map((stem) => make("li", {}, make("code", {}, `${stem}.py`), make("button", { type: "button", class: "quiet", "aria-label": `Load ${stem}`, onclick: (event) => load(event.currentTarget, stem) }, "Load"))),
  );
  offerPlugins();
}

function reloadTrouble() {
  const failure = state.files.last_reload_failure;
  return failure ? [make("div", { class: "trouble" }, make("h3", {}, "The last restart failed; the workers before go on"), make("p", { class: "said" }, failure))] : [];
}

/** A file that does not load: what is wrong with it, where, and the way out. */
function trouble(file) {
  const { error } = file;
  const stem = stemOf(file.file);
  const where = error.line ? `${fileName(error.file ?? file.file)}, line ${error.line}` : fileName(file.file);
  // A SyntaxError says this once more.
  const message = shortened(error.message.replace(` (${where})`, ""));
  const served = file.plugins.map((plugin) => `/${plugin.name}`);
  const traceback = error.traceback.trimEnd();
  const isQuarantined = error.type === "Quarantined";
  return make(
    "div",
    { class: "trouble", role: "group", "aria-label": `${fileName(file.file)} is broken` },
    make(
      "div",
      { class: "section-head" },
      make("h3", {}, isQuarantined ? `${fileName(file.file)} is in quarantine` : `${fileName(file.file)} does not load`),
      make("button", { type: "button", "aria-label": `Load ${stem} again`, onclick: (event) => load(event.currentTarget, stem) }, "Load again"),
    ),
    make("p", { class: "said" }, `${error.type}: ${message}`),
    make("p", { class: "hint" }, served.length ? `${where}. Until it is mended, ${served.join(", ")} ${served.length === 1 ? "answers" : "answer"} as before.` : where),
    traceback ? make("pre", { tabindex: "0", role: "region", "aria-label": `Traceback of ${fileName(file.file)}` }, traceback) : null,
  );
}

// ---- Workers, requests, log ---------------------------------------------------------------------------------------

const cell = (label, kind, ...parts) => make("td", { role: "cell", "data-label": label, class: kind }, ...parts);
const workerRows = new Map();

class WorkerRow {
  constructor(worker) {
    const names = ["memory", "lag", "wait", "requests", "connections", "age", "restarts", "state"];
    this.values = Object.fromEntries(names.map((name) => [name, make("span", { class: "value" })]));
    const { values } = this;
    this.memory = new Spark("s1");
    this.lag = new Spark("s2");
    this.row = make(
      "tr",
      { role: "row" },
      make("th", { scope: "row", role: "rowheader", "data-label": "Worker" }, make("span", {}, `${worker.number} `, make("span", { class: "hint nowrap" }, `PID ${worker.pid}`))),
      cell("State", "", values.state),
      cell("Memory", "", make("span", { class: "with-spark" }, values.memory, this.memory.box)),
      cell("Loop lag", "", make("span", { class: "with-spark" }, values.lag, this.lag.box)),
      cell("Waits for Python", "number", values.wait),
      cell("Requests", "number", values.requests),
      cell("Connections", "number", values.connections),
      cell("Up for", "number nowrap", values.age),
      cell("Restarts", "", values.restarts),
    );
  }

  draw(worker) {
    const of = (name) =>
      state.pulses.map((pulse) => ({ time: pulse.time, value: pulse.workers.find((one) => one.pid === worker.pid)?.[name] ?? null }));
    const restarts = Object.entries(worker.restarts).filter(([, count]) => count > 0);
    setText(this.values.state, worker.answers || worker.state === "starting" ? worker.state : `${worker.state}, does not answer`);
    this.values.state.className = worker.state === "serving" && worker.answers ? "value good" : "value warning";
    setText(this.values.memory, size(worker.memory_bytes));
    setText(this.values.lag, duration(worker.loop_lag_seconds));
    setText(this.values.wait, duration(worker.interpreter_wait_seconds));
    setText(this.values.requests, number(worker.requests));
    setText(this.values.connections, worker.connections === null ? "–" : number(worker.connections));
    setText(this.values.age, age(worker.age_seconds));
    setText(this.values.restarts, restarts.length ? restarts.map(([reason, count]) => `${count} × ${reason.replaceAll("_", " ")}`).join(", ") : "none");
    this.memory.draw(of("memory_bytes"), 1);
    this.lag.draw(of("loop_lag_seconds"), 0.01);
  }
}

function showWorkers() {
  const { workers } = state.pulses.at(-1);
  for (const worker of workers) {
    if (!workerRows.has(worker.pid)) workerRows.set(worker.pid, new WorkerRow(worker));
    workerRows.get(worker.pid).draw(worker);
  }
  for (const [pid, row] of workerRows) {
    if (!workers.some((worker) => worker.pid === pid)) {
      row.row.remove();
      workerRows.delete(pid);
    }
  }
  const order = [...workers].sort((one, other) => one.number - other.number);
  order.forEach((worker, at) => {
    const { row } = workerRows.get(worker.pid);
    if (get("worker-rows").children[at] !== row) get("worker-rows").insertBefore(row, get("worker-rows").children[at] ?? null);
  });
}

/** Keeps a list on the screen in step with one in memory, newest first, without touching what is there already. */
function keepList(place, items, makeItem) {
  const shown = keepList.shown.get(place) ?? new Map();
  keepList.shown.set(place, shown);
  const wanted = new Set(items);
  for (const [item, element] of shown) {
    if (!wanted.has(item)) {
      element.remove();
      shown.delete(item);
    }
  }
  [...items].reverse().forEach((item, at) => {
    if (!shown.has(item)) shown.set(item, makeItem(item));
    const element = shown.get(item);
    if (place.children[at] !== element) place.insertBefore(element, place.children[at] ?? null);
  });
}
keepList.shown = new WeakMap();

function requestRow(request) {
  const kind = request.status >= 500 ? "bad" : request.status >= 400 ? "warning" : request.status >= 300 ? "" : "good";
  return make(
    "tr",
    { role: "row" },
    cell("Time", "nowrap time", make("time", { datetime: new Date(request.time * 1000).toISOString() }, timeOf(request.time))),
    cell("Method", "method", request.method),
    cell("Path", "path", request.path),
    cell("Status", `status ${kind}`, String(request.status)),
    cell("Took", "number nowrap took", duration(request.seconds)),
    cell("Size", "number nowrap size", size(request.bytes)),
    cell("Worker", "number worker", workerNames.get(request.pid) ?? "–"),
    cell("Log of", "id", idButton(request.id)),
  );
}

/** The id of a request: shows its log lines alone, and all again. */
function idButton(id) {
  return make("button", { type: "button", class: "id", "data-id": id, "aria-pressed": String(state.logOf === id), "aria-label": `Log lines of request ${id}`, title: id, onclick: (event) => showLogOf(state.logOf === id ? null : id, event.currentTarget) }, id);
}

/** What asked for the lines of one request, where the focus goes back to. */
let askedFor = null;

function showLogOf(id, button) {
  state.logOf = id;
  askedFor = id === null ? null : button;
  if (id !== null) get("log-level").value = "0";
  for (const other of document.querySelectorAll("button.id")) other.setAttribute("aria-pressed", String(other.dataset.id === id));
  setText(get("log-of"), id === null ? "" : `Only lines of request ${id}`);
  get("log-all").hidden = id === null;
  showLists();
  if (id === null) return;
  get("log").scrollIntoView();
  get("log-all").focus({ preventScroll: true });
}

get("log-all").addEventListener("click", () => {
  const back = askedFor;
  showLogOf(null);
  // It may be one of the lines, which have just been there alone, or of a request that is not listed any more.
  (back?.isConnected ? back : get("log-level")).focus();
});

const SEVERITIES = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

function logItem(line) {
  const rank = SEVERITIES.indexOf(line.severity);
  return make(
    "li",
    {},
    make("time", { datetime: new Date(line.time * 1000).toISOString() }, timeOf(line.time)),
    make("span", { class: rank >= 3 ? "bad" : rank === 2 ? "warning" : "name" }, line.severity.toLowerCase()),
    make("span", { class: "text" }, line.name === "pserve" ? null : make("span", { class: "name" }, `${line.name}: `), line.message.trimEnd(), line.request_id ? " " : null, line.request_id ? idButton(line.request_id) : null),
  );
}

function showLists() {
  keepList(get("request-rows"), state.requests, requestRow);
  get("no-requests").hidden = state.requests.length > 0;
  const least = Number(get("log-level").value);
  const isWanted = (line) => SEVERITIES.indexOf(line.severity) >= least && (state.logOf === null || line.request_id === state.logOf);
  const lines = state.log.filter(isWanted);
  keepList(get("log-lines"), lines, logItem);
  get("no-lines").hidden = lines.length > 0;
  setText(get("no-lines"), state.log.length === 0 ? "No line yet." : state.logOf === null ? "No line that is so bad." : "The log has no line of this request.");
}

get("log-level").addEventListener("change", showLists);

// ---- Try it -------------------------------------------------------------------------------------------------------

/** What is said beside the key, of plugins that ask for one. */
const KEY_HINTS = {
  global: "the server’s is taken where this stays empty",
  own: "this plugin asks for its own",
  custom: "this plugin checks callers itself",
  never: "nobody may call this plugin",
};

/** What the form asks for now. */
const form = { plugin: null, running: null, isBlocked: false };
const pluginNamed = (id) => state.files?.files.flatMap((file) => file.plugins).find((plugin) => plugin.name === id) ?? null;

function offerPlugins() {
  const select = get("try-plugin");
  const names = [...state.files.loaded_plugins].sort();
  const isSame = names.join("\n") === [...select.options].map((option) => option.value).join("\n");
  const before = select.value;
  if (!isSame) {
    select.replaceChildren(...names.map((name) => make("option", { value: name }, `/${name}`)));
    if (names.includes(before)) select.value = before;
  }
  const plugin = pluginNamed(select.value);
  const facts = JSON.stringify([plugin?.name, plugin?.parameters, plugin?.methods, plugin?.key]);
  if (facts !== form.facts) {
    form.facts = facts;
    choosePlugin(plugin);
  }
  get("try-send").disabled = !plugin;
}

function choosePlugin(plugin) {
  const isOther = form.plugin?.name !== plugin?.name;
  form.plugin = plugin;
  const method = get("try-method").value;
  const methods = plugin?.methods ?? ["GET"];
  get("try-method").replaceChildren(...methods.map((name) => make("option", {}, name)));
  get("try-method").value = !isOther && methods.includes(method) ? method : "GET";
  const typed = isOther ? [] : readFields().filter((field) => field.value !== "");
  get("try-fields").replaceChildren();
  const fields = plugin?.parameters ?? [];
  for (const field of fields) addField(field, typed.find((one) => one.name === field.name)?.value);
  for (const field of typed) {
    if (!fields.some((one) => one.name === field.name)) addField({ name: field.name, isFree: true }, field.value);
  }
  if (get("try-fields").children.length === 0) addField({ isFree: true });
  if (isOther) {
    get("try-subpath").value = "";
    get("try-text").value = "{}";
  }
  get("try-key").value = isOther ? "" : get("try-key").value;
  get("try-key-field").hidden = !(plugin?.key in KEY_HINTS);
  setText(get("try-key-hint"), KEY_HINTS[plugin?.key] ?? "");
  showForm();
}

/** One row of the form. A field that is not known has its name to be typed. */
function addField(field, value = "") {
  const id = `try-field-${(addField.count = (addField.count ?? 0) + 1)}`;
  const plain = { autocomplete: "off", spellcheck: "false", autocapitalize: "off" };
  let named;
  let entry;
  if (field.isFree) {
    named = make("input", { "aria-label": "Name of the field", placeholder: "name", ...plain });
    named.value = field.name ?? "";
    entry = make("input", { "aria-label": "Value of the field", placeholder: "value", ...plain });
  } else {
    named = make("label", { class: "known", for: id }, field.name, field.required ? make("span", { class: "hint" }, " needed") : null);
    entry = entryOf(field, { id, ...plain });
  }
  entry.value = value;
  const item = make("li", { class: field.isFree ? "" : "known-field" }, named, entry);
  item.field = { ...field, named, entry };
  if (field.isFree) {
    const remove = () => {
      item.remove();
      showForm();
      get("try-add").focus();
    };
    item.append(make("button", { type: "button", class: "quiet", "aria-label": "Remove this field", onclick: remove }, "×"));
  }
  if (field.description) item.append(make("span", { class: "hint", id: `${id}-hint` }, field.description));
  if (field.description) entry.setAttribute("aria-describedby", `${id}-hint`);
  get("try-fields").append(item);
  return named;
}

/** Where a known field is typed or chosen. An empty one is not sent. */
function entryOf(field, properties) {
  const choices = field.schema.type === "boolean" ? [true, false] : field.schema.enum;
  if (!choices) {
    const preset = field.schema.default;
    return make("input", { ...properties, placeholder: preset === undefined || preset === null ? typeOf(field) : JSON.stringify(preset) });
  }
  const texts = choices.map((one) => (typeof one === "string" ? one : JSON.stringify(one)));
  return make("select", { id: properties.id }, make("option", { value: "" }, "–"), ...texts.map((text) => make("option", {}, text)));
}

get("try-add").addEventListener("click", () => {
  addField({ isFree: true }).focus();
  showForm();
});

function readFields() {
  return [...get("try-fields").children].map(({ field }) => ({
    name: field.isFree ? field.named.value.trim() : field.name,
    value: field.entry.value,
    schema: field.schema,
    place: field.in,
    isFree: field.isFree,
  }));
}

/** A field's text as the JSON value that its schema says; what does not fit stays text, for the plugin to judge. */
function typed({ value, schema }) {
  const kinds = [schema?.type ?? (schema?.anyOf ?? []).map((one) => one.type)].flat();
  const isText = kinds.length === 0 || kinds.includes("string") || schema.enum?.includes(value);
  if (isText && !schema?.enum?.some((one) => JSON.stringify(one) === value)) return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** The request that the form describes. */
function planned() {
  const method = get("try-method").value;
  const kind = WITHOUT_BODY.includes(method) ? "none" : get("try-body").value;
  const fields = readFields().filter((field) => field.name !== "" && (field.value !== "" || field.isFree));
  const takesAll = kind === "none" || kind === "text";
  const pairsOf = (some) => new URLSearchParams(some.map((field) => [field.name, field.value])).toString();
  const ofQuery = fields.filter((field) => takesAll || field.place === "query");
  const ofBody = fields.filter((field) => !ofQuery.includes(field));
  const subpath = get("try-subpath").value.replace(/^\/+/, "");
  const path = form.plugin ? routeOf(form.plugin.name) + (subpath ? `/${subpath.split("/").map(encodeURIComponent).join("/")}` : "") : "";
  const url = new URL(path, BASE);
  url.search = pairsOf(ofQuery);
  const plan = { method, url, headers: {}, body: null };
  if (kind === "json") plan.body = JSON.stringify(Object.fromEntries(ofBody.map((field) => [field.name, typed(field)])));
  if (kind === "text") plan.body = get("try-text").value;
  if (kind === "json" || kind === "text") plan.headers["Content-Type"] = "application/json";
  if (kind === "form") {
    plan.body = pairsOf(ofBody);
    plan.headers["Content-Type"] = "application/x-www-form-urlencoded";
  }
  const needsGlobal = form.plugin?.key === "global";
  plan.key = get("try-key").value || (needsGlobal ? key.get() : null);
  return plan;
}

/** A word as a POSIX shell reads it. */
const quoted = (text) => (/^[\w./:@%+,=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function curlOf(plan) {
  const words = ["curl"];
  if (plan.method === "HEAD") words.push("--head");
  else if (plan.method !== "GET" && !(plan.method === "POST" && plan.body !== null)) words.push(`-X ${plan.method}`);
  if (plan.key) words.push('-H "Authorization: Bearer $KEY"');
  for (const [name, value] of Object.entries(plan.headers)) {
    // That is what curl says by itself with --data.
    if (value !== "application/x-www-form-urlencoded") words.push(`-H ${quoted(`${name}: ${value}`)}`);
  }
  if (plan.body !== null) words.push(`--data-raw ${quoted(plan.body)}`);
  words.push(quoted(plan.url.href));
  return words.join(" ");
}

/** Shows and hides parts of the form by what is chosen, and writes the curl line. */
function showForm() {
  const method = get("try-method").value;
  const hasBody = !WITHOUT_BODY.includes(method);
  get("try-body-choice").hidden = !hasBody;
  const isText = hasBody && get("try-body").value === "text";
  get("try-text-field").hidden = !isText;
  let problem = "";
  if (isText) {
    try {
      JSON.parse(get("try-text").value);
    } catch (error) {
      problem = `This is not JSON: ${error.message}. It can be sent all the same.`;
    }
  }
  setText(get("try-text-error"), problem);
  const plan = planned();
  setText(get("curl"), curlOf(plan));
  get("curl-key").hidden = !plan.key;
}

get("try-form").addEventListener("input", showForm);
get("try-plugin").addEventListener("change", offerPlugins);

function tryPlugin(id) {
  get("try-plugin").value = id;
  offerPlugins();
  get("try").scrollIntoView();
  (get("try-fields").querySelector("input") ?? get("try-plugin")).focus({ preventScroll: true });
}

get("try-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (form.running || !form.plugin) return;
  const plan = planned();
  form.running = new AbortController();
  form.isBlocked = false;
  get("try-stop").hidden = false;
  get("try-send").disabled = true;
  hideAnswer();
  get("answer-status").className = "";
  setText(get("answer-status"), "Calling");
  const began = performance.now();
  const seconds = () => (performance.now() - began) / 1000;
  let received = null;
  try {
    const headers = { ...plan.headers, ...keyFields(plan.key) };
    const response = await fetch(plan.url, { method: plan.method, headers, body: plan.body, cache: "no-store", signal: form.running.signal });
    received = { response, parts: [], length: 0, isWhole: false, seconds: seconds() };
    showHead(received, plan);
    await readAnswer(received, seconds);
    showBody(received, seconds(), "");
  } catch (problem) {
    const isStopped = problem.name === "AbortError";
    if (received) {
      showBody(received, seconds(), isStopped ? "stopped" : "broken off");
      if (!isStopped) get("answer-status").className = "bad";
    } else {
      get("answer-status").className = "bad";
      setText(get("answer-status"), isStopped ? "Stopped" : await whyNot(problem));
    }
  } finally {
    form.running = null;
    get("try-stop").hidden = true;
    get("try-send").disabled = false;
  }
});

/** Why there is no answer, in words. */
async function whyNot(problem) {
  if (problem instanceof TypeError && /header|ISO/i.test(problem.message)) return "This key cannot be sent in a header";
  // The browser tells of it after the failure, and not where it would lead.
  await new Promise((done) => setTimeout(done, 100));
  if (form.isBlocked) return "The answer sends on to another server, where this page does not go";
  return "No answer: the connection was lost";
}

document.addEventListener("securitypolicyviolation", (event) => {
  if (event.effectiveDirective === "connect-src") form.isBlocked = true;
});

get("try-stop").addEventListener("click", () => form.running?.abort());

/** Reads the body of an answer, as far as it is not too long. One that takes its time is shown as it comes. */
async function readAnswer(received, seconds) {
  const reader = received.response.body?.getReader();
  let shown = seconds();
  while (reader && received.length < LONGEST_ANSWER) {
    const { value, done } = await reader.read();
    if (done) {
      received.isWhole = true;
      return;
    }
    received.parts.push(value);
    received.length += value.length;
    if (seconds() > shown + SHOW_SECONDS) {
      shown = seconds();
      showBody(received, shown, STILL_COMING);
    }
  }
  if (reader) reader.cancel();
  else received.isWhole = true;
}

function bytesOf({ parts, length }) {
  const bytes = new Uint8Array(length);
  parts.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
  return bytes;
}

function hideAnswer() {
  get("answer-log").hidden = true;
  get("answer-headers-box").hidden = true;
  get("answer-body").hidden = true;
}

/** What is known before the body has come. */
function showHead({ response }, plan) {
  get("answer-status").className = response.ok ? "good" : response.status >= 500 ? "bad" : "warning";
  get("answer-headers").replaceChildren(...[...response.headers].flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  get("answer-headers-box").hidden = false;
  const id = response.headers.get("x-request-id");
  get("answer-log").hidden = !id;
  get("answer-log").onclick = (event) => showLogOf(id, event.currentTarget);
  setText(get("answer-from"), response.redirected && response.url !== plan.url.href ? `Sent on to ${response.url}, which answers this:` : "");
}

function showBody(received, seconds, how) {
  const { response, length, isWhole } = received;
  const kind = response.headers.get("content-type") ?? "";
  // What was compressed on the way has another length there.
  const announced = response.headers.has("content-encoding") ? null : response.headers.get("content-length");
  const isCut = !isWhole && how === "";
  const much = isCut ? (announced ? `${size(Number(announced))}, not all of it read` : `more than ${size(length)}`) : size(length);
  const status = `${response.status} ${response.statusText}`.trim();
  // Said once and not at each piece: it is read out.
  setText(get("answer-status"), how === STILL_COMING ? `${status} · ${how}` : [status, duration(seconds), how ? `${much} ${how}` : much].join(" · "));
  const text = readable(bytesOf(received), kind, isWhole);
  get("answer-body").hidden = length === 0;
  setText(get("answer-body"), text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}\n… and more` : text);
}

/** A body for people: JSON indented, text as it is, and of anything else what it is and how it begins. */
function readable(bytes, kind, isWhole) {
  let text;
  try {
    // A letter may be cut in two where not all has been read.
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !isWhole });
  } catch {
    return dump(bytes, kind);
  }
  // No text has these; a terminal's colours are not shown either.
  if (/[\0-\x08\x0e-\x1a]/.test(text)) return dump(bytes, kind);
  try {
    return kind.includes("json") || /^\s*[[{]/.test(text) ? JSON.stringify(JSON.parse(text), null, 2) : text;
  } catch {
    return text;
  }
}

function dump(bytes, kind) {
  const lines = [`${plural(bytes.length, "byte")} of ${kind || "an unknown type"}, which are not text`, ""];
  for (let at = 0; at < Math.min(bytes.length, MOST_DUMPED); at += 16) {
    const row = [...bytes.subarray(at, Math.min(at + 16, MOST_DUMPED))];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const letters = row.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex.padEnd(48)} ${letters}`);
  }
  if (bytes.length > MOST_DUMPED) lines.push("…");
  return lines.join("\n");
}

get("curl-copy").addEventListener("click", async () => {
  const text = get("curl").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure context there is no clipboard but by the selection.
    getSelection().selectAllChildren(get("curl"));
    if (!document.execCommand("copy")) return say("The browser does not let the page copy; the line is selected");
  }
  say("The curl line is copied");
});

// ---- All together -------------------------------------------------------------------------------------------------

let isScheduled = false;

/** Draws what has come, once for everything that came together. */
function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => {
    isScheduled = false;
    draw();
  });
}

function draw() {
  if (!state.hello || state.pulses.length === 0) return;
  showFacts();
  overview.forEach((plot) => plot.draw());
  showFiles();
  rows.forEach((row) => row.draw());
  showWorkers();
  showLists();
  setText(get("about"), `pserve ${state.hello.version}, Python ${state.hello.python}, ${state.hello.config}, plugins in ${state.hello.folder}`);
}

get("pause").addEventListener("click", () => {
  state.isPaused = !state.isPaused;
  get("pause").setAttribute("aria-pressed", String(state.isPaused));
  if (!state.isPaused) draw();
});

get("forget").addEventListener("click", () => {
  key.forget();
  location.reload();
});

get("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(get("door-key").value);
  setText(get("door-error"), "");
  stayConnected();
});

/** Marks the section that is on the screen in the list of contents. */
function followSections() {
  const links = [...get("contents").querySelectorAll("a")];
  const onScreen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) entry.isIntersecting ? onScreen.add(entry.target.id) : onScreen.delete(entry.target.id);
      const first = links.find((link) => onScreen.has(link.hash.slice(1)));
      for (const link of links) link === first ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
    },
    { rootMargin: "-110px 0px -55% 0px" },
  );
  for (const link of links) watch.observe(get(link.hash.slice(1)));
}

setText(get("place"), location.host);
document.title = `${location.host} – pserve`;
new ResizeObserver(() => !state.isPaused && schedule()).observe(get("plots"));
followSections();
showForm();
stayConnected();
