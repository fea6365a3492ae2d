// What the page knows: the board's state, a few minutes of scores of everybody, the signals of the person looked at.
// Events change it at once; who draws is told once a frame.
import { useEffect, useState } from "preact/hooks";
import { ApiError, api, openStream, type StreamState } from "@shared/api";
import type { Decision } from "@shared/types";
import type {
  BoardState,
  History,
  Identify,
  Note,
  Person,
  SignalsEvent,
  StateEvent,
  VerdictEvent,
} from "./types";

export const HISTORY_S = 900;
export const SIGNALS_S = 10;
/** An answer older than this, or than three steps of a slow model, is not the current one. */
const STALE_S = 10;
const RETRY_MS = 5000;
const MAX_NOTES = 50;
const WHOLE = ["model", "outbox", "tasks", "notes", "spare", "identify", "features", "site", "gateway", "version"] as const;

export interface ScorePoint {
  readonly utcNs: number;
  readonly score: number;
  readonly decision: Decision;
}

/** Samples of one sensor: seconds since 1970, and a row for each channel. */
export interface Signals {
  readonly channels: readonly string[];
  times: number[];
  rows: (number | null)[][];
}

export class BoardStore {
  state: BoardState | null = null;
  connection: StreamState = "connecting";
  /** When something was last heard, on this browser's clock. */
  heardMs = 0;
  version = 0;
  readonly scores = new Map<string, ScorePoint[]>();
  readonly signals = new Map<string, Signals>();
  /** Counts episodes that began or ended, so that lists know when to ask again. */
  episodesSeen = 0;
  private parts: Partial<BoardState> = {};
  private order: readonly string[] = [];
  private readonly known = new Map<string, Person>();
  private offsetNs = 0;
  private close: (() => void) | undefined;
  private frame = 0;
  private queue: Promise<void> = Promise.resolve();
  private readonly asked = new Set<string>();
  private readonly listeners = new Set<() => void>();

  /** Opens the stream, looking at `subject` if given. */
  open(subject: string | null): void {
    this.close?.();
    this.signals.clear();
    const query = subject === null ? "" : `?subject=${encodeURIComponent(subject)}`;
    this.close = openStream(`api/stream${query}`, {
      onState: (connection) => {
        // Looking at somebody else opens another stream: that is no loss, and answers carry their own time.
        if (connection === "connecting" && this.connection === "open") return;
        this.connection = connection;
        this.changed();
      },
      on: {
        state: (event: StateEvent) => this.onState(event),
        signals: (event: SignalsEvent) => this.onSignals(event),
        verdict: (event: VerdictEvent) => this.onVerdict(event),
        episode: () => {
          this.episodesSeen += 1;
          this.changed();
        },
        note: (note: Note) => this.patch({ notes: [...(this.state?.notes ?? []), note].slice(-MAX_NOTES) }),
        identify: (identify: Identify) => this.patch({ identify }),
        bye: () => {
          this.connection = "lost";
          this.changed();
        },
      },
    });
  }

  stop(): void {
    this.close?.();
    this.close = undefined;
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Now, by the board's clock. */
  nowNs(): number {
    return Date.now() * 1e6 + this.offsetNs;
  }

  /** Whether what is known of a person may be shown as what is so now. */
  isCurrent(person: Person): boolean {
    const model = this.state?.model;
    const oldestS = Math.max(STALE_S, model ? (3 * model.hop) / model.rate_hz : 0);
    return this.connection === "open" && person.utc_ns !== null && this.nowNs() - person.utc_ns < oldestS * 1e9;
  }

  private onState(event: StateEvent): void {
    this.heardMs = Date.now();
    const { at_utc_ns: at, subjects, people, ...rest } = event;
    if (at !== undefined) this.offsetNs = at - Date.now() * 1e6;
    this.parts = { ...this.parts, ...rest };
    for (const person of people ?? []) this.known.set(person.subject, person);
    if (subjects) this.order = subjects;
    const place = new Map(this.order.map((subject, i) => [subject, i]));
    const here = [...this.known.values()]
      .filter((person) => !place.size || place.has(person.subject))
      .sort((a, b) => (place.get(a.subject) ?? 0) - (place.get(b.subject) ?? 0));
    // Only what is whole is shown: the first event should be, and a page must not break if it is not.
    if (WHOLE.every((key) => key in this.parts)) this.state = { ...(this.parts as Omit<BoardState, "people">), people: here };
    for (const person of people ?? []) {
      if (person.utc_ns !== null && person.score !== null) this.addScore(person.subject, person.utc_ns, person.score, person.decision);
      this.askHistory(person.subject);
    }
    this.changed();
  }

  private onVerdict(event: VerdictEvent): void {
    this.addScore(event.subject, event.utc_ns, event.score, event.decision);
    this.changed();
  }

  private addScore(subject: string, utcNs: number, score: number, decision: Decision): void {
    const points = this.scores.get(subject) ?? [];
    const last = points.at(-1);
    if (last && last.utcNs >= utcNs) return;
    // A new list: what is drawn from it sees that it changed.
    const from = points.findIndex((point) => point.utcNs > utcNs - HISTORY_S * 1e9);
    this.scores.set(subject, [...points.slice(Math.max(0, from)), { utcNs, score, decision }]);
  }

  /** Asks for what was before the page opened: of one person after the other, so that a board is not asked twenty things at once. */
  private askHistory(subject: string): void {
    if (this.asked.has(subject)) return;
    this.asked.add(subject);
    this.queue = this.queue.then(() =>
      api.get<History>(`api/people/${encodeURIComponent(subject)}/history`).then(
        (history) => this.onHistory(history),
        () => {
          setTimeout(() => this.asked.delete(subject), RETRY_MS);
        },
      ),
    );
  }

  private onHistory(history: History): void {
    const older = history.utc_ns.map((utcNs, i) => ({
      utcNs,
      score: history.score[i] ?? 0,
      decision: history.decision[i] ?? "none",
    }));
    const first = older.at(-1)?.utcNs ?? 0;
    const newer = (this.scores.get(history.subject) ?? []).filter((point) => point.utcNs > first);
    this.scores.set(history.subject, [...older, ...newer]);
    this.changed();
  }

  private onSignals({ sensor, channels, rate_hz: rate, t_utc_ns: times, values }: SignalsEvent): void {
    this.heardMs = Date.now();
    let kept = this.signals.get(sensor);
    if (!kept || kept.channels.length !== channels.length) {
      kept = { channels, times: [], rows: channels.map(() => []) };
    }
    const next: Signals = { channels, times: kept.times, rows: kept.rows };
    const last = kept.times.at(-1) ?? -Infinity;
    const fresh = times.map((t) => t / 1e9);
    const first = fresh[0];
    if (first === undefined) return;
    if (first <= last) {
      // The board's time went back: what was drawn belongs to another clock.
      next.times = [];
      next.rows = channels.map(() => []);
    } else if (first - last > 3 / rate && next.times.length) {
      next.times.push(last + 1 / rate); // a pause is a gap, not a line across it
      for (const row of next.rows) row.push(null);
    }
    next.times.push(...fresh);
    next.rows.forEach((row, i) => row.push(...(values[i] ?? fresh.map(() => null))));
    const cut = next.times.findIndex((t) => t > (next.times.at(-1) ?? 0) - SIGNALS_S - 1);
    if (cut > 0) {
      next.times = next.times.slice(cut);
      next.rows = next.rows.map((row) => row.slice(cut));
    }
    this.signals.set(sensor, next);
    this.changed();
  }

  private patch(change: Partial<BoardState>): void {
    this.parts = { ...this.parts, ...change };
    if (this.state) this.state = { ...this.state, ...change };
    this.changed();
  }

  /** Tells who draws: with the next frame, and once for all that came until then. */
  changed(): void {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.version += 1;
      for (const listener of this.listeners) listener();
    });
  }
}

export const store = new BoardStore();

/** Draws the component again when something is new, and every second, because things also grow old. */
export function useStore(): BoardStore {
  const [, change] = useState(0);
  useEffect(() => {
    const off = store.subscribe(() => change((n) => n + 1));
    const timer = setInterval(() => change((n) => n + 1), 1000);
    return () => {
      off();
      clearInterval(timer);
    };
  }, []);
  return store;
}

/** What to tell a person about an error of the API. */
export function messageOf(error: unknown, unreachable: string): string {
  if (error instanceof ApiError) return error.status === 0 ? unreachable : error.message;
  throw error;
}
