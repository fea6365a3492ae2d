// A person over weeks: the two numbers that carry most, wear time, and every other measure on request.
import { useId, useMemo, useState } from "preact/hooks";
import { useFocusOnOpen } from "@shared/a11y";
import { Icon } from "@shared/components/Icon";
import { number } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { DayPlot, dayState } from "./DayPlot";
import { Exports, Failed, Loading } from "./marks";
import { dateOf, isoDay, measureOf } from "./names";
import { Plot, type PlotData } from "./Plot";
import { useResource } from "./resource";
import { linkTo } from "./route";
import type { MeasuredDay } from "./types";
import { WORDS } from "./words";

const SHOWN = { arm: ["use_ratio", "active_share"], gait: ["contact_symmetry_index", "load_per_min"] } as const;

export function PersonView({ subject }: { subject: string }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [weeks, setWeeks] = useState(6);
  const since = isoDay(new Date(Date.now() - weeks * 7 * 86_400_000));
  const query = useMemo(() => new URLSearchParams({ subject, since }), [subject, since]);
  const found = useResource<{ days: MeasuredDay[] }>(`v1/measures?${query}&order=newest&limit=800`);
  const title = useFocusOnOpen<HTMLHeadingElement>(subject);
  const days = found.data?.days ?? [];
  const parts = (["arm", "gait"] as const).filter((part) => days.some((d) => d.part === part));
  return (
    <section class="stack person-view" aria-labelledby="person-title">
      <div class="row spread list-head">
        <div>
          <a class="back" href={linkTo.people}>
            <Icon name="back" size={18} /> {words.say("view_people")}
          </a>
          <h1 id="person-title" ref={title} tabIndex={-1}>
            {words.say("trends_of", { subject })}
          </h1>
          <p class="quiet">{words.say("trends_hint")}</p>
        </div>
        <div class="row">
          <div class="segmented" role="group" aria-label={words.say("weeks")}>
            {[4, 6, 12, 26].map((n) => (
              <button key={n} type="button" aria-pressed={weeks === n} onClick={() => setWeeks(n)}>
                {words.say("weeks_n", { n })}
              </button>
            ))}
          </div>
          <a class="chip" href={linkTo.list({ subject })}>
            {words.say("episodes_of")} <Icon name="forward" size={15} />
          </a>
        </div>
      </div>
      {found.error && <Failed error={found.error} again={found.again} />}
      {!found.data && !found.error && <Loading />}
      {found.data && !days.length && <p class="card empty">{words.say("no_measures")}</p>}
      {parts.map((part) => (
        <PartOf key={part} part={part} days={days.filter((d) => d.part === part)} />
      ))}
      {days.length > 0 && (
        <p class="row">
          <span class="quiet small">{words.say("export_days")}</span>
          <Exports path="v1/measures/export" query={query} />
        </p>
      )}
    </section>
  );
}

function PartOf({ part, days }: { part: "arm" | "gait"; days: readonly MeasuredDay[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const field = useId();
  const names = useMemo(() => [...new Set(days.flatMap((d) => Object.keys(d.measures)))].sort(), [days]);
  const shown: string[] = SHOWN[part].filter((name) => names.includes(name));
  const others = names.filter((name) => !shown.includes(name));
  const [other, choose] = useState("");
  const chosen = others.includes(other) ? other : (others[0] ?? "");
  const states = days.map(dayState);
  const worn = days.reduce((sum, d) => sum + d.worn_s, 0) / 3600 / (days.length || 1);
  const lower = states.filter((s) => s === "lower").length;
  const unsure = states.filter((s) => s === "unsure").length;
  return (
    <section class="stack" aria-labelledby={`part-${part}`}>
      <div class="row part-head">
        <h2 id={`part-${part}`}>{words.say(`part_${part}`)}</h2>
        <span class={`tag${lower ? " tag-lower" : ""}`}>{words.count("lower_days", lower)}</span>
        <span class={`tag${unsure ? " tag-unsure" : ""}`}>{words.count("unsure_days", unsure)}</span>
        <span class="tag">{words.say("mean_worn", { hours: number(language, worn, 1) })}</span>
      </div>
      <ol class="strip" aria-hidden="true">
        {days.map((d) => (
          <li key={d.id} class={`day day-${dayState(d)}`} title={`${dateOf(words, d.day)}: ${words.say(`day_${dayState(d)}`)}`} />
        ))}
      </ol>
      <div class="plots">
        {shown.map((name) => (
          <div class="card" key={name}>
            <DayPlot days={days} name={name} title={measureOf(words, name)} height={230} table />
          </div>
        ))}
        <div class="card">
          <Wear days={days} />
        </div>
        {chosen && (
          <div class="card">
            <div class="field other">
              <label for={field}>{words.say("other_measures")}</label>
              <select id={field} value={chosen} onChange={(event) => choose(event.currentTarget.value)}>
                {others.map((name) => (
                  <option key={name} value={name}>
                    {measureOf(words, name)}
                  </option>
                ))}
              </select>
            </div>
            <DayPlot days={days} name={chosen} title={measureOf(words, chosen)} height={170} table />
          </div>
        )}
      </div>
    </section>
  );
}

function Wear({ days }: { days: readonly MeasuredDay[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const data = useMemo((): PlotData => {
    const sorted = [...days].sort((a, b) => a.day.localeCompare(b.day));
    const hours = (of: (d: MeasuredDay) => number): number[] => sorted.map((d) => of(d) / 3600);
    return [
      sorted.map((d) => new Date(`${d.day}T12:00:00`).getTime() / 1000),
      hours((d) => d.worn_s + d.missing_s),
      hours((d) => d.worn_s),
      hours((d) => d.walking_s),
    ];
  }, [days]);
  const mean = days.reduce((sum, d) => sum + d.worn_s, 0) / 3600 / (days.length || 1);
  return (
    <figure class="day-plot" data-measure="wear">
      <figcaption class="row spread">
        <span>
          <strong>{words.say("wear")}</strong> <span class="quiet">h</span>
        </span>
        <span class="signal-legend quiet" aria-hidden="true">
          <span>
            <i class="bar-worn" />
            {words.say("worn")}
          </span>
          <span>
            <i class="bar-walking" />
            {words.say("walking")}
          </span>
          <span>
            <i class="bar-missing" />
            {words.say("not_heard")}
          </span>
        </span>
      </figcaption>
      <Plot
        label={`${words.say("wear")}: ${words.say("mean_worn", { hours: number(language, mean, 1) })}`}
        data={data}
        height={230}
        days
        range={[0, null]}
        lines={[
          { color: "danger", as: "bars" },
          { color: "bar-worn", as: "bars" },
          { color: "bar-walking", as: "bars" },
        ]}
      />
    </figure>
  );
}
