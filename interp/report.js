"use strict";
/* Draws the figures and the token view from the JSON in the page. Text enters the page through
   textContent only, so a prompt can hold any markup. */

function readJson(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function drawFigures() {
  const options = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { scale: 2 },
  };
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = plots.map((plot) => {
    const figure = readJson(plot.dataset.figure);
    return Plotly.newPlot(plot, figure.data, figure.layout, options);
  });
  const resize = () => plots.forEach((plot) => Plotly.Plots.resize(plot));
  window.addEventListener("beforeprint", resize);
  window.addEventListener("afterprint", resize);
  return Promise.all(drawn);
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function unpack(base64, bytes) {
  const raw = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return bytes === 1 ? raw : new Uint16Array(raw.buffer);
}

const MARKS = { " ": "·", "\t": "→", "\n": "⏎", "\r": "␍", "\u00a0": "⍽" };

function fillToken(span, text) {
  if (text === "") span.append(element("i", "", "∅"));
  for (const part of text.split(/([ \t\n\r\u00a0])/)) {
    if (part === "") continue;
    if (!(part in MARKS)) { span.append(part); continue; }
    span.append(element("i", "", MARKS[part]));
    if (part === "\n") span.append(element("br"));
  }
}

function tokenView(view) {
  const box = view.querySelector(".tokens");
  const legend = view.querySelector(".legend");
  const note = view.querySelector(".token-note");
  const promptSelect = view.querySelector("select[name=prompt]");
  const layerSelect = view.querySelector("select[name=layer]");
  const tip = document.getElementById("token-tip");
  const all = readJson("token-view-json");
  let prompt = null, experts = null, weights = null, lit = null, current = -1, tipped = null;

  function slot(token) {
    const start = (layerSelect.selectedIndex * prompt.texts.length + token) * all.topK;
    return Array.from({ length: all.topK }, (_, rank) => ({
      expert: experts[start + rank],
      weight: weights[start + rank] / all.weightSteps,
    }));
  }

  function showPrompt() {
    prompt = all.prompts[Number(promptSelect.value)];
    experts = unpack(prompt.experts, all.expertBytes);
    weights = unpack(prompt.weights, 2);
    current = -1;
    box.replaceChildren();
    prompt.texts.forEach((text, token) => {
      if (/^\s/.test(text)) box.append(element("wbr"));
      const span = element("span", prompt.segments[token] === "template" ? "token template" : "token");
      span.dataset.token = token;
      fillToken(span, text);
      box.append(span);
    });
    box.scrollTop = 0;
    const cut = prompt.nTokens > prompt.texts.length;
    note.textContent = (cut ? `The first ${prompt.texts.length} of ` : "") + `${prompt.nTokens} tokens, ` +
      `${prompt.condition} condition. Grey tokens belong to the chat template.`;
    showLayer();
  }

  function spans() { return [...box.querySelectorAll(".token")]; }

  function showLayer() {
    const counts = new Map();
    for (const span of spans()) {
      const first = slot(Number(span.dataset.token))[0].expert;
      span.dataset.expert = first;
      span.style.backgroundColor = all.colors[first];
      if (!span.classList.contains("template")) counts.set(first, (counts.get(first) || 0) + 1);
    }
    const ordered = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    legend.replaceChildren(...ordered.map(([expert, count]) => legendButton(expert, count)));
    light(null);
    tip.hidden = true;
  }

  function legendButton(expert, count) {
    const button = element("button", "", `expert ${expert} `);
    button.type = "button";
    button.dataset.expert = expert;
    button.style.backgroundColor = all.colors[expert];
    button.append(element("span", "count", `× ${count}`));
    button.addEventListener("click", () => light(lit === expert ? null : expert));
    return button;
  }

  function light(expert) {
    lit = expert;
    box.classList.toggle("lit", expert !== null);
    for (const span of spans()) span.classList.toggle("chosen", Number(span.dataset.expert) === expert);
    for (const button of legend.children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.expert) === expert));
    }
  }

  function showTip(span) {
    const token = Number(span.dataset.token);
    const list = element("ol");
    for (const { expert, weight } of slot(token)) {
      const item = element("li");
      const swatch = element("span", "swatch");
      swatch.style.backgroundColor = all.colors[expert];
      item.append(swatch, element("span", "", `expert ${expert}`), element("span", "weight", weight.toFixed(3)));
      list.append(item);
    }
    const where = `id ${prompt.ids[token]} · position ${prompt.positions[token]} · ` +
      `${prompt.segments[token]}${prompt.generated[token] ? ", generated" : ""} · ` +
      `layer ${all.layers[layerSelect.selectedIndex]}`;
    tip.replaceChildren(
      element("div", "piece", JSON.stringify(prompt.texts[token])), element("div", "where", where), list,
    );
    tip.hidden = false;
    tipped = span;
    placeTip();
  }

  function placeTip() {
    if (tip.hidden) return;
    const at = tipped.getClientRects()[0] || tipped.getBoundingClientRect();
    const below = at.bottom + 8 + tip.offsetHeight < window.innerHeight;
    const left = Math.min(at.left, window.innerWidth - tip.offsetWidth - 12);
    tip.style.left = `${Math.max(12, left)}px`;
    tip.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - 8 - tip.offsetHeight)}px`;
  }

  function step(by) {
    const tokens = spans();
    if (current >= 0) tokens[current].classList.remove("current");
    current = Math.min(tokens.length - 1, Math.max(0, current + by));
    tokens[current].classList.add("current");
    tokens[current].scrollIntoView({ block: "nearest" });
    showTip(tokens[current]);
  }

  function leave() {
    tip.hidden = true;
    if (current >= 0) spans()[current].classList.remove("current");
    current = -1;
  }

  box.addEventListener("mouseover", (event) => {
    const span = event.target.closest(".token");
    if (span) showTip(span); else tip.hidden = true;
  });
  box.addEventListener("mouseleave", () => { tip.hidden = true; });
  box.addEventListener("scroll", placeTip, { passive: true });
  box.addEventListener("blur", leave);
  box.addEventListener("click", (event) => {
    const span = event.target.closest(".token");
    if (!span) return;
    const expert = Number(span.dataset.expert);
    light(lit === expert ? null : expert);
    showTip(span);
  });
  box.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") { leave(); light(null); }
    if (by) { event.preventDefault(); step(by); }
  });
  promptSelect.addEventListener("change", showPrompt);
  layerSelect.addEventListener("change", showLayer);
  window.addEventListener("scroll", placeTip, { passive: true });
  document.addEventListener("pointerdown", (event) => { if (!box.contains(event.target)) tip.hidden = true; });
  showPrompt();
}

const view = document.querySelector(".token-view");
if (view) tokenView(view);
drawFigures().then(() => { document.documentElement.dataset.drawn = "true"; });
