// Tables that sort by any column, and their downloads.
//
// A table is {name, caption, columns, rows}. A column is {key, title, numeric, ascending}, a row maps keys to
// cells, and a cell is {text, value, href}: what is shown, what is sorted and downloaded, where it leads.
"use strict";

(function () {
  const element = midalign.element;

  function compare(left, right) {
    if (typeof left === "number" && typeof right === "number") return left - right;
    return String(left).localeCompare(String(right), "en", { numeric: true });
  }

  function valueOf(cell) { return cell.value === undefined ? cell.text : cell.value; }

  // Sort rows. Missing values are last in both directions, and equal rows keep their order.
  midalign.sortRows = function (rows, key, descending) {
    const missing = function (row) { const value = valueOf(row[key]); return value === null || value === ""; };
    return rows.slice().sort(function (left, right) {
      if (missing(left) || missing(right)) return missing(left) - missing(right);
      const order = compare(valueOf(left[key]), valueOf(right[key]));
      return descending ? -order : order;
    });
  };

  function headerCell(table, column, sorting) {
    const active = sorting.key === column.key;
    const mark = active ? (sorting.descending ? "▼" : "▲") : "↕";
    const button = element("button", {
      type: "button", "data-sort": column.key,
      click: function () {
        sorting.descending = active ? !sorting.descending : Boolean(column.numeric) && !column.ascending;
        sorting.key = column.key;
        sorting.onChange(sorting);
      },
    }, element("span", { class: "title" }, column.title.replace(/, | − /g, function (separator) { return separator.trimEnd() + "\n"; })), element("span", { "aria-hidden": "true", class: "order" }, mark));
    return element("th", {
      scope: "col", class: column.numeric ? "number" : null, title: column.about,
      "aria-sort": active ? (sorting.descending ? "descending" : "ascending") : null,
    }, button);
  }

  function bodyCell(column, cell, first) {
    const text = midalign.name(cell.text);
    const content = cell.href ? element("a", { href: cell.href }, text) : text;
    const attributes = { class: [column.numeric ? "number" : "", cell.class || ""].join(" ").trim() || null };
    if (first) attributes.scope = "row";
    return element(first ? "th" : "td", attributes, content, cell.mark ? element("span", { class: "mark", title: cell.about }, cell.mark) : null);
  }

  // Return the table's element. `rowHeader` is the key of the column that names a row.
  midalign.table = function (table, sorting) {
    const rows = sorting.key ? midalign.sortRows(table.rows, sorting.key, sorting.descending) : table.rows;
    const body = rows.map(function (row) {
      return element("tr", { class: row.class }, table.columns.map(function (column) {
        return bodyCell(column, row[column.key], column.key === table.rowHeader);
      }));
    });
    const node = element("table", {},
      element("caption", {}, table.caption),
      element("thead", {}, element("tr", {}, table.columns.map(function (column) { return headerCell(table, column, sorting); }))),
      element("tbody", {}, body));
    return element("div", {},
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": table.caption }, node),
      downloads(table, rows));
  };

  function downloads(table, rows) {
    const formats = {
      CSV: ["text/csv", midalign.tableText.csv], JSON: ["application/json", midalign.tableText.json],
      LaTeX: ["application/x-tex", midalign.tableText.latex],
    };
    const endings = { CSV: "csv", JSON: "json", LaTeX: "tex" };
    return element("p", { class: "downloads" }, "Download this table: ", Object.keys(formats).map(function (name) {
      return element("button", {
        type: "button", "data-download": endings[name],
        click: function () {
          midalign.download(table.name + "." + endings[name], formats[name][0], formats[name][1](table, rows));
        },
      }, name);
    }));
  }

  // The text of a table in each format. CSV and JSON have shares with all decimals, LaTeX what is shown.
  midalign.tableText = {
    csv: function (table, rows) {
      const lines = [table.columns.map(function (column) { return column.title; })].concat(rows.map(function (row) {
        return table.columns.map(function (column) { return valueOf(row[column.key]); });
      }));
      return lines.map(function (line) { return line.map(midalign.escapes.csv).join(","); }).join("\r\n") + "\r\n";
    },
    json: function (table, rows) {
      return JSON.stringify(rows.map(function (row) {
        return Object.fromEntries(table.columns.map(function (column) { return [column.title, valueOf(row[column.key])]; }));
      }), null, 1) + "\n";
    },
    latex: function (table, rows) {
      const escape = midalign.escapes.latex;
      const line = function (cells) { return cells.map(escape).join(" & ") + " \\\\"; };
      return ["% \\usepackage{booktabs}",
        "\\begin{tabular}{" + table.columns.map(function (column) { return column.numeric ? "r" : "l"; }).join("") + "}",
        "\\toprule", line(table.columns.map(function (column) { return column.title; })), "\\midrule"].concat(rows.map(function (row) {
        return line(table.columns.map(function (column) { return row[column.key].text; }));
      }), ["\\bottomrule", "\\end{tabular}", ""]).join("\n");
    },
  };
})();
