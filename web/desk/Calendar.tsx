// Weeks at a glance: a row a person, a square a day. Arrow keys move, Enter opens that day's episodes.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Icon } from "@shared/components/Icon";
import { Button, Notice } from "@shared/components/controls";
import { number } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Failed, Loading } from "./marks";
import { dateOf, isoDay } from "./names";
import { Plot, type PlotData } from "./Plot";
import { useResource } from "./resource";
import { linkTo } from "./route";
import type { MeasuredDay, Person, TimelineDay } from "./types";
import { type Say, WORDS } from "./words";

const DAY_MS = 86_400_000;
const MOST_DAYS = 8000;

export type DayState = "as_usual" | "lower" | "unsure" | "learning" | "under_way" | "nothing";

/** What a day was, from the parts that were measured: whatever is furthest from usual comes first. */
export function stateOf(days: readonly MeasuredDay[]): DayState {
  const states = days.map((d) => (d.watched ? d.watched.state : "under_way"));
  const known = ["as_usual", "unsure", "learning", "under_way"] as const;
  if (states.some((s) => !known.includes(s as "as_usual"))) return "lower";
  return known.find((s) => states.includes(s)) ?? "nothing";
}

interface Cell {
  readonly day: string;
  readonly state: DayState;
  readonly wornH: number;
  readonly counts: TimelineDay | undefined;
}

export function Calendar() {
  const { language } = useSettings();
  const words = WORDS[language];
  const [weeks, setWeeks] = useState(() => (innerWidth < 1000 ? 4 : 6));
  const [back, setBack] = useState(0);
  const dates = useMemo(() => {
    const end = new Date();
    end.setHours(12, 0, 0, 0);
    const untilSunday = (7 - end.getDay()) % 7; // weeks begin on Monday
    const last = end.getTime() + (untilSunday - back * 7) * DAY_MS;
    return Array.from({ length: weeks * 7 }, (_, i) => new Date(last - (weeks * 7 - 1 - i) * DAY_MS));
  }, [weeks, back]);
  const [first, last] = [dates[0], dates.at(-1)] as [Date, Date];
  const since = new Date(first).setHours(0, 0, 0, 0);
  const until = new Date(last).setHours(24, 0, 0, 0);
  const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC");
  const people = useResource<{ subjects: Person[] }>("v1/subjects");
  const timeline = useResource<{ days: TimelineDay[]; whole: boolean }>(`v1/timeline?since=${since}000000&until=${until}000000&zone=${zone}`);
  const measures = useResource<{ days: MeasuredDay[] }>(
    `v1/measures?order=newest&brief=true&limit=${MOST_DAYS}&since=${isoDay(first)}&until=${isoDay(new Date(last.getTime() + DAY_MS))}`,
  );

  const rows = useMemo(() => {
    const counts = new Map((timeline.data?.days ?? []).map((d) => [`${d.subject} ${d.day}`, d]));
    const measured = grouped(measures.data?.days ?? []);
    return (people.data?.subjects ?? []).map((person) => ({
      person,
      cells: dates.map((date): Cell => {
        const day = isoDay(date);
        const of = measured.get(`${person.subject} ${day}`) ?? [];
        const worn = Math.max(0, ...of.map((d) => d.worn_s));
        return { day, state: stateOf(of), wornH: worn / 3600, counts: counts.get(`${person.subject} ${day}`) };
      }),
    }));
  }, [people.data, timeline.data, measures.data, dates]);

  const error = people.error ?? timeline.error ?? measures.error;
  return (
    <section aria-labelledby="calendar-title" class="stack">
      <div class="row spread list-head">
        <div>
          <h1 id="calendar-title">{words.say("view_calendar")}</h1>
          <p class="quiet">
            {dateOf(words, isoDay(first))} – {dateOf(words, isoDay(last))}
          </p>
        </div>
        <div class="row">
          <div class="segmented" role="group" aria-label={words.say("weeks")}>
            {[4, 6, 12].map((n) => (
              <button key={n} type="button" aria-pressed={weeks === n} onClick={() => setWeeks(n)}>
                {words.say("weeks_n", { n })}
              </button>
            ))}
          </div>
          <Button icon="back" onClick={() => setBack(back + weeks)}>
            {words.say("calendar_earlier")}
          </Button>
          <Button icon="forward" disabled={back === 0} onClick={() => setBack(Math.max(0, back - weeks))}>
            {words.say("calendar_later")}
          </Button>
        </div>
      </div>
      {error && <Failed error={error} again={() => [people, timeline, measures].forEach((r) => r.again())} />}
      {!people.data && !error && <Loading />}
      {((timeline.data && !timeline.data.whole) || measures.data?.days.length === MOST_DAYS) && (
        <Notice kind="warning" icon="info">
          {words.say("calendar_cut")}
        </Notice>
      )}
      {people.data && timeline.data && rows.length > 0 && <Totals days={timeline.data.days} dates={dates} />}
      {people.data && (rows.length ? <Grid rows={rows} dates={dates} /> : <p class="card empty">{words.say("nothing_at_all")}</p>)}
      <Legend words={words} />
    </section>
  );
}

function grouped(days: readonly MeasuredDay[]): Map<string, MeasuredDay[]> {
  const found = new Map<string, MeasuredDay[]>();
  for (const day of days) {
    const key = `${day.subject} ${day.day}`;
    found.set(key, [...(found.get(key) ?? []), day]);
  }
  return found;
}

/** Episodes of everybody, day by day: what still waits for a person stands out. */
function Totals({ days, dates }: { days: readonly TimelineDay[]; dates: readonly Date[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [data, n] = useMemo((): [PlotData, number] => {
    const rows = dates.map((date) => {
      const of = days.filter((d) => d.day === isoDay(date));
      const sum = (key: "new" | "confirmed" | "dismissed"): number => of.reduce((a, d) => a + d[key], 0);
      return [date.getTime() / 1000, sum("new"), sum("confirmed"), sum("dismissed")] as const;
    });
    const stacked: PlotData = [
      rows.map((r) => r[0]),
      rows.map((r) => r[1] + r[2] + r[3]),
      rows.map((r) => r[1] + r[2]),
      rows.map((r) => r[1]),
    ];
    return [stacked, days.reduce((a, d) => a + d.anomalous + d.unsure, 0)];
  }, [days, dates]);
  const most = Math.max(3, ...(data[1] as number[]));
  return (
    <figure class="card day-plot totals">
      <figcaption class="row spread">
        <strong>{words.say("calendar_totals")}</strong>
        <span class="signal-legend quiet" aria-hidden="true">
          {(["new", "confirmed", "dismissed"] as const).map((status) => (
            <span key={status}>
              <i class={`bar-worn bar-${status}`} />
              {words.say(`status_${status}`)}
            </span>
          ))}
        </span>
      </figcaption>
      <Plot
        label={`${words.say("calendar_totals")}: ${words.count("shown", n)}`}
        data={data}
        height={120}
        days
        range={[0, most]}
        lines={[
          { color: "bar-dismissed", as: "bars" },
          { color: "bar-confirmed", as: "bars" },
          { color: "anomalous", as: "bars" },
        ]}
      />
    </figure>
  );
}

function Grid({ rows, dates }: { rows: readonly { person: Person; cells: readonly Cell[] }[]; dates: readonly Date[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const table = useRef<HTMLTableElement>(null);
  const [at, move] = useState<readonly [number, number]>([0, dates.length - 1]);
  const month = new Intl.DateTimeFormat(language === "fr" ? "fr-FR" : "en-GB", { day: "numeric", month: "short" });
  const today = isoDay(new Date());
  useEffect(() => table.current?.parentElement?.scrollTo({ left: 1e6 }), [dates]);
  const onKey = (event: KeyboardEvent): void => {
    const steps: Record<string, readonly [number, number]> = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const next = [
      Math.min(rows.length - 1, Math.max(0, at[0] + step[0])),
      Math.min(dates.length - 1, Math.max(0, at[1] + step[1])),
    ] as const;
    move(next);
    table.current?.querySelector<HTMLElement>(`[data-cell="${next[0]}-${next[1]}"]`)?.focus();
  };
  return (
    <div class="card calendar-card" role="region" aria-label={words.say("calendar_label")} tabIndex={0}>
      <table class="calendar" ref={table}>
        <thead>
          <tr>
            <th scope="col">{words.say("filter_person")}</th>
            {Array.from({ length: dates.length / 7 }, (_, week) => (
              <th key={week} scope="colgroup" colSpan={7} class="week">
                {month.format(dates[week * 7])}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ person, cells }, row) => (
            <tr key={person.subject}>
              <th scope="row">
                <a href={linkTo.person(person.subject)}>{person.subject}</a>
                {person.n_new > 0 && <span class="quiet small">{words.count("new", person.n_new)}</span>}
              </th>
              {cells.map((cell, column) => (
                <td key={cell.day} class={column % 7 === 0 ? "monday" : ""}>
                  <a
                    class={`day day-${cell.state}${cell.day === today ? " day-today" : ""}${cell.day > today ? " day-future" : ""}`}
                    href={linkTo.list({ subject: person.subject, since: cell.day, until: cell.day })}
                    data-cell={`${row}-${column}`}
                    data-day={cell.day}
                    tabIndex={at[0] === row && at[1] === column ? 0 : -1}
                    aria-label={`${person.subject}, ${labelOf(words, cell)}`}
                    title={labelOf(words, cell)}
                    onFocus={() => move([row, column])}
                    onKeyDown={onKey}
                  >
                    <span class="day-dots">{cell.counts && <Dots counts={cell.counts} />}</span>
                    <span class="day-worn" style={{ width: `${Math.min(100, (cell.wornH / 16) * 100)}%` }} />
                  </a>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Dots({ counts }: { counts: TimelineDay }) {
  const n = counts.anomalous + counts.unsure;
  const kind = counts.new ? (counts.anomalous ? "new" : "unsure") : counts.confirmed ? "confirmed" : "dismissed";
  return (
    <span class={`dot dot-${kind}`}>
      {n > 1 ? n : kind === "confirmed" ? <Icon name="check" size={12} /> : kind === "dismissed" ? <Icon name="cross" size={11} /> : kind === "unsure" ? "?" : "1"}
    </span>
  );
}

function labelOf(words: Say, cell: Cell): string {
  const parts = [dateOf(words, cell.day), words.say(`day_${cell.state}`)];
  if (cell.wornH > 0) parts.push(words.say("day_worn", { hours: number(words.language, cell.wornH, 1) }));
  const c = cell.counts;
  if (!c) return [...parts, words.say("day_none")].join(", ");
  parts.push(words.count("day_episodes", c.anomalous + c.unsure));
  for (const [n, word] of [
    [c.unsure, words.say("unsure")],
    [c.new, words.say("status_new")],
    [c.confirmed, words.say("status_confirmed")],
    [c.dismissed, words.say("status_dismissed")],
  ] as const)
    if (n) parts.push(`${n} ${word}`);
  return parts.join(", ");
}

function Legend({ words }: { words: Say }) {
  return (
    <div class="calendar-legend quiet small">
      <p>{words.say("calendar_hint")}</p>
      <ul class="row">
        {(["as_usual", "lower", "unsure", "learning", "nothing"] as const).map((state) => (
          <li key={state}>
            <span class={`day day-sample day-${state}`} /> {words.say(`day_${state}`)}
          </li>
        ))}
        <li>
          <span class="dot dot-new">1</span> {words.say("legend_open")}
        </li>
        <li>
          <span class="dot dot-unsure">?</span> {words.say("legend_unsure")}
        </li>
        <li>
          <span class="dot dot-confirmed">
            <Icon name="check" size={12} />
          </span>{" "}
          {words.say("legend_confirmed")}
        </li>
        <li>
          <span class="dot dot-dismissed">
            <Icon name="cross" size={11} />
          </span>{" "}
          {words.say("legend_dismissed")}
        </li>
      </ul>
    </div>
  );
}
