// A slow change: the day that told it beside what was expected of it, and the days that led there.
import { useMemo } from "preact/hooks";
import { number } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { DayPlot } from "./DayPlot";
import { amount, dateOf, measureOf } from "./names";
import { useResource } from "./resource";
import { linkTo } from "./route";
import type { MeasuredDay, SlowChange } from "./types";
import { WORDS } from "./words";

export function ChangeCard({ change, subject, sensors }: { change: SlowChange; subject: string; sensors: readonly string[] }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const part = /symmetry|impact|contact/.test(change.measure) ? "gait" : "arm";
  const until = new Date(`${change.last_day}T12:00:00Z`);
  const [from, to] = [-56, 15].map((days) => new Date(until.getTime() + days * 86_400_000).toISOString().slice(0, 10)) as [string, string];
  const days = useResource<{ days: MeasuredDay[] }>(
    `v1/measures?${new URLSearchParams({ subject, part, since: from, until: to, order: "newest", limit: "200" })}`,
  );
  const found = useMemo(() => days.data?.days ?? [], [days.data]);
  const value = amount(words, change.value, change.unit);
  const interval =
    change.low !== null && change.high !== null ? ` (${amount(words, change.low)} – ${amount(words, change.high, change.unit)})` : "";
  const facts: [string, string][] = [
    [words.say("change_value", { day: dateOf(words, change.last_day) }), value + interval],
    [words.say("change_expected"), amount(words, change.expected, change.unit)],
    [words.say("change_spread"), amount(words, change.spread, change.unit)],
    [
      words.say("change_short"),
      words.say("change_short_of", { value: number(language, change.shortfall, 1), threshold: number(language, change.threshold, 1) }),
    ],
    [words.say("change_since"), dateOf(words, change.first_day)],
    [words.say("change_worn"), amount(words, change.worn_h, "h")],
  ];
  return (
    <section class="card stack" aria-labelledby="change" data-sensors={sensors.join(" ")}>
      <h2 id="change">{words.say("change")}</h2>
      <dl class="facts wide-facts">
        {facts.map(([name, text]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
      {found.length > 0 && (
        <DayPlot
          days={found}
          name={change.measure}
          title={measureOf(words, change.measure)}
          height={220}
          shade={[change.first_day, change.last_day]}
        />
      )}
      <p>
        <a href={linkTo.person(subject)}>{words.say("change_trends", { subject })}</a>
      </p>
    </section>
  );
}
