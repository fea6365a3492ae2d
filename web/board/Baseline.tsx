// Their usual: what the answers are compared with, how far learning has come, and what is promised on which condition.
import { useId, useState } from "preact/hooks";
import { api } from "@shared/api";
import { Button, Dialog, Progress } from "@shared/components/controls";
import { useSettings } from "@shared/i18n";
import { memo } from "@shared/memo";
import { Failure, useAction } from "./action";
import type { Person } from "./types";
import { PoseDialog } from "./PoseDialog";
import { WORDS } from "./words";

export const Baseline = memo(function Baseline({ person, canEnrol }: { person: Person; canEnrol: boolean }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [asking, setAsking] = useState(false);
  const [posing, setPosing] = useState(false);
  const [run, busy, failure] = useAction();
  const { enrolment, calibration } = person;
  const path = `api/people/${encodeURIComponent(person.subject)}/enrolment`;
  const cancel = (): void => run(() => api.post(path, { action: "cancel" }));
  const learning = enrolment?.state === "collecting" || enrolment?.state === "fitting";
  const text = words.pick(calibration.text);
  const share = calibration.learned_s !== null && calibration.needed_s ? calibration.learned_s / calibration.needed_s : null;
  return (
    <section class="card baseline" aria-labelledby="usual" data-enrolment={enrolment?.state ?? ""}>
      <h2 id="usual">{words.say("usual")}</h2>
      {learning ? (
        <Progress share={enrolment.needed_s ? enrolment.seconds / enrolment.needed_s : 0} text={words.pick(enrolment.text)} />
      ) : share !== null && share < 1 ? (
        <Progress share={share} text={text} />
      ) : (
        <p class={`baseline-text${calibration.valid === false ? " baseline-invalid" : ""}`}>{text}</p>
      )}
      {enrolment && !learning && (
        <div class={`baseline-result baseline-${enrolment.state}`} role="status">
          <p>{words.pick(enrolment.text)}</p>
          {enrolment.audit && (
            <>
              <p class="small">{words.pick(enrolment.audit.text)}</p>
              <ul class="small quiet">
                {enrolment.audit.reasons.map((reason) => (
                  <li key={reason.en}>{words.pick(reason)}</li>
                ))}
              </ul>
            </>
          )}
        </div>
      )}
      {canEnrol && (
        <div class="row">
          {learning ? (
            <Button icon="cross" disabled={busy} onClick={cancel}>
              {words.say("usual_cancel")}
            </Button>
          ) : (
            <>
              <Button icon="learn" kind={calibration.basis === "cohort" ? "primary" : "plain"} onClick={() => setAsking(true)}>
                {words.say(calibration.basis === "cohort" ? "usual_start" : "usual_again")}
              </Button>
              {enrolment && (
                <Button kind="ghost" disabled={busy} onClick={cancel}>
                  {words.say("usual_dismiss")}
                </Button>
              )}
            </>
          )}
        </div>
      )}
      {canEnrol && (person.can_pose || person.pose) && (
        <div class="row">
          <Button icon="worn" onClick={() => setPosing(true)}>
            {words.say(person.pose ? "pose_open" : learning ? "pose_record" : "pose_again")}
          </Button>
        </div>
      )}
      <Failure text={failure} />
      {person.promise && (
        <div class="promise">
          <h3>{words.say("promise")}</h3>
          <p>{words.pick(person.promise)}</p>
        </div>
      )}
      <PoseDialog open={posing} onClose={() => setPosing(false)} person={person} />
      <EnrolDialog open={asking} onClose={() => setAsking(false)} path={path} />
    </section>
  );
});

function EnrolDialog({ open, onClose, path }: { open: boolean; onClose: () => void; path: string }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [minutes, setMinutes] = useState(30);
  const [run, busy, failure] = useAction();
  const field = useId();
  const send = (event: Event): void => {
    event.preventDefault();
    run(() => api.post(path, { action: "start", minutes }), onClose);
  };
  return (
    <Dialog title={words.say("usual_start")} open={open} onClose={onClose}>
      <form onSubmit={send} class="stack">
        <p>{words.say("usual_explain")}</p>
        <div class="field">
          <label for={field}>{words.say("usual_minutes")}</label>
          <input
            id={field}
            type="number"
            min={1}
            max={240}
            required
            value={minutes}
            aria-describedby={`${field}-hint`}
            onInput={(event) => setMinutes(event.currentTarget.valueAsNumber)}
          />
          <p id={`${field}-hint`} class="small quiet">
            {words.say("usual_minutes_hint")}
          </p>
        </div>
        <Failure text={failure} />
        <div class="dialog-actions">
          <Button onClick={onClose}>{words.say("cancel")}</Button>
          <Button type="submit" kind="primary" disabled={busy || !(minutes >= 1)}>
            {words.say("usual_go")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
