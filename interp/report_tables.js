/* The tables: rows by the hundred, sorted by a click on a heading, saved as CSV with all digits. */

const ROWS_AT_ONCE = 200;
const unpackedTables = new Map();

function tablesOf(suffix) {
  if (!unpackedTables.has(suffix)) unpackedTables.set(suffix, unpackJson(`tables-json${suffix}`));
  return unpackedTables.get(suffix);
}

const shown = (value) => {
  if (value === null) return "";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(5)));
};

function compared(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

/** One table: `columns` are its columns by name. */
class Table {
  constructor(box, columns, suffix) {
    this.box = box;
    this.id = box.id;
    this.columns = columns;
    this.names = Object.keys(columns);
    this.order = columns[this.names[0]].map((_, row) => row);
    const tools = element("div", "tools");
    this.more = button("", () => this.append());
    this.body = element("tbody");
    tools.append(button("Save as CSV", () => saveText(`${box.dataset.table}${suffix}.csv`, this.csv())));
    const scroll = element("div", "scroll");
    scroll.tabIndex = 0;
    const table = element("table");
    table.append(this.head(), this.body);
    scroll.append(table);
    box.append(tools, scroll, this.more);
    this.body.addEventListener("click", (event) => this.pick(event.target.closest("tr")));
    this.body.addEventListener("keydown", (event) => { if (event.key === "Enter") this.pick(event.target.closest("tr")); });
    this.sort(...this.sortOfState());
  }

  head() {
    const row = element("tr");
    this.heads = this.names.map((name) => {
      const cell = element("th");
      cell.append(button(name, () => choose({ table: this.id, sort: this.next(name) })));
      row.append(cell);
      return cell;
    });
    const head = element("thead");
    head.append(row);
    return head;
  }

  next(name) { return this.sorted === name && !this.falls ? `-${name}` : name; }

  sortOfState() {
    const sort = state.get("table") === this.id ? state.get("sort") ?? "" : "";
    const falls = sort.startsWith("-");
    return [falls ? sort.slice(1) : sort, falls];
  }

  sort(name, falls) {
    const values = this.columns[name];
    this.sorted = values ? name : "";
    this.falls = falls;
    this.order.sort((a, b) => a - b);
    const none = (row) => values[row] === null;
    if (values) this.order.sort((a, b) => none(a) - none(b) || (falls ? -1 : 1) * compared(values[a], values[b]) || a - b);
    this.heads.forEach((head, place) => {
      const is = this.names[place] === this.sorted;
      head.setAttribute("aria-sort", is ? (falls ? "descending" : "ascending") : "none");
    });
    this.body.replaceChildren();
    this.append();
  }

  append() {
    const start = this.body.children.length;
    this.body.append(...this.order.slice(start, start + ROWS_AT_ONCE).map((row) => this.row(row)));
    const left = this.order.length - this.body.children.length;
    this.more.textContent = `${left.toLocaleString("en")} more rows`;
    this.more.hidden = left === 0;
    this.mark();
  }

  row(index) {
    const made = element("tr");
    for (const name of this.names) {
      const value = this.columns[name][index];
      made.append(element("td", typeof value === "number" || value === null ? "number" : "", shown(value)));
    }
    const { layer, expert } = this.columns;
    if (layer && Number.isInteger(layer[index])) {
      made.dataset.layer = layer[index];
      if (expert && Number.isInteger(expert[index])) made.dataset.expert = expert[index];
      made.tabIndex = 0;
    }
    return made;
  }

  pick(row) {
    if (row && row.dataset.layer) choose({ layer: row.dataset.layer, expert: row.dataset.expert ?? null });
  }

  mark() {
    const { layer, expert } = chosen();
    for (const row of this.body.children) {
      const is = layer !== null && Number(row.dataset.layer) === layer &&
        (expert === null || row.dataset.expert === undefined || Number(row.dataset.expert) === expert);
      row.classList.toggle("chosen", is);
    }
  }

  csv() {
    const lines = [this.names, ...this.order.map((row) => this.names.map((name) => this.columns[name][row]))];
    return `${lines.map((line) => line.map(csvCell).join(",")).join("\r\n")}\r\n`;
  }
}

/** A cell of RFC 4180; a text that a spreadsheet would run as a formula has a quote before it. */
function csvCell(value) {
  if (value === null) return "";
  if (typeof value !== "string") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function saveText(name, text) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function followTables(view) {
  const { suffix } = view.dataset;
  const open = new Map();
  const fill = async (box) => {
    if (!box.open || open.has(box)) return;
    open.set(box, null);
    const tables = await tablesOf(suffix);
    open.set(box, new Table(box, tables[box.dataset.table], suffix));
  };
  for (const box of view.querySelectorAll("details.table")) box.addEventListener("toggle", () => fill(box));
  const openChosen = () => {
    const box = state.has("table") && byId(state.get("table"));
    if (box && view.contains(box)) box.open = true;
  };
  listeners.push((keys) => {
    if (keys.has("table")) openChosen();
    for (const table of open.values()) {
      if (!table) continue;
      if ((keys.has("sort") || keys.has("table")) && state.get("table") === table.id) table.sort(...table.sortOfState());
      if (keys.has("layer") || keys.has("expert")) table.mark();
    }
  });
  openChosen();
}
