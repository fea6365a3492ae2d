// A sensor for a person: tap or shake it and the board finds which one it is, or take it from the list.
import { useId, useState } from "preact/hooks";
import { api } from "@shared/api";
import { Button, Dialog } from "@shared/components/controls";
import { percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Failure, useAction } from "./action";
import type { BoardState, Person } from "./types";
import { WORDS, type Speaker } from "./words";

interface AssignDialogProps {
  open: boolean;
  onClose: () => void;
  person: Person;
  state: BoardState;
}

export function AssignDialog({ open, onClose, person, state }: AssignDialogProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  return (
    <Dialog title={words.say("assign_to", { subject: person.subject })} open={open} onClose={onClose}>
      <ByTapping person={person} state={state} words={words} />
      <FromList person={person} state={state} words={words} />
    </Dialog>
  );
}

function ByTapping({ person, state, words }: { person: Person; state: BoardState; words: Speaker }) {
  const [place, setPlace] = useState("");
  const [run, busy, failure] = useAction();
  const field = useId();
  const identify = state.identify?.subject === person.subject ? state.identify : null;
  const waiting = identify?.state === "waiting";
  const start = (): void =>
    run(() => api.post("api/sensors/identify", { subject: person.subject, ...(place ? { sensor: place } : {}) }));
  return (
    <section class="assign-part stack">
      <h3>{words.say("assign_tap")}</h3>
      <p class="quiet">{words.say("assign_tap_text")}</p>
      <div class="field">
        <label for={field}>{words.say("assign_place")}</label>
        <select id={field} value={place} disabled={waiting} onChange={(event) => setPlace(event.currentTarget.value)}>
          <option value="">{words.say("assign_any_place")}</option>
          {state.model.sensors.map((sensor) => (
            <option key={sensor.name} value={sensor.name}>
              {words.pick(sensor.place) || sensor.name}
            </option>
          ))}
        </select>
      </div>
      {identify && (
        // A countdown is not read out second by second; that it began was, as the answer to the button.
        <p class={`identify identify-${identify.state}`} role={waiting ? undefined : "status"}>
          {words.pick(identify.text)}
        </p>
      )}
      {waiting ? (
        <Button icon="cross" disabled={busy} onClick={() => run(() => api.post("api/sensors/identify", { action: "cancel" }))}>
          {words.say("cancel")}
        </Button>
      ) : (
        <Button icon="tap" kind="primary" disabled={busy} onClick={start}>
          {words.say("assign_find")}
        </Button>
      )}
      <Failure text={failure} />
    </section>
  );
}

interface Device {
  readonly where: string;
  readonly serial: string;
  readonly place: string;
  readonly wearer: string | null;
  readonly battery: number | null;
}

function FromList({ person, state, words }: { person: Person; state: BoardState; words: Speaker }) {
  const [run, busy, failure] = useAction();
  const place = (name: string | null): string => {
    const known = state.model.sensors.find((sensor) => sensor.name === name);
    return known ? words.pick(known.place) : (name ?? "");
  };
  const devices: Device[] = [
    ...state.spare.map((device) => ({ ...device, place: place(device.sensor), wearer: null })),
    ...state.people
      .filter((other) => other.subject !== person.subject)
      .flatMap((other) =>
        other.sensors.flatMap((sensor) =>
          sensor.where === null
            ? []
            : [{ where: sensor.where, serial: sensor.serial ?? "", place: place(sensor.name), wearer: other.subject, battery: sensor.battery }],
        ),
      ),
  ];
  return (
    <section class="assign-part stack">
      <h3>{words.say("assign_list")}</h3>
      {!devices.length && <p class="quiet">{words.say("assign_none")}</p>}
      <ul class="devices">
        {devices.map((device) => (
          <li key={device.where} class="row spread">
            <span>
              <strong>{device.serial || device.where}</strong>
              <span class="small quiet">
                {[
                  device.place,
                  device.wearer === null ? words.say("assign_spare") : words.say("assign_from", { subject: device.wearer }),
                  device.battery === null ? "" : `${words.say("battery")} ${percent(words.language, device.battery)}`,
                ]
                  .filter(Boolean)
                  .join(" · ")}
              </span>
            </span>
            <Button
              disabled={busy}
              aria-label={words.say("assign_give_long", { device: device.serial || device.where, subject: person.subject })}
              onClick={() => run(() => api.post("api/sensors/assign", { where: device.where, subject: person.subject }))}
            >
              {words.say("assign_give")}
            </Button>
          </li>
        ))}
      </ul>
      <Failure text={failure} />
    </section>
  );
}
