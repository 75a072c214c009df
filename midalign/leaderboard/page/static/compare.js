// The difference of any two rows of a section, from their bootstrap draws, which share their documents.
"use strict";

(function () {
  const isNumber = midalign.isNumber;

  // Return base64 of little-endian 16-bit integers as shares, NaN where a draw has no case.
  function decode(text) {
    const index = midalign.data.index, bytes = Uint8Array.from(atob(text), function (c) { return c.charCodeAt(0); });
    const view = new DataView(bytes.buffer), shares = new Float64Array(bytes.length / 2);
    for (let i = 0; i < shares.length; i += 1) {
      const stored = view.getUint16(2 * i, true);
      shares[i] = stored === index.undefined ? NaN : stored / index.steps;
    }
    return shares;
  }

  // Percentile with linear interpolation, as numpy's.
  function percentile(sorted, share) {
    const place = share * (sorted.length - 1), below = Math.floor(place), above = Math.min(below + 1, sorted.length - 1);
    return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
  }

  function estimate(point, draws) {
    const defined = Array.from(draws).filter(isNumber).sort(function (a, b) { return a - b; });
    if (!isNumber(point) || defined.length < 2) return [point, null, null, null];
    const tail = (1 - midalign.data.index.level) / 2, mean = midalign.meanDefined(defined);
    const variance = defined.reduce(function (sum, draw) { return sum + (draw - mean) * (draw - mean); }, 0) / (defined.length - 1);
    return [point, percentile(defined, tail), percentile(defined, 1 - tail), Math.sqrt(variance)];
  }

  // Return {scores, means}: row `a` minus row `b` per language and per set of languages.
  midalign.difference = function (section, codes, a, b, drawsA, drawsB) {
    const points = codes.map(function (code, i) {
      const left = section.rows[a].scores[i][0], right = section.rows[b].scores[i][0];
      return isNumber(left) && isNumber(right) ? left - right : null;
    });
    const draws = codes.map(function (code) {
      const left = decode(drawsA[code]), right = decode(drawsB[code]);
      return left.map(function (share, draw) { return share - right[draw]; });
    });
    const means = {};
    Object.keys(section.sets).forEach(function (name) {
      const places = section.sets[name].map(function (code) { return codes.indexOf(code); });
      const mean = new Float64Array(draws[0].length);
      for (let draw = 0; draw < mean.length; draw += 1) {
        let sum = 0, count = 0;
        places.forEach(function (place) { if (isNumber(draws[place][draw])) { sum += draws[place][draw]; count += 1; } });
        mean[draw] = count ? sum / count : NaN;
      }
      means[name] = estimate(midalign.meanDefined(places.map(function (place) { return points[place]; })), mean);
    });
    return { scores: points.map(function (point, i) { return estimate(point, draws[i]); }), means: means };
  };

  function negative(one) { return isNumber(one[1]) ? [-one[0], -one[2], -one[1], one[3]] : [isNumber(one[0]) ? -one[0] : null, null, null, null]; }

  // Return the difference of two rows: the published one to a baseline, or one computed from the draws.
  midalign.comparison = function (section, slug, codes, a, b) {
    const published = section.differences.find(function (d) { return d.row === a && d.baseline === b; });
    const mirrored = section.differences.find(function (d) { return d.row === b && d.baseline === a; });
    if (published) return Promise.resolve({ scores: published.scores, means: published.means, published: true });
    if (mirrored) {
      return Promise.resolve({
        scores: mirrored.scores.map(negative), published: true,
        means: Object.fromEntries(Object.entries(mirrored.means).map(function (entry) { return [entry[0], negative(entry[1])]; })),
      });
    }
    return Promise.all([midalign.loadDraws(slug, a), midalign.loadDraws(slug, b)]).then(function (loaded) {
      return midalign.difference(section, codes, a, b, loaded[0], loaded[1]);
    });
  };
})();
