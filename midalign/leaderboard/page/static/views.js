// The views of a task, a model and of two models.
"use strict";

(function () {
  const element = midalign.element, isNumber = midalign.isNumber;
  const ROLES = ["supervised", "aligned", "unseen"];
  const SETS = ["all", "supervised", "aligned", "unseen", "non-supervised", "high", "mid", "low"];

  function summaryOf(slug) { return midalign.data.index.sections.find(function (section) { return section.slug === slug; }); }
  function taskOf(summary) { return midalign.data.index.tasks.find(function (task) { return task.id === summary.task; }); }
  function modelOf(id) { return midalign.data.index.models.find(function (model) { return model.id === id; }); }
  function nameOf(code) { return midalign.data.index.languages[code].name; }
  
  function languageLabel(code) {
    const name = nameOf(code);
    if (code.includes("-")) return name.length > 28 ? code : name;
    return name.length > 22 ? code : name + " (" + code + ")";
  }

  function sortingOf(state, prefix, fallback) {
    return {
      key: state[prefix + "sort"] || fallback || null, descending: state[prefix + "order"] === "down",
      onChange: function (sorting) {
        const values = {};
        values[prefix + "sort"] = sorting.key;
        values[prefix + "order"] = sorting.descending ? "down" : "up";
        midalign.state.change(values);
      },
    };
  }

  function facts(pairs) {
    return element("dl", { class: "facts" }, pairs.filter(Boolean).map(function (pair) {
      return element("div", {}, element("dt", {}, pair[0]), element("dd", {}, midalign.name(pair[1])));
    }));
  }

  // Return [place, code] of the languages by role, then by code, with a heading before each role.
  function byRole(summary, codes) {
    return ROLES.flatMap(function (role) {
      const places = codes.map(function (code, i) { return i; }).filter(function (i) { return summary.roles[i] === role; });
      return places.length ? [{ heading: role[0].toUpperCase() + role.slice(1) }].concat(places) : [];
    });
  }

  function rowsTable(summary, task, section, state) {
    const sets = SETS.filter(function (name) { return section.sets[name] && name !== "non-supervised"; });
    const gaps = ["aligned", "unseen"].filter(function (name) { return section.rows.some(function (row) { return row.gap[name]; }); });
    const closed = section.rows.map(function (row, i) { const difference = section.differences.find(function (d) { return d.row === i; }); return difference ? difference.closed.aligned : null; });
    const items = task.languages.reduce(function (sum, code) { return sum + section.languages[code].n; }, 0);
    const rows = section.rows.map(function (row, i) {
      const cells = { model: { text: row.label, href: midalign.link({ view: "model", model: summary.rows[i] }), mark: row.overlap.length ? " §" : null, about: row.overlap.join("; ") }, seeds: { text: row.seeds.map(function (seed) { return seed === null ? midalign.NONE : seed; }).join(" ") } };
      sets.forEach(function (name) { cells[name] = { text: midalign.bounds(row.means[name]), value: row.means[name][0] }; });
      gaps.forEach(function (name) { cells["gap " + name] = { text: midalign.bounds(row.gap[name]), value: row.gap[name] ? row.gap[name][0] : null }; });
      cells.closed = { text: midalign.bounds(closed[i]), value: closed[i] ? closed[i][0] : null };
      const cut = row.cut_off === null ? null : row.cut_off / (items * row.seeds.length);
      cells.cut = { text: midalign.percent(cut), value: cut };
      return cells;
    });
    return midalign.table({
      name: summary.slug, caption: task.headline + " in per cent with 95% intervals, mean over languages", rowHeader: "model", rows: rows,
      columns: [{ key: "model", title: "Model" }, { key: "seeds", title: "Seeds" }].concat(
        sets.map(function (name) { return { key: name, title: name + " (" + section.sets[name].length + ")", numeric: true }; }),
        gaps.map(function (name) { return { key: "gap " + name, title: "gap " + name, numeric: true, about: "Mean over supervised languages minus mean over " + name + " ones" }; }),
        [{ key: "closed", title: "gap closed", numeric: true, about: "(Model − baseline) / baseline's gap, aligned languages" }, { key: "cut", title: "cut off", numeric: true, about: "Outputs that reached the token limit" }]),
    }, sortingOf(state, ""));
  }

  // Columns of the table by language. More models would be unreadable, and slow to draw.
  const MOST_COLUMNS = 20;

  function languageTable(summary, task, section, state) {
    const differences = section.differences.slice(0, MOST_COLUMNS), models = section.rows.slice(0, MOST_COLUMNS);
    const rows = task.languages.map(function (code, i) {
      const cells = { language: { text: nameOf(code) + " (" + code + ")" }, role: { text: summary.roles[i] }, resource: { text: midalign.data.index.languages[code].resource }, n: { text: midalign.count(section.languages[code].n), value: section.languages[code].n } };
      models.forEach(function (row, j) { cells["row" + j] = { text: midalign.bounds(row.scores[i]), value: row.scores[i][0] }; });
      differences.forEach(function (d, j) { cells["difference" + j] = { text: midalign.change(d.scores[i]), value: d.scores[i][0] }; });
      return cells;
    });
    return midalign.table({
      name: summary.slug + "-languages", caption: task.headline + " by language in per cent with 95% intervals", rowHeader: "language", rows: rows,
      columns: [{ key: "language", title: "Language" }, { key: "role", title: "Role" }, { key: "resource", title: "Class" }, { key: "n", title: "Items", numeric: true }].concat(
        models.map(function (row, j) { return { key: "row" + j, title: row.label, numeric: true }; }),
        differences.map(function (d, j) { return { key: "difference" + j, title: section.rows[d.row].label + " − " + section.rows[d.baseline].label, numeric: true }; })),
    }, sortingOf(state, "l"));
  }

  function dumbbell(summary, task, section, chosen) {
    const left = section.rows[chosen.baseline], right = section.rows[chosen.row], base = section.rows.find(function (row) { return row.arm === "base"; });
    const rows = byRole(summary, task.languages).map(function (i) {
      if (i.heading) return i;
      return { label: languageLabel(task.languages[i]), baseline: left.scores[i], aligned: right.scores[i], base: base && base !== left ? base.scores[i] : null,
        about: nameOf(task.languages[i]) + ": " + left.label + " " + midalign.bounds(left.scores[i]) + ", " + right.label + " " + midalign.bounds(right.scores[i]) };
    });
    const legend = [["baseline", left.label], ["aligned", right.label]].concat(base && base !== left ? [["base", "base, before training"]] : []);
    return midalign.figure(summary.slug + "-dumbbell", "From " + left.label + " to " + right.label, "Score per language by role. Thin lines are 95% intervals.", legend,
      midalign.charts.dumbbell(rows, task.headline + ", %"));
  }

  function heatMap(summary, task, section) {
    const places = byRole(summary, task.languages).filter(isNumber);
    return midalign.figure(summary.slug + "-map", "Languages and models", "Darker is better. Languages by role, models in the order of the table.", null,
      midalign.charts.heatMap(places.map(function (i) { return languageLabel(task.languages[i]); }), section.rows.map(function (row) { return row.label; }),
        section.rows.map(function (row) { return places.map(function (i) { return row.scores[i][0]; }); }), places.map(function (i) { return nameOf(task.languages[i]); })));
  }

  function gapFigures(summary, section) {
    const gaps = ["aligned", "unseen"].flatMap(function (name) {
      const rows = section.rows.filter(function (row) { return row.gap[name] && isNumber(row.gap[name][0]); });
      return rows.length ? [{ heading: name[0].toUpperCase() + name.slice(1) + " languages" }].concat(rows.map(function (row) { return { label: row.label, estimate: row.gap[name], about: row.label + ": " + midalign.bounds(row.gap[name]) }; })) : [];
    });
    const closed = section.differences.filter(function (d) { return d.closed.aligned; }).map(function (d) { return { label: section.rows[d.row].label, estimate: d.closed.aligned, about: midalign.bounds(d.closed.aligned) }; });
    return [
      gaps.length ? midalign.figure(summary.slug + "-gap", "Transfer gap", "Mean over the supervised languages minus mean over the others, same model, with 95% interval. Smaller is better.", null, midalign.charts.intervals(gaps, "gap, points", false)) : null,
      closed.length ? midalign.figure(summary.slug + "-closed", "Gap closed", "Share of the baseline's gap that the model closes on the aligned languages, with 95% interval.", null, midalign.charts.intervals(closed, "gap closed, %", true)) : null,
    ];
  }

  function layerFigure(number) {
    const analysis = midalign.data.index.analyses[number];
    const lines = Object.keys(analysis.curves).map(function (title) { return { label: title, values: analysis.curves[title] }; });
    return midalign.figure("layers-" + analysis.name, "Layers of " + analysis.model,
      "Share of sentences that find their translation by the states of a layer, mean over all pairs of " + analysis.languages + " languages, " + analysis.sentences + " sentences each.",
      null, midalign.charts.curves(lines, "blocks below the state", "%"));
  }

  midalign.views.task = function (state) {
    const summary = summaryOf(state.task) || midalign.data.index.sections[0], task = taskOf(summary);
    return midalign.loadSection(summary.slug).then(function (section) {
      const comparisons = section.differences.length ? section.differences : section.rows.length > 1 ? [{ row: 1, baseline: 0 }] : [{ row: 0, baseline: 0 }];
      const chosen = comparisons[Number(state.arm) || 0] || comparisons[0], gaps = gapFigures(summary, section);
      return [
        element("h2", { tabindex: "-1" }, midalign.name(summary.title)),
        midalign.choice("Task", "task", midalign.data.index.sections.map(function (one) { return [one.slug, one.title]; }), summary.slug),
        rowsTable(summary, task, section, state),
        section.rows.length > 1 ? element("p", {}, element("a", { href: midalign.link({ view: "compare", task: summary.slug }) }, "Compare two of these models")) : null,
        section.bounds.some(Boolean) ? element("p", {}, "Supervised upper bound, trained on labels of every language of the task: ", midalign.name(section.rows.filter(function (row, i) { return section.bounds[i]; }).map(function (row) { return row.label; }).join(", ")), ".") : null,
        facts(section.facts),
        element("h3", {}, "Baseline and aligned by language"),
        comparisons.length > 1 ? midalign.choice("Model", "arm", comparisons.map(function (d, i) { return [String(i), section.rows[d.row].label]; }), String(comparisons.indexOf(chosen))) : null,
        dumbbell(summary, task, section, chosen),
        gaps.some(Boolean) ? element("h3", {}, "Transfer gap") : null,
        gaps,
        summary.analyses.length ? element("h3", {}, "Alignment by layer") : null,
        summary.analyses.map(layerFigure),
        element("h3", {}, "Every language"),
        section.rows.length > MOST_COLUMNS ? element("p", {}, "The first " + MOST_COLUMNS + " models. The map below has all, and leaderboard.json has every figure.") : null,
        languageTable(summary, task, section, state),
        element("h3", {}, "Languages and models"),
        heatMap(summary, task, section),
      ];
    });
  };

  function verdict(left, right, change, name) {
    if (!isNumber(change[0])) return "No score of both models on the " + name + " languages.";
    if (!isNumber(change[1])) return "On " + name + " languages the difference is " + midalign.signed(change[0]) + " points, without an interval.";
    const points = Math.abs(100 * change[0]).toFixed(1), interval = " (difference " + midalign.change(change) + ").";
    if (change[1] <= 0 && change[2] >= 0) return "On " + name + " languages no difference is shown: the interval holds 0" + interval;
    return "On " + name + " languages " + midalign.escapes.isolated(left) + " scores " + points + " points " + (change[0] > 0 ? "higher" : "lower") + " than " + midalign.escapes.isolated(right) + interval;
  }

  function explanation(difference, same) {
    const index = midalign.data.index;
    if (same) return "Both are the same model.";
    if (!difference.seeds) return "With more than " + index.paired_rows + " models in a task, only differences to a baseline have intervals here. For these two: midalign compare.";
    const seeds = difference.paired ? difference.seeds.map(function (seed) { return seed === null ? "none" : seed; }).join(", ") : "all of both models, which share none";
    return "Intervals cover documents (" + midalign.count(index.draws) + " bootstrap draws, the same for both models) and, with several seeds, training seeds: " + seeds + ". Bold: the interval excludes 0. Intervals of single languages are not corrected for their number. README.md counts languages after Holm's correction.";
  }

  midalign.views.compare = function (state) {
    const sections = midalign.data.index.sections.filter(function (one) { return one.rows.length > 1; });
    if (!sections.length) return [element("h2", { tabindex: "-1" }, "Compare two models"), element("p", {}, "No task has two models.")];
    const summary = sections.find(function (one) { return one.slug === state.task; }) || sections[0], task = taskOf(summary);
    return midalign.loadSection(summary.slug).then(function (section) {
      const first = section.differences[0] || { row: 1, baseline: 0 };
      const place = function (id, other) { const index = summary.rows.indexOf(id); return index < 0 ? other : index; };
      const a = place(state.a, first.row), b = place(state.b, first.baseline);
      return midalign.comparison(section, task.languages, a, b).then(function (difference) {
        const left = section.rows[a], right = section.rows[b], models = section.rows.map(function (row, i) { return [summary.rows[i], row.label]; });
        const sets = SETS.filter(function (name) { return difference.means[name]; });
        const line = function (name, n, role, one, two, change) {
          return { language: { text: name }, role: { text: role }, n: { text: midalign.count(n), value: n }, a: { text: midalign.bounds(one), value: one[0] }, b: { text: midalign.bounds(two), value: two[0] }, change: { text: midalign.change(change), value: change[0], class: isNumber(change[1]) && (change[1] > 0 || change[2] < 0) ? "clear" : null } };
        };
        const languageRows = task.languages.map(function (code, i) { return line(nameOf(code) + " (" + code + ")", section.languages[code].n, summary.roles[i], left.scores[i], right.scores[i], difference.scores[i]); });
        const setRows = sets.map(function (name) { return line(name, section.sets[name].length, "mean", left.means[name], right.means[name], difference.means[name]); });
        const columns = function (what, count) { return [{ key: "language", title: what }, { key: "role", title: "Role" }, { key: "n", title: count, numeric: true }, { key: "a", title: left.label, numeric: true }, { key: "b", title: right.label, numeric: true }, { key: "change", title: "Difference", numeric: true }]; };
        const chartRows = byRole(summary, task.languages).map(function (i) { return i.heading ? i : { label: languageLabel(task.languages[i]), estimate: difference.scores[i], about: nameOf(task.languages[i]) + ": " + midalign.change(difference.scores[i]) }; });
        return [
          element("h2", { tabindex: "-1" }, "Compare two models"),
          element("div", { class: "filters" },
            midalign.choice("Task", "task", sections.map(function (one) { return [one.slug, one.title]; }), summary.slug),
            midalign.choice("Model", "a", models, summary.rows[a]), midalign.choice("Minus", "b", models, summary.rows[b])),
          element("ul", { id: "verdict" }, ROLES.filter(function (role) { return section.sets[role]; }).map(function (role) { return element("li", {}, verdict(left.label, right.label, difference.means[role], role)); })),
          midalign.table({ name: "comparison-means", caption: "Means in per cent with 95% intervals", rowHeader: "language", rows: setRows, columns: columns("Languages", "Count") }, sortingOf(state, "m")),
          midalign.figure("comparison", left.label + " minus " + right.label, "Paired difference per language with 95% interval.", null, midalign.charts.intervals(chartRows, "difference, points", true)),
          midalign.table({ name: "comparison-languages", caption: "Every language, in per cent with 95% intervals", rowHeader: "language", rows: languageRows, columns: columns("Language", "Items") }, sortingOf(state, "l")),
          element("p", { class: "rule" }, explanation(difference, a === b)),
        ];
      });
    });
  };
})();
