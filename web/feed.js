// The feed: one WebSocket that is kept open, joined without a gap and resumed after each break.
//
// Join: the server's welcome names a bound G from which on it sends every event. Only then is the state fetched, so it is
// at G or later; events that came meanwhile wait, and then the newer wins, by Position (their texts compare as they do).
// Resume: the last mark is the only thing that says what is surely here; the server sends all that stands behind it, or
// says that it cannot, and then the state is fetched again.

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 10_000;
// Marks come at least once a second; a feed that is silent for longer is dead, whatever the socket says.
const SILENCE_MS = 10_000;

export class Feed {
  #url;
  #page;
  #newest = new Map(); // entity of a topic → Position of its newest event
  #waiting = null; // events that come while the state is being fetched
  #mark = null;
  #attempt = 0;
  #silence = 0;

  /// `page` has: topics, parts?, load(), apply(event), mark(event), state(name, words).
  constructor(url, page) {
    this.#url = url;
    this.#page = page;
  }

  connect() {
    this.#page.state("connecting", this.#attempt ? "reconnecting" : "connecting");
    const socket = new WebSocket(this.#url);
    socket.onopen = () => socket.send(JSON.stringify(this.#subscription()));
    socket.onmessage = ({ data }) => {
      this.#heard(socket);
      this.#receive(JSON.parse(data), socket);
    };
    socket.onclose = () => this.#again();
    this.#heard(socket);
  }

  #subscription() {
    const { topics, parts } = this.#page;
    return { type: "subscribe", topics, ...(parts && { parts }), ...(this.#mark && { resume: this.#mark }) };
  }

  #heard(socket) {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => socket.close(), SILENCE_MS);
  }

  #receive(message, socket) {
    switch (message.type) {
      case "welcome":
        this.#attempt = 0;
        if (message.resumed) this.#page.state("live", "live");
        else this.#join(socket);
        break;
      case "resync":
        this.#join(socket);
        break;
      case "error":
        console.warn("the storefront refused:", message.reason);
        break;
      case "mark":
        this.#mark = message.position;
        this.#page.mark(message);
        break;
      default:
        if (this.#waiting) this.#waiting.push(message);
        else this.#apply(message);
    }
  }

  async #join(socket) {
    const waiting = (this.#waiting = []);
    this.#newest.clear();
    try {
      await this.#page.load();
    } catch (error) {
      console.warn("the state could not be fetched:", error);
      this.#mark = null; // nothing is shown that a mark could speak for
      socket.close();
      return;
    }
    if (this.#waiting !== waiting) return; // another join has begun since
    this.#waiting = null;
    waiting.forEach((event) => this.#apply(event));
    this.#page.state("live", "live");
  }

  #apply(event) {
    if (event.type === "catalog.truncated") return void location.reload();
    const entity = `${event.type.split(".")[0]} ${event.entity}`;
    const newest = this.#newest.get(entity);
    if (newest !== undefined && newest >= event.position) return;
    this.#newest.set(entity, event.position);
    this.#page.apply(event);
  }

  #again() {
    clearTimeout(this.#silence);
    this.#waiting = null;
    this.#page.state("offline", "offline");
    // Full jitter: after a break of the server its clients come back spread over the pause, not all at once.
    const pause = Math.random() * Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#attempt);
    this.#attempt += 1;
    setTimeout(() => this.connect(), pause);
  }
}
