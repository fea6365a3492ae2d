// Why answers were unsure: the sentence and how often, what weighed most; the figures behind it are a click away.
import { clock, number, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { measuredOf, placeOf, reasonOf } from "./names";
import type { Abstention, Envelope, Figures } from "./types";
import { WORDS } from "./words";

export function WhyUnsure({ envelope }: { envelope: Envelope }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const abstentions = envelope.abstentions ?? [];
  return (
    <section class="card stack" aria-labelledby="why">
      <h2 id="why">{words.say("why_unsure")}</h2>
      {!abstentions.length && <p class="quiet">{words.say("never_unsure")}</p>}
      <ul class="abstentions">
        {abstentions.map((a) => (
          <li key={`${a.code} ${a.sensor}`}>
            <span class="swatch fill-unsure" aria-hidden="true" />
            <span>{words.pick(a.text)}</span>
            <span class="quiet small">{words.say("why_share", { share: percent(language, a.share) })}</span>
            {a.figures && <Behind abstention={a} figures={a.figures} />}
          </li>
        ))}
      </ul>
    </section>
  );
}

function Behind({ abstention, figures }: { abstention: Abstention; figures: Figures }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const heaviest = Math.max(...figures.reasons.map((r) => r.weight), 1e-9);
  return (
    <details>
      <summary>
        {words.say("behind")}
        <span class="visually-hidden">: {words.pick(abstention.text)}</span>
      </summary>
      <div class="stack">
        <p class="quiet small">{words.say("behind_hint", { time: clock(language, figures.wall_time_utc_ns, true) })}</p>
        <ul class="shares weights" aria-label={words.say("reasons")}>
          {figures.reasons.map((r) => (
            <li key={`${r.code} ${r.sensor ?? ""}`}>
              <span>
                {reasonOf(words, r.code, r.sensor)} <span class="quiet">{r.channel ?? measuredOf(words, r.code, r.measured)}</span>
              </span>
              <span class="share-track" aria-hidden="true">
                <span style={{ width: `${Math.round((100 * r.weight) / heaviest)}%` }} />
              </span>
              <strong>{number(language, r.weight, 2)}</strong>
            </li>
          ))}
        </ul>
        <dl class="facts">
          {factsOf(figures).map(([name, text]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{text}</dd>
            </div>
          ))}
        </dl>
        <Sensors figures={figures} />
      </div>
    </details>
  );

  function factsOf(f: Figures): [string, string][] {
    const also = words.say("also");
    const needs = (needed: number | undefined): string => (needed === undefined ? "" : `${also}${words.say("needs_more", { share: percent(language, needed) })}`);
    const rarity = f.needed_p_value === undefined ? "" : `${also}${words.say("needs_at_most", { p: number(language, f.needed_p_value, 3) })}`;
    const facts: [string, string][] = [
      [words.say("truth"), percent(language, f.truth)],
      [words.say("believed_normal"), range(f.belief_normal, 1 - f.belief_anomalous) + needs(f.needed_normal)],
      [words.say("believed_anomalous"), range(f.belief_anomalous, 1 - f.belief_normal) + needs(f.needed_anomalous)],
      [words.say("trail_score"), number(language, f.score, 2)],
      [words.say("p_value"), number(language, f.p_value, 4) + rarity],
    ];
    if (f.alarm)
      facts.push([
        words.say("alarm_stood"),
        words.say(f.alarm.valid ? "alarm_valid" : "alarm_invalid", {
          learned: percent(language, f.alarm.learned),
          unlike: percent(language, f.alarm.unlike),
          evidence: number(language, f.alarm.evidence, 2),
          shift: number(language, f.alarm.shift, 2),
        }),
      ]);
    return facts;
  }

  function range(belief: number, plausible: number): string {
    return words.say("belief_range", { belief: percent(language, belief), plausible: percent(language, plausible) });
  }
}

function Sensors({ figures }: { figures: Figures }) {
  const { language } = useSettings();
  const words = WORDS[language];
  return (
    <div class="scroll" role="region" aria-label={words.say("sensors")} tabIndex={0}>
      <table class="table small">
        <thead>
          <tr>
            <th scope="col">{words.say("sensor")}</th>
            <th scope="col">{words.say("reliability")}</th>
            <th scope="col">{words.say("missing")}</th>
            <th scope="col">{words.say("surprise_share")}</th>
            <th scope="col">{words.say("trail_score")}</th>
          </tr>
        </thead>
        <tbody>
          {figures.sensors.map((s) => (
            <tr key={s.sensor}>
              <th scope="row">{placeOf(words, s.sensor)}</th>
              <td>{percent(language, s.reliability)}</td>
              <td>{percent(language, s.missing)}</td>
              <td>{percent(language, s.share)}</td>
              <td>{s.score === undefined ? words.say("not_scored") : number(language, s.score, 2)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
