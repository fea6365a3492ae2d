// Two languages, typed: a key that one language lacks, or a place that is not filled, does not compile.
import { useEffect, useState } from "preact/hooks";
import { type Language, type Settings, settings } from "./settings";
import { SHARED } from "./words";

/** A text in both languages, as the API sends it too. */
export type Words = Readonly<Record<Language, string>>;

type Places<S extends string> = S extends `${string}{${infer Name}}${infer Rest}` ? Name | Places<Rest> : never;
type Fill<S extends string> = [Places<S>] extends [never] ? [] : [Readonly<Record<Places<S>, string | number>>];

/** A number and its unit stay on one line, and so do French signs and their word. */
const held = (text: string): string =>
  text.replace(/ (?=[:;?!»])/g, "\u202f").replace(/(?<=«) /g, "\u202f").replace(/± /g, "±\u00a0").replace(/(\d) (?=(?:s|ms|min|h)(?![\p{L}]))/gu, "$1\u00a0");

type Table = Readonly<Record<string, Words>>;
type Shared = typeof SHARED;
type TextOf<Own extends Table, K> = K extends keyof Own ? Own[K]["en"] : K extends keyof Shared ? Shared[K]["en"] : never;
type Stem<K> = K extends `${infer S}_other` ? S : never;

/** Puts values into the `{places}` of a text. */
export function fill(text: string, values: Readonly<Record<string, string | number>> = {}): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name]) : whole));
}

/**
 * The words of a page: the shared ones and its own.
 *
 * `say("key", {place: value})` is the text; `count("key", n)` picks `key_one` or `key_other` by the language's rule and fills `{n}`.
 */
export function dictionary<const Own extends Table>(own: Own) {
  const all: Table = { ...SHARED, ...own };
  type Key = Extract<keyof Shared | keyof Own, string>;

  const speak = (language: Language) => {
    const plural = new Intl.PluralRules(language);
    const lookup = (key: string): string => all[key]?.[language] ?? key;
    return {
      language,
      say: <K extends Key>(key: K, ...values: Fill<TextOf<Own, K>>): string => held(fill(lookup(key), values[0])),
      count: (key: Stem<Key>, n: number): string =>
        held(fill(lookup(`${key}_${plural.select(n) === "one" ? "one" : "other"}`), { n })),
      /** The language's side of a text that came in both. */
      pick: (words: Words | null | undefined): string => (words ? held(words[language] || words.en) : ""),
    };
  };
  return { en: speak("en"), fr: speak("fr") };
}

/** The settings, as a hook: the component is drawn again when they change. */
export function useSettings(): Settings {
  const [value, change] = useState(settings.get);
  useEffect(() => settings.subscribe(change), []);
  return value;
}
