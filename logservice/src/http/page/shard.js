// A shard: who leads, how far the log is behind, its copies, its nodes, its snapshots.

const BADGES = { red: "✖ Problem", amber: "! Look at it", "": "✓ All well" };
/** What a leader told is shown as old from then on. */
const OLD_MS = 5000;

class ShardCard {
  constructor(name, history) {
    this.history = history;
    this.graph = new LagGraph(name);
    this.isVisible = false;
    this.badge = element("span", { class: "badge" });
    this.problems = element("ul", { class: "problems", "aria-label": `Problems of ${name}` });
    this.facts = new Facts(["Leader", "Mode", "Lag", "Write rate", "Durable offset", "Waiting clients", "Time to the log", "Following here", "Log on this disk", "Slots"]);
    this.snapshots = new Facts(["Newest snapshot", "Its size", "Log since then", "Kept", "Being made", "Failed attempts"]);
    this.copies = table("Copies of the log", ["Service", "Zone", "Behind", "State"]);
    this.nodes = table("Nodes", ["Node", "Role", "Zone", "State"]);
    this.elsewhere = element("p");
    const title = element("h3", { id: `title-${name}` }, name);
    this.card = element("article", { class: "shard", id: `shard-${name}`, tabindex: "-1", "aria-labelledby": `title-${name}` },
      element("div", { class: "title" }, title, this.badge), this.problems,
      this.graph.figure, this.facts.list,
      element("div", {}, this.nodes.whole), element("div", {}, this.copies.whole, this.elsewhere),
      element("div", {}, element("h4", {}, "Snapshots"), this.snapshots.list));
  }

  /** Shows a shard as it is in what the service told at `unixMs` of its clock, which arrived at `now` of this page's clock. */
  show(shard, services, unixMs, now) {
    const leader = shard.nodes.find((node) => node.id === shard.leader);
    const figures = leader?.figures ?? null;
    const isFresh = leads(shard) && leader !== undefined && leader.contact_ms + (figures?.age_ms ?? 0) <= OLD_MS;
    this.history.add({
      at: now,
      lag: isFresh && figures ? figures.lag_ms : null,
      limit: isFresh && figures ? figures.max_lag_ms : null,
      end: shard.durable_end,
      refusing: Boolean(isFresh && figures?.refusing_writes),
    });
    this.showState(shard.problems);
    this.showFacts(shard, leader, isFresh ? figures : null);
    this.showNodes(shard);
    this.showCopies(shard, services);
    this.showSnapshots(shard, unixMs);
    this.draw();
  }

  draw() {
    if (this.isVisible && this.history.samples.length) this.graph.draw(this.history);
  }

  showState(problems) {
    const level = problems[0]?.level ?? "";
    this.card.className = `shard ${level}`;
    setText(this.badge, BADGES[level]);
    showProblems(this.problems, problems.map((problem) => ({ ...problem, node: problem.text })));
  }

  /** Nothing is known of late. */
  showStale(text) {
    this.card.classList.add("stale");
    setText(this.badge, text);
  }

  showFacts(shard, leader, figures) {
    const former = shard.leader ? `nobody; ${shard.leader} was the last` : "nobody";
    this.facts.set("Leader", leads(shard) ? [shard.leader, shard.leader_address, leader?.zone].filter(Boolean).join(", ") : former);
    this.facts.set("Mode", figures?.mode || UNKNOWN);
    this.facts.set("Lag", figures ? `${duration(figures.lag_ms)} of at most ${duration(figures.max_lag_ms)}${figures.refusing_writes ? ": writes are refused" : ""}` : UNKNOWN);
    const rate = this.history.rate();
    this.facts.set("Write rate", rate === null ? UNKNOWN : `${bytes(rate)}/s`);
    this.facts.set("Durable offset", number.format(shard.durable_end));
    this.facts.set("Waiting clients", figures ? `${number.format(figures.held_clients)}; ${bytes(figures.pending_bytes)} not acknowledged` : UNKNOWN);
    this.facts.set("Time to the log", figures?.acks ? `${microseconds(figures.ack_p50_us)} (median), ${microseconds(figures.ack_p99_us)} (99 %)` : figures ? "no write in the last minute" : UNKNOWN);
    this.facts.set("Following here", `${number.format(shard.replicas)} ${shard.replicas === 1 ? "server" : "servers"}`);
    const most = shard.max_log_bytes ? ` of at most ${bytes(shard.max_log_bytes)}` : "";
    this.facts.set("Log on this disk", `${bytes(shard.log_bytes)}${most}, ${shard.state}`);
    this.facts.show("Slots", shard.config_epoch > 0 || shard.slots !== "");
    this.facts.set("Slots", shard.slots ? `${shard.slots.replaceAll(",", ", ")}: ${number.format(slotCount(shard.slots))}; config epoch ${shard.config_epoch}` : "none");
  }

  showNodes(shard) {
    const rows = shard.nodes.map((node) => {
      const isAway = node.contact_ms > 30_000;
      const role = [node.role, node.figures?.mode].filter(Boolean).join(", ");
      const behind = node.lag_bytes && node.role !== "leader" ? `${duration(node.lag_ms)} behind: ${bytes(node.lag_bytes)}` : "in touch";
      const heard = `${isAway ? "✖ away: " : ""}heard ${duration(node.contact_ms)} ago`;
      return { red: isAway, cells: [node.id, role, node.zone, node.contact_ms > OLD_MS ? heard : behind] };
    });
    setRows(this.nodes.body, rows.length ? rows : [{ cells: ["none", "", "", ""] }]);
  }

  showCopies(shard, services) {
    const byName = [...shard.copies].sort((one, other) => one.name.localeCompare(other.name));
    const rows = byName.map((copy) => ({
      red: !copy.heard,
      cells: [copy.name, copy.zone, copy.heard && !copy.lag ? "nothing" : `${number.format(copy.lag)} entries`, copyState(copy)],
    }));
    const follows = shard.standing === "follows";
    this.copies.whole.hidden = follows;
    this.elsewhere.hidden = !follows;
    if (!follows) return setRows(this.copies.body, rows.length ? rows : [{ cells: ["this one", "", "nothing", "the only copy"] }]);
    const decider = services.find((service) => service.address === shard.decider);
    const words = "This service follows. The service that decides over the log shows its copies";
    this.elsewhere.replaceChildren(element("strong", {}, "Copies of the log: "), decider ? `${words}: ` : `${words}.`, decider ? pageOf(decider, decider.name) : "");
  }

  showSnapshots(shard, unixMs) {
    const has = shard.snapshot_time_ms > 0;
    this.snapshots.set("Newest snapshot", has ? `${dateAndClock.format(shard.snapshot_time_ms)}, ${duration(Math.max(0, unixMs - shard.snapshot_time_ms))} ago` : "none");
    this.snapshots.set("Its size", has ? bytes(shard.snapshot_bytes) : "–");
    this.snapshots.set("Log since then", bytes(Math.max(0, shard.durable_end - (has ? shard.snapshot_offset : shard.base))));
    this.snapshots.set("Kept", number.format(shard.snapshots) + (shard.snapshots_missing ? `; ${shard.snapshots_missing} are being fetched` : ""));
    this.snapshots.set("Being made", shard.snapshot_running ? "yes" : "no");
    this.snapshots.set("Failed attempts", shard.snapshot_failures ? `${shard.snapshot_failures} since ${dateAndClock.format(shard.snapshot_failing_since_ms)}` : "none");
  }
}

/** Whether a node leads, as far as the service knows. -1: nobody does; 0: the lease has passed. */
const leads = (shard) => shard.leader !== "" && shard.lease_remaining_ms !== -1 && shard.lease_remaining_ms !== 0;

function copyState({ decides, votes, heard }) {
  if (!heard) return "✖ away";
  if (!votes) return "is being made";
  return decides ? "decides" : "in touch";
}

/** A link to the page of another service. */
function pageOf(service, text) {
  return element("a", { href: pageAddress(service) }, text);
}

function pageAddress(service) {
  return `${location.protocol}//${service.http_address}/`;
}

/** Fills a list with problems `{level, alert, node}`, and leaves it alone if it holds them already. */
function showProblems(list, problems) {
  const key = JSON.stringify(problems.map(({ level, node }) => [level, node.textContent ?? node]));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  const line = ({ level, alert, node }) => element("li", { class: level, "data-alert": alert ?? "" }, node);
  list.replaceChildren(...problems.map(line));
}
