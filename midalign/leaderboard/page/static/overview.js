// The first view: all models on all tasks, with filters and an overall rank.
"use strict";

(function () {
  const element = midalign.element, isNumber = midalign.isNumber;
  const ANY = "";

  function unique(values) { return Array.from(new Set(values)); }

  // A labelled choice that writes its value into the address.
  midalign.choice = function (title, key, options, value) {
    const select = element("select", { id: "choice-" + key, change: function () { const values = {}; values[key] = select.value; midalign.state.change(values); focusOn("choice-" + key); } },
      options.map(function (option) { return element("option", { value: option[0], selected: option[0] === value }, option[1]); }));
    return element("div", { class: "field" }, element("label", { for: "choice-" + key }, title), select);
  };

  function focusOn(id) { const node = document.getElementById(id); if (node) node.focus(); }

  // Return the values of the address that the first view reads, with their defaults.
  function filtersOf(state) {
    const splits = splitsOf();
    return {
      split: state.split === undefined ? (splits.includes("test") ? "test" : ANY) : state.split.replace("any", ""),
      family: state.family || ANY, role: state.role || ANY, resource: state.class || ANY,
      base: state.base || ANY, size: state.size || ANY, text: (state.q || "").toLowerCase(),
      complete: state.complete === "1",
    };
  }

  function splitOf(task) { return / (?:the )?(\S+) split/.exec(" " + task.sample)[1]; }
  function splitsOf() { return unique(midalign.data.index.tasks.map(splitOf)); }

  // Return the mean score of a cell over the languages that the filters leave, or null.
  function cellMean(task, cell, filters, sections) {
    const roles = sections[cell.section].roles, languages = midalign.data.index.languages;
    return midalign.meanDefined(cell.scores.filter(function (score, i) {
      return (!filters.role || roles[i] === filters.role) && (!filters.resource || languages[task.languages[i]].resource === filters.resource);
    }));
  }

  // Return per model the share of the other models with a score that it beats, ties counting half.
  // A model without a score, or without a rival, has null.
  midalign.winRates = function (scores) {
    const rivals = scores.filter(isNumber).length - 1;
    return scores.map(function (score, i) {
      if (!isNumber(score) || rivals < 1) return null;
      return scores.reduce(function (wins, other, j) {
        return wins + (i === j || !isNumber(other) ? 0 : other < score ? 1 : other === score ? 0.5 : 0);
      }, 0) / rivals;
    });
  };

  midalign.overviewTable = function (state) {
    const index = midalign.data.index, filters = filtersOf(state);
    const sections = Object.fromEntries(index.sections.map(function (section) { return [section.slug, section]; }));
    const tasks = index.tasks.filter(function (task) {
      return (!filters.family || task.family === filters.family) && (!filters.split || splitOf(task) === filters.split);
    });
    let models = index.models.filter(function (model) {
      return (!filters.base || model.base === filters.base) && (!filters.size || model.bucket === filters.size);
    }).map(function (model) {
      return { model: model, scores: tasks.map(function (task) { return model.cells[task.id] ? cellMean(task, model.cells[task.id], filters, sections) : null; }) };
    }).filter(function (entry) { return entry.scores.some(isNumber); });
    if (filters.complete) models = models.filter(function (entry) { return entry.scores.every(isNumber); });

    // A missing cell counts as 0. Tasks with a single model tell nothing and are left out.
    const points = models.map(function () { return 0; });
    const rates = tasks.map(function (task, column) {
      return midalign.winRates(models.map(function (entry) { return entry.scores[column]; }));
    }).filter(function (rate) { return rate.some(isNumber); });
    rates.forEach(function (rate) { rate.forEach(function (score, i) { points[i] += (score || 0) / rates.length; }); });
    const rows = models.map(function (entry, i) {
      const model = entry.model, rank = 1 + points.filter(function (other) { return other > points[i] + 1e-9; }).length;
      const row = {
        rank: { text: String(rank), value: rank },
        model: { text: model.title, href: midalign.link({ view: "model", model: model.id }), mark: model.overlap ? " §" : null, about: "Trained on text of a test set" },
        base: { text: model.base },
        size: { text: model.size ? (model.size >= 1e9 ? model.size / 1e9 + "B" : model.size / 1e6 + "M") : midalign.NONE, value: model.size },
        seeds: { text: String(model.seeds), value: model.seeds },
        engine: { text: model.engine || midalign.NONE }, trust: { text: model.trust },
        points: { text: midalign.percent(points[i]), value: points[i] },
        tasks: { text: entry.scores.filter(isNumber).length + " of " + tasks.length, value: entry.scores.filter(isNumber).length },
      };
      tasks.forEach(function (task, column) { row[task.id] = { text: midalign.percent(entry.scores[column]), value: entry.scores[column] }; });
      return row;
    }).filter(function (row) { return (row.model.text + " " + row.base.text + " " + row.engine.text).toLowerCase().includes(filters.text); });
    const referenceRows = (index.references || []).map(function (reference) {
      const row = {
        rank: { text: midalign.NONE, value: null }, model: { text: reference.title, href: reference.model ? midalign.link({ view: "model", model: reference.model }) : null },
        base: reference.base ? { text: reference.base } : { text: midalign.NONE, value: null },
        size: { text: midalign.NONE, value: null }, seeds: { text: midalign.NONE, value: null }, engine: { text: midalign.NONE, value: null },
        trust: { text: midalign.NONE, value: null }, points: { text: midalign.NONE, value: null }, tasks: { text: midalign.NONE, value: null }, class: "reference",
      };
      let known = false;
      tasks.forEach(function (task) {
        const cell = reference.cells[task.id], value = cell ? cellMean(task, cell, filters, sections) : null;
        known = known || isNumber(value);
        row[task.id] = { text: midalign.percent(value), value: value };
      });
      return known ? row : null;
    }).filter(Boolean);
    return {
      name: "leaderboard", caption: "Mean score per task in per cent, over the languages chosen above", rowHeader: "model",
      columns: [
        { key: "rank", title: "Rank", numeric: true, ascending: true }, { key: "model", title: "Model" }, { key: "base", title: "Base" },
        { key: "size", title: "Size", numeric: true, about: "Parameters, as the base's name states them" },
      ].concat(tasks.map(function (task) { return { key: task.id, title: task.title, numeric: true, about: task.headline + ", " + task.sample + ", " + task.items + " items per language" }; }), [
        { key: "points", title: "Wins", numeric: true, about: "Mean share of the other models that the model beats" }, { key: "tasks", title: "Tasks", numeric: true },
        { key: "seeds", title: "Seeds", numeric: true }, { key: "engine", title: "Engine" },
        { key: "trust", title: "Trust", about: "verified: random items were answered again and agree. checked: figures follow from the counts per item. self-reported: outputs come from elsewhere, or training is only declared." },
      ]),
      rows: rows.concat(referenceRows), ranked: models.length,
    };
  };

  const RULE = "Overall rank: by “wins”, the mean over the tasks of the table of the share of other models that a model beats in a task. " +
    "Equal scores count half. Only models with a score in the task are compared. A missing cell counts as 0 wins, so leaving out a task never helps. " +
    "Tick “Complete models only” to rank the models that have all tasks of the table. The choice of tasks, languages, base and size changes the rank, " +
    "the search only hides rows. Intervals play no part: models next to each other may differ by chance. Reference rows have no rank. " +
    "A supervised upper bound is a model that was trained on labels of every language of the task.";

  midalign.views = {};

  midalign.views.overview = function (state) {
    const index = midalign.data.index, filters = filtersOf(state);
    const options = function (values, any) { return [[ANY, any]].concat(values.map(function (value) { return [value, value]; })); };
    const search = element("input", { id: "search", type: "search", value: state.q || "", input: function () { midalign.state.change({ q: search.value }); } });
    const complete = element("input", { id: "complete", type: "checkbox", checked: filters.complete, change: function () { midalign.state.change({ complete: complete.checked ? "1" : "" }); focusOn("complete"); } });
    const sorting = {
      key: state.sort || "rank", descending: state.sort ? state.order === "down" : false,
      onChange: function (sorting) {
        midalign.state.change({ sort: sorting.key, order: sorting.descending ? "down" : "up" });
        const button = document.querySelector('[data-sort="' + sorting.key + '"]');
        if (button) button.focus();
      },
    };
    const table = midalign.overviewTable(state);
    const holder = element("div", { id: "board" }, midalign.table(table, sorting));
    return [
      element("h2", { tabindex: "-1" }, "All models"),
      element("div", { class: "filters", role: "search", "aria-label": "Filters" },
        element("div", { class: "field" }, element("label", { for: "search" }, "Search models"), search),
        midalign.choice("Task family", "family", options(unique(index.tasks.map(function (task) { return task.family; })), "all families"), filters.family),
        midalign.choice("Split", "split", [["any", "all splits"]].concat(splitsOf().map(function (split) { return [split, split]; })), filters.split || "any"),
        midalign.choice("Language role", "role", options(["supervised", "aligned", "unseen"], "all roles"), filters.role),
        midalign.choice("Resource class", "class", options(["high", "mid", "low"], "all classes"), filters.resource),
        midalign.choice("Base", "base", options(unique(index.models.map(function (model) { return model.base; })), "all bases"), filters.base),
        midalign.choice("Base size", "size", options(unique(index.models.map(function (model) { return model.bucket; })), "all sizes"), filters.size),
        element("div", { class: "field tick" }, complete, element("label", { for: "complete" }, "Complete models only"))),
      element("p", { role: "status", id: "shown" }, table.rows.length + (table.rows.length === 1 ? " row" : " rows") + " shown."),
      holder,
      element("p", { class: "rule" }, RULE),
      element("p", {}, "A cell is the mean over the languages chosen above (macro). Intervals, differences and every language are in the views of a task or model. " +
        "Models of different bases get the same items, and their own prompts, tokenizers and perhaps engines. § marks a model that was trained on text of a test set."),
      element("h3", {}, "Tasks"),
      element("ul", { class: "tasks" }, index.sections.map(function (section) {
        return element("li", {}, element("a", { href: midalign.link({ view: "task", task: section.slug }) }, midalign.name(section.title)),
          " – " + section.rows.length + (section.rows.length === 1 ? " model" : " models"));
      })),
    ];
  };
})();
