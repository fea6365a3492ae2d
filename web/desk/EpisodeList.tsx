// The list: filters on the left, one line an episode, newest first; arrow keys or J and K move through it.
import { useEffect, useId, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";
import { announce } from "@shared/a11y";
import { Button } from "@shared/components/controls";
import { DecisionMark } from "@shared/components/Decision";
import { duration, moment, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Exports, Failed, Loading, StatusMark } from "./marks";
import { useResource } from "./resource";
import { type Filters, NO_FILTERS, linkTo, listSeenLast, queryOf } from "./route";
import type { Line, Page, Person } from "./types";
import { WORDS } from "./words";

const PAGE = 50;
const REFRESH_MS = 20_000;

export function EpisodeList({ filters }: { filters: Filters }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const people = useResource<{ subjects: Person[] }>("v1/subjects").data?.subjects;
  const path = `v1/desk/episodes?${queryOf(filters)}&order=${filters.order}&limit=${PAGE}`;
  const first = useResource<Page>(path);
  const [rest, setRest] = useState<{ path: string; pages: Page[] }>({ path, pages: [] });
  const [error, setError] = useState<ApiError>();
  const pages = useMemo(
    () => (first.data ? [first.data, ...(rest.path === path ? rest.pages : [])] : []),
    [first.data, rest, path],
  );
  const lines = pages.flatMap((page) => page.episodes);
  const cursor = pages.at(-1)?.next_cursor ?? null;
  const told = words.count(cursor ? "shown_more" : "shown", lines.length);
  useEffect(() => {
    if (first.data) announce("list", told);
  }, [first.data, told]);

  const more = (): void => {
    if (!cursor) return;
    api.get<Page>(`${path}&cursor=${cursor}`).then(
      (page) => setRest((was) => ({ path, pages: [...(was.path === path ? was.pages : []), page] })),
      (reason: unknown) => setError(reason instanceof ApiError ? reason : undefined),
    );
  };
  const { again } = first;
  useEffect(() => {
    // What arrives while the list is open is seen without anybody's doing.
    const ask = (): void => {
      if (!document.hidden) again();
    };
    const timer = setInterval(ask, REFRESH_MS);
    addEventListener("focus", ask);
    return () => {
      clearInterval(timer);
      removeEventListener("focus", ask);
    };
  }, [again]);
  useEffect(() => listSeenLast.set(linkTo.list(filters)), [filters]);
  const filtered = linkTo.list(filters) !== "#/" && linkTo.list({ ...filters, order: "newest" }) !== "#/";
  return (
    <div class="with-side">
      <FilterPanel filters={filters} people={people ?? []} />
      <section class="main-column" aria-labelledby="list-title">
        <div class="row spread list-head">
          <div>
            <h1 id="list-title">{words.say("view_list")}</h1>
            <p class="quiet">{first.data ? told : " "}</p>
          </div>
          <div class="row">
            <span class="quiet small">{words.say("export_these")}</span>
            <Exports path="v1/export" query={queryOf(filters)} />
          </div>
        </div>
        {first.error && <Failed error={first.error} again={first.again} />}
        {!first.data && !first.error && <Loading />}
        {first.data && !lines.length && <p class="card empty">{words.say(filtered ? "nothing_found" : "nothing_at_all")}</p>}
        {lines.length > 0 && <Lines lines={lines} />}
        {error && <Failed error={error} again={more} />}
        {cursor && (
          <div class="more">
            <Button onClick={more}>{words.say("more")}</Button>
          </div>
        )}
      </section>
    </div>
  );
}

function Lines({ lines }: { lines: readonly Line[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const list = useRef<HTMLOListElement>(null);
  const hint = useId();
  useEffect(() => {
    const move = (event: KeyboardEvent): void => {
      const typing = event.target instanceof HTMLElement && event.target.closest("input, select, textarea, dialog");
      const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
      if (step === undefined || typing || event.ctrlKey || event.metaKey || event.altKey) return;
      const links = [...(list.current?.querySelectorAll<HTMLAnchorElement>("a.line") ?? [])];
      const at = links.indexOf(document.activeElement as HTMLAnchorElement);
      const next = links[at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step))];
      if (!next) return;
      event.preventDefault();
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    };
    addEventListener("keydown", move);
    return () => removeEventListener("keydown", move);
  }, []);
  return (
    <>
      <ol class="lines" ref={list} aria-describedby={hint}>
        {lines.map((line) => (
          <li key={line.id}>
            <a class={`line line-${line.status}`} href={linkTo.episode(line.id)} data-id={line.id} data-status={line.status}>
              <span class="line-decision">
                <DecisionMark decision={line.decision} />
              </span>
              <span class="line-text">
                <strong>{words.pick(line.sentence)}</strong>
                <span class="line-about quiet">
                  <span class="subject">{line.subject}</span>
                  <span>{moment(language, line.start_utc_ns)}</span>
                  <span>{line.kind === "change" ? words.say("slow_change") : duration((line.end_utc_ns - line.start_utc_ns) / 1e9)}</span>
                  <span>{line.gateway}</span>
                  {line.unsure_share > 0 && (
                    <span class="doubt">{words.say("unsure_part", { share: percent(language, line.unsure_share) })}</span>
                  )}
                </span>
              </span>
              <StatusMark status={line.status} />
            </a>
          </li>
        ))}
      </ol>
      <p id={hint} class="quiet small keys">
        {words.say("keys_hint")}
      </p>
    </>
  );
}

function FilterPanel({ filters, people }: { filters: Filters; people: readonly Person[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const id = useId();
  const go = (change: Partial<Filters>): void => {
    location.hash = linkTo.list({ ...filters, ...change });
  };
  const distinct = (key: "gateway" | "site"): string[] => [...new Set([...people.map((p) => p[key]), filters[key]].filter(Boolean))].sort();
  const names = people.some((p) => p.subject === filters.subject) || !filters.subject ? people.map((p) => p.subject) : [filters.subject, ...people.map((p) => p.subject)];
  // Beside the list there is room; above it, on a tablet, the filters fold away.
  const [narrow] = useState(() => innerWidth <= 900);
  const form = (
    <form class="card side filters" aria-label={words.say("filters")} onSubmit={(event) => event.preventDefault()}>
      <h2 class="visually-hidden">{words.say("filters")}</h2>
      <Choice
        legend={words.say("filter_status")}
        value={filters.status}
        options={[
          ["", words.say("filter_all")],
          ["new", words.say("status_new")],
          ["confirmed", words.say("status_confirmed")],
          ["dismissed", words.say("status_dismissed")],
        ]}
        onChange={(status) => go({ status })}
      />
      <Choice
        legend={words.say("filter_decision")}
        value={filters.decision}
        options={[
          ["", words.say("filter_all")],
          ["anomalous", words.say("anomalous")],
          ["unsure", words.say("unsure")],
        ]}
        onChange={(decision) => go({ decision })}
      />
      <div class="field">
        <label for={`${id}-subject`}>{words.say("filter_person")}</label>
        <select id={`${id}-subject`} value={filters.subject} onChange={(event) => go({ subject: event.currentTarget.value })}>
          <option value="">{words.say("filter_everybody")}</option>
          {names.map((name) => (
            <option key={name} value={name}>
              {name}
            </option>
          ))}
        </select>
      </div>
      <div class="two-fields">
        {(["site", "gateway"] as const).map((key) => (
          <div class="field" key={key}>
            <label for={`${id}-${key}`}>{words.say(`filter_${key}`)}</label>
            <select id={`${id}-${key}`} value={filters[key]} onChange={(event) => go({ [key]: event.currentTarget.value })}>
              <option value="">{words.say("filter_all")}</option>
              {distinct(key).map((name) => (
                <option key={name} value={name}>
                  {name}
                </option>
              ))}
            </select>
          </div>
        ))}
      </div>
      <div class="two-fields">
        {(["since", "until"] as const).map((key) => (
          <div class="field" key={key}>
            <label for={`${id}-${key}`}>{words.say(`filter_${key}`)}</label>
            <input id={`${id}-${key}`} type="date" value={filters[key]} onChange={(event) => go({ [key]: event.currentTarget.value })} />
          </div>
        ))}
      </div>
      <div class="field">
        <label for={`${id}-order`}>{words.say("filter_order")}</label>
        <select
          id={`${id}-order`}
          value={filters.order}
          onChange={(event) => go({ order: event.currentTarget.value === "oldest" ? "oldest" : "newest" })}
        >
          <option value="newest">{words.say("order_newest")}</option>
          <option value="oldest">{words.say("order_oldest")}</option>
        </select>
      </div>
      <Button kind="ghost" onClick={() => go(NO_FILTERS)}>
        {words.say("filter_reset")}
      </Button>
    </form>
  );
  if (!narrow) return form;
  return (
    <details class="fold">
      <summary>{words.say("filters")}</summary>
      {form}
    </details>
  );
}

interface ChoiceProps {
  legend: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}

function Choice({ legend, value, options, onChange }: ChoiceProps) {
  const name = useId();
  return (
    <fieldset class="choice">
      <legend>{legend}</legend>
      {options.map(([option, text]) => (
        <label key={option}>
          <input type="radio" name={name} value={option} checked={value === option} onChange={() => onChange(option)} />
          <span>{text}</span>
        </label>
      ))}
    </fieldset>
  );
}
