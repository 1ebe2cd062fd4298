// The page's own script: filter, per-seed values and learning curves on click, theme, and reloading while trials run.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const svg = ["svg", "path", "line", "text", "title"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const number = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
  const remember = {
    get: (key) => { try { return sessionStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { sessionStorage.setItem(key, value); } catch { /* a browser without storage forgets */ } },
  };

  // ---- filter: a verdict or a trial state, kept in the address so that it survives reloading and can be passed on
  const buttons = all("[data-filter]");
  function filter(word) {
    if (!buttons.some((button) => button.dataset.filter === word)) word = "";
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.filter === word));
    const fits = (node) => !word || node.dataset.words.split("|").includes(word);
    let shown = 0;
    for (const row of all("tr.cell")) {
      row.hidden = !fits(row);
      shown += !row.hidden;
      if (row.nextElementSibling?.classList.contains("detail")) row.nextElementSibling.hidden = row.hidden || !isOpen(row);
    }
    for (const cell of all("td[data-words]")) cell.style.opacity = fits(cell) ? "" : ".25";
    for (const body of all(".cells > tbody")) body.hidden = !all("tr.cell", body).some((row) => !row.hidden);
    for (const section of all(".spec")) section.hidden = Boolean(word) && !all("tr.cell", section).some((row) => !row.hidden);
    for (const fold of all("details.unstarted")) fold.open = Boolean(word);
    for (const line of all(".overview tbody tr")) line.hidden = document.getElementById(line.dataset.spec).hidden;
    document.getElementById("shown").textContent = word ? `${shown} of ${all("tr.cell").length} cells` : "";
    const hash = word ? `#show=${encodeURIComponent(word)}` : "";
    if (word || location.hash.startsWith("#show=")) history.replaceState(null, "", hash || location.pathname + location.search);
  }
  for (const button of buttons) button.addEventListener("click", () => filter(button.dataset.filter));

  // ---- what a link leads to is unfolded; a table wider than its place says so
  function reveal() {
    const id = decodeURIComponent(location.hash.slice(1)), node = id && document.getElementById(id);
    if (!node) return;
    for (const fold of [node.closest("details.unstarted"), ...all(":scope > details.unstarted", node)]) if (fold) fold.open = true;
    node.scrollIntoView();
  }
  addEventListener("hashchange", reveal);
  reveal();
  const widths = new ResizeObserver((entries) => {
    for (const { target } of entries) target.classList.toggle("wide", target.scrollWidth > target.clientWidth + 1);
  });
  for (const box of all(".scroll, .plate")) {
    widths.observe(box);
    box.addEventListener("scroll", () => box.classList.toggle("scrolled", box.scrollLeft > 8), { passive: true });
  }

  // ---- per-seed values
  const isOpen = (row) => row.querySelector(".open").getAttribute("aria-expanded") === "true";
  function toggle(row) {
    const open = !isOpen(row);
    row.querySelector(".open").setAttribute("aria-expanded", String(open));
    let detail = row.nextElementSibling;
    if (!detail?.classList.contains("detail")) row.after((detail = details(row)));
    detail.hidden = !open;
    remember.set("open", all(".open[aria-expanded=true]").map((button) => button.closest("tr").id).join(" "));
  }
  function details(row) {
    const cell = data.cells[row.id], pair = make("div", { class: "pair" }, seedTable(cell, data.heads[row.id.slice(0, row.id.lastIndexOf("--"))]));
    if (cell.curves || cell.theirs) pair.append(chart(seedLines(cell), cell.published, cell.higher));
    return make("tr", { class: "detail" }, make("td", { colspan: row.cells.length }, pair));
  }
  function seedTable(cell, selections) {
    const heads = ["Seed", ...selections, "Machine", "Run"];
    const lines = cell.seeds.map(([seed, state, values, trial, run, folder, machine, origin, numerics]) => {
      const links = make("td");
      const name = make("code", {}, trial);
      if (folder === 1) links.append(make("a", { href: `${data.runs}${trial}/` }, name));
      else links.append(folder ? make("code", {}, folder) : name);
      if (run) links.append(" ", make("a", { href: data.mlflow + run, title: data.hint }, "MLflow"));
      if (origin) links.append(" ", make("span", { class: "chip v-consistent" }, origin === "reproduced" ? "committed" : origin));
      if (numerics != null) links.append(" ", make("span", { class: "chip tag" }, `former numerics ${numerics}`));
      const results = values ? values.map((value) => make("td", { class: "n" }, number(value)))
        : [make("td", { colspan: selections.length, class: "none" }, state === "missing" ? "no record" : state)];
      return make("tr", {}, make("td", {}, String(seed)), ...results, make("td", {}, data.machines[machine] ?? "–"), links);
    });
    for (const [name, values] of cell.authors ?? [])
      lines.push(make("tr", { class: "none" }, make("td", {}, "authors"), ...values.map((value) => make("td", { class: "n" }, number(value))),
        make("td", {}, "authors’ log"), make("td", {}, make("code", {}, name))));
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
  }

  // ---- learning curves
  const palette = (i) => `var(--c${i % 8})`;
  const seedLines = (cell) => [
    ...(cell.curves?.v ?? []).map((values, i) => ({ name: `seed ${cell.curves.s[i]}`, x: cell.curves.e, y: values, colour: palette(i), css: "line" })),
    ...(cell.theirs ?? []).map((curve, i) => ({ name: i ? "" : "authors’ logs", x: curve.e, y: curve.v, colour: "var(--muted)", css: "line thin theirs" })),
  ];
  function chart(lines, published, higher) {
    const width = 480, height = 250, left = 40, bottom = 28, top = 8, right = 8;
    const points = lines.flatMap((line) => line.y.map((y, i) => [line.x[i], y])).filter(([, y]) => y !== null);
    const most = Math.max(1, ...points.map(([x]) => x));
    const [low, high] = higher ? limits(lines.map((line) => line.y.map((y) => y === null ? null : -y)), published == null ? null : -published).map((y) => -y).reverse()
      : limits(lines.map((line) => line.y), published);
    const step = roundStep((high - low) / 4 || 1), floor = step * Math.floor(low / step), ceiling = step * Math.ceil(high / step);
    const span = ceiling - floor || step;
    const x = (value) => left + ((value - 1) / Math.max(1, most - 1)) * (width - left - right);
    const y = (value) => top + (1 - (Math.max(Math.min(value, ceiling), floor) - floor) / span) * (height - top - bottom);
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `learning curves: ${lines.map((line) => line.name).filter(Boolean).join(", ")}` });
    for (let i = 0; i * step <= span * 1.001; i++) {
      const value = floor + i * step, at = y(value);
      svg.append(make("line", { class: "axis", x1: left, x2: width - right, y1: at, y2: at }), make("text", { x: left - 5, y: at + 4, "text-anchor": "end" }, value.toFixed(Math.max(0, -Math.floor(Math.log10(step))))));
    }
    const every = roundStep(most / 5);
    for (let epoch = every; epoch < 0.85 * most; epoch += every) // whole epochs, short of the last one's label
      if (Number.isInteger(epoch)) svg.append(make("text", { x: x(epoch), y: height - 10, "text-anchor": "middle" }, String(epoch)));
    svg.append(make("text", { x: x(most), y: height - 10, "text-anchor": "end" }, `epoch ${most}`));
    for (const line of lines) {
      let path = "", pen = "M";
      line.y.forEach((value, i) => { if (value === null) pen = "M"; else { path += `${pen}${x(line.x[i]).toFixed(1)} ${y(value).toFixed(1)}`; pen = "L"; } });
      svg.append(make("path", { class: line.css, d: path, style: `stroke:${line.colour}` }));
    }
    if (published != null) svg.append(make("line", { class: "paper", x1: left, x2: width - right, y1: y(published), y2: y(published) }));
    const keys = lines.filter((line) => line.name).map((line) => make("li", {}, make("i", { style: `color:${line.colour}` }), line.name));
    if (published != null) keys.push(make("li", {}, make("i", { style: "border-top-style:dashed" }), `published ${number(published)}`));
    return make("div", { class: "chart" }, svg, make("ul", { class: "legend" }, ...keys));
  }
  /** The values that a chart of curves shows, smaller being better (others come with their sign turned): the first epochs would flatten the rest. */
  function limits(curves, published) {
    const values = curves.flat().filter((y) => y !== null), bests = curves.map((curve) => Math.min(...curve.filter((y) => y !== null)));
    const low = Math.min(...bests.concat(published ?? [])), reached = Math.max(...bests.concat(published ?? [])), high = Math.max(...values);
    const room = low >= 0 ? 2.5 * reached : reached + 1.5 * Math.max(reached - low, 0.15 * (high - low));
    return [low, Math.min(high, room || high)];
  }
  /** The next of 1, 2 or 5 times a power of ten: what axes are marked in. */
  function roundStep(least) {
    const power = 10 ** Math.floor(Math.log10(least));
    return power * [1, 2, 5, 10].find((digit) => digit * power >= least * 0.999);
  }
  function mean(curves) {
    return curves.e.map((_, i) => {
      const values = curves.v.map((line) => line[i]).filter((value) => value !== null && value !== undefined);
      return values.length === curves.v.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
    });
  }
  function drawTable(panel) {
    for (const [title, ids] of data.panels[panel.dataset.curves]) {
      const cells = ids.map((id) => [data.cells[id], id]).filter(([cell]) => cell.curves);
      const lines = cells.map(([cell], i) => ({ name: cell.name, x: cell.curves.e, y: mean(cell.curves), colour: palette(i), css: "line" }));
      if (lines.length) panel.append(make("div", {}, make("h4", {}, title), chart(lines, null, cells[0][0].higher)));
    }
  }

  // ---- theme, reloading, start
  function theme(name) {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    remember.set("theme", name);
    document.getElementById("theme").textContent = `theme: ${name || "as the system"}`;
  }
  document.getElementById("theme").addEventListener("click", () => theme({ "": "light", light: "dark", dark: "" }[root.dataset.theme ?? ""]));
  for (const row of all("tr.cell")) row.querySelector(".open").addEventListener("click", () => toggle(row));
  for (const details of all("details:has([data-curves])"))
    details.addEventListener("toggle", () => { const panel = details.querySelector("[data-curves]"); if (details.open && !panel.children.length) drawTable(panel); });
  const asked = new URLSearchParams(location.hash.slice(1));
  theme(asked.get("theme") ?? remember.get("theme") ?? "");
  const opened = asked.get("open") ?? (root.dataset.reload ? remember.get("open") : "") ?? "";
  for (const id of opened.split(" ")) { const row = document.getElementById(id); if (row?.matches("tr.cell")) toggle(row); }
  if (asked.has("curves")) for (const details of all("details:has([data-curves])")) details.open = true;
  filter(asked.get("show") ?? "");
  window.addEventListener("hashchange", () => filter(new URLSearchParams(location.hash.slice(1)).get("show") ?? ""));
  if (root.dataset.reload) {
    scrollTo(0, Number(remember.get("scroll") ?? 0));
    setTimeout(() => { remember.set("scroll", String(scrollY)); location.reload(); }, 1000 * Number(root.dataset.reload));
  }
})();
