// What the sensors measure right now, a chart for each quantity. uPlot draws; what was not heard stays empty.
import { useMemo } from "preact/hooks";
import { type ChartData, TimeChart } from "@shared/components/TimeChart";
import { useSettings } from "@shared/i18n";
import { type Signals, SIGNALS_S } from "./store";
import type { Model, Person, SensorModel } from "./types";
import { WORDS, type Speaker } from "./words";

const COLORS = ["chart-1", "chart-2", "chart-3", "chart-4"];

interface SignalChartsProps {
  person: Person;
  model: Model;
  signals: ReadonlyMap<string, Signals>;
}

export function SignalCharts({ person, model, signals }: SignalChartsProps) {
  const { language } = useSettings();
  const words = WORDS[language];
  return (
    <section class="card signals" aria-labelledby="signals">
      <div class="row spread">
        <h2 id="signals">{words.say("signals")}</h2>
        <span class="small quiet">{words.say("signals_last", { n: SIGNALS_S })}</span>
      </div>
      <div class="signals-grid">
        {model.sensors.map((sensor) => (
          <SensorSignals
            key={sensor.name}
            sensor={sensor}
            signals={signals.get(sensor.name)}
            streaming={person.sensors.some((one) => one.name === sensor.name && one.state === "streaming")}
            words={words}
          />
        ))}
      </div>
    </section>
  );
}

function SensorSignals(props: { sensor: SensorModel; signals: Signals | undefined; streaming: boolean; words: Speaker }) {
  const { sensor, signals, streaming, words } = props;
  const quantities = useMemo(() => groups(sensor), [sensor]);
  return (
    <div class="signals-sensor" data-sensor={sensor.name}>
      <h3>{words.pick(sensor.place) || sensor.name}</h3>
      {!streaming && <p class="small signals-quiet">{words.say("no_signals")}</p>}
      {(streaming || signals) &&
        quantities.map((group) => <Quantity key={group.kind} group={group} signals={signals} words={words} />)}
    </div>
  );
}

interface Group {
  readonly kind: string;
  readonly unit: string;
  readonly channels: readonly string[];
}

function groups(sensor: SensorModel): readonly Group[] {
  const kinds = new Map<string, { unit: string; channels: string[] }>();
  for (const { name, unit } of sensor.channels) {
    const kind = name.split("_")[0] ?? name;
    const group = kinds.get(kind) ?? { unit, channels: [] };
    group.channels.push(name);
    kinds.set(kind, group);
  }
  return [...kinds].map(([kind, group]) => ({ kind, ...group }));
}

function Quantity({ group, signals, words }: { group: Group; signals: Signals | undefined; words: Speaker }) {
  const data: ChartData = useMemo(() => {
    if (!signals) return [[], ...group.channels.map(() => [])];
    return [
      signals.times,
      ...group.channels.map((channel) => signals.rows[signals.channels.indexOf(channel)] ?? signals.times.map(() => null)),
    ];
  }, [signals, group]);
  const title = group.kind === "acc" ? words.say("acceleration") : group.kind === "gyr" ? words.say("rotation") : group.kind;
  return (
    <TimeChart
      title={title}
      unit={group.unit}
      data={data}
      height={118}
      spanS={SIGNALS_S}
      lines={group.channels.map((channel, i) => ({
        label: channel.split("_")[1] ?? channel,
        color: COLORS[i % COLORS.length] ?? "ink",
      }))}
    />
  );
}
