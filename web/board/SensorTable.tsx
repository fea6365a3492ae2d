// How each sensor is: heard, worn, charged, losing packets, how well its time is known.
import { api } from "@shared/api";
import { Button } from "@shared/components/controls";
import { number, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { memo } from "@shared/memo";
import { Failure, useAction } from "./action";
import type { Person, Sensor } from "./types";
import { WORDS } from "./words";

const STATE = { streaming: "streaming", silent: "silent", lost: "sensor_lost", none: "sensor_none" } as const;

export const SensorTable = memo(function SensorTable({ person, canAssign }: { person: Person; canAssign: boolean }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const [run, busy, failure] = useAction();
  const unknown = <span class="quiet">{words.say("not_known")}</span>;
  const release = (where: string): void => run(() => api.post("api/sensors/assign", { where, subject: null }));
  return (
    <section class="card sensors" aria-labelledby="sensors">
      <h2 id="sensors">{words.say("sensors")}</h2>
      <div class="table-scroll" tabIndex={0} role="region" aria-labelledby="sensors">
        <table>
          <thead>
            <tr>
              <th scope="col">{words.say("sensor")}</th>
              <th scope="col">{words.say("state")}</th>
              <th scope="col">{words.say("worn")}</th>
              <th scope="col">{words.say("battery")}</th>
              <th scope="col">{words.say("loss")}</th>
              <th scope="col">{words.say("clock_error")}</th>
              {canAssign && (
                <th scope="col">
                  <span class="visually-hidden">{words.say("release")}</span>
                </th>
              )}
            </tr>
          </thead>
          <tbody>
            {person.sensors.map((sensor, i) => (
              <tr key={sensor.where ?? sensor.name ?? i} data-sensor={sensor.name ?? ""} data-state={sensor.state}>
                <th scope="row">
                  {words.pick(sensor.place) || sensor.name || sensor.serial}
                  <span class="small quiet">
                    {sensor.serial || sensor.where}
                    {!sensor.used && ` · ${words.say("not_used")}`}
                  </span>
                </th>
                <td>
                  <span class={`pill pill-${pill(sensor)}`}>{words.say(STATE[sensor.state])}</span>
                </td>
                <td>{sensor.worn === null ? unknown : <span class={sensor.worn ? "" : "bad"}>{words.say(sensor.worn ? "yes" : "no")}</span>}</td>
                <td>
                  {sensor.battery === null ? (
                    unknown
                  ) : (
                    <span class={sensor.battery < 0.15 ? "bad" : ""}>{percent(language, sensor.battery)}</span>
                  )}
                </td>
                <td>
                  {sensor.loss === null ? unknown : <span class={sensor.loss > 0.1 ? "bad" : ""}>{percent(language, sensor.loss)}</span>}
                </td>
                <td>
                  {sensor.clock_ms === null ? (
                    unknown
                  ) : (
                    <span class={sensor.clock_ms > 60 ? "bad" : ""}>
                      {words.say("ms", { n: number(language, sensor.clock_ms, sensor.clock_ms < 10 ? 1 : 0) })}
                    </span>
                  )}
                </td>
                {canAssign && (
                  <td class="table-action">
                    {sensor.where !== null && (
                      <Button
                        kind="ghost"
                        disabled={busy}
                        onClick={() => sensor.where !== null && release(sensor.where)}
                        aria-label={words.say("release_long", { device: sensor.serial || sensor.where })}
                      >
                        {words.say("release")}
                      </Button>
                    )}
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Failure text={failure} />
    </section>
  );
});

const pill = (sensor: Sensor): string => (sensor.state === "streaming" ? "good" : sensor.state === "silent" ? "warn" : "off");
