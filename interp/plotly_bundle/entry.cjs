// What the bundle holds: plotly's core, which has scatter, and four trace types more.
"use strict";

const Plotly = require("plotly.js/lib/core");

Plotly.register([
  require("plotly.js/lib/bar"),
  require("plotly.js/lib/box"),
  require("plotly.js/lib/heatmap"),
  require("plotly.js/lib/sankey"),
]);

module.exports = Plotly;
