// One person: the answer first, then why, where, and what it rests on.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { announce, useFocusOnOpen } from "@shared/a11y";
import { BodyFigure, type BodySensor } from "@shared/components/BodyFigure";
import { Button } from "@shared/components/controls";
import { BeliefBar, DecisionMark } from "@shared/components/Decision";
import { Icon } from "@shared/components/Icon";
import { type ChartData, TimeChart } from "@shared/components/TimeChart";
import { clock, number, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { memo } from "@shared/memo";
import type { Decision } from "@shared/types";
import { AssignDialog } from "./AssignDialog";
import { Baseline } from "./Baseline";
import { MuteControl } from "./MuteControl";
import { linkTo } from "./route";
import { SensorTable } from "./SensorTable";
import { SignalCharts } from "./SignalCharts";
import { type BoardStore, HISTORY_S, type ScorePoint } from "./store";
import { Today } from "./Today";
import type { BoardState, Model, Person } from "./types";
import { WORDS, type Speaker } from "./words";

export function PersonView({ subject, board, state }: { subject: string; board: BoardStore; state: BoardState }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const person = state.people.find((one) => one.subject === subject);
  const heading = useFocusOnOpen<HTMLHeadingElement>(subject);
  const [assigning, setAssigning] = useState(false);
  const current = person !== undefined && board.isCurrent(person);
  const decision: Decision = current ? person.decision : "none";
  useSpokenDecision(subject, decision, words);

  const midnightMs = new Date(state.utc_ns / 1e6).setHours(0, 0, 0, 0);
  const back = (
    <a class="back" href={linkTo.wall}>
      <Icon name="back" size={18} />
      {words.say("people")}
    </a>
  );
  if (!person) {
    return (
      <>
        {back}
        <p class="card">{words.say("unknown_person", { subject })}</p>
      </>
    );
  }
  return (
    <>
      <div class="person-head row spread">
        <div class="row">
          {back}
          <h1 ref={heading} tabIndex={-1}>
            {person.subject}
          </h1>
        </div>
        <div class="row">
          {state.features.mute && <MuteControl person={person} nowNs={board.nowNs()} />}
          {state.features.assign && (
            <Button icon="tap" onClick={() => setAssigning(true)}>
              {words.say("assign")}
            </Button>
          )}
        </div>
      </div>
      <div class={`person${current ? "" : " person-stale"}`}>
        <div class="person-column">
          <Answer person={person} decision={decision} words={words} />
          <Score person={person} points={board.scores.get(subject)} words={words} />
          <SignalCharts person={person} model={state.model} signals={board.signals} />
          <SensorTable person={person} canAssign={state.features.assign} />
        </div>
        <div class="person-column">
          <Where person={person} model={state.model} decision={decision} words={words} />
          <Baseline person={person} canEnrol={state.features.enrol} />
          <Today person={person} waiting={state.outbox.waiting_episodes} midnightMs={midnightMs} seen={board.episodesSeen} />
        </div>
      </div>
      <AssignDialog open={assigning} onClose={() => setAssigning(false)} person={person} state={state} />
    </>
  );
}

const Answer = memo(function Answer({ person, decision, words }: { person: Person; decision: Decision; words: Speaker }) {
  const { language } = words;
  const stale = decision === "none" && person.utc_ns !== null && person.decision !== "none";
  const sentence = stale
    ? words.say("stale_sentence")
    : person.sentence
      ? words.pick(person.sentence)
      : words.say(decision === "none" ? "none_sentence" : "as_usual_sentence");
  return (
    <section class={`card answer answer-${decision}`} aria-labelledby="answer" data-decision={decision} data-utc-ns={person.utc_ns ?? ""}>
      <div class="row spread">
        <h2 id="answer" class="row">
          {stale ? (
            <span class="decision decision-none decision-large">
              <Icon name="none" size={26} />
              <span>{words.say("no_current")}</span>
            </span>
          ) : (
            <DecisionMark decision={decision} large />
          )}
        </h2>
        <span class="quiet small">
          {person.utc_ns !== null &&
            (stale
              ? words.say("last_was", { decision: words.say(person.decision), time: clock(language, person.utc_ns, true) })
              : words.say("as_of", { time: clock(language, person.utc_ns, true) }))}
        </span>
      </div>
      <p class="answer-sentence">{sentence}</p>
      {person.episode && !stale && (
        <p class="answer-episode row">
          <Icon name="bell" size={18} />
          {words.say("since", { time: clock(language, person.episode.start_utc_ns, true) })}
        </p>
      )}
      {person.belief && !stale && <BeliefBar belief={person.belief} legend />}
      {!stale && person.reasons.length > 0 && (
        <div class="reasons">
          <h3>{words.say(decision === "unsure" ? "why_unsure" : "why_careful")}</h3>
          <ol>
            {person.reasons.map((reason, i) => (
              <li key={i} data-reason={reason.code} data-sensor={reason.sensor ?? ""}>
                {words.pick(reason.text)}
              </li>
            ))}
          </ol>
        </div>
      )}
    </section>
  );
});

interface WhereProps {
  person: Person;
  model: Model;
  decision: Decision;
  words: Speaker;
}

const Where = memo(function Where({ person, model, decision, words }: WhereProps) {
  const claimed = decision === "anomalous";
  const doubted = new Set(decision === "unsure" ? person.reasons.map((reason) => reason.sensor) : []);
  const sensors: BodySensor[] = model.sensors.map((sensor) => {
    const worn = person.sensors.find((one) => one.name === sensor.name);
    return {
      name: sensor.name,
      label: words.pick(sensor.place) || sensor.name,
      share: claimed ? (person.contributions.find((c) => c.sensor === sensor.name && c.channel === null)?.share ?? 0) : null,
      doubt: doubted.has(sensor.name) || (!claimed && (worn?.reasons.length ?? 0) > 0),
      silent: worn === undefined || worn.state !== "streaming",
    };
  });
  const channels = claimed ? person.contributions.filter((c) => c.channel !== null && c.share >= 0.05).slice(0, 4) : [];
  const label = (name: string): string => sensors.find((sensor) => sensor.name === name)?.label ?? name;
  return (
    <section class="card where" aria-labelledby="where">
      <h2 id="where">{words.say(claimed ? "where" : "on_body")}</h2>
      <BodyFigure sensors={sensors} />
      {channels.length > 0 && (
        <div class="channels">
          <h3>{words.say("channels")}</h3>
          <ul>
            {channels.map((c) => (
              <li key={`${c.sensor} ${c.channel}`}>
                <span>
                  {label(c.sensor)}, {channelName(c.channel ?? "", words)}
                </span>
                <strong>{percent(words.language, c.share)}</strong>
              </li>
            ))}
          </ul>
        </div>
      )}
    </section>
  );
});

/** `acc_x` as a person says it. What is not known is shown as it is. */
export function channelName(channel: string, words: Speaker): string {
  const [kind, axis] = channel.split("_");
  if (kind === "acc") return axis ? `${words.say("acceleration")} ${axis}` : words.say("acceleration");
  if (kind === "gyr") return axis ? `${words.say("rotation")} ${axis}` : words.say("rotation");
  return channel;
}

interface ScoreProps {
  person: Person;
  points: readonly ScorePoint[] | undefined;
  words: Speaker;
}

const Score = memo(function Score({ person, points, words }: ScoreProps) {
  const { language } = words;
  const { median, high } = person.band;
  const personal = person.calibration.basis === "personal";
  const data: ChartData = useMemo(() => {
    const times: number[] = [];
    const scores: (number | null)[] = [];
    let last = 0;
    for (const { utcNs, score } of points ?? []) {
      const t = utcNs / 1e9;
      if (last && t - last > 5) {
        times.push(last + 1); // minutes without an answer are a gap
        scores.push(null);
      }
      times.push(t);
      scores.push(score);
      last = t;
    }
    return [times, times.map(() => high), times.map(() => median), scores];
  }, [points, median, high]);
  // A page just opened on a board just started has little to show: it is not squeezed into a corner.
  const heardS = points?.length ? ((points.at(-1)?.utcNs ?? 0) - (points[0]?.utcNs ?? 0)) / 1e9 : 0;
  const span = [120, 300, 600].find((s) => heardS <= s) ?? HISTORY_S;
  const most = Math.max(high * 2, ...(points ?? []).map((point) => point.score));
  const least = Math.min(median - 0.5, ...(points ?? []).map((point) => point.score));
  const band = words.say(personal ? "band_personal" : "band_cohort");
  return (
    <section class="card score" aria-labelledby="score">
      <h2 id="score">{words.say("score")}</h2>
      <TimeChart
        title={words.say("line_score")}
        unit={words.say(personal ? "score_unit" : "score_unit_cohort")}
        data={data}
        spanS={span}
        height={170}
        range={[least, most * 1.08]}
        lines={[
          { label: band, color: "chart-1", width: 1, dash: [5, 4] },
          { label: "", color: "chart-1", width: 0 },
          { label: words.say("line_score"), color: "ink", width: 2 },
        ]}
        bands={[{ between: [1, 2], color: "chart-band" }]}
      />
      {person.score !== null && (
        <p class="small quiet">
          {words.say("score_text", {
            score: number(language, person.score, 2),
            median: number(language, median, 1),
            high: number(language, high, 1),
          })}
          {person.p_value !== null && person.p_value < 0.05 && (
            <> {words.say("rarity", { n: number(language, Math.max(1, Math.round(1 / Math.max(person.p_value, 1e-9)))) })}</>
          )}
        </p>
      )}
    </section>
  );
});

/** Speaks each new answer of the person looked at. */
function useSpokenDecision(subject: string, decision: Decision, words: Speaker): void {
  const before = useRef<Decision>(undefined);
  useEffect(() => {
    if (before.current !== undefined && before.current !== decision) {
      announce(subject, `${subject}: ${decision === "none" ? words.say("no_current") : words.say(decision)}`);
    }
    before.current = decision;
  });
}
