"use strict";
// Draws all pictures, in the colours of the reader's scheme; in light ones, as wide as the paper, for printing.
{
  const PAPER = 950; // pixels between the margins of A4, where the style sheet shrinks pictures
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
    if (layout.title.text === picture.dataset.title) { // the page's heading says it
      const { text } = layout.title.subtitle ?? { text: "" };
      layout.title = { ...layout.title, text, font: { size: 12 }, subtitle: {} };
      const free = text ? 15 : 30;
      layout.margin.t -= free;
      layout.height -= free;
      picture.style.height = `${layout.height}px`;
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
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((one) => { one.open = true; });
    repaint({ template: template("light"), width: PAPER });
  });
  addEventListener("afterprint", () => {
    folded.forEach((one) => { one.open = false; });
    repaint({ template: current(), width: null, autosize: true });
  });
}
