// The difference of any two rows of a section.
"use strict";

(function () {
  const isNumber = midalign.isNumber;

  function negative(estimate) {
    if (!isNumber(estimate[0])) return estimate;
    return [-estimate[0], isNumber(estimate[2]) ? -estimate[2] : null, isNumber(estimate[1]) ? -estimate[1] : null, estimate[3]];
  }

  function mirrored(difference) {
    return Object.assign({}, difference, {
      scores: difference.scores.map(negative),
      means: Object.fromEntries(Object.entries(difference.means).map(function (entry) { return [entry[0], negative(entry[1])]; })),
    });
  }

  // Differences without an interval, where a section has too many rows to compare every pair.
  function plain(section, codes, a, b) {
    const minus = function (left, right) { return [isNumber(left) && isNumber(right) ? left - right : null, null, null, null]; };
    const left = section.rows[a], right = section.rows[b];
    return {
      scores: codes.map(function (code, i) { return minus(left.scores[i][0], right.scores[i][0]); }),
      means: Object.fromEntries(Object.keys(section.sets).map(function (name) { return [name, minus(left.means[name][0], right.means[name][0])]; })),
    };
  }

  // Resolve to row `a` minus row `b`: the published difference to a baseline, or the file of the pair.
  midalign.comparison = function (section, codes, a, b) {
    const difference = function (row, baseline) { return section.differences.find(function (d) { return d.row === row && d.baseline === baseline; }); };
    if (a === b || difference(a, b)) return Promise.resolve(difference(a, b) || plain(section, codes, a, b));
    if (difference(b, a)) return Promise.resolve(mirrored(difference(b, a)));
    if (section.rows.length > midalign.data.index.paired_rows) return Promise.resolve(plain(section, codes, a, b));
    const name = section.slug + "-" + Math.max(a, b) + "-" + Math.min(a, b);
    return midalign.load(name, "pairs/" + name + ".js").then(function (difference) { return a > b ? difference : mirrored(difference); });
  };
})();
