// Help for people who do not see the screen, or do not want it to move.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

const PAUSE_MS = 4000;
let say: ((text: string) => void) | undefined;

/**
 * Speaks a text through the page's one polite live region.
 *
 * What comes faster than every four seconds is gathered, and only the newest text of each topic is spoken: a screen reader that
 * reads out every change is switched off.
 */
export function announce(topic: string, text: string): void {
  waiting.set(topic, text);
  if (timer === undefined) flush();
}

const waiting = new Map<string, string>();
let timer: ReturnType<typeof setTimeout> | undefined;

function flush(): void {
  timer = undefined;
  if (!waiting.size || !say) return;
  say([...waiting.values()].join(". "));
  waiting.clear();
  timer = setTimeout(flush, PAUSE_MS);
}

/** The live region itself: once per page, near the top. */
export function Announcer() {
  const [text, change] = useState("");
  useEffect(() => {
    say = change;
    flush();
    return () => {
      say = undefined;
    };
  }, []);
  return (
    <div class="visually-hidden" role="status" aria-live="polite">
      {text}
    </div>
  );
}

export function VisuallyHidden({ children }: { children: ComponentChildren }) {
  return <span class="visually-hidden">{children}</span>;
}

/** Moves the focus to a heading when a view opens, so that a keyboard and a screen reader start there. */
export function useFocusOnOpen<T extends HTMLElement>(key: unknown) {
  const ref = useRef<T>(null);
  useEffect(() => ref.current?.focus(), [key]);
  return ref;
}

export function reducedMotion(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
