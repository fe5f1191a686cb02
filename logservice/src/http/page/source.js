// Where the figures come from: a stream of events, read with fetch because EventSource cannot send a token.

const KEPT_AS = "logservice-token";
/** A stream without an event for so long is broken: the service sends one each second. */
const SILENT_MS = 6000;
/** How often is asked while there is no stream to be had. */
const ASK_MS = 5000;
const LONGEST_RETRY_MS = 10_000;

/** Why nothing is shown, in the service's own words. `status` is that of HTTP. */
class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Source {
  /** `show` takes what the service tells; `tell` takes how things stand: "live", "asking" or "lost" with a text; `ask` is called when a token is needed. */
  constructor({ show, tell, ask }) {
    Object.assign(this, { show, tell, ask });
    this.token = sessionStorage.getItem(KEPT_AS);
    this.needsToken = document.documentElement.dataset.tokens === "needed";
  }

  setToken(token) {
    this.token = token;
    sessionStorage.setItem(KEPT_AS, token);
  }

  forgetToken() {
    this.token = null;
    sessionStorage.removeItem(KEPT_AS);
  }

  /** Asks for a path; an answer that is not 200 is an error. */
  async get(path, signal) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const answer = await fetch(path, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    if (answer.ok) return answer;
    throw new Refused(answer.status, (await answer.text()).trim());
  }

  /** Shows what there is for as long as the page is open. */
  async run() {
    for (let retryMs = 500; ; ) {
      if (this.needsToken && !this.token) await this.ask("");
      const began = performance.now();
      const token = this.token;
      try {
        await this.stream();
        throw new Error("the service has ended the stream");
      } catch (error) {
        if (token !== this.token) continue;
        if (error.status === 401 || error.status === 403) {
          this.needsToken = true;
          this.forgetToken();
          await this.ask(error.message);
          continue;
        }
        if (error.status === 503 && (await this.askOnce())) {
          await pause(ASK_MS);
          continue;
        }
        this.tell("lost", error.status ? error.message : reason(error));
      }
      if (performance.now() - began > LONGEST_RETRY_MS) retryMs = 500;
      await pause(retryMs);
      retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS);
    }
  }

  /** Ends what is going on, so that it begins again: with another token, or without one. */
  restart() {
    this.current?.abort(new Error("the token is another one"));
  }

  async stream() {
    this.current = new AbortController();
    const { signal } = this.current;
    const silence = new Error("the service has been silent for too long");
    let watchdog = setTimeout(() => this.current.abort(silence), SILENT_MS);
    try {
      const answer = await this.get("api/events", signal);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) return;
        const events = (text + value).split("\n\n");
        text = events.pop();
        // Each event is all that there is: only the latest counts.
        const data = events.flatMap((event) => event.split("\n")).filter((line) => line.startsWith("data:"));
        if (!data.length) continue;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => this.current.abort(silence), SILENT_MS);
        this.tell("live");
        this.show(JSON.parse(data.at(-1).slice(5)));
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  /** For when there are as many streams as there may be. False if that does not work either. */
  async askOnce() {
    try {
      const told = await (await this.get("api/shards", AbortSignal.timeout(SILENT_MS))).json();
      this.tell("asking");
      this.show(told);
      return true;
    } catch (error) {
      if (error instanceof Refused || error instanceof TypeError || error.name === "TimeoutError") return false;
      throw error;
    }
  }

  /** What the service remembers of a shard; null if it tells nothing of it, so that the line begins now. */
  async history(shard) {
    try {
      return await (await this.get(`api/shards/${encodeURIComponent(shard)}/history`, AbortSignal.timeout(SILENT_MS))).json();
    } catch (error) {
      if (error instanceof Refused || error instanceof TypeError || error.name === "TimeoutError") return null;
      throw error;
    }
  }
}

/** What a browser says of a connection that failed differs from one to the next. */
function reason(error) {
  return error instanceof TypeError ? "the connection failed" : error.message;
}
