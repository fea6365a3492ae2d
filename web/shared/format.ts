// Numbers, times and durations as a person of that language writes them. Times arrive as UTC nanoseconds.
import type { Language } from "./settings";

const LOCALE: Readonly<Record<Language, string>> = { en: "en-GB", fr: "fr-FR" };
const cache = new Map<string, Intl.NumberFormat | Intl.DateTimeFormat>();

function numbers(language: Language, options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = `n${language}${JSON.stringify(options)}`;
  const found = cache.get(key) ?? new Intl.NumberFormat(LOCALE[language], options);
  cache.set(key, found);
  return found as Intl.NumberFormat;
}

function dates(language: Language, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = `d${language}${JSON.stringify(options)}`;
  const found = cache.get(key) ?? new Intl.DateTimeFormat(LOCALE[language], options);
  cache.set(key, found);
  return found as Intl.DateTimeFormat;
}

export const milliseconds = (utcNs: number): number => utcNs / 1e6;

export function number(language: Language, value: number, digits = 0): string {
  return numbers(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
}

/** A share of 1 as per cent. What is small but not nothing is not written as 0, nor what is not quite all as 100. */
export function percent(language: Language, share: number): string {
  const whole = numbers(language, { style: "percent" });
  if (share > 0 && share < 0.01) return `<\u00a0${whole.format(0.01)}`;
  if (share < 1 && share > 0.99) return `>\u00a0${whole.format(0.99)}`;
  return whole.format(share);
}

/** Time of day, 24 hours, in the reader's zone. */
export function clock(language: Language, utcNs: number, seconds = false): string {
  return dates(language, {
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds ? { second: "2-digit" as const } : {}),
    hourCycle: "h23",
  }).format(milliseconds(utcNs));
}

export function day(language: Language, utcNs: number): string {
  return dates(language, { weekday: "short", day: "numeric", month: "short" }).format(milliseconds(utcNs));
}

/** Date and time; the year only where it is not this one. */
export function moment(language: Language, utcNs: number): string {
  const date = new Date(milliseconds(utcNs));
  const year = date.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" as const };
  return dates(language, { ...year, day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(
    date,
  );
}

/** A duration in the two largest units that say something: `2 h 05 min`, `3 min 20 s`, `8 s`. */
export function duration(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  const [h, m, s] = [Math.floor(total / 3600), Math.floor((total % 3600) / 60), total % 60];
  const two = (n: number): string => String(n).padStart(2, "0");
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  if (h) return `${h} h ${two(m)} min`;
  if (m) return s ? `${m} min ${two(s)} s` : `${m} min`;
  return `${s} s`;
}
