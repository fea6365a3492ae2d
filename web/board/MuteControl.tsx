import { api } from "@shared/api";
import { Button } from "@shared/components/controls";
import { clock } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Failure, useAction } from "./action";
import type { Person } from "./types";
import { WORDS } from "./words";

const MINUTES = 15;

export function MuteControl({ person, nowNs }: { person: Person; nowNs: number }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [run, busy, failure] = useAction();
  const until = person.muted_until_utc_ns;
  const muted = until !== null && until > nowNs;
  const send = (minutes: number): void =>
    run(() => api.post(`api/people/${encodeURIComponent(person.subject)}/mute`, { minutes }));
  return (
    <div class="row mute" data-muted={muted}>
      {muted && (
        <span class="quiet">{words.say("muted_until", { time: clock(language, until) })}</span>
      )}
      <Button
        icon={muted ? "bell" : "mute"}
        disabled={busy}
        title={words.say("mute_explain")}
        onClick={() => send(muted ? 0 : MINUTES)}
      >
        {muted ? words.say("unmute") : words.say("mute_for", { n: MINUTES })}
      </Button>
      <Failure text={failure} />
    </div>
  );
}
