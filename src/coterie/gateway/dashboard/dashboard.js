"use strict";
// Builds what the gateway sends as [tag, attributes, children]; texts are only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "g", "line", "rect", "circle", "path", "text", "title"]);
const TAGS = new Set([
  ...DRAWN, "a", "button", "caption", "code", "dd", "details", "div", "dl", "dt", "h3", "li", "p",
  "pre", "span", "strong", "summary", "table", "tbody", "td", "th", "thead", "time", "tr", "ul",
]);
const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=token]").content;

function build(node, drawn = false) {
  if (typeof node === "string") return document.createTextNode(node);
  const [tag] = node;
  if (!TAGS.has(tag)) throw new Error("unexpected element");
  drawn = drawn ? DRAWN.has(tag) : tag === "svg";
  const made = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  patch(made, node, drawn);
  return made;
}

function patch(made, [, attributes, children], drawn) {
  for (const { name } of [...made.attributes]) {
    if (!(name in attributes) && name !== "open") made.removeAttribute(name);
  }
  for (const [name, text] of Object.entries(attributes)) {
    if (name.startsWith("on") || name === "style" || (name === "href" && !/^[/#]/.test(text))) continue;
    if (made.getAttribute(name) !== text) made.setAttribute(name, text);
  }
  fill(made, children, drawn);
}

function fill(parent, nodes, drawn = false) {
  nodes.forEach((node, place) => {
    const old = parent.childNodes[place];
    if (!old) parent.append(build(node, drawn));
    else if (typeof node === "string" && old.nodeType === Node.TEXT_NODE) {
      if (old.data !== node) old.data = node;
    } else if (old.localName === node[0]) patch(old, node, drawn ? DRAWN.has(node[0]) : node[0] === "svg");
    else old.replaceWith(build(node, drawn));
  });
  while (parent.childNodes.length > nodes.length) parent.lastChild.remove();
}

// Replaces a region's content; whoever had the focus keeps it, wherever it moved.
function show(parent, nodes) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  fill(parent, nodes.filter((node) => node !== ""));
  if (focused && document.activeElement.id !== focused) $(focused)?.focus({ preventScroll: true });
}

function notice(text) {
  const box = $("notice");
  box.hidden = !text;
  if (box.textContent !== text) box.textContent = text;
}

async function read(path, options) {
  const response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  const body = await response.json();
  if (!response.ok) {
    const error = new Error(body.error?.message ?? `status ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return body;
}

const change = (path, values) =>
  read(`/dashboard/api/${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-coterie-token": token },
    body: JSON.stringify(values),
  });

async function attempt(work) {
  try {
    const found = await work();
    notice("");
    return found;
  } catch (error) {
    notice(error instanceof TypeError ? "The gateway cannot be reached." : error.message);
    return undefined;
  }
}

// -- regions that are kept up to date

const regions = [...document.querySelectorAll("[data-source]")];

function chosen() {
  const form = $("filters");
  return form ? new URLSearchParams(new FormData(form)).toString() : "";
}

let lost = false;
async function refresh(region) {
  const query = region.id === "traffic-region" ? chosen() : "";
  try {
    const nodes = await read(`${region.dataset.source}?${query}`);
    if (query === (region.id === "traffic-region" ? chosen() : "")) show(region, nodes);
    if (lost) notice("");
    lost = false;
  } catch (error) {
    lost = true;
    if (error.status === 401) notice("You are logged out; load the page again.");
    else notice(error instanceof TypeError ? "The gateway cannot be reached; trying again." : error.message);
  }
}

const refreshed = (id) => refresh($(`${id}-region`));

for (const region of regions) {
  const wait = 1000 * Number(region.dataset.every);
  const again = async () => {
    if (!document.hidden) await refresh(region);
    setTimeout(again, wait);
  };
  setTimeout(again, wait);
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) regions.forEach(refresh);
});

$("filters")?.addEventListener("change", () => refreshed("traffic"));
$("filters")?.addEventListener("submit", (event) => {
  event.preventDefault();
  refreshed("traffic");
});

// -- one decision

const decisionOf = (id) => read(`/dashboard/api/decisions/${encodeURIComponent(id)}`);

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-decision]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || !$("dialog")) return;
  event.preventDefault();
  const nodes = await attempt(() => decisionOf(link.dataset.decision));
  if (!nodes) return;
  show($("dialog-content"), nodes);
  $("dialog").showModal();
  $("dialog").scrollTop = 0;
});
$("dialog-close")?.addEventListener("click", () => $("dialog").close());
$("dialog")?.addEventListener("click", (event) => {
  if (event.target === $("dialog")) $("dialog").close();
});

// -- the trade-off

let proposed = null;
let asked = 0;
async function plane(position) {
  const query = position === null ? "" : `?position=${position}`;
  const mine = ++asked;
  const found = await attempt(() => read(`/dashboard/api/plane${query}`));
  if (!found || mine !== asked) return;
  show($("plane"), [found.drawing]);
  show($("change"), found.words);
  $("price-shown").textContent = found.shown;
  $("price").max = found.last;
  $("price").value = found.position;
  $("price").setAttribute("aria-valuetext", found.shown);
  proposed = position === null ? null : found;
  $("apply").disabled = $("undo").disabled = proposed === null;
}

if ($("price-form")) {
  let timer = 0;
  $("price").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => plane($("price").value), 120);
  });
  $("undo").addEventListener("click", () => plane(null));
  $("price-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (proposed === null) return;
    const done = await attempt(() => change("policy", { willingness_to_pay: proposed.price }));
    if (done) await Promise.all([plane(null), refreshed("status")]);
  });
}

// -- keys

function fieldsOf(form) {
  const values = {};
  for (const box of form.elements) {
    const text = box.value.trim();
    if (!box.name || !text) continue;
    if (box.name === "experts") values.experts = text.split(",").map((one) => one.trim()).filter(Boolean);
    else values[box.name] = box.type === "number" ? Number(text) : text;
  }
  return values;
}

$("key-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const made = await attempt(() => change("keys/create", fieldsOf(form)));
  if (!made) return;
  form.reset();
  $("secret-text").textContent = made.secret;
  $("secret").hidden = false;
  $("secret-text").focus();
  await Promise.all([refreshed("keys"), refreshed("status")]);
});
$("secret-copy")?.addEventListener("click", async () => {
  await attempt(() => navigator.clipboard.writeText($("secret-text").textContent));
});
function forget() {
  $("secret-text").textContent = "";
  $("secret").hidden = true;
}
$("secret-done")?.addEventListener("click", forget);

// -- buttons within regions, and those of the header

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-revoke], button[data-reset]");
  if (!button) return;
  const { revoke, reset, name } = button.dataset;
  if (revoke !== undefined) {
    if (!confirm(`Revoke the key ${name}? Whoever uses it is refused from now on.`)) return;
    if (await attempt(() => change("keys/revoke", { id: revoke }))) forget();
    await Promise.all([refreshed("keys"), refreshed("status")]);
  } else {
    await attempt(() => change("experts/reset", { expert: reset }));
    await refreshed("experts");
  }
});
$("reload")?.addEventListener("click", async () => {
  const done = await attempt(() => change("reload", {}));
  await refreshed("status");
  if (done && $("price-form")) await plane(null);
});
$("logout")?.addEventListener("click", async () => {
  if (await attempt(() => change("logout", {}))) location.reload();
});

// -- the playground

function said(event) {
  const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n").trim();
  if (!data || data === "[DONE]") return "";
  const found = JSON.parse(data);
  if (found.error) throw new Error(found.error.message);
  const delta = found.choices?.[0]?.delta ?? {};
  return delta.content ?? "";
}

async function stream(response, shown) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    shown.append(events.map(said).join(""));
  }
}

function planned(plan) {
  const several = plan.composition !== "single" ? `${plan.composition} of ` : "";
  const quality = plan.quality === null ? "" : `, expected quality ${plan.quality.toFixed(3)}`;
  const who = several ? plan.experts.join(", ") : plan.experts[0];
  return `Would ask ${several}${who} (policy ${plan.policy}${quality}).`;
}

let asking = null;
$("ask-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const values = event.target.elements;
  const headers = { "content-type": "application/json" };
  if (values.secret.value) headers.authorization = `Bearer ${values.secret.value}`;
  const body = { model: values.model.value, messages: [{ role: "user", content: values.prompt.value }] };
  const answer = $("answer");
  asking = new AbortController();
  const common = { method: "POST", headers, credentials: "omit", signal: asking.signal };
  $("ask").disabled = true;
  $("stop").disabled = false;
  answer.textContent = $("answer-note").textContent = "";
  answer.setAttribute("aria-busy", "true");
  show($("decision-shown"), []);
  const start = performance.now();
  let id = "";
  try {
    $("plan").textContent = planned(await read("/v1/route", { ...common, body: JSON.stringify(body) }));
    const response = await fetch("/v1/chat/completions", { ...common, body: JSON.stringify({ ...body, stream: true }) });
    id = response.headers.get("x-coterie-decision-id") ?? "";
    if (!response.ok) throw new Error((await response.json()).error.message);
    await stream(response, answer);
    const who = response.headers.get("x-coterie-model");
    $("answer-note").textContent = `${who} answered in ${((performance.now() - start) / 1000).toFixed(2)} s.`;
  } catch (error) {
    $("answer-note").textContent = error.name === "AbortError" ? "Stopped." : `No answer: ${error.message}`;
  }
  answer.setAttribute("aria-busy", "false");
  $("ask").disabled = false;
  $("stop").disabled = true;
  if (id) {
    const nodes = await attempt(() => decisionOf(id));
    if (nodes) show($("decision-shown"), nodes);
  }
  refreshed("traffic");
});
$("stop")?.addEventListener("click", () => asking?.abort());
