// What a person chose for this browser: language and theme. Kept in local storage; `?lang=fr&theme=dark` wins, for a kiosk.
export type Language = "en" | "fr";
export type Theme = "light" | "dark";

export interface Settings {
  readonly language: Language;
  readonly theme: Theme;
}

const KEY = "kinedge.settings";
const listeners = new Set<(settings: Settings) => void>();

const languageOf = (value: unknown): Language | undefined => (value === "en" || value === "fr" ? value : undefined);
const themeOf = (value: unknown): Theme | undefined => (value === "light" || value === "dark" ? value : undefined);

function stored(): Partial<Record<keyof Settings, unknown>> {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {}; // storage is forbidden or damaged: the defaults will do
  }
}

function first(): Settings {
  const asked = new URLSearchParams(location.search);
  const kept = stored();
  return {
    language:
      languageOf(asked.get("lang")) ?? languageOf(kept.language) ?? (navigator.language.startsWith("fr") ? "fr" : "en"),
    // Light unless chosen otherwise: a tablet in the sun is the harder case.
    theme: themeOf(asked.get("theme")) ?? themeOf(kept.theme) ?? "light",
  };
}

let current = first();
apply();

function apply(): void {
  document.documentElement.lang = current.language;
  document.documentElement.dataset["theme"] = current.theme;
}

export const settings = {
  get: (): Settings => current,
  set(change: Partial<Settings>): void {
    current = { ...current, ...change };
    apply();
    try {
      localStorage.setItem(KEY, JSON.stringify(current));
    } catch {
      // kept for this visit only
    }
    for (const listener of listeners) listener(current);
  },
  subscribe(listener: (settings: Settings) => void): () => void {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },
};
