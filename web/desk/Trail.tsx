// Every answer on the way: a column each with what was believed, the score beneath, and all of it as a table with the reasons.
import { useMemo } from "preact/hooks";
import { DecisionMark } from "@shared/components/Decision";
import { clock, number, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { measuredOf, reasonOf } from "./names";
import { Plot } from "./Plot";
import type { Envelope, TrailPoint } from "./types";
import { WORDS } from "./words";

const unsureOf = (p: TrailPoint): number => Math.max(0, 1 - p.belief_normal - p.belief_anomalous);

/** Seconds from one answer to the next: so wide is its column, above the middle of which its score stands. */
const hopOf = (trail: readonly TrailPoint[]): number => {
  const [first, last] = [trail[0]?.wall_time_utc_ns ?? 0, trail.at(-1)?.wall_time_utc_ns ?? 0];
  return trail.length > 1 ? (last - first) / 1e9 / (trail.length - 1) : 1;
};

export function Trail({ envelope }: { envelope: Envelope }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const { trail } = envelope;
  const data = useMemo(
    () => [trail.map((p) => p.wall_time_utc_ns / 1e9), trail.map((p) => p.score)] as [number[], number[]],
    [trail],
  );
  return (
    <section class="card stack" aria-labelledby="trail">
      <h2 id="trail">{words.say("trail")}</h2>
      <p class="quiet small">{words.say("trail_hint")}</p>
      <div class="trail" aria-hidden="true">
        {trail.map((p) => (
          <span key={p.wall_time_utc_ns} class={`trail-answer trail-${p.decision}`} title={`${clock(language, p.wall_time_utc_ns, true)} ${words.say(p.decision)}`}>
            <span class="fill-anomalous" style={{ flexGrow: p.belief_anomalous }} />
            <span class="fill-unsure" style={{ flexGrow: unsureOf(p) }} />
            <span class="fill-normal" style={{ flexGrow: p.belief_normal }} />
          </span>
        ))}
      </div>
      <ul class="belief-legend" aria-hidden="true">
        {(["anomalous", "unsure", "normal"] as const).map((kind) => (
          <li key={kind}>
            <span class={`swatch fill-${kind}`} />
            {words.say(kind)}
          </li>
        ))}
      </ul>
      <figure class="signal">
        <figcaption>
          <strong>{words.say("trail_score")}</strong> <span class="quiet small">{words.say(envelope.enrolment_digest ? "trail_score_hint" : "trail_score_hint_cohort")}</span>
        </figcaption>
        <Plot label={words.say("trail_score")} data={data} height={110} level={1} marginS={hopOf(trail) / 2} lines={[{ color: "anomalous", width: 2 }]} />
      </figure>
      <details>
        <summary>{words.say("trail_table")}</summary>
        <div class="scroll" role="region" aria-label={words.say("trail_table")} tabIndex={0}>
          <table class="table">
            <thead>
              <tr>
                <th scope="col">{words.say("time")}</th>
                <th scope="col">{words.say("answer")}</th>
                <th scope="col">{words.say("trail_score")}</th>
                <th scope="col">{words.say("p_value")}</th>
                <th scope="col">{words.say("belief")}</th>
                <th scope="col">{words.say("reasons")}</th>
              </tr>
            </thead>
            <tbody>
              {trail.map((p) => (
                <tr key={p.wall_time_utc_ns}>
                  <td>{clock(language, p.wall_time_utc_ns, true)}</td>
                  <td>
                    <DecisionMark decision={p.decision} />
                  </td>
                  <td>{number(language, p.score, 2)}</td>
                  <td>{number(language, p.p_value, 4)}</td>
                  <td class="small">
                    {words.say("belief_text", {
                      normal: percent(language, p.belief_normal),
                      unsure: percent(language, unsureOf(p)),
                      anomalous: percent(language, p.belief_anomalous),
                    })}
                  </td>
                  <Reasons point={p} />
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </section>
  );
}

/** The reasons of an answer; an older gateway tells them in English only. */
function Reasons({ point }: { point: TrailPoint }) {
  const { language } = useSettings();
  const words = WORDS[language];
  if (!point.why?.length)
    return (
      <td class="small" lang={point.reasons.length ? "en" : undefined}>
        {point.reasons.join("; ") || "–"}
      </td>
    );
  const said = point.why.map(([code, sensor, measured]) => [reasonOf(words, code, sensor), measuredOf(words, code, measured)].filter(Boolean).join("\u00a0"));
  return <td class="small">{said.join(words.say("also"))}</td>;
}
