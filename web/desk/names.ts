// Names from the wire as people say them; what is not known stays as it came.
import { number, percent } from "@shared/format";
import { type Part, partOf } from "@shared/body";
import type { Promised } from "./types";
import type { Say } from "./words";

type PartKey = Parameters<Say["say"]>[0] & `part_${string}`;

const keyOf = ({ place, side }: Part): PartKey => (side ? `part_${side}_${place}` : `part_${place}`) as PartKey;

export function placeOf(words: Say, sensor: string): string {
  const part = partOf(sensor);
  return part ? words.say(keyOf(part) as "part_head") : sensor;
}

export function quantityOf(words: Say, channel: string): string {
  const kind = channel.slice(0, 3);
  return kind === "acc" || kind === "gyr" || kind === "mag" ? words.say(`quantity_${kind}`) : channel;
}

const SIDED = /^(.*)_(left|right|paretic|other)$/;

/** A measure's name; `active_h_left` is "Hours of activity, left". */
export function measureOf(words: Say, name: string): string {
  const known = (key: string): string | null => {
    const text = words.say(`m_${key}` as "m_use_ratio");
    return text === `m_${key}` ? null : text;
  };
  const whole = known(name);
  if (whole) return whole;
  const [, stem = "", side = ""] = SIDED.exec(name) ?? [];
  const text = known(stem);
  if (!text) return name;
  return `${text}, ${words.say(`side_${side as "left" | "right" | "paretic" | "other"}`)}`;
}

/** A unit as it is written in the reader's language. */
export const unitOf = (words: Say, unit: string): string => (unit === "counts/s" ? words.say("unit_counts") : unit);

/** A reason in few words; one that has none here keeps its own name. */
export function reasonOf(words: Say, code: string, sensor?: string | null): string {
  const key = `why_${code}`;
  const text = words.say(key as "why_between");
  const said = text === key ? code.replaceAll("_", " ") : text;
  return sensor ? words.say("reason_at", { place: placeOf(words, sensor), reason: said }) : said;
}

/** What a reason goes by, with its unit; nothing where it is so or not. */
export function measuredOf(words: Say, code: string, value: number | null | undefined): string {
  if (value === undefined || value === null) return "";
  if (code === "off_body") return `${number(words.language, value)}\u00a0s`;
  if (code === "units") return `${number(words.language, value, value < 10 ? 1 : 0)}\u00a0m/s²`;
  if (code === "clock") return `${number(words.language, value)}\u00a0ms`;
  return percent(words.language, value);
}

/** What was promised about false episodes, from its numbers; null where a gateway promises in a way not known here. */
export function promiseOf(words: Say, { kind, hours_per_false_episode: hours, n_subjects, audit }: Promised): string | null {
  if (kind === "debounce" || kind === "cusum") return words.say("promised_nothing", { kind });
  if (kind !== "e_detector" || (audit !== "holds" && audit !== "doubtful" && audit !== "does not hold")) return null;
  const often = hours >= 48 ? words.say("promised_days", { n: plain(hours / 24) }) : words.say("promised_hours", { n: plain(hours) });
  const found = words.say(audit === "holds" ? "audit_holds" : audit === "doubtful" ? "audit_doubtful" : "audit_fails");
  return words.say("promised", { often, people: n_subjects, found });

  function plain(value: number): string {
    return new Intl.NumberFormat(words.language === "fr" ? "fr-FR" : "en-GB", { maximumFractionDigits: 2 }).format(value);
  }
}

export function amount(words: Say, value: number | null | undefined, unit = ""): string {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3;
  return `${number(words.language, value, digits)}${unit ? `\u202f${unitOf(words, unit)}` : ""}`;
}

/** Who reviewed, as people say it: the provider's name for them, or what they called themselves at a shared desk. */
export function reviewerOf(words: Say, who: string): string {
  const [, called] = /^desk \((.*)\)$/.exec(who) ?? [];
  return called ?? (who === "" || who === "desk" ? words.say("by_desk") : who.replace(/^person /, ""));
}

/** A local date such as 2026-11-21 as people write it. */
export function dateOf(words: Say, day: string): string {
  const [year = 1970, month = 1, date = 1] = day.split("-").map(Number);
  return new Intl.DateTimeFormat(words.language === "fr" ? "fr-FR" : "en-GB", { weekday: "short", day: "numeric", month: "short" }).format(
    new Date(year, month - 1, date),
  );
}

export const isoDay = (date: Date): string =>
  `${date.getFullYear()}-${String(date.getMonth() + 1).padStart(2, "0")}-${String(date.getDate()).padStart(2, "0")}`;
