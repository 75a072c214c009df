// Draw the view that the address names, and again when it changes.
"use strict";

(function () {
  const main = document.getElementById("content");
  let drawn = 0;

  function theme(state) {
    if (state.theme === "dark" || state.theme === "light") document.documentElement.dataset.theme = state.theme;
    else delete document.documentElement.dataset.theme;
  }

  function isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function drawFigures() {
    main.querySelectorAll("figure").forEach(function (figure) { figure.draw(); });
  }

  function markCurrent(view) {
    document.querySelectorAll("nav a").forEach(function (link) {
      link.href = midalign.link({ view: link.dataset.view === "overview" ? "" : link.dataset.view });
      if (link.dataset.view === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
  }

  // `moved`: the view was changed by a link, so that keyboard and screen reader go on at its heading.
  midalign.render = function (moved) {
    const state = midalign.state.read(), view = midalign.views[state.view] ? state.view : "overview";
    drawn += 1;
    const turn = drawn, focused = document.activeElement ? document.activeElement.id : "";
    const caret = focused === "search" ? document.activeElement.selectionStart : null;
    theme(state);
    markCurrent(view);
    Promise.resolve().then(function () { return midalign.views[view](state); }).catch(function (error) {
      return [midalign.element("p", { class: "warning", role: "alert" }, error.message)];
    }).then(function (blocks) {
      if (turn !== drawn) return;
      main.replaceChildren.apply(main, blocks.flat(3).filter(Boolean));
      drawFigures();
      const heading = main.querySelector("h2");
      document.title = (heading && view !== "overview" ? heading.textContent + " – " : "") + "midalign leaderboard";
      if (moved && heading) { heading.focus(); scrollTo(0, 0); }
      else if (focused && document.getElementById(focused)) {
        document.getElementById(focused).focus();
        if (caret !== null) document.getElementById(focused).setSelectionRange(caret, caret);
      }
      main.dataset.drawn = view;
    });
  };

  document.getElementById("theme").addEventListener("click", function () {
    midalign.state.change({ theme: isDark() ? "light" : "dark" });
  });
  addEventListener("hashchange", function () { midalign.render(true); });
  let waiting = 0;
  addEventListener("resize", function () { clearTimeout(waiting); waiting = setTimeout(drawFigures, 150); });
  addEventListener("beforeprint", drawFigures);
  midalign.render(false);
})();
