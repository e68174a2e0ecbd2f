"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const board = document.getElementById("runs");
const number = new Map(data.runs.map(([id], at) => [id, at]));
const rowOf = new Map([...board.tBodies[0].rows].map((row) => [row.dataset.run, row]));
const tables = {};
const drawn = {};
const options = { ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true } };
const steps = data.trajectories.steps;
let picked = null;

const shown = () => [...rowOf.values()].filter((row) => !row.hidden).map((row) => number.get(row.dataset.run));

const specification = (name, theme) => {
  const spec = structuredClone(data.charts[theme][name]);
  spec.datasets = tables[name];
  const { step } = Object(spec.height); // a step and a width that fits its container exclude each other
  if (step) spec.height = step * new Set(Object.values(tables[name])[0].map((each) => each.y ?? each.what)).size;
  return spec;
};

const draw = async (name, table) => {
  const element = document.getElementById(name);
  if (!element) return;
  tables[name] = table;
  const spec = specification(name, dark.matches ? "dark" : "light");
  const there = Object.values(table)[0].length > 0;
  element.closest("figure").hidden = !there;
  if (!there) return;
  if (drawn[name]) drawn[name].finalize();
  drawn[name] = await vegaEmbed(element, spec, options);
  const { view } = drawn[name];
  if (name === "phase") view.addEventListener("click", (event, item) => item && item.datum && pick(item.datum));
};

const save = (name, text, type) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const saveChart = async (name) => {
  const spec = specification(name, "light");
  if (spec.width === "container") spec.width = 480;
  const { view } = await vegaEmbed(document.createElement("div"), spec, options);
  save(`${name}.svg`, await view.toSVG(), "image/svg+xml");
};

const axis = (id) => document.getElementById(id);
const places = (name) => (name ? data.axes[name] : [""]);
const chosenAxes = () => ["x", "y"].map((id) => (axis(id) && axis(id).value) || null);

const drawPhase = () => {
  if (!axis("x")) return;
  const [x, y] = chosenAxes();
  const names = Object.keys(data.axes);
  const cells = new Map();
  for (const [at, verdicts, sum, count, runs] of data.conditions) {
    const [column, row] = [x, y].map((name) => (name ? at[names.indexOf(name)] : 0));
    const key = `${column} ${row}`;
    if (!cells.has(key)) cells.set(key, { column, row, x: places(x)[column], y: places(y)[row], verdicts: {}, sum: 0, count: 0, ids: [] });
    const cell = cells.get(key);
    for (const [verdict, n] of Object.entries(verdicts)) cell.verdicts[verdict] = (cell.verdicts[verdict] || 0) + n;
    cell.sum += sum;
    cell.count += count;
    cell.ids.push(...runs);
  }
  const list = [...cells.values()].sort((a, b) => b.row - a.row || a.column - b.column);
  for (const cell of list) {
    const counted = Object.entries(cell.verdicts).sort((a, b) => b[1] - a[1]);
    cell.verdict = counted[0][0];
    cell.runs = counted.reduce((total, [, n]) => total + n, 0);
    cell.agreement = counted[0][1] / cell.runs;
    cell.words = counted.map(([verdict, n]) => `${n} ${verdict}`).join(", ");
    cell.label = cell.count ? `${Math.round((100 * cell.sum) / cell.count)}%` : "-";
    cell.title = [[x, cell.x], [y, cell.y]].filter(([name]) => name).map((pair) => pair.join(" ")).join(", ") || "all runs";
  }
  for (const theme of Object.values(data.charts)) {
    const [{ encoding }] = theme.phase.layer;
    for (const layer of theme.phase.layer) {
      layer.encoding.x.sort = places(x);
      layer.encoding.y.sort = [...places(y)].reverse();
      layer.encoding.x.axis = { labelAngle: places(x).join("").length > 60 ? -60 : 0, title: x };
      layer.encoding.y.axis = y ? { title: y } : null;
    }
    encoding.tooltip[0].title = x || " ";
    encoding.tooltip[1].title = y || " ";
  }
  draw("phase", { cells: list });
};

const refilter = () => board.dispatchEvent(new Event("refilter"));

const pick = (cell) => {
  picked = cell && cell.ids ? cell : null;
  const ids = picked && new Set(picked.ids);
  for (const [id, row] of rowOf) row.dataset.out = ids && !ids.has(id) ? "true" : "";
  refilter();
};

const drawShown = () => {
  const runs = shown();
  const every = runs.length === data.runs.length;
  const name = picked ? `${picked.title}: ${runs.length} run${runs.length === 1 ? "" : "s"}` : `${runs.length} of ${data.runs.length} runs`;
  document.getElementById("which").textContent = every ? "all runs" : name;
  document.getElementById("all").hidden = every;
  const points = [];
  for (const run of runs) {
    const line = data.trajectories.lines[run];
    if (!line) continue;
    const [grid, seen, iid, held, loss] = line;
    steps[grid].forEach((step, at) => {
      const point = { run: data.runs[run][0].slice(0, 8), verdict: data.runs[run][1], step, seen: seen[at] / 1000, iid: iid[at] / 1000, loss: loss[at] };
      if (held.length && held[at] !== null) point.held = held[at] / 1000;
      points.push(point);
    });
  }
  for (const field of ["seen", "iid", "held", "loss"]) {
    draw(`trajectory-${field}`, { points: points.filter((point) => typeof point[field] === "number") });
  }
  drawAnswers(runs);
  drawAttention(runs);
};

const drawAnswers = (runs) => {
  const { names, counts } = data.answers;
  const sums = names.map(() => 0);
  for (const run of runs) for (const [name, count] of counts[run] || []) sums[name] += count;
  const total = sums.reduce((a, b) => a + b, 0);
  const kinds = { [names[0]]: "composed", "as the exception": "as the exception" };
  const answers = names.map((what, at) => ({ what, share: sums[at] / total, kind: kinds[what] || "other" })).filter((each) => each.share >= 0.005);
  answers.sort((a, b) => (a.what === names[1]) - (b.what === names[1]) || b.share - a.share);
  draw("answers", { answers });
};

const drawAttention = (runs) => {
  const found = data.attention;
  const read = found ? runs.map((run) => found.runs[data.runs[run][0]]).filter(Boolean) : [];
  const attention = [];
  if (read.length) {
    let at = 0;
    for (let layer = 1; layer <= found.layers; layer += 1) {
      for (const reader of found.readers) {
        for (const source of found.sources) {
          const sum = read.reduce((total, shares) => total + shares[at], 0);
          attention.push({ layer: `layer ${layer}`, reader, source, share: sum / read.length / 100 });
          at += 1;
        }
      }
    }
  }
  const note = document.getElementById("read");
  if (note) note.textContent = `Read of ${read.length} of these runs.`;
  draw("attention", { attention });
};

const rows = () => [...board.tBodies[0].rows].filter((row) => !row.hidden);
const cell = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const csv = () => {
  const heads = [...board.tHead.rows[0].cells].map((head) => head.textContent.replace(/[\u2190-\u21ff\u00a0]/g, "").trim());
  const value = (each, row, column) => (column ? each.dataset.value === "-1" ? "" : each.dataset.value || each.textContent.trim() : row.dataset.run);
  const lines = rows().map((row) => [...row.cells].map((each, column) => cell(value(each, row, column))).join(","));
  save("runs.csv", [heads.map(cell).join(","), ...lines, ""].join("\n"), "text/csv");
};

const fill = (id, chosen) => {
  if (!axis(id)) return;
  for (const name of [null, ...Object.keys(data.axes)]) {
    axis(id).append(new Option(name === null ? "(none)" : name, name === null ? "" : name, false, name === chosen));
  }
  axis(id).addEventListener("change", () => {
    pick(null);
    drawPhase();
  });
};
fill("x", data.x);
fill("y", data.y);

for (const button of document.querySelectorAll("[data-chart]")) button.addEventListener("click", () => saveChart(button.dataset.chart));
for (const button of document.querySelectorAll("[data-image]")) {
  const source = () => document.getElementById(button.dataset.image).src.split(",")[1];
  const bytes = () => Uint8Array.from(atob(source()), (each) => each.charCodeAt(0));
  button.addEventListener("click", () => save(`${button.dataset.image}.svg`, bytes(), "image/svg+xml"));
}
document.getElementById("csv").addEventListener("click", csv);
document.getElementById("all").addEventListener("click", () => {
  const input = document.querySelector("input[type=search]");
  input.value = "";
  pick(null);
});
for (const button of board.querySelectorAll("button.open")) {
  const row = button.closest("tr");
  button.addEventListener("click", () => {
    pick({ ids: [row.dataset.run], title: `run ${row.dataset.run}` });
    document.getElementById("selection").scrollIntoView();
  });
}
let waiting = null;
board.addEventListener("filtered", () => {
  clearTimeout(waiting);
  waiting = setTimeout(drawShown, 100);
});
dark.addEventListener("change", () => {
  drawPhase();
  drawShown();
});

const search = document.querySelector("input[type=search]");
const follow = async () => {
  let version = null;
  try {
    version = await (await fetch("/version", { cache: "no-store" })).text();
  } catch {
    document.getElementById("news").textContent = "its server has stopped";
    return;
  }
  if (version !== data.version) {
    sessionStorage.setItem("seen", JSON.stringify([search.value, ...chosenAxes()]));
    location.reload();
  } else {
    setTimeout(follow, 5000);
  }
};
if (data.version) {
  const [words, ...axes] = JSON.parse(sessionStorage.getItem("seen") || '["", null, null]');
  ["x", "y"].forEach((id, at) => {
    if (axis(id) && axes[at] !== null) axis(id).value = axes[at] in data.axes ? axes[at] : "";
  });
  search.value = words;
  setTimeout(follow, 5000);
}
drawPhase();
refilter();
drawShown();
