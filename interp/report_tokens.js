/* The token view: a prompt and another wording of it, each token with its experts. */

const MARKS = { " ": "·", "\t": "→", "\n": "⏎", "\r": "␍", "\u00a0": "⍽" };
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/u;
const N_COLOURS = 6;

/** Text of a token, with spaces seen, and marks that would turn the line shown by their number. */
function fillToken(span, text) {
  if (text === "") span.append(element("i", "", "∅"));
  let plain = "";
  for (const letter of text) {
    const mark = MARKS[letter] ?? (UNSEEN.test(letter) ? `⟨U+${letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩` : null);
    if (mark === null) { plain += letter; continue; }
    span.append(plain, element("i", "", mark));
    plain = "";
    if (letter === "\n") span.append(element("br"));
  }
  span.append(plain);
}

/** Gives each prompt its experts and weights, which lie behind each other: see token_view.py. */
async function unpackStrips(suffix) {
  const all = await unpackJson(`tokens${suffix}-json`);
  const buffer = await unpack(`tokens${suffix}-routing`).arrayBuffer();
  const sizes = all.prompts.map((prompt) => prompt.texts.length * all.layers.length * all.topK);
  const n = sizes.reduce((sum, size) => sum + size, 0);
  const experts = all.expertBytes === 1 ? new Uint8Array(buffer, 0, n) : new Uint16Array(buffer, 0, n);
  const [low, high] = [0, 1].map((part) => new Uint8Array(buffer, n * (all.expertBytes + part), n));
  let start = 0;
  all.prompts.forEach((prompt, place) => {
    const from = start;
    start += sizes[place];
    prompt.slot = (index) => ({
      expert: experts[from + index], weight: (low[from + index] + 256 * high[from + index]) / all.weightSteps,
    });
  });
  return all;
}

/** One prompt as a strip of tokens; `slots(token)` are its experts in the layer that is shown. */
class Strip {
  constructor(box, all, layerIndex) {
    this.box = box.querySelector(".tokens");
    this.note = box.querySelector(".token-note");
    this.select = box.querySelector("select");
    this.all = all;
    this.layerIndex = layerIndex;
    this.current = -1;
    this.box.addEventListener("mouseover", (event) => {
      const span = event.target.closest(".token");
      if (span) showTip(this, span); else hideTip();
    });
    this.box.addEventListener("mouseleave", hideTip);
    this.box.addEventListener("scroll", placeTip, { passive: true });
    this.box.addEventListener("blur", () => this.leave());
    this.box.addEventListener("click", (event) => this.pick(event.target.closest(".token")));
    this.box.addEventListener("keydown", (event) => this.press(event));
  }

  show(row) {
    if (this.prompt === this.all.prompts[row]) return;
    this.prompt = this.all.prompts[row];
    this.select.value = String(row);
    this.current = -1;
    this.spans = this.prompt.texts.map((text, token) => {
      const span = element("span", this.prompt.segments[token] === "template" ? "token template" : "token");
      span.dataset.token = token;
      fillToken(span, text);
      return span;
    });
    this.box.replaceChildren(...this.spans.flatMap((span, token) => (/^\s/.test(this.prompt.texts[token]) ? [element("wbr"), span] : [span])));
    this.box.scrollTop = 0;
  }

  slots(token) {
    const start = (this.layerIndex() * this.prompt.texts.length + token) * this.all.topK;
    return Array.from({ length: this.all.topK }, (_, rank) => this.prompt.slot(start + rank));
  }

  paint(colours, expert) {
    let served = 0;
    this.spans.forEach((span, token) => {
      const slots = this.slots(token);
      const mine = slots.find((slot) => slot.expert === expert);
      span.dataset.expert = slots[0].expert;
      span.classList.toggle("chosen", Boolean(mine));
      span.style.setProperty("--strength", mine ? `${Math.round(25 + 65 * mine.weight)}%` : "");
      span.dataset.colour = expert === null ? colours.get(slots[0].expert) ?? "rest" : "";
      served += mine ? 1 : 0;
    });
    this.box.classList.toggle("lit", expert !== null);
    const [n, all, mine] = [this.spans.length, this.prompt.nTokens, served].map((count) => count.toLocaleString("en"));
    this.note.textContent = `${this.prompt.condition}, ${n === all ? "" : `the first ${n} of `}${all} tokens` +
      (expert === null ? "" : `; expert ${expert} serves ${mine} of ${n}`);
  }

  pick(span) {
    if (!span) return;
    const layer = this.all.layers[this.layerIndex()];
    const expert = Number(span.dataset.expert);
    const same = chosen().layer === layer && chosen().expert === expert;
    choose(same ? { layer: null, expert: null } : { layer, expert });
    showTip(this, span);
  }

  press(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") { this.leave(); choose({ layer: null, expert: null }); }
    if (event.key === "Enter" && this.current >= 0) this.pick(this.spans[this.current]);
    if (!by) return;
    event.preventDefault();
    if (this.current >= 0) this.spans[this.current].classList.remove("current");
    this.current = Math.min(this.spans.length - 1, Math.max(0, this.current + by));
    const span = this.spans[this.current];
    span.classList.add("current");
    span.scrollIntoView({ block: "nearest" });
    showTip(this, span);
  }

  leave() {
    hideTip();
    if (this.current >= 0) this.spans[this.current].classList.remove("current");
    this.current = -1;
  }
}

let tipped = null;

function hideTip() {
  tipped = null;
  byId("token-tip").hidden = true;
}

function showTip(strip, span) {
  const token = Number(span.dataset.token);
  const { prompt, all } = strip;
  const list = element("ol");
  for (const { expert, weight } of strip.slots(token)) {
    const item = element("li", expert === chosen().expert ? "chosen" : "");
    item.append(element("span", "", `expert ${expert}`), element("span", "weight", weight.toFixed(3)));
    list.append(item);
  }
  const where = `id ${prompt.ids[token]} · position ${prompt.positions[token]} · ${prompt.segments[token]}` +
    `${prompt.generated[token] ? ", generated" : ""} · layer ${all.layers[strip.layerIndex()]}`;
  const piece = element("div", "piece");
  fillToken(piece, prompt.texts[token].slice(0, 200));
  byId("token-tip").replaceChildren(piece, element("div", "where", where), list);
  byId("token-tip").hidden = false;
  tipped = span;
  placeTip();
}

function placeTip() {
  if (!tipped) return;
  const tip = byId("token-tip");
  const at = tipped.getClientRects()[0] || tipped.getBoundingClientRect();
  const below = at.bottom + 8 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(12, Math.min(at.left, innerWidth - tip.offsetWidth - 12))}px`;
  tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - 8 - tip.offsetHeight)}px`;
}

/** The row of another wording: the same item under the other condition, else any other of it. */
function pairedRow(prompts, row) {
  const mine = prompts[row];
  const others = prompts.map((_, other) => other).filter((other) => other !== row);
  const same = others.filter((other) => mine.item && prompts[other].item === mine.item);
  const wanted = mine.condition === "organic" ? "benchmark" : "organic";
  const choices = [...same.filter((other) => prompts[other].condition === wanted), ...same,
    ...others.filter((other) => prompts[other].condition === wanted), ...others];
  return choices.length ? choices[0] : row;
}

async function tokenView(view) {
  const suffix = view.dataset.suffix;
  const all = await unpackStrips(suffix);
  const layerSelect = view.querySelector("select[name=layer]");
  const legend = view.querySelector(".legend");
  const strips = [...view.querySelectorAll(".strip")].map((box) => new Strip(box, all, () => layerSelect.selectedIndex));
  const keys = [`prompt${suffix}`, `beside${suffix}`];
  const rowOf = (key) => {
    const row = numberOf(key);
    return row !== null && row in all.prompts ? row : null;
  };

  function show() {
    const first = rowOf(keys[0]) ?? 0;
    const rows = [first, rowOf(keys[1]) ?? pairedRow(all.prompts, first)];
    const { layer, expert } = chosen();
    const index = all.layers.indexOf(layer);
    if (index >= 0) layerSelect.selectedIndex = index;
    strips.forEach((strip, place) => strip.show(rows[place]));
    const counts = countExperts();
    const colours = new Map(counts.slice(0, N_COLOURS).map(([busy], place) => [busy, String(place)]));
    strips.forEach((strip) => strip.paint(colours, index >= 0 ? expert : null));
    showLegend(counts, colours, index >= 0 ? expert : null);
    hideTip();
  }

  function countExperts() {
    const counts = new Map();
    for (const strip of strips) {
      strip.spans.forEach((span, token) => {
        const { expert } = strip.slots(token)[0];
        if (!span.classList.contains("template")) counts.set(expert, (counts.get(expert) || 0) + 1);
      });
    }
    return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  function showLegend(counts, colours, lit) {
    const layer = all.layers[layerSelect.selectedIndex];
    legend.replaceChildren(...counts.map(([expert, count]) => {
      const made = button(`expert ${expert} `, () => choose(lit === expert ? { layer, expert: null } : { layer, expert }));
      made.dataset.expert = expert;
      made.dataset.colour = colours.get(expert) ?? "rest";
      made.setAttribute("aria-pressed", String(lit === expert));
      made.append(element("span", "count", `× ${count}`));
      return made;
    }));
  }

  strips.forEach((strip, place) => strip.select.addEventListener("change", () =>
    choose(place ? { [keys[1]]: strip.select.value } : { [keys[0]]: strip.select.value, [keys[1]]: null })));
  layerSelect.addEventListener("change", () => choose({ layer: layerSelect.value, expert: null }));
  listeners.push((changed) => { if ([...keys, "layer", "expert"].some((key) => changed.has(key))) show(); });
  show();
}

addEventListener("scroll", placeTip, { passive: true });
document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".tokens")) hideTip(); });
