// The one way to the server: same origin, JSON, errors with a code. A stream that says plainly whether it is alive.

/** An answer the server refused, or the lack of one (`status` 0, code `unreachable`). */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

const TIMEOUT_MS = 10_000;
const PROBE_MS = 3_000;
const unauthorised = new Set<() => void>();

/** Calls back whenever an answer says that a login is needed. */
export function onUnauthorised(listener: () => void): () => void {
  unauthorised.add(listener);
  return () => unauthorised.delete(listener);
}

async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      // The header that no foreign page can send without being asked first (CSRF).
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json", "X-Kinedge": "1" }) },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: signal ? anyOf(signal, limit) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "unreachable", "the server does not answer");
  }
  const answer: unknown = await response.json().catch(() => undefined);
  if (response.ok) return answer as T;
  if (response.status === 401) for (const listener of unauthorised) listener();
  const { code, message } = errorOf(answer);
  throw new ApiError(response.status, code ?? `http_${response.status}`, message ?? response.statusText);
}

function errorOf(answer: unknown): { code?: string; message?: string } {
  const error = typeof answer === "object" && answer !== null && "error" in answer ? answer.error : undefined;
  return typeof error === "object" && error !== null ? (error as { code?: string; message?: string }) : {};
}

function anyOf(...signals: AbortSignal[]): AbortSignal {
  const both = new AbortController();
  for (const signal of signals) {
    if (signal.aborted) both.abort(signal.reason);
    signal.addEventListener("abort", () => both.abort(signal.reason), { once: true, signal: both.signal });
  }
  return both.signal;
}

export const api = {
  get: <T>(path: string, signal?: AbortSignal): Promise<T> => call<T>("GET", path, undefined, signal),
  post: <T>(path: string, body: unknown): Promise<T> => call<T>("POST", path, body),
};

export type StreamState = "connecting" | "open" | "lost";

export interface StreamOptions {
  /** Event name -> what to do with its parsed data. */
  readonly on: Readonly<Record<string, (data: never) => void>>;
  readonly onState: (state: StreamState) => void;
  /** After this long without any event the server is asked whether it is still there; without an answer the stream is lost. */
  readonly silenceMs?: number;
}

/** Server-sent events that come back by themselves, with a growing pause. Returns the function that closes them. */
export function openStream(path: string, { on, onState, silenceMs = 3000 }: StreamOptions): () => void {
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let failures = 0;
  let closed = false;

  const later = (ms: number, what: () => void): void => {
    clearTimeout(timer);
    timer = setTimeout(what, ms);
  };
  const lose = (): void => {
    source?.close();
    if (closed) return;
    onState("lost");
    failures += 1;
    later(Math.min(500 * 2 ** failures, 8000), connect);
  };
  const heard = (): void => {
    failures = 0;
    later(silenceMs, probe);
  };
  // Nothing may have happened, or a cable may be out: a connection does not say which by itself.
  const probe = (): void => {
    later(PROBE_MS, lose);
    api.get("api/session").then(
      () => source?.readyState === EventSource.OPEN && heard(),
      () => undefined,
    );
  };
  const connect = (): void => {
    onState("connecting");
    source = new EventSource(path);
    source.onopen = () => {
      onState("open");
      heard();
    };
    source.onerror = () => {
      // An EventSource does not say why it failed; a plain request does (401 asks for the token).
      void api.get("api/session").catch(() => undefined);
      lose();
    };
    for (const [name, handle] of Object.entries(on)) {
      source.addEventListener(name, (event) => {
        heard();
        handle(JSON.parse((event as MessageEvent<string>).data) as never);
      });
    }
    later(TIMEOUT_MS, lose);
  };
  connect();
  return () => {
    closed = true;
    clearTimeout(timer);
    source?.close();
  };
}
