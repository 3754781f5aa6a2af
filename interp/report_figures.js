/* Draws the figures, marks in each what is chosen, and saves them as pictures. */

/* Colours of figure_style.py on a light page, and what takes their place on a dark one. */
const DARK = {
  "#1f2937": "#e4e8ee", "#5b6472": "#a9b3c1", "#e5e7eb": "#2f3845", "#ffffff": "#1f2733",
  "#c5cad3": "#4b5767", "#9aa3b0": "#7d8898", "#111111": "#ffffff", "#1b3a5c": "#8fbce6",
  "#0072b2": "#3d9fe0", "#d55e00": "#ee7a22", "#009e73": "#1bb98b", "#7a8494": "#8f99a8",
  "#f7f9fb": "#1b222c", "#c1d7e7": "#1d3a52", "#89b6d3": "#22547c", "#5b93be": "#2f74a6",
  "#2c71a5": "#5496c6", "#1b507f": "#8dbce0", "#08305c": "#d3e8f8",
  "#873300": "#ffc397", "#c0550d": "#f09454", "#e38844": "#b8612a", "#f6bf95": "#64391f",
  "#f8f8f6": "#1b222c", "#aecfe5": "#1f4361", "#62a6d0": "#2f76a8", "#337aae": "#6aabda",
  "#114f89": "#b3d7f2",
};
const MARK = "#cc2f7b";
const TRANSLUCENT = { "0, 114, 178": "61, 159, 224", "213, 94, 0": "238, 122, 34" };

function recoloured(value) {
  if (typeof value === "string") {
    const swapped = DARK[value.toLowerCase()];
    if (swapped) return swapped;
    return value.startsWith("rgba(")
      ? value.replace(/\d+, \d+, \d+/, (channels) => TRANSLUCENT[channels] || channels)
      : value;
  }
  if (Array.isArray(value)) return value.map(recoloured);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recoloured(inner)]));
}

const figures = new Map();

async function figureOf(name) {
  if (!figures.has(name)) figures.set(name, await unpackJson(`figure-${name}`));
  return figures.get(name);
}

/** A copy of a figure with the view that is chosen. */
function inView(figure, name) {
  const [data, layout] = [structuredClone(figure.data), structuredClone(figure.layout)];
  const menu = (layout.updatemenus || [])[0];
  const view = menu && menu.buttons[numberOf(`view.${name}`) ?? menu.active];
  if (view) {
    menu.active = menu.buttons.indexOf(view);
    data.forEach((trace, index) => { trace.visible = view.args[0].visible[index]; });
  }
  return { data, layout, label: view ? view.label : "" };
}

async function drawFigure(plot) {
  const name = plot.dataset.figure;
  const { data, layout } = inView(await figureOf(name), name);
  const menu = (layout.updatemenus || [])[0];
  viewButtons(plot, name, menu);
  for (const key of ["title", "height", "updatemenus"]) delete layout[key];
  layout.autosize = true;
  layout.margin.t = Number(plot.dataset.top);
  const drawn = isDark() ? recoloured({ data, layout }) : { data, layout };
  plot.ownShapes = drawn.layout.shapes || [];
  plot.ownColours = null;
  const options = { responsive: true, displayModeBar: false, showSendToCloud: false };
  await Plotly.react(plot, drawn.data, drawn.layout, options);
  if (!plot.isFollowed) followPlot(plot, name);
  await markFigure(plot);
}

/** The buttons of a figure as buttons of the page, which a keyboard reaches and a phone can wrap. */
function viewButtons(plot, name, menu) {
  if (!menu) return;
  const group = plot.closest("figure").querySelector(".views");
  const made = menu.buttons.map(({ label }, index) => {
    const each = group.children[index] || button(label, () => choose({ [`view.${name}`]: index }));
    each.setAttribute("aria-pressed", String(index === menu.active));
    return each;
  });
  if (!group.children.length) group.append(...made);
}

function followPlot(plot, name) {
  plot.isFollowed = true;
  plot.on("plotly_click", (event) => {
    const [layer, expert] = placeOf(event.points[0]);
    if (Number.isInteger(layer)) choose({ layer, expert });
  });
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key];
    if (event.key === "Escape") choose({ layer: null, expert: null });
    if (!step) return;
    event.preventDefault();
    stepChoice(...step);
  });
}

function stepChoice(layers, experts) {
  const [layer, expert] = ["chosen-layer", "chosen-expert"].map((name) => document.querySelector(`[name=${name}]`));
  const next = (select, by) => {
    const index = Math.min(select.options.length - 1, Math.max(1, select.selectedIndex + by));
    return select.options[index].value;
  };
  choose({ layer: next(layer, layers), expert: next(expert, experts) });
}

function placeOf(point) {
  const given = point.customdata ?? (point.node && point.node.customdata);
  return Array.isArray(given) || ArrayBuffer.isView(given) ? [given[0], given[1] ?? null] : [];
}

/** Ring, frame or band around all that stands for the chosen expert or layer. */
async function markFigure(plot) {
  const { layer, expert } = chosen();
  const marks = plot._fullData.flatMap((trace) => {
    if (trace.visible !== true || layer === null || trace.type === "sankey") return [];
    return (trace.type === "heatmap" ? cellMarks : pointMarks)(trace, layer, expert);
  });
  const shapes = new Map(marks.map((shape) => [JSON.stringify(shape), shape]));
  await Plotly.relayout(plot, { shapes: [...plot.ownShapes, ...shapes.values()] });
  plot.dataset.marked = String(shapes.size + await markNodes(plot, layer, expert));
}

/** Experts of a Sankey diagram are marked by colour; gives how many there are. */
async function markNodes(plot, layer, expert) {
  const place = plot._fullData.findIndex((trace) => trace.type === "sankey");
  if (place < 0) return 0;
  const nodes = plot._fullData[place].node;
  plot.ownColours ??= nodes.color;
  const is = Array.from(nodes.customdata, (given) => given[0] === layer && (expert === null || given[1] === expert));
  const colours = is.map((mine, node) => (mine ? MARK : plot.ownColours[node]));
  await Plotly.restyle(plot, { "node.color": [colours] }, [place]);
  return is.filter(Boolean).length;
}

const isOf = (given, layer, expert) => given && given[0] === layer && Object.is(given[1], expert);

function cellMarks(trace, layer, expert) {
  const marks = [];
  for (let row = 0; row < trace.y.length; row += 1) {
    for (let column = 0; column < trace.x.length; column += 1) {
      const given = trace.customdata[row][column];
      const isRow = expert === null || given[1] === null || Number.isNaN(given[1]);
      if (!isOf(given, layer, isRow ? given[1] : expert)) continue;
      const [first, last] = isRow ? [trace.x[0], trace.x[trace.x.length - 1]] : [trace.x[column], trace.x[column]];
      marks.push({
        type: "rect", xref: trace.xaxis, yref: trace.yaxis, line: { color: MARK, width: 3 },
        x0: first - 0.5, x1: last + 0.5, y0: trace.y[row] - 0.5, y1: trace.y[row] + 0.5,
      });
      if (isRow) break;
    }
  }
  return marks;
}

function pointMarks(trace, layer, expert) {
  if (!trace.customdata) return [];
  const marks = [];
  const ofLayer = [];
  for (let point = 0; point < trace.customdata.length; point += 1) {
    const given = trace.customdata[point];
    if (!given || given[0] !== layer) continue;
    const [x, y] = [trace.x[point], trace.y[point]];
    if (given[1] === null || Number.isNaN(given[1])) ofLayer.push(Number(x));
    else if ((given[1] === expert || expert === null) && y !== null) marks.push(ring(trace, x, y));
  }
  if (ofLayer.length) marks.push(band(trace, Math.round(ofLayer[0])));
  return marks;
}

function ring(trace, x, y) {
  return {
    type: "circle", xref: trace.xaxis, yref: trace.yaxis, xsizemode: "pixel", ysizemode: "pixel",
    xanchor: x, yanchor: y, x0: -10, x1: 10, y0: -10, y1: 10, line: { color: MARK, width: 2.5 },
  };
}

function band(trace, x) {
  return {
    type: "rect", xref: trace.xaxis, yref: `${trace.yaxis} domain`, x0: x - 0.4, x1: x + 0.4, y0: 0, y1: 1,
    layer: "below", line: { width: 0 }, fillcolor: "rgba(204, 47, 123, 0.16)",
  };
}

/** Buttons that save a figure as it is seen, with its title, model and n, on white. */
function saveButtons(group) {
  const plot = group.parentElement.querySelector(".plot");
  for (const format of ["png", "svg"]) {
    const made = button(format.toUpperCase(), () => saveFigure(plot.dataset.figure, format));
    made.setAttribute("aria-label", `${group.getAttribute("aria-label")}, as ${format.toUpperCase()}`);
    group.append(made);
  }
}

async function saveFigure(name, format) {
  const { data, layout, label } = inView(await figureOf(name), name);
  delete layout.updatemenus;
  if (label) layout.title.text += ` (${label.toLowerCase()})`;
  Object.assign(layout, { paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", width: 900 });
  const picture = { format, width: 900, height: layout.height, scale: format === "png" ? 2 : 1, filename: name };
  await Plotly.downloadImage({ data, layout }, picture);
}

/** The figures in view first, then the others one by one, so that the page answers meanwhile. */
async function drawFigures() {
  const plots = [...document.querySelectorAll(".plot")];
  document.querySelectorAll(".saves").forEach(saveButtons);
  const far = (plot) => Math.max(0, plot.getBoundingClientRect().top - innerHeight, -plot.getBoundingClientRect().bottom);
  const ordered = plots.map((plot) => [far(plot), plot]).sort((a, b) => a[0] - b[0]).map(([, plot]) => plot);
  for (const plot of ordered) {
    await drawFigure(plot);
    await new Promise((resume) => { setTimeout(resume); });
  }
  const redraw = () => Promise.all(plots.map(drawFigure));
  listeners.push((keys) => {
    if (keys.has("theme")) { redraw(); return; }
    for (const plot of plots) {
      if (keys.has(`view.${plot.dataset.figure}`)) drawFigure(plot);
      else if (keys.has("layer") || keys.has("expert")) markFigure(plot);
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  const resize = () => plots.forEach((plot) => Plotly.Plots.resize(plot));
  addEventListener("beforeprint", resize);
  addEventListener("afterprint", resize);
}
