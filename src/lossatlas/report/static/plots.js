// Draws the figures of a page with Plotly when they come into view, in the colours of the reader's mode.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function layoutOf(plot, width) {
  const line = { gridcolor: token("--line"), linecolor: token("--soft"), zerolinecolor: token("--line"), automargin: true, exponentformat: "power" };
  const given = plot.layout;
  return {
    ...given,
    xaxis: { ...line, ...given.xaxis },
    yaxis: { ...line, ...given.yaxis },
    font: { family: "system-ui, 'DejaVu Sans', sans-serif", size: 13, color: token("--text") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 12, r: 12, t: 8, b: 12 },
    legend: { orientation: "h", x: 0, y: -0.22, yref: "paper", itemwidth: 30 },
    hovermode: width < 600 ? "closest" : "x", hoverlabel: { namelength: -1 }, dragmode: false, showlegend: true,
  };
}

function draw(chooser) {
  const plots = JSON.parse(chooser.querySelector("script").textContent);
  const target = chooser.querySelector(".plot");
  const plot = plots[Number(chooser.querySelector("select").value) || 0];
  target.setAttribute("aria-label", plot.alt);
  const options = { displayModeBar: false, responsive: true, staticPlot: false, scrollZoom: false };
  return Plotly.react(target, plot.data, layoutOf(plot, target.clientWidth), options)
    .then(() => { target.dataset.drawn = plot.name; });
}

const choosers = Array.from(document.querySelectorAll(".chooser"));
const drawn = new Set();
const once = (chooser) => {
  if (drawn.has(chooser)) return;
  drawn.add(chooser);
  draw(chooser);
};
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) once(entry.target);
}, { rootMargin: "300px" });
for (const chooser of choosers) {
  watch.observe(chooser);
  chooser.querySelector("select").addEventListener("change", () => { drawn.add(chooser); draw(chooser); });
}
dark.addEventListener("change", () => drawn.forEach(draw));
window.addEventListener("beforeprint", () => choosers.forEach(once));
