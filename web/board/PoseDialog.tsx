// The guided poses: a countdown into each, then every sensor comes to rest, live; what was not still is said and repeated.
import { useEffect, useRef } from "preact/hooks";
import { announce } from "@shared/a11y";
import { api } from "@shared/api";
import { Button, Dialog, Progress } from "@shared/components/controls";
import { Icon } from "@shared/components/Icon";
import { number } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Failure, useAction } from "./action";
import type { Person, Pose, PoseSensor } from "./types";
import { WORDS, type Speaker } from "./words";

interface PoseDialogProps {
  open: boolean;
  onClose: () => void;
  person: Person;
}

export function PoseDialog({ open, onClose, person }: PoseDialogProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [run, busy, failure] = useAction();
  const { pose } = person;
  const path = `api/people/${encodeURIComponent(person.subject)}/pose`;
  const ask = (action: "start" | "repeat" | "go_on" | "cancel", then?: () => void): void => run(() => api.post(path, { action }), then);
  useSpokenStep(open ? pose : null, words);
  const enrols = pose ? pose.purpose === "enrol" : person.enrolment?.state === "collecting";
  const ended = pose?.state === "done" || pose?.state === "failed";
  return (
    <Dialog title={words.say(enrols ? "pose_record" : "pose_again")} open={open} onClose={onClose}>
      <div class="pose stack" data-pose-state={pose?.state ?? ""}>
        {pose === null ? (
          <>
            <p>{words.say(enrols ? "pose_explain_record" : "pose_explain")}</p>
            <p class="quiet">{words.say("pose_help")}</p>
          </>
        ) : ended ? (
          <p class={`baseline-result baseline-${pose.state}`}>{words.pick(pose.text)}</p>
        ) : (
          <Step pose={pose} words={words} />
        )}
        {pose && <Sensors pose={pose} words={words} />}
        <Failure text={failure} />
        <div class="dialog-actions">
          {pose === null ? (
            <Button onClick={onClose}>{words.say("cancel")}</Button>
          ) : (
            <Button disabled={busy} onClick={() => ask("cancel", onClose)}>
              {words.say(ended ? "pose_close" : "pose_stop")}
            </Button>
          )}
          {pose?.state === "stuck" && (
            <Button disabled={busy} onClick={() => ask("go_on")}>
              {words.say("pose_go_on")}
            </Button>
          )}
          {pose?.state === "stuck" && (
            <Button kind="primary" icon="sync" disabled={busy} onClick={() => ask("repeat")}>
              {words.say("pose_repeat")}
            </Button>
          )}
          {(pose === null || ended) && (
            <Button kind={pose?.state === "done" ? "plain" : "primary"} disabled={busy || !person.can_pose} onClick={() => ask("start")}>
              {words.say(pose === null ? "pose_start" : "pose_anew")}
            </Button>
          )}
        </div>
      </div>
    </Dialog>
  );
}

function Step({ pose, words }: { pose: Pose; words: Speaker }) {
  const still = Math.min(...pose.sensors.map((sensor) => sensor.still_s));
  return (
    <>
      <h3>
        {words.say("pose_step", { n: String(pose.number), total: String(pose.of) })}
        {pose.name && <> – {words.pick(pose.name)}</>}
      </h3>
      {pose.instruction && <p class="pose-instruction">{words.pick(pose.instruction)}</p>}
      {pose.state === "ready" && (
        // A countdown is not read out second by second; what to do was, as the step began.
        <p class="pose-count">{words.say("pose_in", { s: number(words.language, Math.ceil(pose.seconds_left ?? 0)) })}</p>
      )}
      {pose.state === "hold" && <Progress share={still / (pose.hold_s ?? 5)} text={words.pick(pose.text)} />}
      {pose.state === "stuck" && (
        <p class="identify identify-failed" role="alert">
          {words.pick(pose.text)}
        </p>
      )}
    </>
  );
}

function Sensors({ pose, words }: { pose: Pose; words: Speaker }) {
  const ended = pose.state === "done" || pose.state === "failed";
  const mark = (sensor: PoseSensor) => (sensor.why ? "unsure" : ended || sensor.still_s >= (pose.hold_s ?? 5) ? "check" : "clock");
  return (
    <ul class="pose-sensors" aria-label={words.say("pose_sensors")}>
      {pose.sensors.map((sensor) => (
        <li key={sensor.sensor} class="row spread" data-sensor={sensor.sensor} data-why={sensor.why}>
          <span class="row">
            <Icon name={mark(sensor)} size={18} />
            {words.pick(sensor.place) || sensor.sensor}
          </span>
          <span class="small">
            {words.pick(sensor.text)}
            {!ended && !sensor.why && ` · ${number(words.language, sensor.still_s, 0)} s`}
          </span>
        </li>
      ))}
    </ul>
  );
}

/** Speaks each step as it begins: a person who holds a pose does not look at a screen. */
function useSpokenStep(pose: Pose | null, words: Speaker): void {
  const before = useRef("");
  useEffect(() => {
    const now = pose ? `${pose.state} ${pose.number}` : "";
    if (pose && before.current !== now && pose.state !== "stuck") {
      const what = pose.state === "ready" && pose.instruction ? words.pick(pose.instruction) : words.pick(pose.text);
      announce("pose", what);
    }
    before.current = now;
  });
}
