// The state of a view is in the address after "#", so that a link shows the same view.
"use strict";

midalign.state = {
  read: function () {
    return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  },
  address: function (values) {
    const parameters = new URLSearchParams();
    Object.keys(values).forEach(function (key) {
      if (values[key] !== "" && values[key] !== null && values[key] !== undefined) parameters.set(key, values[key]);
    });
    return "#" + parameters.toString();
  },
  // Change some values of the present view without a new entry in the history.
  change: function (values) {
    history.replaceState(null, "", midalign.state.address(Object.assign(midalign.state.read(), values)));
    midalign.render(false);
  },
};

// Return the address of a view; only the theme is kept.
midalign.link = function (values) {
  return midalign.state.address(Object.assign({ theme: midalign.state.read().theme }, values));
};
