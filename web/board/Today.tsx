// The person's day: its episodes, and how the answers were shared out.
import { useEffect, useState } from "preact/hooks";
import { ApiError, api } from "@shared/api";
import { BeliefBar } from "@shared/components/Decision";
import { clock, duration } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { memo } from "@shared/memo";
import type { Episode, Person } from "./types";
import { WORDS } from "./words";

const LIMIT = 50;

interface TodayProps {
  person: Person;
  /** Episodes that wait to be sent: when it changes, so does what is said of them here. */
  waiting: number;
  midnightMs: number;
  seen: number;
}

export const Today = memo(function Today({ person, waiting, midnightMs, seen }: TodayProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [episodes, setEpisodes] = useState<readonly Episode[]>([]);
  const [failure, setFailure] = useState("");
  const { subject } = person;

  useEffect(() => {
    const stop = new AbortController();
    api.get<{ episodes: Episode[] }>(`api/episodes?limit=${LIMIT}&subject=${encodeURIComponent(subject)}`, stop.signal).then(
      (answer) => {
        setEpisodes(answer.episodes);
        setFailure("");
      },
      (error: unknown) => {
        if (error instanceof ApiError) setFailure(error.message);
      },
    );
    return () => stop.abort();
  }, [subject, seen, waiting, person.today.n_episodes, person.episode?.start_utc_ns]);

  const today = episodes.filter((episode) => (episode.end_utc_ns ?? episode.start_utc_ns) / 1e6 >= midnightMs);
  return (
    <section class="card today" aria-labelledby="today">
      <h2 id="today">{words.say("today")}</h2>
      {person.today.share && (
        <div class="stack">
          <h3>{words.say("share_today")}</h3>
          <BeliefBar belief={person.today.share} legend label={words.say("share_today")} />
        </div>
      )}
      <h3>{words.say("episodes")}</h3>
      {!today.length && !person.episode && <p class="quiet">{words.say("no_episodes")}</p>}
      <ul class="episodes">
        {person.episode && !today.some((one) => one.start_utc_ns === person.episode?.start_utc_ns) && (
          <li>
            <span class="episode-time">{clock(language, person.episode.start_utc_ns)}</span>
            <span>
              {words.pick(person.sentence)} <span class="pill pill-now">{words.say("episode_open")}</span>
            </span>
          </li>
        )}
        {today.map((episode) => (
          <li key={episode.id} data-episode={episode.id}>
            <span class="episode-time">
              {clock(language, episode.start_utc_ns)}
              {episode.end_utc_ns !== null && (
                <span class="small quiet"> {duration((episode.end_utc_ns - episode.start_utc_ns) / 1e9)}</span>
              )}
            </span>
            <span>
              {words.pick(episode.sentence)}{" "}
              <span class={`pill pill-${episode.sent ? "good" : "warn"}`}>{words.say(episode.sent ? "episode_sent" : "episode_waits")}</span>
            </span>
          </li>
        ))}
      </ul>
      <p class="field-error">{failure}</p>
    </section>
  );
});
