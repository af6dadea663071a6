// A table that sorts and filters, and a scatter plot of any two measures; rows and points show each other.
(() => {
  const { rows, measures } = JSON.parse(document.getElementById("explorer-data").textContent);
  const table = document.getElementById("rows"), body = table.tBodies[0];
  const lines = [...body.rows], plot = document.getElementById("plot");
  const selects = { x: document.getElementById("plot-x"), y: document.getElementById("plot-y") };
  const filter = document.getElementById("filter"), shown = document.getElementById("shown");
  const SVG = "http://www.w3.org/2000/svg", W = 760, H = 420, M = { left: 70, right: 20, top: 15, bottom: 50 };
  let pinned = null, points = [];

  // a shape for each round through the colours; the diamond is kept for what ratios are to
  const SHAPES = [
    (r) => `M${-r},0A${r},${r} 0 1 0 ${r},0A${r},${r} 0 1 0 ${-r},0Z`,
    (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
    (r) => `M0,${-1.3 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
    (r) => `M0,${1.3 * r}L${1.2 * r},${-r}H${-1.2 * r}Z`,
  ];
  const DIAMOND = (r) => `M0,${-1.35 * r}L${1.35 * r},0L0,${1.35 * r}L${-1.35 * r},0Z`;
  const shapeOf = (index) => (rows[index].reference ? DIAMOND : SHAPES[rows[index].shape % SHAPES.length]);
  const colourOf = (index) => rows[index].colour;

  const make = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  lines.forEach((line, index) => {
    if (!plot) return;
    const key = make("svg", { class: "key", viewBox: "-8 -8 16 16", "aria-hidden": "true" });
    key.append(make("path", { d: shapeOf(index)(5.5), fill: colourOf(index) }));
    line.cells[0].prepend(key);
    line.tabIndex = 0;
    for (const [event, on] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]])
      line.addEventListener(event, () => heat(index, on));
    line.addEventListener("click", () => pin(index));
    line.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(index); }
    });
  });

  function heat(index, on) {
    lines[index].classList.toggle("hot", on);
    points[index]?.classList.toggle("hot", on);
  }

  function pin(index) {
    pinned = pinned === index ? null : index;
    lines.forEach((line, i) => line.classList.toggle("pinned", i === pinned));
    points.forEach((point, i) => point?.classList.toggle("pinned", i === pinned));
  }

  // sorting: the best first, then the worst; missing values stay last
  const heads = [...table.tHead.rows[0].cells];
  function sortBy(column) {
    const first = heads[column].dataset.better === "high" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const order = heads[column].getAttribute("aria-sort") === first ? second : first;
    for (const other of heads) other.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", order);
    const value = (line) => line.cells[column].dataset.value;
    const sorted = [...lines].sort((a, b) => {
      const [p, q] = [value(a), value(b)];
      if (p === "" || q === "") return (p === "") - (q === "");
      const by = isNaN(p) || isNaN(q) ? p.localeCompare(q) : p - q;
      return order === "ascending" ? by : -by;
    });
    body.append(...sorted);
  }
  heads.forEach((cell, column) => cell.querySelector("button").addEventListener("click", () => sortBy(column)));
  const sort = document.getElementById("sort");
  sort.addEventListener("change", () => {
    heads.forEach((cell) => cell.removeAttribute("aria-sort"));
    if (sort.value === "") body.append(...lines);
    else sortBy(+sort.value);
  });

  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    lines.forEach((line) => {
      const text = line.textContent.toLowerCase();
      line.hidden = !words.every((word) => text.includes(word));
    });
    shown.textContent = `${lines.filter((line) => !line.hidden).length} of ${lines.length} shown`;
    draw();
  });

  function ticks(low, high) {
    const span = high - low || Math.abs(high) || 1, raw = span / 5;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const out = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) out.push(+tick.toPrecision(12));
    return out;
  }

  // no other point is at least as good in both measures and better in one
  function front(found, x, y) {
    const better = (measure, a, b) => (measure.better === "high" ? a > b : a < b);
    const dominates = (p, q) =>
      !better(x, q.x, p.x) && !better(y, q.y, p.y) && (better(x, p.x, q.x) || better(y, p.y, q.y));
    return found.filter((q) => !found.some((p) => dominates(p, q))).sort((a, b) => a.x - b.x || a.y - b.y);
  }

  function draw() {
    if (!plot) return;
    const x = measures[selects.x.value], y = measures[selects.y.value];
    const focused = points.findIndex((point) => point === document.activeElement);
    plot.replaceChildren();
    points = rows.map(() => null);
    const found = rows
      .map((row, index) => ({
        index, x: row.values[selects.x.value], y: row.values[selects.y.value], spread: row.spreads[selects.y.value],
      }))
      .filter((p) => p.x !== null && p.y !== null && !lines[p.index].hidden);
    const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": `${y.label} against ${x.label}` });
    plot.append(svg);
    if (!found.length) {
      const none = lines.every((line) => line.hidden) ? "The filter leaves no row." : "No row shown has both values.";
      svg.append(make("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, none));
      return;
    }
    const range = (key, measure) => {
      const values = found.flatMap((p) => (key === "y" && p.spread ? [p.y - p.spread, p.y + p.spread] : [p[key]]));
      let [low, high] = [Math.min(...values), Math.max(...values)];
      if (measure.zero) low = Math.min(0, low);
      const pad = (high - low || Math.abs(high) || 1) * 0.08;
      return [measure.zero && low === 0 ? 0 : low - pad, high + pad];
    };
    const [x0, x1] = range("x", x), [y0, y1] = range("y", y);
    const px = (v) => M.left + ((v - x0) / (x1 - x0)) * (W - M.left - M.right);
    const py = (v) => H - M.bottom - ((v - y0) / (y1 - y0)) * (H - M.top - M.bottom);
    for (const tick of ticks(x0, x1)) {
      svg.append(make("line", { class: "axis", x1: px(tick), x2: px(tick), y1: M.top, y2: H - M.bottom }));
      svg.append(make("text", { x: px(tick), y: H - M.bottom + 17, "text-anchor": "middle" }, tick.toLocaleString("en")));
    }
    for (const tick of ticks(y0, y1)) {
      svg.append(make("line", { class: "axis", x1: M.left, x2: W - M.right, y1: py(tick), y2: py(tick) }));
      svg.append(make("text", { x: M.left - 8, y: py(tick) + 4, "text-anchor": "end" }, tick.toLocaleString("en")));
    }
    svg.append(make("text", { x: (W + M.left) / 2, y: H - 8, "text-anchor": "middle" }, x.label));
    svg.append(make("text", { transform: `translate(14 ${H / 2}) rotate(-90)`, "text-anchor": "middle" }, y.label));
    const best = front(found, x, y);
    svg.append(make("path", { class: "front", d: best.map((p, i) => `${i ? "L" : "M"}${px(p.x)},${py(p.y)}`).join("") }));
    for (const p of found) {
      const on = best.includes(p) ? ", on the Pareto front" : "";
      const text = `${rows[p.index].name}: ${x.label} ${p.x.toLocaleString("en")}, ${y.label} ${p.y.toLocaleString("en")}${on}`;
      if (p.spread) {
        const [up, down, at] = [py(p.y + p.spread), py(p.y - p.spread), px(p.x)];
        svg.append(make("path", { class: "bar", stroke: colourOf(p.index), d: `M${at},${up}V${down}M${at - 4},${up}h8M${at - 4},${down}h8` }));
      }
      const point = make("path", {
        class: "point" + (p.index === pinned ? " pinned" : ""), d: shapeOf(p.index)(6.5), fill: colourOf(p.index),
        transform: `translate(${px(p.x)} ${py(p.y)})`, tabindex: 0, role: "img", "aria-label": text,
      });
      point.append(make("title", {}, text));
      for (const [event, hot] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]])
        point.addEventListener(event, () => heat(p.index, hot));
      point.addEventListener("click", () => pin(p.index));
      point.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(p.index); }
      });
      points[p.index] = point;
      svg.append(point);
    }
    points[focused]?.focus();
  }

  for (const select of Object.values(selects)) select?.addEventListener("change", draw);
  document.querySelectorAll(".needs-script").forEach((element) => (element.hidden = false));
  draw();
})();
