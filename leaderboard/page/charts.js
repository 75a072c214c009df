// Charts as inline SVG. Each has a title and a description, and the table next to it has the same numbers.
"use strict";

(function () {
  const svg = midalign.svg, element = midalign.element, isNumber = midalign.isNumber;
  const ROW = 20;

  function short(text, length) { return text.length > length ? text.slice(0, length - 1) + "…" : text; }

  function label(x, y, text, attributes, length) {
    return svg("text", Object.assign({ x: x, y: y, "dominant-baseline": "central" }, attributes),
      midalign.escapes.isolated(short(text, length || 60)));
  }

  function line(x1, y1, x2, y2, className) {
    return svg("line", { x1: x1, y1: y1, x2: x2, y2: y2, class: className });
  }

  // Return rounded ticks that cover the range.
  function ticksOf(low, high) {
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].find(function (size) { return (high - low) / size <= 7; }) || 1;
    const ticks = [];
    for (let i = Math.floor(low / step + 1e-9); i <= Math.ceil(high / step - 1e-9); i += 1) ticks.push(i * step);
    return ticks;
  }

  function rangeOf(values) {
    const defined = values.filter(isNumber);
    const low = Math.min.apply(null, [0].concat(defined)), high = Math.max.apply(null, [0].concat(defined));
    return [low, high - low < 0.02 ? low + 0.02 : high];
  }

  // A chart with rows: axis at the bottom, a label per row, groups with a heading.
  function rowChart(width, rows, values, labelWidth, drawRow, axisTitle, signed) {
    const range = rangeOf(values), ticks = ticksOf(range[0], range[1]);
    const low = ticks[0], high = ticks[ticks.length - 1];
    const left = labelWidth, right = width - 18;
    const x = function (value) { return left + (value - low) / (high - low) * (right - left); };
    let y = 14;
    const marks = [], grid = [];
    rows.forEach(function (row) {
      if (row.heading) {
        y += 4;
        marks.push(label(0, y, row.heading, { class: "heading" }));
      } else {
        marks.push(svg("g", {}, svg("title", {}, row.about || row.label),
          label(left - 10, y, row.label, { "text-anchor": "end" }, Math.floor(labelWidth / 6.4)), drawRow(row, x, y)));
      }
      y += ROW;
    });
    ticks.forEach(function (tick) {
      grid.push(line(x(tick), 4, x(tick), y - 6, Math.abs(tick) < 1e-9 ? "zero" : "grid"));
      grid.push(label(x(tick), y + 6, signed && tick > 1e-9 ? "+" + (100 * tick).toFixed(0) : (100 * tick).toFixed(0).replace("-", "−"), { "text-anchor": "middle", class: "tick" }));
    });
    grid.push(label((left + right) / 2, y + 25, axisTitle, { "text-anchor": "middle", class: "tick" }, 90));
    return { height: y + 38, children: grid.concat(marks) };
  }

  function interval(estimate, x, y, className) {
    if (!estimate || !isNumber(estimate[1])) return null;
    return line(x(estimate[1]), y, x(estimate[2]), y, "interval " + className);
  }

  function dot(estimate, x, y, className) {
    if (!estimate || !isNumber(estimate[0])) return null;
    return svg("circle", { cx: x(estimate[0]), cy: y, r: 4.5, class: className });
  }

  // Baseline and aligned per language. Rows: {label, baseline, aligned, base} with estimates.
  function dumbbell(rows, axisTitle) {
    return function (width) {
      const values = rows.flatMap(function (row) { return row.heading ? [] : [row.baseline, row.aligned, row.base].filter(Boolean).flatMap(function (e) { return e.slice(0, 3); }); });
      return rowChart(width, rows, values, width < 520 ? 104 : 190, function (row, x, y) {
        const both = row.baseline && row.aligned && isNumber(row.baseline[0]) && isNumber(row.aligned[0]);
        return [
          row.base && isNumber(row.base[0]) ? line(x(row.base[0]), y - 6, x(row.base[0]), y + 6, "base") : null,
          interval(row.baseline, x, y - 3.5, "baseline"), interval(row.aligned, x, y + 3.5, "aligned"),
          both ? line(x(row.baseline[0]), y, x(row.aligned[0]), y, "join") : null,
          dot(row.baseline, x, y, "baseline"), dot(row.aligned, x, y, "aligned"),
        ];
      }, axisTitle, false);
    };
  }

  // One estimate per row. Rows: {label, estimate}.
  function intervals(rows, axisTitle, signed) {
    return function (width) {
      const values = rows.flatMap(function (row) { return row.estimate ? row.estimate.slice(0, 3) : []; });
      return rowChart(width, rows, values, width < 520 ? 130 : 230, function (row, x, y) {
        return [interval(row.estimate, x, y, "aligned"), dot(row.estimate, x, y, "aligned")];
      }, axisTitle, signed);
    };
  }

  // From nearly white to dark blue, readable with black or white text on it.
  function shade(share) {
    const from = [240, 245, 251], to = [8, 48, 107];
    const rgb = from.map(function (start, i) { return Math.round(start + (to[i] - start) * share); });
    const linear = rgb.map(function (channel) { return Math.pow(channel / 255, 2.2); });
    const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return { fill: "rgb(" + rgb.join(",") + ")", ink: luminance > 0.18 ? "#000" : "#fff" };
  }

  // Languages down, models across. `scores[column][row]` are shares or null.
  function heatMap(rowLabels, columnLabels, scores, names) {
    return function (width) {
      const left = width < 520 ? 104 : 190, columns = columnLabels.length;
      const cell = Math.max(18, Math.min(112, (width - left - 8) / columns)), high = ticksOf.apply(null, rangeOf(scores.flat())).slice(-1)[0];
      const upright = cell < 80, top = upright ? 128 : 30, children = [];
      columnLabels.forEach(function (text, column) {
        const x = left + cell * (column + 0.5);
        children.push(upright
          ? label(0, 0, text, { transform: "translate(" + x + "," + (top - 6) + ") rotate(-90)" }, 19)
          : label(x, top - 12, text, { "text-anchor": "middle" }, Math.floor((cell - 8) / 6.4)));
      });
      rowLabels.forEach(function (text, row) {
        const y = top + ROW * row;
        children.push(label(left - 8, y + ROW / 2, text, { "text-anchor": "end" }, Math.floor(left / 6.4)));
        columnLabels.forEach(function (columnLabel, column) {
          const score = scores[column][row], colour = isNumber(score) ? shade(score / high) : null;
          children.push(svg("rect", { x: left + cell * column, y: y, width: cell - 1, height: ROW - 1, class: colour ? null : "missing", fill: colour ? colour.fill : null },
            svg("title", {}, names[row] + ", " + columnLabel + ": " + midalign.percent(score))));
          if (cell >= 34) children.push(label(left + cell * (column + 0.5) - 0.5, y + ROW / 2, midalign.percent(score), { "text-anchor": "middle", class: "cell", style: colour ? "fill:" + colour.ink : null }));
        });
      });
      return { width: Math.max(width, left + cell * columns + 8), height: top + ROW * rowLabels.length + 4, children: children };
    };
  }

  // Lines over layers. Lines: {label, values: [[x, y], ...]}.
  function curves(lines, axisTitle, valueTitle) {
    return function (width) {
      const height = 300, left = 44, right = width - 16, top = 12, bottom = height - 60;
      const points = lines.flatMap(function (one) { return one.values; });
      const range = rangeOf(points.map(function (point) { return point[1]; })), ticks = ticksOf(range[0], range[1]);
      const most = Math.max.apply(null, points.map(function (point) { return point[0]; })), high = ticks[ticks.length - 1];
      const x = function (value) { return left + value / most * (right - left); };
      const y = function (value) { return bottom - value / high * (bottom - top); };
      const children = [];
      ticks.forEach(function (tick) {
        children.push(line(left, y(tick), right, y(tick), "grid"), label(left - 6, y(tick), (100 * tick).toFixed(0), { "text-anchor": "end", class: "tick" }));
      });
      for (let block = 0; block <= most; block += Math.ceil(most / 12)) children.push(label(x(block), bottom + 14, String(block), { "text-anchor": "middle", class: "tick" }));
      lines.forEach(function (one, index) {
        children.push(svg("polyline", { class: "curve curve-" + index, points: one.values.map(function (p) { return x(p[0]) + "," + y(p[1]); }).join(" ") }));
        children.push(line(left + index * 150, height - 8, left + index * 150 + 18, height - 8, "curve curve-" + index), label(left + index * 150 + 24, height - 8, one.label, {}));
      });
      children.push(label((left + right) / 2, bottom + 32, axisTitle, { "text-anchor": "middle", class: "tick" }), label(0, 4, valueTitle, { class: "tick" }));
      return { height: height, children: children };
    };
  }

  let serial = 0;

  // Return a figure with caption, legend, chart and downloads.
  midalign.figure = function (name, title, description, legend, draw) {
    serial += 1;
    const holder = element("div", { class: "chart scroll", tabindex: "0", role: "region", "aria-label": title });
    const figure = element("figure", {}, element("figcaption", {}, element("strong", {}, title + ". "), description),
      legend ? element("p", { class: "legend" }, legend.map(function (entry) { return element("span", {}, element("span", { class: "key " + entry[0], "aria-hidden": "true" }), midalign.name(entry[1])); })) : null,
      holder,
      element("p", { class: "downloads" }, "Download this chart: ", ["SVG", "PNG"].map(function (format) {
        return element("button", { type: "button", "data-download": format.toLowerCase(), click: function () { save(holder.firstChild, name, format); } }, format);
      })));
    figure.id = "figure-" + name;
    const ids = ["chart-title-" + serial, "chart-description-" + serial];
    figure.draw = function () {
      const chart = draw(Math.max(300, holder.clientWidth || 720)), width = chart.width || Math.max(300, holder.clientWidth || 720);
      holder.replaceChildren(svg("svg", { width: width, height: chart.height, viewBox: "0 0 " + width + " " + chart.height, role: "img", "aria-labelledby": ids.join(" ") },
        svg("title", { id: ids[0] }, title), svg("desc", { id: ids[1] }, description), chart.children.flat()));
    };
    return figure;
  };

  const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-weight", "font-family", "text-anchor", "dominant-baseline"];

  // Return the chart as a file of its own, with the colours that are shown.
  function standAlone(chart) {
    const copy = chart.cloneNode(true), originals = chart.querySelectorAll("*");
    copy.querySelectorAll("*").forEach(function (node, index) {
      const style = getComputedStyle(originals[index]);
      STYLES.forEach(function (property) { if (!/^(title|desc)$/.test(node.tagName)) node.setAttribute(property, style.getPropertyValue(property)); });
      node.removeAttribute("class");
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const page = getComputedStyle(document.body).backgroundColor;
    copy.insertBefore(svg("rect", { width: "100%", height: "100%", fill: page }), copy.firstChild);
    return new XMLSerializer().serializeToString(copy);
  }

  function save(chart, name, format) {
    const text = standAlone(chart);
    if (format === "SVG") { midalign.download(name + ".svg", "image/svg+xml", text); return; }
    const picture = new Image(), scale = 2;
    picture.onload = function () {
      const canvas = element("canvas", { width: chart.width.baseVal.value * scale, height: chart.height.baseVal.value * scale });
      canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(function (blob) { midalign.download(name + ".png", "image/png", blob); });
    };
    picture.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  }

  midalign.charts = { dumbbell: dumbbell, intervals: intervals, heatMap: heatMap, curves: curves };
})();
