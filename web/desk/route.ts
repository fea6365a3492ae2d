// Where the page is: `#/?status=new`, `#/episode/ID`, `#/calendar`, `#/people`, `#/person/S`. In the address, filters too, so that
// back, reload and a bookmark work.
import { useEffect, useState } from "preact/hooks";

export interface Filters {
  readonly subject: string;
  readonly site: string;
  readonly gateway: string;
  readonly status: string;
  readonly decision: string;
  /** Local dates, both inclusive. */
  readonly since: string;
  readonly until: string;
  readonly order: "newest" | "oldest";
}

export const NO_FILTERS: Filters = {
  subject: "",
  site: "",
  gateway: "",
  status: "",
  decision: "",
  since: "",
  until: "",
  order: "newest",
};

export type Route =
  | { readonly view: "list"; readonly filters: Filters }
  | { readonly view: "calendar" }
  | { readonly view: "people" }
  | { readonly view: "episode"; readonly id: string }
  | { readonly view: "person"; readonly subject: string };

export function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?");
  const [, view, rest] = path.split("/");
  if (view === "calendar" || view === "people") return { view };
  if (view === "episode" && rest && /^[0-9a-f]{64}$/.test(rest)) return { view, id: rest };
  if (view === "person" && rest) {
    try {
      return { view, subject: decodeURIComponent(rest) };
    } catch {
      return { view: "people" };
    }
  }
  const asked = new URLSearchParams(query);
  const filters = Object.fromEntries(Object.entries(NO_FILTERS).map(([key, none]) => [key, asked.get(key) ?? none]));
  return { view: "list", filters: { ...(filters as unknown as Filters), order: asked.get("order") === "oldest" ? "oldest" : "newest" } };
}

export const linkTo = {
  list: (filters: Partial<Filters> = {}): string => {
    const kept = Object.entries({ ...NO_FILTERS, ...filters }).filter(([key, value]) => value !== NO_FILTERS[key as keyof Filters]);
    return kept.length ? `#/?${new URLSearchParams(kept)}` : "#/";
  },
  calendar: "#/calendar",
  people: "#/people",
  episode: (id: string): string => `#/episode/${id}`,
  person: (subject: string): string => `#/person/${encodeURIComponent(subject)}`,
};

export function useRoute(): Route {
  const [route, change] = useState(() => routeOf(location.hash));
  useEffect(() => {
    const listen = (): void => change(routeOf(location.hash));
    addEventListener("hashchange", listen);
    return () => removeEventListener("hashchange", listen);
  }, []);
  return route;
}

let lastList = "#/";

/** The list as it was filtered when it was seen last: the way back from an episode. */
export const listSeenLast = {
  get: (): string => lastList,
  set: (link: string): void => {
    lastList = link;
  },
};

const dayStart = (day: string, plus = 0): number => {
  const [year = 1970, month = 1, date = 1] = day.split("-").map(Number);
  return new Date(year, month - 1, date + plus).getTime();
};

/** The filters as the collector's query: dates become UTC of this browser's midnight. */
export function queryOf(filters: Filters): URLSearchParams {
  const query = new URLSearchParams();
  for (const key of ["subject", "site", "gateway", "status", "decision"] as const) if (filters[key]) query.set(key, filters[key]);
  if (filters.since) query.set("since", `${dayStart(filters.since)}000000`);
  if (filters.until) query.set("until", `${dayStart(filters.until, 1)}000000`);
  return query;
}
