// The scatter of a table of runs: any two columns against each other, a mark a run. Without it the page shows the table alone.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("runs-data").textContent);
  const home = document.querySelector("[data-runs]");
  const groups = [...new Set(data.groups)];
  const { element, svg } = frame;

  const plain = (text) => text.replaceAll("-", "−").replace("+", "").replace(/^(−?)0\./, "$1.");
  const show = (value) => {
    if (typeof value === "string") return value;
    const rounded = Number(value.toPrecision(4)), far = rounded && Math.abs(Math.log10(Math.abs(rounded)) - 1.5) > 4.5;
    return plain(far ? rounded.toExponential() : String(rounded)); // below a thousandth, above a million
  };

  // Colour first, then shape: as many groups as there are of both can be told apart.
  const SHAPES = [
    (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    (x, y, r) => `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    (x, y, r) => `M${x},${y - 1.2 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`,
    (x, y, r) => `M${x},${y - 1.4 * r}l${1.4 * r},${1.4 * r}l${-1.4 * r},${1.4 * r}l${-1.4 * r},${-1.4 * r}z`,
  ];
  const mark = (group, x, y, r) => {
    const i = groups.indexOf(group), shape = SHAPES[Math.floor(i / data.colors.length) % SHAPES.length];
    return svg("path", { d: shape(x, y, r), fill: data.colors[i % data.colors.length], "fill-opacity": 0.8, stroke: "#fff" });
  };

  // How a column lies on an axis: its places in [0, 1], its ticks, and what is said of it. Settings over two decades are
  // logarithmic; text has a place a value.
  function scale(column, there, count) {
    if (!there.length) return { place: () => 0, ticks: [], label: column.name, text: false };
    if (there.some((value) => typeof value === "string")) {
      const names = [...new Set(there)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
      const place = (value) => (names.indexOf(value) + 0.5) / names.length;
      return { place, ticks: names.map((name) => [place(name), name]), label: column.name, text: true };
    }
    let low = Math.min(...there), high = Math.max(...there);
    const log = data.settings.includes(column.name) && low > 0 && high / low >= 100;
    const to = log ? Math.log10 : (value) => value;
    const margin = (to(high) - to(low) || Math.abs(to(high)) || 1) * 0.05, first = to(low) - margin, last = to(high) + margin;
    const place = (value) => (to(value) - first) / (last - first);
    const found = [];
    if (log) for (let k = Math.ceil(first); k <= last; k++) found.push([place(10 ** k), show(10 ** k)]);
    else {
      const rough = (last - first) / count, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= rough * 0.999);
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      for (let k = Math.ceil(first / step); k * step <= last; k++) {
        const text = Math.abs(k * step) < 1e6 ? (k * step + 0).toFixed(Math.min(digits, 20)) : show(k * step);
        found.push([place(k * step), plain(text)]);
      }
    }
    return { place, ticks: found, label: column.name + (log ? " (logarithmic)" : ""), text: false };
  }

  const longest = (ticks) => Math.max(0, ...ticks.map(([, text]) => text.length));
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  function draw(across, up, say) {
    const both = data.runs.map((_, i) => i).filter((i) => across.values[i] !== null && up.values[i] !== null);
    const of = (column) => both.map((i) => column.values[i]);
    const width = Math.max(240, Math.min(900, home.clientWidth - 30)), most = width < 500 ? 12 : 24;
    const y = scale(up, of(up), 7), x = scale(across, of(across), width < 500 ? 4 : 8), right = 16, top = 26;
    let left = 20 + 6.6 * Math.min(most, longest(y.ticks));
    const turned = x.text && 7 * Math.min(most, longest(x.ticks)) > (width - left - right) / x.ticks.length;
    if (turned) left = Math.max(left, 5 * Math.min(most, longest(x.ticks.slice(0, 1)))); // room for the first name
    const room = (width - left - right) / Math.max(1, x.ticks.length);
    const bottom = turned ? 34 + 4.8 * Math.min(most, longest(x.ticks)) : 46, height = 300 + bottom;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": `${up.name} against ${across.name}` });
    const px = (part) => left + part * (width - left - right), py = (part) => height - bottom - part * (height - bottom - top);
    const each = Math.ceil(y.ticks.length / 24); // of many names, those that do not cover each other
    y.ticks.forEach(([part, text], i) => {
      picture.append(svg("line", { x1: left, x2: width - right, y1: py(part), y2: py(part), stroke: "#e4e4e4" }));
      if (i % each === 0) picture.append(svg("text", { x: left - 6, y: py(part) + 4, "text-anchor": "end" }, cut(text, most)));
    });
    const every = Math.ceil((turned ? 14 : 1) / room);
    x.ticks.forEach(([part, text], i) => {
      const at = px(part), base = height - bottom;
      picture.append(svg("line", { x1: at, x2: at, y1: base, y2: base + 5, stroke: "#777" }));
      if (i % every) return;
      const place = turned ? { x: at, y: base + 14, transform: `rotate(-40 ${at} ${base + 14})`, "text-anchor": "end" }
        : { x: at, y: base + 18, "text-anchor": "middle" };
      picture.append(svg("text", place, cut(text, most)));
    });
    picture.append(svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, stroke: "#777" }));
    picture.append(svg("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, x.label));
    picture.append(svg("text", { x: 4, y: 14 }, y.label));
    const drawn = both.map((i) => {
      const [a, b] = [across.values[i], up.values[i]];
      return { run: data.runs[i], a, b, x: px(x.place(a)), y: py(y.place(b)), group: data.groups[i] };
    });
    for (const one of drawn) picture.append(mark(one.group, one.x, one.y, 4.5));
    const gone = data.runs.length - drawn.length;
    const rest = gone ? ` ${gone} of the ${data.runs.length} runs have no value in one of the two columns.` : "";
    say.textContent = `Point at a mark to read it.${rest}`;
    const read = (event) => {
      const box = picture.getBoundingClientRect(), times = width / box.width;
      const away = (one) => Math.hypot(one.x - (event.clientX - box.left) * times, one.y - (event.clientY - box.top) * times);
      const best = drawn.reduce((found, one) => (found && away(found) <= away(one) ? found : one), null);
      if (best) say.textContent = `${best.run}: ${across.name} ${show(best.a)}, ${up.name} ${show(best.b)}`;
    };
    picture.addEventListener("pointermove", read);
    picture.addEventListener("pointerdown", read);
    const named = [...new Set(drawn.map((one) => one.group))];
    const legend = named.length < 2 ? [] : named.map((group) => {
      const key = svg("svg", { width: 12, height: 12, viewBox: "0 0 12 12" });
      key.append(mark(group, 6, 6, 4.5));
      return element("span", {}, key, group || "other runs");
    });
    return [picture, legend];
  }

  const drawable = data.columns.filter((column) => column.values.some((value) => value !== null));
  const choice = (label, chosen) => {
    const menu = element("select", { "aria-label": label, onchange: update });
    drawable.forEach((column, i) => menu.append(element("option", { value: i }, column.name)));
    menu.value = Math.max(0, drawable.findIndex((column) => column.name === chosen));
    return menu;
  };
  const up = choice("upwards", data.y), across = choice("across", data.x);
  const picture = element("div", { class: "picture" }), legend = element("div", { class: "legend" });
  const say = element("p", { class: "soft say", "aria-live": "polite" });
  function update() {
    const [made, keys] = draw(drawable[across.value], drawable[up.value], say);
    picture.replaceChildren(made);
    legend.replaceChildren(...keys);
  }
  home.append(element("div", { class: "controls" }, element("label", {}, up, " against "), across), picture, say, legend);
  home.classList.add("live");
  update();
  frame.onWidth(home, update);
})();
