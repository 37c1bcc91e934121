"use strict";
// Draws all pictures, in the colours of the reader's scheme; in light ones, as wide as the paper, for printing.
{
  const PAPER = 680; // pixels between the margins of A4
  const LOWER = 0.75; // so that two pictures go on a sheet
  const schemes = JSON.parse(document.getElementById("schemes").textContent);
  const pictures = [...document.querySelectorAll(".picture")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const touch = matchMedia("(pointer: coarse)").matches;
  const template = (name) => ({ layout: schemes[name] });
  const current = () => template(dark.matches ? "dark" : "light");
  const config = { displaylogo: false, responsive: true, showSendToCloud: false };
  if (narrow) config.displayModeBar = false;

  for (const picture of pictures) {
    const { data, layout, frames } = JSON.parse(picture.nextElementSibling.textContent);
    layout.template = current();
    if (layout.title.text === picture.dataset.title && !layout.title.subtitle) { // the page's heading says it
      layout.title.text = "";
      layout.margin.t -= 30;
    }
    if (touch) layout.dragmode = false; // a finger scrolls the page
    if (narrow) {
      layout.margin = { ...layout.margin, l: 10, r: 10 };
      layout.font = { ...layout.font, size: 11 };
    }
    Plotly.newPlot(picture, { data, layout, frames, config });
  }

  const repaint = (change) => pictures.forEach((picture) => Plotly.relayout(picture, { ...change }));
  dark.addEventListener("change", () => repaint({ template: current() }));

  let folded = [];
  const before = new Map();
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((one) => { one.open = true; });
    pictures.forEach((picture) => {
      const { width, height } = picture.layout;
      before.set(picture, { width: width ?? null, height });
      Plotly.relayout(picture, { template: template("light"), width: PAPER, height: LOWER * height });
    });
  });
  addEventListener("afterprint", () => {
    folded.forEach((one) => { one.open = false; });
    pictures.forEach((picture) => {
      Plotly.relayout(picture, { template: current(), ...before.get(picture), autosize: true });
    });
  });
}
