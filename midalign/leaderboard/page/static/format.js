// Numbers, text in each output format, and elements. Everything of the page hangs on `midalign`.
"use strict";

var midalign = { data: {}, waiting: {} };

// Every data file calls this function: scripts may be loaded from a folder, other files may not be read.
midalign.receive = function (name, data) {
  midalign.data[name] = data;
  (midalign.waiting[name] || []).forEach(function (resolve) { resolve(data); });
  delete midalign.waiting[name];
};

// Load `path` below the page's folder, unless its data are here already.
midalign.load = function (name, path) {
  if (midalign.data[name]) return Promise.resolve(midalign.data[name]);
  return new Promise(function (resolve, reject) {
    if (midalign.waiting[name]) { midalign.waiting[name].push(resolve); return; }
    midalign.waiting[name] = [resolve];
    const script = document.createElement("script");
    script.src = "page/" + path.split("/").map(encodeURIComponent).join("/");
    script.onerror = function () {
      delete midalign.waiting[name];
      reject(new Error("Could not load " + path + ". Build the board again: midalign leaderboard build"));
    };
    document.head.append(script);
  });
};

midalign.loadSection = function (slug) { return midalign.load(slug, "data/" + slug + ".js"); };

midalign.NONE = "–";
const MINUS = "−";

function isNumber(value) { return typeof value === "number" && isFinite(value); }

function oneDecimal(share, plus) {
  if (!isNumber(share)) return midalign.NONE;
  const text = Math.abs(100 * share).toFixed(1);
  if (text === "0.0") return text;
  return (share < 0 ? MINUS : plus) + text;
}

midalign.percent = function (share) { return oneDecimal(share, ""); };
midalign.signed = function (share) { return oneDecimal(share, "+"); };

// An estimate is [value, low, high, standard error].
midalign.bounds = function (estimate) {
  if (!estimate || !isNumber(estimate[0])) return midalign.NONE;
  if (!isNumber(estimate[1])) return midalign.percent(estimate[0]);
  return midalign.percent(estimate[0]) + " [" + midalign.percent(estimate[1]) + ", " + midalign.percent(estimate[2]) + "]";
};

midalign.change = function (estimate) {
  if (!estimate || !isNumber(estimate[0])) return midalign.NONE;
  if (!isNumber(estimate[1])) return midalign.signed(estimate[0]);
  return midalign.signed(estimate[0]) + " [" + midalign.percent(estimate[1]) + ", " + midalign.percent(estimate[2]) + "]";
};

midalign.count = function (number) {
  return isNumber(number) ? Math.round(number).toLocaleString("en-US") : midalign.NONE;
};

midalign.meanDefined = function (values) {
  const defined = values.filter(isNumber);
  return defined.length ? defined.reduce(function (sum, value) { return sum + value; }, 0) / defined.length : null;
};

midalign.isNumber = isNumber;

// Foreign text, one function per output format. HTML and SVG are built from text nodes only.
midalign.escapes = {
  csv: function (value) {
    const text = value === null || value === undefined ? "" : String(value);
    // A spreadsheet would run text that starts like a formula.
    const safe = typeof value === "number" || !/^[=+\-@\t\r]/.test(text) ? text : "'" + text;
    return /[",\r\n]/.test(safe) ? '"' + safe.replace(/"/g, '""') + '"' : safe;
  },
  latex: function (value) {
    const special = {
      "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
      "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
    };
    return String(value).replace(/[\\~^<>|{}$&#_%]/g, function (character) {
      return special[character] || "\\" + character;
    }).replace(/−/g, "$-$").replace(/–/g, "--");
  },
  // Isolate a name, so that a right-to-left name leaves its surroundings in order.
  isolated: function (value) { return "\u2068" + value + "\u2069"; },
};

// Create an element. Children are elements or text, never markup.
midalign.element = function (tag, attributes) {
  const node = document.createElement(tag);
  fill(node, attributes, Array.prototype.slice.call(arguments, 2));
  return node;
};

midalign.svg = function (tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  fill(node, attributes, Array.prototype.slice.call(arguments, 2));
  return node;
};

function fill(node, attributes, children) {
  Object.entries(attributes || {}).forEach(function (entry) {
    if (entry[1] === null || entry[1] === undefined || entry[1] === false) return;
    if (typeof entry[1] === "function") node.addEventListener(entry[0], entry[1]);
    else node.setAttribute(entry[0], entry[1] === true ? "" : entry[1]);
  });
  node.append.apply(node, children.flat(Infinity).filter(function (child) { return child !== null && child !== undefined; }));
}

midalign.name = function (text) { return midalign.element("bdi", {}, text); };

midalign.download = function (fileName, type, content) {
  const blob = content instanceof Blob ? content : new Blob([content], { type: type + ";charset=utf-8" });
  const link = midalign.element("a", { href: URL.createObjectURL(blob), download: fileName });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
};
