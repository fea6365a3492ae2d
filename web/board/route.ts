// Where the page is: `#/`, `#/person/S`, `#/board`. In the address, so that back, reload and a bookmark work.
import { useEffect, useState } from "preact/hooks";

export type Route = { readonly view: "wall" } | { readonly view: "person"; readonly subject: string } | { readonly view: "board" };

export function routeOf(hash: string): Route {
  const [, view, rest] = hash.replace(/^#/, "").split("/");
  if (view === "board") return { view };
  if (view === "person" && rest) {
    try {
      return { view, subject: decodeURIComponent(rest) };
    } catch {
      return { view: "wall" };
    }
  }
  return { view: "wall" };
}

export const linkTo = {
  wall: "#/",
  board: "#/board",
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
