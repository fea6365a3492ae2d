// A daily number beside the person's own trend: the band is what their days usually are. Days with too little wear are hollow.
import { useMemo } from "preact/hooks";
import { useSettings } from "@shared/i18n";
import { amount, dateOf, unitOf } from "./names";
import { Plot, type PlotData } from "./Plot";
import type { MeasuredDay, Trend } from "./types";
import { WORDS } from "./words";

const noon = (day: string): number => {
  const [year = 1970, month = 1, date = 1] = day.split("-").map(Number);
  return new Date(year, month - 1, date, 12).getTime() / 1000;
};

/** How a watched number is told: trends of evenness and likeness are followed as minus the size of a difference. */
function teller(name: string, days: readonly MeasuredDay[]): { of: (value: number) => number; told: (expected: number) => number; ratio: boolean } {
  if (/symmetry_index$/.test(name)) return { of: Math.abs, told: (x) => -x, ratio: false };
  const expected = days.map((d) => d.watched?.trends[name]?.expected).filter((x): x is number => typeof x === "number");
  const even = name === "use_ratio" && expected.length > 0 && expected.every((x) => x <= 0);
  return even ? { of: (x) => Math.exp(-Math.abs(Math.log(x))), told: Math.exp, ratio: true } : { of: (x) => x, told: (x) => x, ratio: false };
}

/** Expectation and usual band of a day, in the words of the number. */
export function bandOf(name: string, days: readonly MeasuredDay[], trend: Trend | undefined): { at: number; low: number; high: number } | null {
  if (!trend || trend.expected === null || trend.spread === null) return null;
  const { told } = teller(name, days);
  const ends = [told(trend.expected - 2 * trend.spread), told(trend.expected + 2 * trend.spread)];
  const floor = /symmetry_index$/.test(name) ? 0 : -Infinity;
  return { at: told(trend.expected), low: Math.max(floor, Math.min(...ends)), high: Math.max(...ends) };
}

interface DayPlotProps {
  days: readonly MeasuredDay[];
  name: string;
  title: string;
  height: number;
  shade?: readonly [string, string];
  table?: boolean;
}

export function DayPlot({ days, name, title, height, shade, table = false }: DayPlotProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  const { data, watched, unit, last } = useMemo(() => rowsOf(days, name), [days, name]);
  const edge = 43_200;
  return (
    <figure class="day-plot" data-measure={name}>
      <figcaption class="row spread">
        <span>
          <strong>{title}</strong> {unit && <span class="quiet">{unitOf(words, unit)}</span>}
        </span>
        {watched && (
          <span class="signal-legend quiet" aria-hidden="true">
            <span>
              <i class="band" />
              {words.say("usual_band")}
            </span>
            <span>
              <i class="dashes" />
              {words.say("own_trend")}
            </span>
            <span>
              <i class="whisker" />
              {words.say("interval")}
            </span>
          </span>
        )}
      </figcaption>
      <Plot
        label={`${title}: ${last ? `${dateOf(words, last.day)} ${amount(words, last.value, unit)}` : "–"}`}
        data={data}
        height={height}
        days
        shade={shade ? [noon(shade[0]) - edge, noon(shade[1]) + edge] : null}
        bands={[{ between: [2, 1], color: "chart-band" }]}
        whiskers={[6, 7]}
        lines={[
          { color: "chart-1", as: "none" },
          { color: "chart-1", as: "none" },
          { color: "chart-1", width: 1.5, dash: [6, 4] },
          { color: "chart-1", as: "points" },
          { color: "line-strong", as: "hollow" },
          { color: "chart-1", as: "none" },
          { color: "chart-1", as: "none" },
          { color: "anomalous", as: "points" },
        ]}
      />
      {table && (
        <details>
          <summary>{words.say("days_table")}</summary>
          <div class="scroll" role="region" aria-label={title} tabIndex={0}>
            <table class="table">
              <thead>
                <tr>
                  <th scope="col">{words.say("day")}</th>
                  <th scope="col">{words.say("state")}</th>
                  <th scope="col">{words.say("value")}</th>
                  <th scope="col">{words.say("interval")}</th>
                  <th scope="col">{words.say("expected")}</th>
                  <th scope="col">{words.say("worn")}</th>
                </tr>
              </thead>
              <tbody>
                {[...days].reverse().map((d) => {
                  const m = d.measures[name];
                  const band = bandOf(name, days, d.watched?.trends[name]);
                  return (
                    <tr key={d.id}>
                      <td>{dateOf(words, d.day)}</td>
                      <td>{words.say(`day_${dayState(d)}`)}</td>
                      <td>{amount(words, m?.value, m?.unit)}</td>
                      <td>{m && m.low !== null && m.high !== null ? `${amount(words, m.low)} – ${amount(words, m.high)}` : "–"}</td>
                      <td>{band ? amount(words, band.at, m?.unit) : "–"}</td>
                      <td>{amount(words, d.worn_s / 3600, "h")}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </div>
        </details>
      )}
    </figure>
  );
}

export function dayState(day: MeasuredDay): "as_usual" | "lower" | "unsure" | "learning" | "under_way" {
  const state = day.watched?.state;
  if (state === undefined) return "under_way";
  return state === "as_usual" || state === "unsure" || state === "learning" ? state : "lower";
}

interface Rows {
  data: PlotData;
  watched: boolean;
  unit: string;
  last: { day: string; value: number } | undefined;
}

function rowsOf(days: readonly MeasuredDay[], name: string): Rows {
  const { of } = teller(name, days);
  const byDay = new Map<string, MeasuredDay>();
  for (const d of days) {
    const other = byDay.get(d.day);
    if (!other || d.worn_s > other.worn_s) byDay.set(d.day, d); // two gateways on one day: whoever heard more
  }
  const sorted = [...byDay.values()].sort((a, b) => a.day.localeCompare(b.day));
  const rows: (number | null)[][] = Array.from({ length: 9 }, () => []);
  let last: Rows["last"];
  for (const d of sorted) {
    const m = d.measures[name];
    const value = typeof m?.value === "number" && Number.isFinite(of(m.value)) ? of(m.value) : null;
    const trend = d.watched?.trends[name];
    const band = bandOf(name, days, trend);
    const doubtful = trend ? trend.state === "unsure" : dayState(d) === "unsure";
    const lower = trend?.state === "lower";
    const ends = m && m.low !== null && m.high !== null && value !== null ? [of(m.low), of(m.high)] : null;
    const row = [
      noon(d.day),
      band?.low ?? null,
      band?.high ?? null,
      band?.at ?? null,
      doubtful || lower ? null : value,
      doubtful ? value : null,
      ends && !doubtful ? Math.min(...ends) : null,
      ends && !doubtful ? Math.max(...ends) : null,
      lower && !doubtful ? value : null,
    ];
    row.forEach((cell, i) => rows[i]?.push(cell));
    if (value !== null && !doubtful) last = { day: d.day, value };
  }
  const unit = sorted.map((d) => d.measures[name]?.unit).find((u) => u) ?? "";
  return { data: rows as unknown as PlotData, watched: rows[3]?.some((x) => x !== null) ?? false, unit, last };
}
