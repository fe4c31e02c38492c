// Draws the charts when they come into view, and runs tabs, sortable tables, filters and the switch of light and dark.

const root = document.documentElement;
const charts = JSON.parse(document.getElementById("charts").textContent);
const drawn = new Map();

const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();

/** Return a copy of a specification with the colors of the current mode. */
function colored(part) {
  if (typeof part === "string") {
    const variable = /^var\((--[\w-]+)\)$/.exec(part);
    return variable ? color(variable[1]) : part;
  }
  if (Array.isArray(part)) return part.map(colored);
  if (part === null || typeof part !== "object") return part;
  // Data are names from files: they stay as they are.
  return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, key === "values" ? value : colored(value)]));
}

function config() {
  const [ink, muted, line] = ["--ink", "--muted", "--line"].map(color);
  const font = color("--font");
  return {
    aria: false, // of thousands of marks
    background: "transparent",
    font,
    view: { stroke: null },
    axis: {
      labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line,
      labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 10, labelPadding: 6,
    },
    legend: { labelColor: ink, titleColor: muted, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    text: { fontSize: 12 },
    line: { strokeWidth: 2 },
  };
}

async function draw(plot) {
  const { spec, height } = charts[plot.dataset.chart];
  drawn.get(plot)?.finalize();
  const sized = { ...colored(spec), width: "container", height: "container", autosize: { type: "fit", contains: "padding" } };
  const options = {
    mode: "vega-lite", renderer: "svg", ast: true, config: config(), hover: false,
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: "tfopt", tooltip: { theme: "custom" },
  };
  plot.style.height = `${height}px`;
  const result = await window.vegaEmbed(plot, sized, options);
  drawn.set(plot, result);
  // The drawing is one picture with a label, and not the box around it, which also has a menu.
  const svg = plot.querySelector("svg.marks");
  for (const part of svg.querySelectorAll("[role]")) part.removeAttribute("role");
  for (const part of svg.querySelectorAll("[aria-roledescription]")) part.removeAttribute("aria-roledescription");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", plot.dataset.text);
  plot.removeAttribute("role");
  plot.removeAttribute("aria-label");
  plot.querySelector("summary")?.setAttribute("aria-label", "Save this chart");
  plot.dataset.state = "drawn";
}

const waiting = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting || target.offsetWidth === 0) continue;
    waiting.unobserve(target);
    draw(target).catch((error) => {
      target.dataset.state = "failed";
      target.textContent = "This chart could not be drawn.";
      console.error(error);
    });
  }
}, { rootMargin: "200px" });

/** Show the data of a chart as a table, for those who cannot see it or want the numbers. */
function dataTables(figures) {
  for (const figure of figures) {
    const plot = figure.querySelector(".plot");
    const details = document.createElement("details");
    details.className = "data";
    const summary = document.createElement("summary");
    summary.textContent = "Data";
    details.append(summary);
    details.addEventListener("toggle", () => fill(details, plot), { once: true });
    figure.append(details);
  }
}

function fill(details, plot) {
  const { spec } = charts[plot.dataset.chart];
  const layers = [spec, ...(spec.layer ?? [])].filter((layer) => layer.data);
  const rows = layers.map((layer) => layer.data.values).reduce((a, b) => (b.length > a.length ? b : a), []);
  const table = document.createElement("table");
  const columns = Object.keys(rows[0] ?? {});
  const add = (parent, cells, kind) => {
    const row = parent.insertRow();
    for (const cell of cells) {
      const element = document.createElement(kind);
      element.textContent = typeof cell === "number" ? String(Number(cell.toPrecision(6))) : String(cell ?? "-");
      if (kind === "th") element.scope = "col";
      row.append(element);
    }
  };
  add(table.createTHead(), columns, "th");
  const body = table.createTBody();
  for (const row of rows) add(body, columns.map((column) => row[column]), "td");
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `Data: ${plot.dataset.text.slice(0, 80)}`);
  scroll.append(table);
  details.append(scroll);
}

function tabs(list) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const each of all) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
    }
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab);
  });
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const tab = all[(to + all.length) % all.length];
    choose(tab);
    tab.focus();
  });
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * compared(a.cells[column], b.cells[column]));
      body.append(...rows);
    });
  });
}

function compared(one, other) {
  const [a, b] = [one, other].map((cell) => cell.dataset.value ?? cell.textContent.trim());
  const [x, y] = [a, b].map((text) => Number.parseFloat(text.replaceAll(",", "")));
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
}

/** Mark the link of the section in view. */
function follow(links) {
  const sections = new Map(links.map((link) => [document.querySelector(link.hash), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      links.forEach((link) => link.removeAttribute("aria-current"));
      const link = sections.get(target);
      link.setAttribute("aria-current", "true");
      link.parentElement.scrollTo({ left: link.offsetLeft - 80, behavior: "smooth" });
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  sections.forEach((_, section) => section && seen.observe(section));
}

function redraw() {
  for (const [plot, result] of [...drawn]) {
    if (plot.offsetWidth) {
      draw(plot);
      continue;
    }
    result.finalize(); // behind a tab it would get no width: it waits until it is in view
    drawn.delete(plot);
    plot.replaceChildren();
    delete plot.dataset.state;
    waiting.observe(plot);
  }
}

function theme(button) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try {
      if (value) localStorage.setItem("tfopt-theme", value);
      return localStorage.getItem("tfopt-theme");
    } catch {
      return null; // a page from a file may have no storage
    }
  };
  const stored = kept();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  button.addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    kept(root.dataset.theme);
    redraw();
  });
  dark.addEventListener("change", redraw);
}

/** Hide the rows of settings that are equal in all results. */
function onlyDifferences(box) {
  const table = document.getElementById(box.getAttribute("aria-controls"));
  const show = () => table.classList.toggle("different-only", box.checked);
  box.addEventListener("change", show);
  show();
}

theme(document.getElementById("theme"));
document.querySelectorAll("[role=tablist]").forEach(tabs);
document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll("input[data-only-differences]").forEach(onlyDifferences);
dataTables(document.querySelectorAll("figure.chart"));
document.querySelectorAll(".plot").forEach((plot) => waiting.observe(plot));
follow([...document.querySelectorAll("header nav a")]);
window.addEventListener("beforeprint", () => document.querySelectorAll(".plot").forEach((plot) => plot.offsetWidth && !drawn.has(plot) && draw(plot)));
