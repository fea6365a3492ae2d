// Who there is: a card each, with the way to their trends and their episodes.
import { useMemo } from "preact/hooks";
import { moment } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { stateOf } from "./Calendar";
import { Failed, Loading } from "./marks";
import { dateOf, isoDay } from "./names";
import { useResource } from "./resource";
import { linkTo } from "./route";
import type { MeasuredDay, Person } from "./types";
import { WORDS } from "./words";

export function People() {
  const { language } = useSettings();
  const words = WORDS[language];
  const people = useResource<{ subjects: Person[] }>("v1/subjects");
  const dates = useMemo(() => {
    const now = Date.now();
    return Array.from({ length: 28 }, (_, i) => isoDay(new Date(now - (28 - i) * 86_400_000)));
  }, []);
  const measures = useResource<{ days: MeasuredDay[] }>(`v1/measures?order=newest&brief=true&limit=8000&since=${dates[0]}`);
  const of = (subject: string, day: string): MeasuredDay[] => (measures.data?.days ?? []).filter((d) => d.subject === subject && d.day === day);
  return (
    <section aria-labelledby="people-title" class="stack">
      <h1 id="people-title">{words.say("view_people")}</h1>
      <p class="quiet">{words.say("people_hint")}</p>
      {people.error && <Failed error={people.error} again={people.again} />}
      {!people.data && !people.error && <Loading />}
      {people.data && !people.data.subjects.length && <p class="card empty">{words.say("nothing_at_all")}</p>}
      <ul class="people">
        {people.data?.subjects.map((person) => (
          <li key={person.subject} class="card person">
            <h2>
              <a href={linkTo.person(person.subject)}>{person.subject}</a>
            </h2>
            <p class="quiet small">
              {person.site} · {person.gateway}
            </p>
            <p>
              <a href={linkTo.list({ subject: person.subject })}>{words.count("shown", person.n_episodes)}</a>
              {person.n_new > 0 && (
                <>
                  {", "}
                  <a href={linkTo.list({ subject: person.subject, status: "new" })}>{words.count("new", person.n_new)}</a>
                </>
              )}
            </p>
            <ol class="strip" aria-hidden="true" title={words.say("last_days")}>
              {dates.map((day) => (
                <li key={day} class={`day day-${stateOf(of(person.subject, day))}`} title={dateOf(words, day)} />
              ))}
            </ol>
            <p class="quiet small">
              {person.last_utc_ns !== null && (
                <>
                  {words.say("last_episode")} {moment(language, person.last_utc_ns)}
                </>
              )}
              {person.last_utc_ns !== null && person.last_day && <br />}
              {person.last_day && (
                <>
                  {words.say("measured_until")} {dateOf(words, person.last_day)}
                </>
              )}
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}
