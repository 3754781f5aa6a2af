/* What every part shares: JSON in the page, elements, and the state, which the URL's hash keeps.
   Text enters the page through textContent only, so a prompt can hold any markup. */

const KNOWN = /^((layer|expert|(prompt|beside)(-2)?|view\.[a-z_]+(-2)?)=\d+|(theme|table|sort|at)=[-\w]+)$/;
const state = new Map();
const listeners = [];

const byId = (id) => document.getElementById(id);

function unpack(id) {
  const letters = atob(byId(id).textContent);
  const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}

const unpackJson = (id) => unpack(id).json();

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function button(text, act) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

const numberOf = (key) => (state.has(key) ? Number(state.get(key)) : null);
const chosen = () => ({ layer: numberOf("layer"), expert: numberOf("expert") });

/** Change what is chosen, tell every part of it, and keep it in the URL; null takes a key out. */
function choose(changes) {
  const keys = Object.keys(changes).filter((key) => String(changes[key] ?? "") !== (state.get(key) ?? ""));
  for (const key of keys) {
    if (changes[key] === null || changes[key] === "") state.delete(key);
    else state.set(key, String(changes[key]));
  }
  if (!keys.length) return;
  writeHash();
  for (const listen of listeners) listen(new Set(keys));
}

function writeHash() {
  const hash = `#${new URLSearchParams([...state])}`;
  try { history.replaceState(null, "", hash); } catch { location.hash = hash; }
}

function readHash() {
  const read = new Map([...new URLSearchParams(location.hash.slice(1))].filter(([key, value]) => KNOWN.test(`${key}=${value}`)));
  const plain = location.hash.slice(1);
  if (plain && !plain.includes("=") && byId(plain)) read.set("at", plain);
  return read;
}

function followHash() {
  const read = readHash();
  const changes = Object.fromEntries([...state.keys()].map((key) => [key, null]));
  choose({ ...changes, ...Object.fromEntries(read) });
}

/** Links within the page keep what is chosen in the hash, and Back leads to where they were. */
function followLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    try { history.pushState(null, "", location.href); } catch { /* a page without a history */ }
    choose({ at: null });
    choose({ at: link.getAttribute("href").slice(1) });
  });
  listeners.push((keys) => { if (keys.has("at")) goTo(state.get("at")); });
}

function goTo(id) {
  const target = id && byId(id);
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function followTheme() {
  const select = document.querySelector("select[name=theme]");
  const set = () => {
    const theme = state.get("theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    select.value = document.documentElement.dataset.theme || "";
  };
  select.addEventListener("change", () => choose({ theme: select.value }));
  listeners.push((keys) => { if (keys.has("theme")) set(); });
  set();
}

/** The bar with the layer and expert that are chosen, and what the tables say of them. */
function chosenBar() {
  const bar = byId("chosen");
  const [layer, expert] = ["chosen-layer", "chosen-expert"].map((name) => bar.querySelector(`[name=${name}]`));
  const show = () => {
    layer.value = state.get("layer") ?? "";
    expert.value = state.get("expert") ?? "";
    bar.classList.toggle("active", state.has("layer"));
    tellFacts();
  };
  layer.addEventListener("change", () => choose({ layer: layer.value, ...(layer.value ? {} : { expert: null }) }));
  expert.addEventListener("change", () => choose({ expert: expert.value, layer: layer.value || layer.options[1].value }));
  bar.querySelector("[name=clear]").addEventListener("click", () => choose({ layer: null, expert: null }));
  listeners.push((keys) => { if (keys.has("layer") || keys.has("expert")) show(); });
  bar.hidden = false;
  show();
}

async function tellFacts() {
  const told = byId("chosen-facts");
  const { layer, expert } = chosen();
  if (layer === null || expert === null) {
    told.textContent = layer === null
      ? "Choose a layer and an expert here, in a figure, a table or a token: it is marked everywhere."
      : `Layer ${layer} is marked everywhere.`;
    return;
  }
  const said = [];
  const views = [...document.querySelectorAll(".tables")];
  for (const view of views) {
    const facts = await expertFacts(view.dataset.suffix, layer, expert);
    said.push(views.length > 1 ? `Study ${said.length + 1}: ${facts}` : facts);
  }
  if (chosen().layer === layer && chosen().expert === expert) {
    told.textContent = `Layer ${layer}, expert ${expert}. ${said.join(" ")}`;
  }
}

async function expertFacts(suffix, layer, expert) {
  const { usage, experts } = await tablesOf(suffix);
  const percent = (share) => `${(100 * share).toFixed(2)} %`;
  const said = [];
  for (const name of ["benchmark", "organic"]) {
    const row = usage ? rowWhere(usage, { layer, expert, condition: name }) : -1;
    if (row >= 0) said.push(`${percent(usage.usage[row])} of ${name} slots`);
  }
  const row = experts ? rowWhere(experts, { layer, expert }) : -1;
  const effect = row >= 0 ? experts.surface_adjusted_effect[row] : null;
  if (effect !== null) {
    const q = experts.surface_adjusted_q_bh[row];
    said.push(`beyond the surface ${effect > 0 ? "+" : ""}${(100 * effect).toFixed(2)} points` +
      (q === null ? "" : `, q = ${q.toPrecision(2)}`));
  }
  return said.length ? `${said.join("; ")}.` : "No numbers of this expert.";
}

function rowWhere(table, wanted) {
  const keys = Object.keys(wanted);
  const n = table[keys[0]].length;
  for (let row = 0; row < n; row += 1) if (keys.every((key) => table[key][row] === wanted[key])) return row;
  return -1;
}
