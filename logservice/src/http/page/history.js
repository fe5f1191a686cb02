// How far a log was behind within the last ten minutes, as a line with the limit.

const SPAN_MS = 600_000;
/** A longer time without a sample is a gap in the line. */
const GAP_MS = 10_000;
/** The write rate is that of so much time. */
const RATE_MS = 10_000;
const WIDTH = 600;
const HEIGHT = 100;

/** Samples of a shard, the oldest first. Their times are those of this page's own clock, which nobody sets. */
class LagHistory {
  samples = [];

  /** What the service remembers, which arrived at `now`: all of it is older than what is known already. */
  addPast(past, now) {
    const first = this.samples[0]?.at ?? Infinity;
    const older = past.age_ms.map((age, i) => ({
      at: now - age, lag: past.lag_ms[i], limit: past.limit_ms[i], end: past.durable_end[i], refusing: past.refusing[i],
    }));
    this.samples = older.filter(({ at }) => at < first).concat(this.samples);
  }

  add(sample) {
    this.samples.push(sample);
    while (this.samples[0].at < sample.at - SPAN_MS - GAP_MS) this.samples.shift();
  }

  /** Bytes that became durable each second of late; null if nobody knows, or the stream began anew. */
  rate() {
    const last = this.samples.at(-1);
    const first = this.samples.find(({ at }) => at >= last.at - RATE_MS);
    const grown = last.end - first.end;
    return last.at - first.at >= 1000 && grown >= 0 ? (grown / (last.at - first.at)) * 1000 : null;
  }

  /** The longest lag; null if none is known. */
  highest() {
    return this.samples.reduce((most, { lag }) => (lag === null ? most : Math.max(most ?? 0, lag)), null);
  }
}

class LagGraph {
  constructor(shard) {
    const svg = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      return made;
    };
    this.shard = shard;
    this.paths = Object.fromEntries(["refused", "under", "lag", "limit"].map((name) => [name, svg("path", { class: name })]));
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `Lag of ${shard}` });
    this.picture.append(...Object.values(this.paths));
    this.limitName = element("span", { class: "limit-name", "aria-hidden": "true" });
    this.caption = element("figcaption");
    const span = element("div", { class: "span", "aria-hidden": "true" }, element("span", {}, "10 minutes ago"), element("span", {}, "now"));
    this.figure = element("figure", { class: "lag-figure" }, element("h4", {}, "Lag"), element("div", { class: "graph" }, this.limitName, this.picture), span, this.caption);
  }

  draw(history) {
    const { samples } = history;
    const last = samples.at(-1);
    const highest = history.highest();
    const limit = last.limit ?? samples.findLast((sample) => sample.limit !== null)?.limit ?? null;
    // The limit is drawn in always, and so is what is above it.
    const top = Math.max((limit ?? 1000) * 1.25, (highest ?? 0) * 1.1);
    const x = (at) => (WIDTH * (1 - (last.at - at) / SPAN_MS)).toFixed(1);
    const y = (ms) => (HEIGHT * (1 - ms / top)).toFixed(1);
    let line = "", under = "", refused = "", before = null;
    for (const sample of samples) {
      const follows = before !== null && sample.at - before.at <= GAP_MS;
      if (sample.refusing) refused += `M${x(follows ? before.at : sample.at - 1000)} 0V${HEIGHT}H${x(sample.at)}V0Z`;
      if (sample.lag !== null) {
        const continues = follows && before.lag !== null;
        line += `${continues ? "L" : "M"}${x(sample.at)} ${y(sample.lag)}`;
        if (continues) under += `M${x(before.at)} ${HEIGHT}V${y(before.lag)}L${x(sample.at)} ${y(sample.lag)}V${HEIGHT}Z`;
      }
      before = sample;
    }
    this.paths.lag.setAttribute("d", line);
    this.paths.under.setAttribute("d", under);
    this.paths.refused.setAttribute("d", refused);
    this.paths.limit.setAttribute("d", limit === null ? "" : `M0 ${y(limit)}H${WIDTH}`);
    this.limitName.hidden = limit === null;
    if (limit !== null) {
      setText(this.limitName, `limit ${duration(limit)}`);
      this.limitName.style.top = `calc(${y(limit)}% + 0.1rem)`;
    }
    const now = last.lag === null ? UNKNOWN : duration(last.lag);
    const said = [`now ${now}`, highest === null ? "" : `highest ${duration(highest)}`, limit === null ? "" : `limit ${duration(limit)}`];
    const text = said.filter(Boolean).join(", ");
    setText(this.caption, text[0].toUpperCase() + text.slice(1));
    this.picture.setAttribute("aria-label", `Lag of ${this.shard} over the last ten minutes: ${text}`);
  }
}
