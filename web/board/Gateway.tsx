// The board itself: the way upstream, its tasks, what happened, sensors nobody wears, and the way to stop it.
import { useId, useState } from "preact/hooks";
import { useFocusOnOpen } from "@shared/a11y";
import { api } from "@shared/api";
import { Button, Dialog } from "@shared/components/controls";
import { clock, moment, percent } from "@shared/format";
import { useSettings } from "@shared/i18n";
import { Failure, useAction } from "./action";
import { outboxText } from "./Board";
import type { BoardStore } from "./store";
import type { BoardState } from "./types";
import { WORDS, type Speaker } from "./words";

export function Gateway({ board, state }: { board: BoardStore; state: BoardState }) {
  const { language } = useSettings();
  const words = WORDS[language];
  const heading = useFocusOnOpen<HTMLHeadingElement>("board");
  const [stopping, setStopping] = useState(false);
  const { outbox } = state;
  const placeOf = (name: string | null): string =>
    words.pick(state.model.sensors.find((sensor) => sensor.name === name)?.place) || (name ?? "");
  return (
    <>
      <div class="person-head row spread">
        <h1 ref={heading} tabIndex={-1}>
          {words.say("board")}
        </h1>
        {state.features.stop && (
          <Button icon="stop" kind="danger" onClick={() => setStopping(true)}>
            {words.say("stop")}
          </Button>
        )}
      </div>
      <div class={`gateway${board.connection === "open" ? "" : " person-stale"}`}>
        <section class="card" aria-labelledby="outbox">
          <h2 id="outbox">{words.say("outbox")}</h2>
          <p class="baseline-text">{outboxText(outbox, words)}</p>
          <dl class="facts">
            {outbox.oldest_utc_ns !== null && <Fact name={words.say("oldest")} value={moment(language, outbox.oldest_utc_ns)} />}
            <Fact name={words.say("raw_waiting")} value={String(outbox.waiting_raw)} />
            <Fact name={words.say("quarantined")} value={String(outbox.quarantined)} />
            {outbox.error && <Fact name={words.say("error")} value={outbox.error} />}
          </dl>
        </section>
        <section class="card" aria-labelledby="software">
          <h2 id="software">{words.say("software")}</h2>
          <dl class="facts">
            <Fact name={words.say("site")} value={state.site} />
            <Fact name={words.say("gateway")} value={state.gateway} />
            <Fact name="kinedge" value={state.version} />
            <Fact name={words.say("model")} value={`${state.model.name} (${state.model.precision})`} />
            <Fact name={words.say("digest")} value={state.model.digest.slice(0, 16)} />
          </dl>
        </section>
        <section class="card" aria-labelledby="spare">
          <h2 id="spare">{words.say("spare")}</h2>
          {!state.spare.length && <p class="quiet">{words.say("no_spare")}</p>}
          <ul class="devices">
            {state.spare.map((device) => (
              <li key={device.where}>
                <strong>{device.serial || device.where}</strong>{" "}
                <span class="small quiet">
                  {[placeOf(device.sensor), device.battery === null ? "" : percent(language, device.battery)].filter(Boolean).join(" · ")}
                </span>
              </li>
            ))}
          </ul>
        </section>
        <Tasks state={state} words={words} />
        <section class="card wide" aria-labelledby="notes">
          <h2 id="notes">{words.say("notes")}</h2>
          {!state.notes.length && <p class="quiet">{words.say("no_notes")}</p>}
          <ol class="notes" reversed>
            {[...state.notes].reverse().map((note, i) => (
              <li key={`${note.utc_ns} ${i}`}>
                <span class="episode-time small">{clock(language, note.utc_ns, true)}</span>
                <span>{note.text}</span>
              </li>
            ))}
          </ol>
        </section>
      </div>
      <StopDialog open={stopping} onClose={() => setStopping(false)} gateway={state.gateway} words={words} />
    </>
  );
}

function Fact({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function Tasks({ state, words }: { state: BoardState; words: Speaker }) {
  const label = { running: "task_running", waiting: "task_waiting", ended: "task_ended" } as const;
  const [all, setAll] = useState(false);
  // Forty links that run are of no interest; one that does not is.
  const troubled = state.tasks.filter((task) => task.state !== "running" || task.error || task.restarts);
  const shown = all ? state.tasks : troubled;
  return (
    <section class="card wide" aria-labelledby="tasks">
      <h2 id="tasks">{words.say("tasks")}</h2>
      <div class="row spread">
        <p>{words.count("tasks_running", state.tasks.filter((task) => task.state === "running").length)}</p>
        <Button kind="ghost" aria-expanded={all} onClick={() => setAll(!all)}>
          {words.say(all ? "tasks_fewer" : "tasks_all")}
        </Button>
      </div>
      <div class="table-scroll" tabIndex={0} role="region" aria-labelledby="tasks" hidden={!shown.length}>
        <table>
          <thead>
            <tr>
              <th scope="col">{words.say("task")}</th>
              <th scope="col">{words.say("state")}</th>
              <th scope="col">{words.say("restarts")}</th>
              <th scope="col">{words.say("error")}</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((task) => (
              <tr key={task.name}>
                <th scope="row">{task.name}</th>
                <td>
                  <span class={`pill pill-${task.state === "running" ? "good" : "warn"}`}>{words.say(label[task.state])}</span>
                </td>
                <td>{task.restarts}</td>
                <td>{task.error}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function StopDialog({ open, onClose, gateway, words }: { open: boolean; onClose: () => void; gateway: string; words: Speaker }) {
  const [typed, setTyped] = useState("");
  const [run, busy, failure] = useAction();
  const field = useId();
  const send = (event: Event): void => {
    event.preventDefault();
    run(() => api.post("api/stop", { confirm: typed }), onClose);
  };
  return (
    <Dialog title={words.say("stop_title", { gateway })} open={open} onClose={onClose}>
      <form class="stack" onSubmit={send}>
        <p>{words.say("stop_text")}</p>
        <div class="field">
          <label for={field}>{words.say("stop_type", { gateway })}</label>
          <input id={field} value={typed} autocomplete="off" onInput={(event) => setTyped(event.currentTarget.value)} />
        </div>
        <Failure text={failure} />
        <div class="dialog-actions">
          <Button onClick={onClose}>{words.say("cancel")}</Button>
          <Button type="submit" kind="danger" disabled={busy || typed !== gateway}>
            {words.say("stop")}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
