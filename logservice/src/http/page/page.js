// The page: what is wrong at its top, then the services, then the shards.

const FILTER_FROM = 9;
const MOST_SAID = 20;
const part = (id) => document.getElementById(id);
const cards = new Map();
const waiting = [];
let shownAt = null;
/** Whether there was no contact: what happened meanwhile is to be asked for. */
let hasMissed = false;

const source = new Source({ show, tell, ask });

/** Draws the cards that can be seen, and asks once for the past of each. */
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cards.get(target.dataset.shard);
    if (!card) continue;
    card.isVisible = isIntersecting;
    card.draw();
    askForPast(card);
  }
}, { rootMargin: "200px" });

function askForPast(card) {
  if (!card.isVisible || card.hasPast) return;
  card.hasPast = true;
  waiting.push(card);
  if (waiting.length === 1) fetchPast();
}

/** One after the other, so that many shards are not many questions at a time. */
async function fetchPast() {
  for (; waiting.length; waiting.shift()) {
    const card = waiting[0];
    const { history } = card;
    const past = await source.history(card.card.dataset.shard);
    if (past && history === card.history) card.history.addPast(past, performance.now());
    card.draw();
  }
}

function show(told) {
  const now = performance.now();
  shownAt = Date.now();
  showVerdict(told);
  showServices(told);
  removeCards(new Set(told.shards.map((shard) => shard.shard)));
  for (const shard of told.shards) {
    const card = cards.get(shard.shard) ?? addCard(shard.shard);
    if (hasMissed) {
      card.history = new LagHistory();
      card.hasPast = false;
    }
    card.show(shard, told.services, told.time_ms, now);
    askForPast(card);
  }
  hasMissed = false;
  part("shards").hidden = false;
  part("none").hidden = told.shards.length > 0;
  part("search").hidden = told.shards.length < FILTER_FROM;
  filter();
  setText(part("about"), `Version ${told.version}, running for ${duration(told.uptime_ms)}.`);
}

/** Removes the cards of all shards but some. */
function removeCards(kept) {
  for (const [name, card] of cards) {
    if (kept.has(name)) continue;
    watcher.unobserve(card.card);
    card.card.remove();
    cards.delete(name);
  }
}

function addCard(name) {
  const card = new ShardCard(name, new LagHistory());
  card.card.dataset.shard = name;
  // In order of their names, as the service tells them.
  const next = [...cards.keys()].filter((other) => other > name).sort()[0];
  cards.set(name, card);
  part("shards").insertBefore(card.card, next === undefined ? null : cards.get(next).card);
  watcher.observe(card.card);
  return card;
}

function showVerdict({ problems, shards }) {
  const of = (shard) => shard.problems.map((problem) => ({ ...problem, node: linkTo(shard.shard, problem.text) }));
  const all = [...problems.map((problem) => ({ ...problem, node: problem.text })), ...shards.flatMap(of)];
  const red = all.filter(({ level }) => level === "red");
  const level = red.length ? "red" : all.length ? "amber" : "";
  const count = (problems) => `${problems.length} ${problems.length === 1 ? "problem" : "problems"}`;
  const verdict = { red: `✖ ${count(red)}`, amber: "Nothing is broken. To be looked at:", "": "✓ All is well" }[level];
  part("overall").hidden = false;
  part("overall").className = `banner ${level}`;
  setText(part("verdict"), verdict);
  // Not every second: only when it is another one.
  setText(part("announcement"), verdict);
  // What is red stands alone at the top; the rest is said at its shard.
  const said = level === "red" ? red : all;
  const more = said.length > MOST_SAID ? [{ level, node: `and ${said.length - MOST_SAID} more` }] : [];
  showProblems(part("problems"), [...said.slice(0, MOST_SAID), ...more]);
  setText(document.querySelector("title"), `${{ red: "✖ ", amber: "! ", "": "" }[level]}Log service`);
  setIcon(level);
}

/** What a problem is, without why, as a link to its shard. */
function linkTo(shard, text) {
  return element("a", { href: `#shard-${encodeURIComponent(shard)}` }, `${text.split(/\.(?: |$)/)[0]}.`);
}

/** The colour of the page's tab. */
function setIcon(level) {
  const colour = { red: "%23d1242f", amber: "%23bf8700", "": "%231a7f37", lost: "%23808080" }[level];
  const href = `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='${colour}'/></svg>`;
  const icon = document.querySelector("link[rel=icon]");
  if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
}

function showServices({ services, id }) {
  part("services").hidden = services.length === 0;
  const own = services.find((service) => service.id === id);
  setText(part("own-name"), own ? own.name : "");
  const rows = services.map((service) => ({
    red: !service.connected,
    cells: [
      service.id !== id && service.http_address ? { text: service.name, href: pageAddress(service) } : service.name,
      service.zone,
      service.id === id ? "this one" : service.connected ? "connected" : "✖ not connected",
    ],
  }));
  setRows(part("services").querySelector("tbody"), rows);
}

/** Says how things stand between this page and the service. */
function tell(state, why) {
  part("forget").hidden = !source.token;
  part("lost").hidden = state !== "lost";
  if (state !== "lost") return setText(part("link"), state === "live" ? "Live" : "Asking every few seconds: too many others watch the stream");
  hasMissed = true;
  setText(part("link"), "No contact");
  const since = shownAt === null ? "" : ` What is shown is from ${timeOfDay(shownAt)}.`;
  setText(part("lost"), `✖ No contact with the log service: ${why.replace(/\.$/, "")}.${since} Trying again.`);
  setText(document.querySelector("title"), "✖ No contact – Log service");
  setIcon("lost");
  part("overall").hidden = true;
  for (const card of cards.values()) card.showStale(`as of ${timeOfDay(shownAt)}`);
}

/** Waits until the reader has given a token. */
function ask(why) {
  for (const id of ["overall", "services", "shards", "lost", "forget"]) part(id).hidden = true;
  removeCards(new Set());
  shownAt = null;
  setText(part("refused"), why && `The service refuses the token: ${why}`);
  setText(part("link"), "Waiting for a token");
  part("login").hidden = false;
  part("token").focus();
  return new Promise((resolve) => {
    part("login").addEventListener("submit", (event) => {
      event.preventDefault();
      source.setToken(part("token").value.trim());
      part("token").value = "";
      part("login").hidden = true;
      setText(part("link"), "Connecting …");
      resolve();
    }, { once: true });
  });
}

function filter() {
  const wanted = part("search").hidden ? "" : part("filter").value.trim();
  for (const [name, { card }] of cards) card.hidden = !name.includes(wanted);
}

part("forget").addEventListener("click", () => {
  source.forgetToken();
  source.restart();
});
part("filter").addEventListener("input", filter);
setText(part("zone"), Intl.DateTimeFormat().resolvedOptions().timeZone);
source.run();
