// One thing asked of the server: loading, there, or failed; asked anew when its address changes or when told to.
import { useCallback, useEffect, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";

export interface Resource<T> {
  readonly data: T | undefined;
  readonly error: ApiError | undefined;
  readonly again: () => void;
}

export function useResource<T>(path: string | null): Resource<T> {
  const [found, change] = useState<{ path: string | null; data?: T; error?: ApiError }>({ path: null });
  const [turn, next] = useState(0);
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    api.get<T>(path, stop.signal).then(
      (data) => change({ path, data }),
      (error: unknown) => {
        if (!stop.signal.aborted && error instanceof ApiError) change({ path, error });
      },
    );
    return () => stop.abort();
  }, [path, turn]);
  const again = useCallback(() => next((n) => n + 1), []);
  // What belongs to another address is not shown under this one.
  return found.path === path ? { data: found.data, error: found.error, again } : { data: undefined, error: undefined, again };
}
