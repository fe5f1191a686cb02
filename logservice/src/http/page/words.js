"use strict";
// How figures, times and elements are made. All text goes into the page as text, never as HTML.

/** An element with attributes and children; a child that is no node is text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Changes a text only if it is another one, so that nothing is read aloud or selected anew. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets the rows of a table's body. A cell is a text, or a link `{text, href}`; `red` rows are marked. The first cell is the row's heading. */
function setRows(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach(({ cells, red }, at) => {
    const row = body.rows[at] ?? body.insertRow();
    row.className = red ? "red" : "";
    cells.forEach((cell, column) => {
      const made = row.cells[column] ?? row.appendChild(column ? element("td") : element("th", { scope: "row" }));
      if (typeof cell === "string") {
        if (made.firstElementChild) made.replaceChildren();
        return setText(made, cell);
      }
      if (!made.firstElementChild) made.replaceChildren(element("a"));
      const link = made.firstElementChild;
      setText(link, cell.text);
      if (link.getAttribute("href") !== cell.href) link.setAttribute("href", cell.href);
    });
  });
}

/** A table with a caption and headings, and its body. */
function table(caption, headings) {
  const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col" }, heading)));
  const body = element("tbody");
  return { body, whole: element("table", {}, element("caption", {}, caption), element("thead", {}, head), body) };
}

/** Names with values, whose values are set by name. */
class Facts {
  constructor(names) {
    this.names = new Map(names.map((name) => [name, element("dt", {}, name)]));
    this.values = new Map(names.map((name) => [name, element("dd")]));
    const lines = names.flatMap((name) => [this.names.get(name), this.values.get(name)]);
    this.list = element("dl", { class: "facts" }, ...lines);
  }

  set(name, text) {
    setText(this.values.get(name), text);
  }

  show(name, isShown) {
    for (const part of [this.names.get(name), this.values.get(name)]) part.hidden = !isShown;
  }
}

/** How many slots there are in ranges such as 0-5460,7000. */
function slotCount(ranges) {
  const bounds = ranges.split(",").map((range) => range.split("-").map(Number));
  return bounds.reduce((sum, [first, last = first]) => sum + last - first + 1, 0);
}

const number = new Intl.NumberFormat();
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const dateAndClock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** A time of the day in the reader's zone, of milliseconds since 1970. */
const timeOfDay = (unixMs) => clock.format(unixMs);

function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const s = Math.round(ms / 1000);
  if (s < 120) return `${s} s`;
  if (s < 7200) return `${Math.floor(s / 60)} min`;
  if (s < 172_800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86_400)} days`;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = count > 0 ? Math.min(Math.floor(Math.log2(count) / 10), units.length - 1) : 0;
  const value = count / 1024 ** unit;
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function microseconds(us) {
  if (us < 1000) return `${us} µs`;
  return us < 10_000 ? `${(us / 1000).toFixed(1)} ms` : duration(us / 1000);
}

/** A word for what is unknown, for a reader who hears it. */
const UNKNOWN = "not known";
