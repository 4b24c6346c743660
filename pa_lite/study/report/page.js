(function () {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = window.matchMedia("(max-width: 639px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(hover: none)").matches;

  // Buttons are listed explicitly, so that a new version of plotly cannot add one that contacts a server.
  function config(id) {
    return { responsive: false, displaylogo: false, displayModeBar: touch ? false : "hover",
      modeBarButtons: [["toImage", "resetScale2d"]], toImageButtonOptions: { filename: "pa-lite-" + id, scale: 2 },
      showLink: false, showSendToCloud: false, showEditInChartStudio: false, plotlyServerURL: "" };
  }

  // plotly gets both sizes as numbers and does not measure the page, so that resizing cannot change a height.
  function sized(layout, width) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const out = Object.assign({}, layout, { width: width, autosize: false, uirevision: "keep",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif" },
      margin: Object.assign({ l: 56, r: 16, t: 36, b: 48 }, layout.margin) });
    if (touch) out.dragmode = false; // a finger scrolls the page
    for (const key of Object.keys(layout).filter((k) => /^[xy]axis/.test(k)))
      out[key] = Object.assign({}, layout[key], { gridcolor: line, linecolor: line });
    if (layout.grid && narrow.matches) { // on a phone, panels are stacked
      const panels = layout.annotations.length; // one annotation, its title, for each panel
      out.grid = Object.assign({}, layout.grid, { rows: panels, columns: 1, ygap: 0.45 });
      out.height = 60 + 170 * panels;
    }
    return out;
  }

  // The live chart gets the static chart's description; its parts are hidden from screen readers.
  function describe(chart, host) {
    const words = ["title", "desc"].map((tag) => chart.querySelector(".static svg > " + tag).textContent).join(". ");
    host.querySelectorAll("svg.main-svg").forEach((svg, i) => {
      if (i > 0) return svg.setAttribute("aria-hidden", "true");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", words);
    });
  }

  function draw(id) {
    const host = document.getElementById(id), chart = host.parentElement;
    chart.classList.add("is-live"); // before drawing, as hidden elements have no size
    const failed = (error) => {
      chart.classList.remove("is-live"); // the static chart stays
      console.warn("chart " + id + ": " + error);
    };
    try {
      const layout = sized(figures[id].layout, chart.clientWidth);
      host.style.height = layout.height + "px";
      Plotly.react(host, figures[id].data, layout, config(id)).then(() => describe(chart, host), failed);
    } catch (error) {
      failed(error);
    }
  }

  const ids = Object.keys(figures), widths = {};
  function drawAll() {
    ids.forEach(draw);
  }
  function follow() { // called once per frame, however many events there are
    for (const id of ids) {
      const width = document.getElementById(id).parentElement.clientWidth;
      if (width && width !== widths[id]) {
        widths[id] = width;
        draw(id);
      }
    }
  }
  let waiting = 0;
  new ResizeObserver(() => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(follow);
  }).observe(document.body);
  narrow.addEventListener("change", drawAll);
  dark.addEventListener("change", drawAll);
})();
