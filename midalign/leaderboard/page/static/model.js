// The view of one model: every language, how it was made, what it cost.
"use strict";

(function () {
  const element = midalign.element;

  function yes(value) { return value !== null && value !== undefined && value !== ""; }

  function facts(pairs) {
    return element("dl", { class: "facts" }, pairs.filter(function (pair) { return yes(pair[1]); }).map(function (pair) {
      return element("div", {}, element("dt", {}, pair[0]), element("dd", {}, midalign.name(String(pair[1]))));
    }));
  }

  function duration(seconds) {
    if (seconds >= 5400) return (seconds / 3600).toFixed(1) + " h";
    return seconds >= 90 ? Math.round(seconds / 60) + " min" : Math.round(seconds) + " s";
  }

  function languageTable(summary, task, section, row, state) {
    const details = Object.keys(row.details);
    const rows = task.languages.map(function (code, i) {
      const language = section.languages[code];
      const cells = {
        language: { text: midalign.data.index.languages[code].name + " (" + code + ")" }, role: { text: summary.roles[i] },
        resource: { text: midalign.data.index.languages[code].resource }, n: { text: midalign.count(language.n), value: language.n },
        score: { text: midalign.bounds(row.scores[i]), value: row.scores[i][0] },
        version: { text: String(language.version), value: language.version },
      };
      details.forEach(function (name) { cells[name] = { text: midalign.percent(row.details[name][i]), value: row.details[name][i] }; });
      return cells;
    });
    return midalign.table({
      name: summary.slug + "-" + row.label, caption: summary.title + ": every language, in per cent", rowHeader: "language", rows: rows,
      columns: [{ key: "language", title: "Language" }, { key: "role", title: "Role" }, { key: "resource", title: "Class" }, { key: "n", title: "Items", numeric: true }, { key: "score", title: task.headline, numeric: true }]
        .concat(details.map(function (name) { return { key: name, title: section.metrics[name].title, numeric: true }; }), [{ key: "version", title: "Version", numeric: true }]),
    }, { key: state["s-" + summary.slug] || null, descending: state["o-" + summary.slug] === "down", onChange: function (sorting) {
      const values = {};
      values["s-" + summary.slug] = sorting.key;
      values["o-" + summary.slug] = sorting.descending ? "down" : "up";
      midalign.state.change(values);
    } });
  }

  function signatures(task, section) {
    const languages = {};
    task.languages.forEach(function (code) {
      Object.entries(section.languages[code].signatures).forEach(function (entry) {
        const key = entry[0] + ": " + entry[1];
        (languages[key] = languages[key] || []).push(code);
      });
    });
    const keys = Object.keys(languages);
    return keys.length ? [element("h4", {}, "Signatures"), element("ul", {}, keys.map(function (key) { return element("li", {}, element("code", {}, key), " (" + languages[key].join(" ") + ")"); }))] : null;
  }

  // Outputs may be in any language: the first strong character of each text decides its direction.
  function samples(list) {
    if (!list.length) return null;
    const cell = function (text, cut) { return element("td", {}, element("div", { dir: "auto" }, text || midalign.NONE), cut ? element("em", {}, "cut off at the token limit") : null); };
    const rows = list.map(function (one) {
      return element("tr", {}, element("th", { scope: "row" }, midalign.data.index.languages[one.language].name + " (" + one.language + ")"), cell(one.input), cell(one.gold), cell(one.output, one.cut));
    });
    const data = Array.from(new Set(list.map(function (one) { return one.data; }))).join(", ");
    const caption = "The first item of some languages, from " + data;
    return element("details", {}, element("summary", {}, "Sample outputs"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, element("table", { class: "samples" }, element("caption", {}, caption),
        element("thead", {}, element("tr", {}, ["Language", "Input", "Gold answer", "Output"].map(function (title) { return element("th", { scope: "col" }, title); }))),
        element("tbody", {}, rows))));
  }

  function run(one) {
    const training = one.training || {};
    const packages = Object.entries(one.packages).map(function (entry) { return entry.join(" "); }).join(", ");
    return element("details", {}, element("summary", {}, midalign.name(one.record)), facts([
      ["Evaluated", one.created + ", " + one.engine], ["Trust", one.trust], ["Training seed", one.seed],
      ["Cost of these tasks", duration(one.seconds) + ", " + midalign.count(one.tokens) + " tokens"],
      ["Adapter", one.adapter ? one.adapter.name : null], ["Adapter digest", one.adapter ? one.adapter.digest : null],
      ["Recipe", one.recipe ? one.recipe.name : null], ["Recipe digest", one.recipe ? one.recipe.digest : null],
      ["Training task", training.task], ["Supervised", (training.supervised || []).join(" ")], ["Aligned", (training.aligned || []).join(" ")],
      ["Aligned after block", training.layer], ["Sentence pairs", training.pairs],
      ["Training", yes(training.updates) ? midalign.count(training.updates) + " updates, " + midalign.count(training.tokens) + " tokens, " + duration(training.seconds) : null],
      ["Training dtype", training.dtype], ["Merged from", (training.parents || []).join(", ")], ["Packages", packages],
    ]));
  }

  function place(state, summary, row) {
    const task = midalign.data.index.tasks.find(function (one) { return one.id === summary.task; });
    return midalign.loadSection(summary.slug).then(function (section) {
      const figures = section.rows[row], digests = section.languages[task.languages[0]];
      return [
        element("h3", {}, element("a", { href: midalign.link({ view: "task", task: summary.slug }) }, midalign.name(summary.title))),
        figures.overlap.length ? element("p", { class: "warning" }, "§ Trained on text of a test set: " + figures.overlap.join("; ") + ".") : null,
        section.bounds[row] ? element("p", {}, "Supervised upper bound: trained on labels of every language of the task. It has no rank there.") : null,
        figures.unchecked.length ? element("p", {}, "Training text that was not compared with the test text: " + figures.unchecked.join("; ") + ".") : null,
        languageTable(summary, task, section, figures, state),
        signatures(task, section),
        samples(section.samples[row]),
        element("h4", {}, "Records"), section.runs[row].map(run),
        element("details", {}, element("summary", {}, "Decoding, data and prompts"), facts([
          ["Digest of " + task.languages[0] + "'s data", digests.data], ["Digest of its prompts", digests.prompts || "not recorded"],
          ["Token limit", digests.limit], ["Outputs that reached it", figures.cut_off === null ? "not recorded" : midalign.count(figures.cut_off)],
        ]), element("pre", { tabindex: "0" }, JSON.stringify(section.decoding, null, 1))),
      ];
    });
  }

  midalign.views.model = function (state) {
    const index = midalign.data.index, model = index.models.find(function (one) { return one.id === state.model; });
    if (!model) return [element("h2", { tabindex: "-1" }, "No such model"), element("p", {}, element("a", { href: midalign.link({}) }, "All models"))];
    const places = index.sections.filter(function (summary) { return summary.rows.includes(model.id); });
    return Promise.all(places.map(function (summary) { return place(state, summary, summary.rows.indexOf(model.id)); })).then(function (blocks) {
      return [
        element("h2", { tabindex: "-1" }, midalign.name(model.title)),
        facts([
          ["Base", model.base], ["Arm", model.arm], ["Recipe", model.recipe], ["Engine", model.engine], ["Seeds", model.seeds], ["Trust", model.trust],
          ["Parameters of the base", model.size ? midalign.count(model.size) + " (as its name states)" : "not recorded"],
          ["Base digest", model.digest || "not recorded"], ["Licence of the base", model.licence || "not recorded: see the base's and the data sets' own"],
        ]),
        model.settings.map(function (entry) {
          return element("details", {}, element("summary", {}, "Hyperparameters: ", midalign.name(entry[0])), element("pre", { tabindex: "0" }, JSON.stringify(entry[1], null, 1)));
        }),
        blocks,
      ];
    });
  };
})();
