// Everybody at a glance. Tiles keep their place, so that a person is found where they were.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { announce } from "@shared/a11y";
import { BeliefBar, DecisionMark } from "@shared/components/Decision";
import { Icon } from "@shared/components/Icon";
import { Sparkline } from "@shared/components/Sparkline";
import { clock } from "@shared/format";
import { useSettings } from "@shared/i18n";
import type { Decision } from "@shared/types";
import { linkTo } from "./route";
import type { BoardStore, ScorePoint } from "./store";
import type { BoardState, Person } from "./types";
import { WORDS, type Speaker } from "./words";

const SPARK_S = 300;
const SHOWN = ["anomalous", "unsure", "normal", "none"] as const;

export function Wall({ board, state }: { board: BoardStore; state: BoardState }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [only, setOnly] = useState<Decision | null>(null);
  const now = new Map(state.people.map((person) => [person.subject, board.isCurrent(person) ? person.decision : "none"]));
  const counts = new Map<Decision, number>();
  for (const decision of now.values()) counts.set(decision, (counts.get(decision) ?? 0) + 1);
  const shown = only === null ? state.people : state.people.filter((person) => now.get(person.subject) === only);
  useSpokenDifferences(state.people, now as Map<string, Decision>, words);

  return (
    <>
      <div class="wall-head row spread">
        <h1>{words.count("people", state.people.length)}</h1>
        <div class="wall-filter" role="group" aria-label={words.say("show")}>
          <button type="button" aria-pressed={only === null} onClick={() => setOnly(null)}>
            {words.say("all")} <strong>{state.people.length}</strong>
          </button>
          {SHOWN.filter((decision) => counts.get(decision) || only === decision).map((decision) => (
            <button key={decision} type="button" aria-pressed={only === decision} onClick={() => setOnly(only === decision ? null : decision)}>
              <span class={`filter-mark ink-${decision}`}>
                <Icon name={decision} size={17} />
              </span>
              <span class="filter-word">{decision === "none" ? words.say("no_current") : words.say(decision)}</span> <strong>{counts.get(decision) ?? 0}</strong>
            </button>
          ))}
        </div>
      </div>
      {!state.people.length && <p class="card quiet">{words.say("no_people")}</p>}
      {state.people.length > 0 && !shown.length && <p class="card quiet">{words.say("nobody")}</p>}
      <ul class={`wall${state.people.length <= 4 ? " wall-few" : ""}`}>
        {shown.map((person) => (
          <li key={person.subject}>
            <Tile
              person={person}
              current={board.isCurrent(person)}
              scores={board.scores.get(person.subject)}
              muted={person.muted_until_utc_ns !== null && person.muted_until_utc_ns > board.nowNs()}
              words={words}
            />
          </li>
        ))}
      </ul>
    </>
  );
}

interface TileProps {
  person: Person;
  current: boolean;
  scores: readonly ScorePoint[] | undefined;
  muted: boolean;
  words: Speaker;
}

function Tile({ person, current, scores, muted, words }: TileProps) {
  // Twenty tiles at ten events a second: only what changed is drawn anew.
  return useMemo(
    () => <TileFace person={person} current={current} scores={scores} muted={muted} words={words} />,
    [person, current, scores, muted, words],
  );
}

function TileFace({ person, current, scores, muted, words }: TileProps) {
  const { language } = words;
  const decision: Decision = current ? person.decision : "none";
  const used = person.sensors.filter((sensor) => sensor.used);
  const heard = used.filter((sensor) => sensor.state === "streaming").length;
  const points = useMemo(
    () => (scores ?? []).map(({ utcNs, score }) => ({ t: utcNs / 1e9, y: score })),
    [scores],
  );
  const stale = !current && person.utc_ns !== null;
  return (
    <a
      class={`tile tile-${decision}${stale ? " tile-stale" : ""}`}
      href={linkTo.person(person.subject)}
      data-subject={person.subject}
      data-decision={decision}
      data-utc-ns={person.utc_ns ?? ""}
    >
      <span class="tile-head">
        <span class="tile-name">{person.subject}</span>
        <span class="tile-signs">
          {muted && <Sign icon="mute" text={words.say("muted_until", { time: clock(language, person.muted_until_utc_ns ?? 0) })} />}
          {person.enrolment?.state === "collecting" && <Sign icon="learn" text={words.pick(person.enrolment.text)} />}
          <span class={`tile-sensors${heard < used.length ? " tile-sensors-missing" : ""}`}>
            <Icon name="signal" size={16} />
            <span aria-hidden="true">
              {heard}/{used.length}
            </span>
            <span class="visually-hidden">{words.say("sensors_of", { n: heard, total: used.length })}</span>
          </span>
        </span>
      </span>
      <span>
        {stale ? (
          <span class="decision decision-none">
            <Icon name="none" size={18} />
            <span>{words.say("no_current")}</span>
          </span>
        ) : (
          <DecisionMark decision={decision} />
        )}
      </span>
      <span class="tile-text">
        {stale
          ? words.say("last_was", { decision: words.say(person.decision), time: clock(language, person.utc_ns ?? 0, true) })
          : tileText(person, words)}
      </span>
      <Sparkline points={points} end={points.at(-1)?.t ?? 0} span={SPARK_S} gap={5} band={person.band} />
      {person.belief && !stale ? <BeliefBar belief={person.belief} /> : <span class="belief-bar" />}
    </a>
  );
}

function tileText(person: Person, words: Speaker): string {
  const { language } = words;
  // a sentence beside "as usual" says without which sensors that is: it comes before everything else
  if (person.sentence) return words.pick(person.sentence);
  if (person.enrolment?.state === "collecting" && person.decision === "normal") return words.pick(person.enrolment.text);
  if (person.episode) return words.say("since", { time: clock(language, person.episode.start_utc_ns) });
  return person.decision === "none" ? words.say("none_sentence") : words.say("as_usual_sentence");
}

function Sign({ icon, text }: { icon: "mute" | "learn"; text: string }) {
  return (
    <span class="tile-sign" title={text}>
      <Icon name={icon} size={17} />
      <span class="visually-hidden">{text}</span>
    </span>
  );
}

/** Speaks when somebody becomes different from usual, and nothing else: a wall that talks all the time is switched off. */
function useSpokenDifferences(people: readonly Person[], now: ReadonlyMap<string, Decision>, words: Speaker): void {
  const before = useRef(new Map<string, Decision>());
  useEffect(() => {
    for (const { subject } of people) {
      const decision = now.get(subject) ?? "none";
      const was = before.current.get(subject);
      if (was !== undefined && was !== decision && decision === "anomalous") announce(subject, `${subject}: ${words.say("anomalous")}`);
      before.current.set(subject, decision);
    }
  });
}
