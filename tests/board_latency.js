// Time from an event to what is seen of it, in milliseconds: when the board made the event (`at_utc_ns`, the same machine's clock)
// to when a frame that shows it was handed over. Put into a page before it loads; `window.latency` collects.
(() => {
  const latency = { state: [], verdict: [] };
  const told = new Map(); // utc_ns of a verdict -> when the board told it
  const shown = new Map(); // utc_ns of a verdict -> when its frame was done
  let waiting = [];
  window.latency = latency;
  const now = () => performance.timeOrigin + performance.now();
  const settle = (utc) => {
    if (told.has(utc) && shown.has(utc)) {
      latency.verdict.push(shown.get(utc) - told.get(utc));
      told.delete(utc);
    }
  };
  const Original = window.EventSource;
  window.EventSource = class extends Original {
    constructor(...how) {
      super(...how);
      this.addEventListener("state", (event) => {
        const { at_utc_ns: at, people, schema } = JSON.parse(event.data);
        if (schema === undefined && people) waiting.push(at / 1e6);
      });
      this.addEventListener("verdict", (event) => {
        const { at_utc_ns: at, utc_ns: utc } = JSON.parse(event.data);
        told.set(String(utc), at / 1e6);
        settle(String(utc));
      });
    }
  };
  const painted = (what) =>
    requestAnimationFrame(() => {
      const after = new MessageChannel(); // its message comes after the frame was drawn
      after.port1.onmessage = () => what(now());
      after.port2.postMessage(null);
    });
  new MutationObserver((changes) => {
    const utcs = changes
      .filter((change) => change.attributeName === "data-utc-ns" && change.target.classList.contains("answer"))
      .map((change) => change.target.dataset.utcNs);
    const events = waiting;
    waiting = [];
    painted((at) => {
      for (const made of events) latency.state.push(at - made);
      for (const utc of utcs) {
        if (!shown.has(utc)) shown.set(utc, at);
        settle(utc);
      }
    });
  }).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
})();
