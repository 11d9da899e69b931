// The interactive part of a bias study's page: class curves, correlation map and advice from the data that the page
// carries. Without it the page shows the same as fixed figures.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("bias-data").textContent);
  const MOST = data.colors.length;
  const ROOM = 130; // least width in px of a chart's plotting area on a narrow screen
  const { element, svg } = frame;

  const number = (value, digits = 3) => {
    if (value === null || !Number.isFinite(value)) return "–";
    const rounded = Number(value.toFixed(digits)) + 0; // + 0 turns -0 into 0
    const text = rounded.toFixed(digits).replace("-", "−");
    return Math.abs(rounded) < 1 ? text.replace("0.", ".") : text;
  };
  const short = (value) => String(Number(value.toPrecision(4))).replace("-", "−");
  const signed = (value) => (number(value).startsWith("−") ? "" : "+") + number(value);

  // Steps of 1, 2 or 5 times a power of ten, about `count` of them.
  const ticks = (low, high, count) => {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) found.push(t);
    return found;
  };

  function chart(group, method, chosen, say) {
    const width = Math.max(ROOM + 80, Math.min(860, say.parentElement.clientWidth || 860)), height = 360;
    const left = 46, right = 12, top = 26, bottom = 42;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": `${group.quantity} against ${group.axis}` });
    const lines = chosen.map((c, i) => ({ name: group.classes[c], mean: method.mean[c], sd: method.sd[c], color: data.colors[i] }));
    lines.push({ name: "all classes", mean: method.overall, sd: null, color: "#1d2129" });
    let low = Infinity, high = -Infinity;
    for (const line of lines) line.mean.forEach((m, v) => {
      if (m === null) return;
      const sd = line.sd ? line.sd[v] : 0;
      low = Math.min(low, m - sd); high = Math.max(high, m + sd);
    });
    const margin = (high - low || 0.1) * 0.06; low = Math.max(Math.min(low, 0), low - margin); high = Math.min(1, high + margin); // fractions
    const values = method.values, first = values[0], last = values[values.length - 1];
    const x = (value) => left + 8 + (value - first) / (last - first) * (width - left - right - 16);
    const y = (value) => height - bottom - (value - low) / (high - low) * (height - top - bottom);
    for (const t of ticks(low, high, 9)) {
      picture.append(svg("line", { x1: left, x2: width - right, y1: y(t), y2: y(t), stroke: "#e4e4e4" }));
      picture.append(svg("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, number(t, high - low < 0.05 ? 3 : 2)));
    }
    for (const t of ticks(first, last, width < 500 ? 4 : 8)) {
      picture.append(svg("line", { x1: x(t), x2: x(t), y1: height - bottom, y2: height - bottom + 5, stroke: "#777" }));
      picture.append(svg("text", { x: x(t), y: height - bottom + 18, "text-anchor": "middle" }, short(t)));
    }
    picture.append(svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "#777" }));
    picture.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, group.axis));
    picture.append(svg("text", { x: 4, y: 14 }, group.quantity));
    for (const line of lines) {
      const places = line.mean.flatMap((m, v) => (m === null ? [] : [[x(values[v]), y(m), v]]));
      if (line.sd) for (const [px, , v] of places) {
        const [m, sd] = [line.mean[v], line.sd[v]];
        picture.append(svg("line", { x1: px, x2: px, y1: y(m - sd), y2: y(m + sd), stroke: line.color, "stroke-width": 1 }));
      }
      const path = svg("polyline", { points: places.map(([px, py]) => `${px},${py}`).join(" "), fill: "none",
        stroke: line.color, "stroke-width": 1.8 });
      if (!line.sd) path.setAttribute("stroke-dasharray", "6 4");
      picture.append(path);
      if (line.sd) for (const [px, py] of places) picture.append(svg("circle", { cx: px, cy: py, r: 3.2, fill: line.color }));
    }
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect(), scale = width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let best = null;
      for (const line of lines) line.mean.forEach((m, v) => {
        if (m === null) return;
        const away = Math.hypot(x(values[v]) - px, y(m) - py);
        if (!best || away < best.away) best = { away, line, v };
      });
      if (!best) return;
      const sd = best.line.sd ? ` ± ${number(best.line.sd[best.v])}` : "";
      say.textContent = `${best.line.name} at ${short(values[best.v])}: ${number(best.line.mean[best.v])}${sd}`;
    });
    return picture;
  }

  function map(group, method, say, pick) {
    const count = group.classes.length, room = say.parentElement.clientWidth || 700, canvas = element("canvas");
    const context = canvas.getContext("2d"), font = "11px system-ui, sans-serif";
    context.font = font;
    let beside = 12 + Math.ceil(Math.max(...group.classes.map((name) => context.measureText(name).width)));
    let cell = Math.floor(Math.min(560, room - beside - 30) / count);
    if (cell < 11) { // no room for the names
      beside = 0;
      cell = Math.max(1, Math.floor(Math.min(600, room - 30) / count));
    }
    const side = cell * count;
    canvas.width = side + beside;
    canvas.height = side;
    // The upper triangle, row by row, in hundredths; null where a class does not vary.
    const r = (a, b) => {
      if (a === b) return 1;
      const [i, j] = a < b ? [a, b] : [b, a], found = method.r[i * count - i * (i + 1) / 2 + j - i - 1];
      return found === null ? null : found / 100;
    };
    // Between white and the two ends of the fixed figure's scale: red for opposed, blue for alike.
    const color = (value) => {
      if (value === null) return "#bbbbbb";
      const end = value < 0 ? [178, 24, 43] : [33, 102, 172], part = Math.abs(value);
      return `rgb(${end.map((e) => Math.round(247 + (e - 247) * part)).join(",")})`;
    };
    group.order.forEach((a, row) => group.order.forEach((b, column) => {
      context.fillStyle = color(r(a, b));
      context.fillRect(column * cell, row * cell, cell, cell);
    }));
    context.font = font; // a canvas forgets it when it changes its size
    context.fillStyle = "#1d2129";
    context.textBaseline = "middle";
    if (beside) group.order.forEach((c, row) => context.fillText(group.classes[c], side + 8, (row + 0.5) * cell));
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (from) => Math.max(0, Math.min(count - 1, Math.floor(from / box.height * count)));
      return [group.order[place(event.clientY - box.top)], group.order[place(event.clientX - box.left)]];
    };
    canvas.addEventListener("pointermove", (event) => {
      const [a, b] = at(event);
      say.textContent = `${group.classes[a]} and ${group.classes[b]}: r = ${number(r(a, b), 2)}`;
    });
    canvas.addEventListener("click", (event) => pick(at(event)));
    return canvas;
  }

  // Mean over classes of a table [C][V] at value v.
  const mean = (table, classes, v) => classes.reduce((sum, c) => sum + table[c][v], 0) / classes.length;

  function advice(group, method, chosen) {
    if (!chosen.length) return "";
    if (!method.validation) return "No advice: the classes were not scored on validation images, and nothing is chosen on test ones.";
    const scored = group.classes.map((_, c) => c).filter((c) => method.validation.mean[c] !== null);
    const others = scored.filter((c) => !chosen.includes(c));
    chosen = scored.filter((c) => chosen.includes(c));
    if (!chosen.length) return "No advice: no validation image is of these classes.";
    const highest = (score) => method.values.reduce((found, _, v) => (score(v) > score(found) ? v : found), 0);
    const value = highest((v) => mean(method.validation.mean, chosen, v)), usual = highest((v) => method.validation.overall[v]);
    const change = (classes) => signed(mean(method.mean, classes, value) - mean(method.mean, classes, usual));
    const own = chosen.length === 1 ? "this class" : "these classes", at = (v) => `${group.axis} ${short(method.values[v])}`;
    if (value === usual) return `On validation images ${at(value)} suits ${own} best, and all classes together too: it costs nothing.`;
    return `On validation images ${at(value)} suits ${own} best; ${short(method.values[usual])} suits all classes best. ` +
      `On test images that is ${change(chosen)} for ${own}` + (others.length ? ` and ${change(others)} for the others.` : ".");
  }

  function interactive(home) {
    const group = data.groups[Number(home.dataset.bias)];
    let method = group.methods[0], chosen = [];
    const lines = element("div", { class: "picture" }), matrix = element("div", { class: "picture" });
    const chips = element("div", { class: "chips" }), counsel = element("p", {});
    const sayLines = element("p", { class: "soft say" }, "Point at a curve to read it."), sayMatrix = element("p", { class: "soft say" });
    const remark = "Pearson correlation of every two classes (red: opposed, blue: alike), like classes side by side. Point to read, click to add the two to the chart.";
    sayMatrix.textContent = remark;
    const select = (label, options, on) => {
      const menu = element("select", { onchange: () => on(menu.value), "aria-label": label });
      for (const [value, text] of options) menu.append(element("option", { value }, text));
      return menu;
    };
    const fill = (menu, options) => menu.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    const pairOptions = () => [["", "most opposed pairs …"], ...method.pairs.map(([a, b, r], i) =>
      [i, `${group.classes[a]} / ${group.classes[b]} (${number(r, 2)})`])];
    const firstChoice = () => group.chosen.length ? group.chosen : [...new Set(method.pairs.slice(0, 3).flatMap(([a, b]) => [a, b]))];
    const pairs = select("pair", pairOptions(), (value) => value !== "" && choose(method.pairs[value].slice(0, 2)));
    const methods = select("method", group.methods.map((m, i) => [i, m.name]), (value) => {
      method = group.methods[value];
      fill(pairs, pairOptions());
      draw();
    });
    const add = select("class", [["", "add a class …"], ...group.classes.map((name, c) => [c, name])], (value) => {
      if (value !== "") choose([...chosen, Number(value)]);
      add.value = "";
    });
    const superclasses = Object.entries(group.superclasses);
    const whole = select("superclass", [["", "a superclass …"], ...superclasses.map(([name], i) => [i, name])],
      (value) => value !== "" && choose(superclasses[value][1]));
    function choose(classes) {
      chosen = [...new Set(classes)].slice(-MOST);
      draw();
    }
    function draw() {
      chips.replaceChildren(...chosen.map((c, i) => element("button", { type: "button", title: "remove",
        onclick: () => choose(chosen.filter((other) => other !== c)) },
        element("i", { style: `background:${data.colors[i]}` }), `${group.classes[c]} ×`)));
      lines.replaceChildren(chart(group, method, chosen, sayLines));
      matrix.replaceChildren(map(group, method, sayMatrix, (both) => choose([...chosen, ...both])));
      counsel.textContent = advice(group, method, chosen);
    }
    const controls = element("div", { class: "controls" });
    if (group.methods.length > 1) controls.append(methods);
    if (method.pairs.length || group.methods.length > 1) controls.append(pairs);
    controls.append(add);
    if (superclasses.length) controls.append(whole);
    home.replaceChildren(controls, chips, lines, sayLines, counsel, matrix, sayMatrix);
    home.classList.add("live");
    choose(firstChoice());
    frame.onWidth(home, draw);
  }

  document.querySelectorAll("[data-bias]").forEach(interactive);
})();
